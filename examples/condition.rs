//! A condition: consumers wait until there is something to do, a producer says when there is.
//!
//! Python: `with cond: cond.wait_for(lambda: stock.value > 0)`. As there, the condition has the lock; what it is about lies
//! in shared memory beside it.
//!
//! ```sh
//! cargo run --example condition
//! ```
// ci: => 12 were made, 12 were taken

use procession::prelude::*;
use std::error::Error;

/// How many lie there, and whether more will come.
type Stock = (RawValue<u32>, RawValue<bool>);

fn take(condition: Condition, (stock, closed): Stock) -> Result<u32, String> {
    let mut taken = 0;
    // `with cond:` is the guard of its lock; waiting gives the lock back meanwhile.
    let mut guard = condition.lock().map_err(|error| error.to_string())?;
    loop {
        // `wait_for(f)` waits until f holds; `wait_while`, as in std, for as long as it holds.
        let nothing_yet = || stock.load() == 0 && !closed.load();
        condition.wait_while(&mut guard, nothing_yet).map_err(|error| error.to_string())?;
        if stock.load() == 0 {
            return Ok(taken);
        }
        stock.fetch_sub(1);
        taken += 1;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let condition = Condition::new()?;
    let (stock, closed): Stock = (RawValue::new(0)?, RawValue::new(false)?);
    let shared = (stock.clone(), closed.clone());
    let consumers: Vec<_> =
        (0..3).map(|_| spawn!(take(condition.clone(), shared.clone()))).collect::<Result<_, _>>()?;
    for _ in 0..12 {
        let _guard = condition.lock().map_err(|error| error.without_guard())?;
        stock.fetch_add(1);
        condition.notify_one()?; // `notify()`: it does not wait for anybody, who may be dead
    }
    let guard = condition.lock().map_err(|error| error.without_guard())?;
    closed.store(true);
    condition.notify_all()?;
    drop(guard);
    let mut taken = 0;
    for consumer in consumers {
        taken += consumer.join()??;
    }
    assert_eq!((taken, stock.load()), (12, 0));
    println!("12 were made, {taken} were taken");
    Ok(())
}
