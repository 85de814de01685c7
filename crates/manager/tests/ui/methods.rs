//! Methods that cannot be called from afar.

use procession_manager::hosted;

pub struct Lent(String);

#[hosted]
impl Lent {
    pub fn new() -> Lent {
        Lent(String::new())
    }
    pub fn set(&mut self, text: &str) {
        self.0 = text.to_owned();
    }
}

pub struct Consumed;

#[hosted]
impl Consumed {
    pub fn new() -> Consumed {
        Consumed
    }
    pub fn end(self) {}
}

pub struct Late;

#[hosted]
impl Late {
    pub fn new() -> Late {
        Late
    }
    pub async fn later(&self) {}
}

pub struct Unmade;

#[hosted]
impl Unmade {
    pub fn get(&self) {}
}

pub struct Twin;

#[hosted]
impl Twin {
    pub fn new() -> Twin {
        Twin
    }
    pub fn twin(&self) -> Option<Self> {
        None
    }
}

#[hosted]
impl Default for Twin {
    fn default() -> Twin {
        Twin
    }
}

#[hosted]
pub struct Block;

fn main() {}
