//! Memory is not shared: what a child changes is its own copy, a static variable as well as an argument.
//!
//! Python's first surprise, `global counter` in a child, cannot happen by oversight here: a closure that captures does not
//! compile, and an argument is visibly a copy. To share on purpose, see `shared_values`.
//!
//! ```sh
//! cargo run --example isolation
//! ```
// ci: => the parent still has 0, [1, 2, 3] and 10

use procession::prelude::*;
use std::{
    error::Error,
    sync::atomic::{AtomicU32, Ordering},
};

/// Each process has one of these.
static COUNTER: AtomicU32 = AtomicU32::new(0);

fn change(mut list: Vec<u32>, shared: Value<u32>) -> (u32, Vec<u32>) {
    COUNTER.fetch_add(5, Ordering::Relaxed);
    list.push(4);
    // A `Value` is a handle: this is the parent's memory too.
    shared.set(10).expect("nobody dies with its lock");
    (COUNTER.load(Ordering::Relaxed), list)
}

fn main() -> Result<(), Box<dyn Error>> {
    let list = vec![1, 2, 3];
    let shared = Value::new(0)?;
    let child = spawn!(change(list.clone(), shared.clone()))?;
    let (counted, longer) = child.join()?;
    println!("the child had    {counted}, {longer:?}");
    assert_eq!((counted, longer), (5, vec![1, 2, 3, 4]));

    let counter = COUNTER.load(Ordering::Relaxed);
    assert_eq!((counter, &list[..], shared.get()?), (0, &[1, 2, 3][..], 10));
    println!("the parent still has {counter}, {list:?} and {}", shared.get()?);
    Ok(())
}
