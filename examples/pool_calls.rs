//! The calls of a pool, one after the other: `map`, `map_async`, `imap`, `imap_unordered`, `apply`, `apply_async`,
//! `starmap`, and an initialiser.
//!
//! Python: `with Pool(2, initializer=f, initargs=(3,)) as pool:`.
//!
//! ```sh
//! cargo run --example pool_calls
//! ```
// ci: => all calls of the pool agree

use procession::{pool::Work, prelude::*};
use std::{
    collections::BTreeSet,
    error::Error,
    sync::atomic::{AtomicU64, Ordering},
};

/// What the initialiser leaves in each worker, as a global of Python's.
static FACTOR: AtomicU64 = AtomicU64::new(1);

fn remember(factor: u64) {
    FACTOR.store(factor, Ordering::Relaxed);
}

fn scale(n: u64) -> u64 {
    n * FACTOR.load(Ordering::Relaxed)
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder().workers(2).initializer(remember, 3).build()?;
    let expected: Vec<u64> = (0..8).map(|n| 3 * n).collect();

    // All at once, in order. A failure is the error of the first item that failed; `collect_results` gives all.
    assert_eq!(pool.map(scale, 0..8)?, expected);

    // `map_async(f, xs)` and `r.get()`: the handle is a future as well.
    let pending = pool.map_async(scale, 0..8)?;
    println!("meanwhile: {}", pending.ready());
    assert_eq!(pending.get()?, expected);

    // `imap`: in order, as results come, and no more of the input is read than its window holds: it may be endless.
    let first: Vec<u64> = pool.imap(scale, 0..).take(8).collect::<Result<_, _>>()?;
    assert_eq!(first, expected);
    let any_order: BTreeSet<u64> = pool.imap_unordered(scale, 0..8).collect::<Result<_, _>>()?;
    assert!(any_order.into_iter().eq(expected));

    // One call. Several arguments are a tuple, or a function of several with `starmap`.
    assert_eq!(pool.apply(scale, 7)?, 21);
    assert_eq!(pool.apply_async(scale, 7)?.get()?, 21);
    assert_eq!(pool.starmap(|base: u64, power: u32| base.pow(power), [(2, 10), (3, 2)])?, [1024, 9]);

    // Instead of a lambda that captures: what it captures is named, and is sent to each worker once.
    let names = vec!["zero".to_owned(), "one".to_owned()];
    let name = task!(move |n: usize| names[n].clone(); names);
    assert_eq!(pool.map_with(&name, [1, 0])?, ["one", "zero"]);
    pool.join(); // `close()` and `join()`. Dropping it, as leaving Python's `with`, ends workers in the middle of work.

    // A global can be a value of the worker's own: nothing static, any type, and dropped when the worker ends.
    let pool = Pool::builder().workers(2).worker_state(|start: u64| vec![start], 100).build()?;
    let push = Work::with_state(|seen: &mut Vec<u64>, n: u64| {
        seen.push(n);
        seen[0]
    });
    assert_eq!(pool.tasks_of(push, [1, 2, 3]).collect()?, [100, 100, 100]);
    println!("all calls of the pool agree");
    Ok(())
}
