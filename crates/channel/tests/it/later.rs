//! Futures and streams of channels: they end as blocking waits do, and can be dropped at any time.

use crate::support::pattern;
use futures_core::Stream;
use procession_channel::{ChannelBuilder, ReceiveError, Unsent, channel};
use procession_testkit::watchdog;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Polls it once, for a wait that does not end at once.
fn begin<T>(future: Pin<&mut impl Future<Output = T>>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn values_cross_between_futures() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = ChannelBuilder::new().capacity(4096).build::<Vec<u8>>().unwrap();
    // Some in pieces.
    let value = |seed: u64| pattern(seed, (seed as usize * 7919) % 9000);
    thread::scope(|scope| {
        scope.spawn(move || {
            for seed in 0..300 {
                block_on(sender.send_async(value(seed))).unwrap();
            }
        });
        for seed in 0..300 {
            assert_eq!(block_on(receiver.recv_async()).unwrap(), value(seed));
        }
        assert!(matches!(block_on(receiver.recv_async()), Err(ReceiveError::Closed)));
    });
}

#[test]
fn a_stream_ends_with_its_sender() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = channel::<u64>().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || (0..1000).for_each(|number| sender.send(number).unwrap()));
        let mut stream = Pin::new(&mut receiver);
        for number in 0..1000 {
            let next = block_on(poll_fn(|context| Stream::poll_next(stream.as_mut(), context)));
            assert_eq!(next.unwrap().unwrap(), number);
        }
        for _ in 0..2 {
            assert!(block_on(poll_fn(|context| receiver.poll_next(context))).is_none());
        }
    });
}

#[test]
fn a_wait_that_was_given_up_took_nothing_and_sent_nothing() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = ChannelBuilder::new().capacity(4096).build::<Vec<u8>>().unwrap();
    {
        let waits = pin!(receiver.recv_async());
        begin(waits);
    }
    sender.send(vec![1; 3000]).unwrap();
    {
        // Its first pieces fit.
        let waits = pin!(sender.send_async(vec![2; 9000]));
        begin(waits);
    }
    assert_eq!(receiver.recv().unwrap(), [1; 3000]);
    assert!(receiver.try_recv().unwrap().is_none());
    sender.send(vec![3; 10]).unwrap();
    assert_eq!(block_on(receiver.recv_async()).unwrap(), [3; 10]);
}

#[test]
fn futures_are_told_of_a_lost_end() {
    let _watchdog = watchdog!();
    let (sender, mut receiver) = channel::<u64>().unwrap();
    let parcel = procession_parcel::Parcel::pack(&sender).unwrap();
    {
        let waits = pin!(receiver.recv_async());
        begin(waits);
    }
    // The parcel reached a process, which ended.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    procession_parcel::wire::send(&ours, &parcel, None).unwrap();
    drop((parcel, sender, ours, theirs));
    assert!(matches!(block_on(receiver.recv_async()), Err(ReceiveError::Died)));

    let (mut sender, receiver) = ChannelBuilder::new().capacity(4096).build::<Vec<u8>>().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    crate::support::give(&ours, &receiver);
    drop((receiver, ours, theirs));
    let unsent = block_on(async {
        loop {
            if let Err(unsent) = sender.send_async(vec![0; 1000]).await {
                break unsent;
            }
        }
    });
    assert!(matches!(unsent, Unsent::Died(_)), "{unsent}");
}
