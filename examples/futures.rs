//! Calls that go on while nobody waits: they come as they are done, are asked to end, cancelled, killed, called back
//! from and awaited.
//!
//! Python: `ProcessPoolExecutor.submit`, `as_completed`, `future.cancel()`, which does nothing to what runs already.
//!
//! ```sh
//! cargo run --release --example futures
//! ```
// ci: => 2 were done, 1 was asked to end, 1 cancelled, 2 killed; 12 by a callback, 30 by a future

use procession::{
    TaskError,
    pool::{as_completed, cancelled},
    prelude::*,
};
use std::{
    error::Error,
    future::Future,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// Counts to `limit`, unless it is asked to end before.
fn count(limit: u64) -> u64 {
    (0..limit).take_while(|_| !cancelled()).fold(0, |sum, _| sum + 1)
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(2)?;

    // Whichever is done first comes first. The endless one looks whether it is asked to end, and says how far it came.
    let mut calls =
        as_completed([pool.submit(count, u64::MAX)?, pool.submit(count, 1_000)?, pool.submit(count, 2_000)?]);
    let mut counts = Vec::new();
    while counts.len() < 2 {
        counts.push(calls.next().ok_or("there are three")?.get()?);
    }
    counts.sort_unstable();
    assert_eq!(counts, [1_000, 2_000]);
    let mut asked = 0;
    for endless in calls.into_rest() {
        endless.ask_to_end();
        match endless.get() {
            Ok(count) => println!("it came to {count}"),
            Err(TaskError::Cancelled) => println!("it had not begun"),
            Err(error) => return Err(error.into()),
        }
        asked += 1;
    }

    // One that was not started is cancelled; those that run and do not look are killed, each with its worker.
    let forever: fn(u64) -> u64 = |_| loop {
        thread::park();
    };
    let running = [pool.submit(forever, 0)?, pool.submit(forever, 1)?];
    let waiting = pool.submit(count, 3)?;
    waiting.cancel();
    waiting.wait();
    assert!(waiting.cancelled());
    let mut killed = 0;
    for call in running {
        call.kill();
        match call.get() {
            Err(TaskError::Cancelled) => killed += 1,
            other => return Err(format!("{other:?}").into()),
        }
    }

    let (sender, receiver) = mpsc::channel();
    let call = pool.submit(count, 12)?;
    call.on_done(move |result| drop(sender.send(result.clone())));
    let told = receiver.recv()??;

    let awaited = block_on(async {
        let (left, right) = (pool.submit(count, 10)?, pool.submit(count, 20)?);
        Ok::<u64, TaskError>(left.await? + right.await?)
    })?;

    let done = counts.len();
    println!(
        "{done} were done, {asked} was asked to end, 1 cancelled, {killed} killed; \
         {told} by a callback, {awaited} by a future"
    );
    pool.join();
    Ok(())
}

/// The smallest executor: this thread sleeps until it is woken. Any other, tokio's for example, does as well.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
