//! The three start methods side by side: what a child has of its parent, and what a start costs.
//!
//! Python: `get_context("spawn").Process(…)`. The default here is `forkserver`, which is Python's since 3.14.
//!
//! ```sh
//! cargo run --release --example start_methods
//! ```
// ci: => fork copies the memory, the others do not

use procession::prelude::*;
use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

/// `main` sets it. A copy of the parent finds it set; a fresh process does not.
static CHANGED: AtomicBool = AtomicBool::new(false);

fn look(_: ()) -> bool {
    CHANGED.load(Ordering::Relaxed)
}

const STARTS: u32 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    CHANGED.store(true, Ordering::Relaxed);
    println!("{:<12} {:>16}   the child has a copy of the memory", "method", "start and join");
    for method in [StartMethod::Fork, StartMethod::Spawn, StartMethod::ForkServer] {
        let context = Context::new(method);
        // Not measured: the first use of the fork server starts it.
        let copied = context.spawn(look, ())?.join()?;
        assert_eq!(copied, method == StartMethod::Fork);
        let start = Instant::now();
        for _ in 0..STARTS {
            context.spawn(look, ())?.join()?;
        }
        let microseconds = start.elapsed().as_secs_f64() * 1e6 / f64::from(STARTS);
        println!("{:<12} {microseconds:>13.0} µs   {copied}", method.name());
    }

    // A fork copies one thread and the locks of all: where there are threads it is an error here. CPython warns, and the
    // child may hang.
    let refused = thread::spawn(|| Context::new(StartMethod::Fork).spawn(look, ()).map(drop));
    let refused = refused.join().map_err(|_| "a panic")?.err().ok_or("a fork with threads was allowed")?;
    assert!(refused.is_threads());
    println!("with threads: {refused}");
    println!("fork copies the memory, the others do not");
    Ok(())
}
