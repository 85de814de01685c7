//! Connections as futures: they end as blocking calls do, can be dropped at any time, and need no thread each.

use crate::support::pattern;
use procession_channel::connection::{Connection, Pipe};
use procession_parcel::{Fd, handle::Unique};
use procession_process::Process;
use procession_testkit::{Census, isolated, watchdog};
use std::{
    fs::File,
    future::Future,
    os::unix::net::UnixStream,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

type Bytes = Connection<(), ()>;

struct Unpark(Thread, AtomicU32);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.unpark();
    }
}

fn waker() -> (Arc<Unpark>, Waker) {
    let unpark = Arc::new(Unpark(thread::current(), AtomicU32::new(0)));
    (unpark.clone(), unpark.into())
}

/// The smallest executor: polls all of them whenever one is woken.
fn block_on_all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
    let (_, waker) = waker();
    let mut outputs: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    loop {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) {
            return outputs.into_iter().flatten().collect();
        }
        thread::park();
    }
}

fn block_on<'a, T>(future: impl Future<Output = T> + 'a) -> T {
    block_on_all(vec![Box::pin(future)]).remove(0)
}

/// Polls it once, for a wait that does not end at once.
fn begin<T>(future: Pin<&mut impl Future<Output = T>>) -> Arc<Unpark> {
    let (unpark, waker) = waker();
    assert!(future.poll(&mut Context::from_waker(&waker)).is_pending());
    unpark
}

fn each(test: impl Fn(Bytes, Bytes)) {
    let (a, b) = Pipe::duplex().unwrap();
    test(a, b);
    let (a, b) = UnixStream::pair().unwrap();
    test(Bytes::from_stream(a).unwrap(), Bytes::from_stream(b).unwrap());
}

#[test]
fn messages_of_every_length_arrive_in_one_thread() {
    let _watchdog = watchdog!();
    each(|a, b| {
        let lengths = [0, 1, 5, 65_536, 65_537, 3 << 20, 0, 20 << 20, 3];
        let sends = async {
            for (seed, len) in lengths.iter().enumerate() {
                a.send_bytes_async(&pattern(seed as u64, *len)).await.unwrap();
            }
            // The last is out when its future ends.
            a.flush(Some(crate::support::past())).unwrap();
        };
        let receives = async {
            for (seed, len) in lengths.iter().enumerate() {
                assert!(b.recv_bytes_async().await.unwrap() == pattern(seed as u64, *len), "{len} bytes");
            }
        };
        block_on_all(vec![Box::pin(sends) as Pin<Box<dyn Future<Output = ()>>>, Box::pin(receives)]);
    });
}

#[test]
fn values_descriptors_ends_and_broken_pipes_are_as_in_blocking_calls() {
    let _watchdog = watchdog!();
    let (a, b) = Pipe::<(u32, Fd), String>::duplex().unwrap();
    let other = Process::spawn(
        |end: Connection<String, (u32, Fd)>| {
            let (number, _file) = end.recv().unwrap();
            end.send(&number.to_string()).unwrap();
        },
        b,
    )
    .unwrap();
    block_on(async {
        a.send_async(&(7, File::open("/dev/null").unwrap().into())).await.unwrap();
        assert_eq!(a.recv_async().await.unwrap(), "7");
        a.poll_async().await.unwrap();
        assert!(a.recv_async().await.unwrap_err().is_eof());
        assert!(a.send_bytes_async(b"anybody?").await.unwrap_err().is_broken_pipe());
    });
    other.join().unwrap();
}

#[test]
fn a_receive_that_is_dropped_loses_nothing() {
    let _watchdog = watchdog!();
    each(|a, b| {
        for _ in 0..10 {
            let _never_polled = b.recv_bytes_async();
            let mut receives = Box::pin(b.recv_bytes_async());
            let woken = begin(receives.as_mut());
            a.send_bytes(b"for whoever comes").unwrap();
            while woken.1.load(Ordering::Relaxed) == 0 {
                thread::park_timeout(Duration::from_secs(1));
            }
            drop(receives);
            assert_eq!(block_on(b.recv_bytes_async()).unwrap(), b"for whoever comes");
        }
    });
}

