//! Types and methods with parameters: a server knows them by one name and signature.

use procession_manager::hosted;

pub struct Stack<T>(Vec<T>);

#[hosted]
impl<T> Stack<T> {
    pub fn new() -> Stack<T> {
        Stack(Vec::new())
    }
}

pub struct Counter(i64);

#[hosted]
impl Counter {
    pub fn new() -> Counter {
        Counter(0)
    }
    pub fn add<T: Into<i64>>(&mut self, n: T) {
        self.0 += n.into();
    }
}

fn main() {}
