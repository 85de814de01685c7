//! A dictionary and a list that several workers share. Python: `multiprocessing.Manager()`, `.dict()`, `.list()`.
//!
//! The manager is a process that keeps them; what the workers get are proxies, as in Python. What is different:
//! `words[word] += 1` is two calls in Python, and counts are lost between them; `update` is one, done by the server.
//!
//! ```sh
//! cargo run --release --example manager
//! ```
// ci: => 6 of 6 lines were counted

use procession::{
    manager::{Dict, ErrorKind, List, Queue},
    prelude::*,
};
use std::error::Error;

const TEXT: [&str; 6] = [
    "a process may die at any moment",
    "a lock is handed on when its holder dies",
    "a proxy is an argument like any other",
    "a process that is killed gives back what it held",
    "no word is counted twice",
    "and none is lost",
];

/// Counts words until there are no more lines. The three live in the manager's process.
fn count(
    number: u32,
    lines: Queue<String>,
    words: Dict<String, u64>,
    log: List<(u32, String)>,
) -> Result<(), String> {
    let text = |error: procession::manager::Error| error.to_string();
    loop {
        let line = match lines.try_get() {
            Ok(line) => line,
            Err(error) if error.kind() == ErrorKind::Empty => return Ok(()),
            Err(error) => return Err(text(error)),
        };
        for word in line.split_whitespace() {
            // The function goes to the data, by reference: it captures nothing, and what it needs is its argument.
            let add = |count: &mut Option<u64>, by: u64| *count = Some(count.unwrap_or(0) + by);
            words.update(&word.to_owned(), add, &1).map_err(text)?;
        }
        log.push(&(number, line)).map_err(text)?;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // The server starts here, and ends when `manager` is dropped, or when this process dies in whatever way.
    let manager = Manager::start()?;
    let lines = manager.queue::<String>()?;
    let words = manager.dict::<String, u64>()?;
    let log = manager.list::<(u32, String)>()?;
    for line in TEXT {
        lines.put(&line.to_owned())?;
    }
    let workers: Result<Vec<_>, _> =
        (1..=3).map(|number| spawn!(count(number, lines.clone(), words.clone(), log.clone()))).collect();
    for worker in workers? {
        worker.join()??;
    }
    // One round trip each, however many there are.
    let mut often: Vec<(String, u64)> =
        words.snapshot()?.into_iter().filter(|(_, count)| *count > 1).collect();
    often.sort_by_key(|(word, count)| (std::cmp::Reverse(*count), word.clone()));
    println!("{often:?}");
    for (number, line) in log.snapshot()? {
        println!("worker {number}: {line}");
    }
    println!("{} of {} lines were counted", log.len()?, TEXT.len());
    Ok(())
}
