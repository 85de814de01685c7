//! Squares through a queue: several processes each put their own, and the parent gathers them.
//!
//! Python: the usual first program with `Queue`, `for n in numbers: q.put(n * n)`. The usual trap, `join` before the queue
//! is emptied, is none: an item is in shared memory when `put` returns, and its process may end.
//!
//! ```sh
//! cargo run --example squares
//! ```
// ci: => [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]

use procession::prelude::*;
use std::{error::Error, ops::Range};

fn square(numbers: Range<u64>, squares: Queue<(u64, u64)>) {
    for n in numbers {
        squares.put((n, n * n)).expect("the queue is open");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let squares = Queue::unbounded()?;
    let children = [0..3, 3..6, 6..10].map(|part| spawn!(square(part, squares.clone())));
    for child in children {
        child?.join()?;
    }
    squares.close()?;
    // They come in the order in which they were put, so those of each process are in order, and the processes mixed.
    let mut pairs: Vec<(u64, u64)> = squares.iter().collect::<Result<_, _>>()?;
    pairs.sort_unstable();
    let squares: Vec<u64> = pairs.into_iter().map(|(_, square)| square).collect();
    assert_eq!(squares, (0..10).map(|n| n * n).collect::<Vec<u64>>());
    println!("{squares:?}");
    Ok(())
}
