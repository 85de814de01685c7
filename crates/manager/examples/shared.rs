//! A dictionary and a list that workers share, and a counter of a type of our own.

use procession_manager::{Custom, Dict, List, Manager};
use procession_process::spawn;

/// Something that could not travel: it lives in the server.
struct Counter {
    hits: u64,
    last: Option<String>,
}

fn work(
    number: u64,
    words: Dict<String, u64>,
    log: List<String>,
    counter: Custom<Counter>,
) -> Result<u64, String> {
    let text = |error: procession_manager::Error| error.to_string();
    for word in ["apple", "pear", "apple"] {
        words.update(&word.to_owned(), |n, by: u64| *n = Some(n.unwrap_or(0) + by), &number).map_err(text)?;
    }
    log.push(&format!("worker {number} is done")).map_err(text)?;
    let hit = |counter: &mut Counter, who: String| {
        counter.last = Some(who);
        counter.hits += 1;
        counter.hits
    };
    counter.call(hit, &format!("worker {number}")).map_err(text)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager = Manager::start()?;
    let (words, log) = (manager.dict::<String, u64>()?, manager.list::<String>()?);
    let counter = manager.host_with(|hits| Counter { hits, last: None }, &0)?;
    let mut workers = Vec::new();
    for number in 1..=3_u64 {
        workers.push(spawn!(work(number, words.clone(), log.clone(), counter.clone()))?);
    }
    for worker in workers {
        println!("hit number {}", worker.join()??);
    }
    log.sort()?;
    println!("{:?}\n{:?}", words.snapshot()?, log.snapshot()?);
    println!("last: {:?}", counter.call(|counter, ()| counter.last.clone(), &())?);
    Ok(())
}
