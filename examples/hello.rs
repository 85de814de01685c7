//! A function runs in a process of its own, and gives its value back.
//!
//! Python: `p = Process(target=greet, args=("world",)); p.start(); p.join()`. What `greet` returns is lost there; here it is
//! what `join` gives.
//!
//! ```sh
//! cargo run --example hello
//! ```
// ci: => joined: hello, world

use procession::prelude::*;
use std::{error::Error, process};

/// Any function can be the target; a closure too, if it captures nothing. What it needs comes as its argument.
fn greet(name: String) -> (u32, String) {
    println!("in the child:  pid {}, named {}", process::id(), current_process().name());
    (process::id(), format!("hello, {name}"))
}

// There is no `if __name__ == "__main__"`: a child never comes to `main`.
fn main() -> Result<(), Box<dyn Error>> {
    println!("in the parent: pid {}", process::id());
    // `spawn` starts it: there is no `start()` to be forgotten.
    let child = Process::spawn(greet, "world".to_owned())?;
    let pid = child.pid();
    let (its_pid, greeting) = child.join()?;
    assert_eq!(pid, its_pid);
    assert_ne!(pid, process::id());
    println!("joined: {greeting}");
    Ok(())
}
