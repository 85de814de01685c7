//! The subclass style: a job is a type with a `run` method.
//!
//! Python: `class Greeter(Process)` with `def run(self)`. What `__init__` keeps in `self` are fields here. The value of
//! `run` is not lost, and the process is named after the type.
//!
//! ```sh
//! cargo run --example subclass
//! ```
// ci: => Census-1 has counted 6 vowels

use procession::prelude::*;
use serde::{Deserialize, Serialize};
use std::error::Error;

/// What crosses to the child is serialised, as pickle would.
#[derive(Serialize, Deserialize)]
struct Census {
    text: String,
    wanted: Vec<char>,
}

impl Run for Census {
    type Output = usize;

    fn run(self) -> usize {
        self.text.chars().filter(|letter| self.wanted.contains(letter)).count()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let census = Census { text: "procession here".to_owned(), wanted: "aeiou".chars().collect() };
    // The same as `census.start()`; with settings it is `Process::builder().nice(5).run(census)`.
    let child = Process::run(census)?;
    let (name, count) = (child.name().to_owned(), child.join()?);
    assert_eq!((name.as_str(), count), ("Census-1", 6));
    println!("{name} has counted {count} vowels");
    Ok(())
}
