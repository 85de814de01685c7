//! Processes from async code: the pool's results, queues, pipes, locks and events are futures, here on tokio.
//!
//! Python: `await loop.run_in_executor(executor, f, x)`. They are futures for any executor; none has threads of its own for
//! it, and all can be dropped while they wait.
//!
//! ```sh
//! cargo run --example async_tokio
//! ```
// ci: => awaited: 55, [1, 4, 9], 3 items, woken; the endless one was given up

use procession::prelude::*;
use std::{error::Error, hint, time::Duration};
use tokio::time::timeout;

fn sum(to: u64) -> u64 {
    (0..=to).sum()
}

fn spin(_: ()) {
    loop {
        hint::spin_loop();
    }
}

fn produce((queue, event): (Queue<u32>, Event)) -> Result<(), String> {
    for n in 0..3 {
        queue.put(n).map_err(|error| error.to_string())?;
    }
    queue.close().map_err(|error| error.to_string())?;
    event.set();
    Ok(())
}

async fn all() -> Result<String, Box<dyn Error>> {
    let pool = Pool::new(2)?;
    // A call, and a whole map, while this thread does other things.
    let (one, many) = tokio::join!(pool.submit(sum, 10)?, pool.map_async(|n: u64| n * n, 1..=3)?);
    let (one, many) = (one?, many?);

    let (queue, event) = (Queue::unbounded()?, Event::new()?);
    let producer = Process::spawn(produce, (queue.clone(), event.clone()))?;
    let mut items = 0;
    while let Ok(item) = queue.get_async().await {
        assert_eq!(item, items);
        items += 1;
    }
    event.wait_async().await;
    producer.join()??; // at its end already: this does not block for long

    // A time limit of tokio's. The call is dropped with its future, which cancels it if it has not begun; one that runs is
    // killed where a deadline says so.
    let endless = pool.tasks(spin, [()]).deadline(Duration::from_millis(200)).spawn()?;
    let given_up = match timeout(Duration::from_secs(30), endless).await? {
        Err(error) if error.is_timed_out() => "the endless one was given up",
        other => return Err(format!("{other:?}").into()),
    };
    Ok(format!("{one}, {many:?}, {items} items, woken; {given_up}"))
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    println!("awaited: {}", runtime.block_on(all())?);
    Ok(())
}
