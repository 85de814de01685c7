//! A queue to one worker, and one back.
//!
//! Python: `Queue()`, `put`, `get`, and a sentinel such as `None` for the end. Here `close` is the end, for everybody: the
//! loop of each consumer ends when the queue is closed and empty.
//!
//! ```sh
//! cargo run --example queue
//! ```
// ci: => the worker did 5 jobs

use procession::prelude::*;
use std::error::Error;

/// What is put is encoded there and then, so that what cannot be is an error of `put`. In CPython a thread does it later.
fn work((jobs, answers): (Queue<String>, Queue<(String, usize)>)) -> Result<usize, String> {
    let mut done = 0;
    for job in &jobs {
        let job = job.map_err(|error| error.to_string())?;
        let length = job.len();
        answers.put((job, length)).map_err(|error| error.to_string())?;
        done += 1;
    }
    Ok(done)
}

fn main() -> Result<(), Box<dyn Error>> {
    // `Queue(maxsize=2)`: the third `put` waits. A clone is another handle to the same queue.
    let (jobs, answers) = (Queue::bounded(2)?, Queue::unbounded()?);
    let worker = Process::spawn(work, (jobs.clone(), answers.clone()))?;
    for word in ["a", "queue", "has", "two", "ends"] {
        jobs.put(word.to_owned())?;
    }
    jobs.close()?;
    let done = worker.join()??;
    // What was put is there, whether who has put it lives or not.
    assert_eq!(answers.len(), 5);
    for _ in 0..done {
        let (word, length) = answers.get()?;
        assert_eq!(word.len(), length);
        println!("{word}: {length} letters");
    }
    // `q.get_nowait()`, which raises `queue.Empty` in Python.
    assert!(answers.try_get().is_err_and(|error| error.is_empty()));
    println!("the worker did {done} jobs");
    Ok(())
}
