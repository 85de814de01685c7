//! Puts and gets as futures.

use procession_channel::queue::Queue;
use procession_testkit::watchdog;
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
};

/// Wakes a thread, and counts.
struct Wakes {
    thread: Thread,
    count: AtomicU32,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

fn waker() -> (Arc<Wakes>, Waker) {
    let wakes = Arc::new(Wakes { thread: std::thread::current(), count: AtomicU32::new(0) });
    (wakes.clone(), wakes.into())
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let (_, waker) = waker();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn a_get_comes_with_the_item_and_a_put_with_the_room() {
    let _watchdog = watchdog!();
    let queue = Queue::bounded(1).unwrap();
    std::thread::scope(|scope| {
        let gets = scope.spawn(|| block_on(async { (queue.get_async().await, queue.get_async().await) }));
        block_on(async {
            queue.put_async(1).await.unwrap();
            queue.put_async(2).await.unwrap();
            queue.put_async(3).await.unwrap();
        });
        let (first, second) = gets.join().unwrap();
        assert_eq!((first.unwrap(), second.unwrap()), (1, 2));
    });
    assert_eq!(block_on(queue.get_async()).unwrap(), 3);
}

#[test]
fn a_future_that_is_dropped_takes_nothing_and_passes_its_wake_on() {
    let _watchdog = watchdog!();
    let queue: Queue<u32> = Queue::unbounded().unwrap();
    for _ in 0..20 {
        let (_, waker) = waker();
        let mut dropped = Box::pin(queue.get_async());
        assert!(dropped.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.get().unwrap());
            queue.put(7).unwrap();
            // It may have been woken, and does not look any more.
            drop(dropped);
            assert_eq!(waits.join().unwrap(), 7);
        });
        assert!(queue.is_empty());
    }
}

#[test]
fn a_stream_ends_with_the_queue() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    std::thread::scope(|scope| {
        let streams = scope.spawn(|| {
            let mut items = queue.stream();
            let mut got = Vec::new();
            while let Some(item) = block_on(std::future::poll_fn(|context| items.poll_next(context))) {
                got.push(item.unwrap());
            }
            got
        });
        (0..100).for_each(|n| queue.put(n).unwrap());
        queue.close().unwrap();
        assert_eq!(streams.join().unwrap(), (0..100).collect::<Vec<u32>>());
    });
    assert!(block_on(queue.put_async(1)).unwrap_err().is_closed());
}