#[test]
fn a_send_that_is_dropped_in_the_middle_is_finished_by_the_next() {
    let _watchdog = watchdog!();
    let (a, b) = UnixStream::pair().unwrap();
    let (a, b) = (Bytes::from_stream(a).unwrap(), Bytes::from_stream(b).unwrap());
    let long = pattern(7, 3 << 20);
    let mut sends = Box::pin(a.send_bytes_async(&long));
    begin(sends.as_mut());
    drop(sends);
    // One that has not begun is not sent.
    let mut sends = Box::pin(a.send_bytes_async(b"not sent"));
    begin(sends.as_mut());
    drop(sends);
    let second = async {
        a.send_bytes_async(b"second").await.unwrap();
        Vec::new()
    };
    let receives = async {
        assert!(b.recv_bytes_async().await.unwrap() == long);
        b.recv_bytes_async().await.unwrap()
    };
    let outputs =
        block_on_all(vec![Box::pin(second) as Pin<Box<dyn Future<Output = _>>>, Box::pin(receives)]);
    assert_eq!(outputs[1], b"second");
}

#[test]
fn a_handle_with_one_owner_is_gone_once_its_message_has_begun() {
    let _watchdog = watchdog!();
    type Large = (Vec<u8>, Unique);
    let (a, b) = UnixStream::pair().unwrap();
    let (a, b) =
        (Connection::<Large, ()>::from_stream(a).unwrap(), Connection::<(), Large>::from_stream(b).unwrap());
    let value = (vec![0; 3 << 20], Unique::new(File::open("/dev/null").unwrap().into()));
    let mut sends = Box::pin(a.send_async(&value));
    begin(sends.as_mut());
    drop(sends);
    assert!(!value.1.is_here(), "its descriptor is out");
    let flushes = async { a.send_bytes_async(b"next").await.unwrap() };
    let receives = async { assert!(b.recv_async().await.unwrap().1.is_here()) };
    block_on_all(vec![Box::pin(flushes) as Pin<Box<dyn Future<Output = ()>>>, Box::pin(receives)]);
}

#[test]
fn futures_and_threads_send_in_turns() {
    let _watchdog = watchdog!();
    let (a, b) = UnixStream::pair().unwrap();
    let (a, b) = (Bytes::from_stream(a).unwrap(), Bytes::from_stream(b).unwrap());
    thread::scope(|scope| {
        for sender in 0..4_u8 {
            let a = &a;
            scope.spawn(move || {
                for number in 0..20_u8 {
                    let message = [&[sender, number][..], &pattern(u64::from(sender), 300_000)].concat();
                    match sender % 2 {
                        0 => a.send_bytes(&message).unwrap(),
                        _ => block_on(a.send_bytes_async(&message)).unwrap(),
                    }
                }
            });
        }
        let mut next = [0; 4];
        for _ in 0..80 {
            let message = b.recv_bytes().unwrap();
            let (sender, number) = (message[0], message[1]);
            assert_eq!(number, next[usize::from(sender)]);
            next[usize::from(sender)] += 1;
            assert!(message[2..] == pattern(u64::from(sender), 300_000));
        }
    });
}

#[test]
fn hundreds_of_futures_need_one_thread() {
    let _watchdog = watchdog!();
    isolated!({
        let before = Census::take();
        let pipes: Vec<_> = (0..400).map(|_| Pipe::<u32>::one_way().unwrap()).collect();
        let count = || Census::take().threads().len();
        let sends = async {
            assert!(count() <= before.threads().len() + 1, "the poller's");
            for (number, (_, sender)) in pipes.iter().enumerate().rev() {
                sender.send_async(&(number as u32)).await.unwrap();
            }
            0
        };
        let mut all: Vec<Pin<Box<dyn Future<Output = u32>>>> = Vec::new();
        for (receiver, _) in &pipes {
            all.push(Box::pin(async { receiver.recv_async().await.unwrap() }));
        }
        all.push(Box::pin(sends));
        let outputs = block_on_all(all);
        assert_eq!(outputs[..400], (0..400).collect::<Vec<_>>());
        drop(pipes);
        before.assert_settles(Duration::from_secs(20));
    });
}

#[test]
fn the_futures_can_move_between_threads() {
    fn check<T: Send>(_: T) {}
    let (a, _b) = Pipe::<u32, u32>::duplex().unwrap();
    check(a.recv_async());
    check(a.send_async(&1));
    check(a.recv_bytes_async());
    check(a.send_bytes_async(b""));
    check(a.poll_async());
}
