//! Calls as futures.

use crate::proxy::Proxy;
use procession_channel::net::Listener;
use procession_manager::{Address, ErrorKind, Manager, Queue, Reconnect, Session};
use procession_parcel::Bytes;
use procession_process::Process;
use procession_testkit::{test_watchdog, wait::eventually};
use std::{
    io::{Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::{Arc, mpsc::channel},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

const LONG: Duration = Duration::from_secs(20);
/// More than a connection takes without a reader.
const BIG: usize = 32 << 20;

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
fn begin<T>(future: &mut Pin<Box<impl Future<Output = T>>>) {
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn futures_end_when_what_they_wait_for_comes() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, event) = (manager.bounded_queue::<u64>(1).unwrap(), manager.event().unwrap());
    let child = Process::spawn(
        |(queue, event): (Queue<u64>, procession_manager::Event)| {
            for n in 0..50 {
                queue.put(&n).unwrap();
            }
            event.set().unwrap();
        },
        (queue.clone(), event.clone()),
    )
    .unwrap();
    let sum = block_on(async {
        let mut sum = 0;
        for _ in 0..50 {
            sum += queue.get_async().await.unwrap();
        }
        event.wait_async().await.unwrap();
        sum
    });
    assert_eq!(sum, (0..50).sum());
    child.join().unwrap();
    let semaphore = manager.semaphore(1).unwrap();
    let lock = manager.lock().unwrap();
    let jobs = manager.joinable_queue::<u64>(0).unwrap();
    block_on(async {
        semaphore.acquire_async().await.unwrap();
        drop(lock.lock_async().await.unwrap());
        jobs.put_async(&1).await.unwrap();
        assert_eq!(jobs.get_async().await.unwrap(), 1);
        jobs.task_done().unwrap();
        jobs.join_async().await.unwrap();
        assert_eq!(manager.barrier(1).unwrap().wait_async().await.unwrap(), 0);
        let counter = manager.host(&5_u64).unwrap();
        assert_eq!(counter.call_async(|n, by: u64| *n + by, &2).await.unwrap(), 7);
    });
}

#[test]
fn many_futures_of_several_threads_wait_beside_calls_that_block() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, dict) = (manager.queue::<u64>().unwrap(), manager.dict::<u64, u64>().unwrap());
    thread::scope(|scope| {
        let takers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    block_on(async {
                        let mut sum = 0;
                        for _ in 0..50 {
                            sum += queue.get_async().await.unwrap();
                        }
                        sum
                    })
                })
            })
            .collect();
        let blocked: Vec<_> =
            (0..2).map(|_| scope.spawn(|| (0..50).map(|_| queue.get().unwrap()).sum::<u64>())).collect();
        for n in 0..300 {
            queue.put(&n).unwrap();
            dict.set(&n, &n).unwrap();
        }
        let sum = takers.into_iter().chain(blocked).map(|taker| taker.join().unwrap()).sum::<u64>();
        assert_eq!(sum, (0..300).sum());
    });
}

#[test]
fn a_future_that_is_dropped_gives_its_place_back() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let waiting = |n: u64| eventually("they wait", LONG, || manager.stats().unwrap().waiting == n);

    let lock = manager.lock().unwrap();
    let guard = lock.lock().unwrap();
    let mut first = Box::pin(lock.lock_async());
    begin(&mut first);
    waiting(1);
    drop(first);
    waiting(0);
    drop(guard);
    drop(lock.lock_timeout(LONG).unwrap().unwrap());

    let queue = manager.queue::<u64>().unwrap();
    let mut taker = Box::pin(queue.get_async());
    begin(&mut taker);
    waiting(1);
    drop(taker);
    waiting(0);
    queue.put(&1).unwrap();
    assert_eq!(queue.get_timeout(LONG).unwrap(), 1);

    // The others still wait for a party; the barrier is whole.
    let barrier = manager.barrier(2).unwrap();
    let mut party = Box::pin(barrier.wait_async());
    begin(&mut party);
    waiting(1);
    drop(party);
    waiting(0);
    let state = barrier.state().unwrap();
    assert!(!state.broken && state.waiting == 0);
    thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait_timeout(LONG).unwrap());
        assert_eq!(block_on(barrier.wait_async()).unwrap() + other.join().unwrap(), 1);
    });
}

#[test]
fn what_had_reached_a_future_that_is_dropped_goes_to_another() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, semaphore) = (manager.queue::<u64>().unwrap(), manager.semaphore(0).unwrap());
    let lock = manager.lock().unwrap();
    for round in 0..50 {
        let guard = lock.lock().unwrap();
        let (mut item, mut permit, mut locked) =
            (Box::pin(queue.get_async()), Box::pin(semaphore.permit_async()), Box::pin(lock.lock_async()));
        begin(&mut item);
        begin(&mut permit);
        begin(&mut locked);
        queue.put(&round).unwrap();
        semaphore.release().unwrap();
        drop(guard);
        if round % 2 == 0 {
            // The replies are here by now, or on their way.
            manager.stats().unwrap();
        }
        drop((item, permit, locked));
        assert_eq!(queue.get_timeout(LONG).unwrap(), round);
        assert!(semaphore.acquire_timeout(LONG).unwrap());
        drop(lock.lock_timeout(LONG).unwrap().unwrap());
    }
    assert!(queue.is_empty().unwrap() && semaphore.value().unwrap() == 0);
}

#[test]
fn a_killed_server_ends_every_future() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, event) = (manager.queue::<u64>().unwrap(), manager.event().unwrap());
    thread::scope(|scope| {
        let all = [
            scope.spawn(|| block_on(queue.get_async()).unwrap_err()),
            scope.spawn(|| block_on(event.wait_async()).unwrap_err()),
        ];
        eventually("both wait", LONG, || manager.stats().unwrap().waiting == 2);
        let pid = rustix::process::Pid::from_raw(manager.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(all.into_iter().all(|future| future.join().unwrap().is_server_gone()));
    });
    assert!(block_on(queue.get_async()).unwrap_err().is_server_gone());
}

#[test]
fn a_future_goes_on_waiting_through_a_cut() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start().unwrap();
    let (queue, other) = (manager.queue::<u64>().unwrap(), manager.queue::<u64>().unwrap());
    manager.publish("queue", &queue).unwrap();
    manager.publish("other", &other).unwrap();
    let Some(Address::Tcp(address)) = manager.public_address().cloned() else { panic!("no port") };
    let proxy = Proxy::to(address);
    let reconnect =
        Reconnect::default().attempts(1000).pauses(Duration::from_millis(1), Duration::from_millis(20));
    let session = Session::connector("key").reconnect(reconnect).connect(proxy.address()).unwrap();
    let (far, given_up) =
        (session.find::<Queue<u64>>("queue").unwrap(), session.find::<Queue<u64>>("other").unwrap());
    let mut dropped = Box::pin(given_up.get_async());
    begin(&mut dropped);
    thread::scope(|scope| {
        let taker = scope.spawn(|| block_on(far.get_async()).unwrap());
        eventually("both wait", LONG, || manager.stats().unwrap().waiting == 2);
        proxy.refuse(true);
        proxy.cut();
        // It is given up while there is no connection, and told when there is one.
        drop(dropped);
        queue.put(&7).unwrap();
        proxy.refuse(false);
        assert_eq!(taker.join().unwrap(), 7);
    });
    eventually("nobody waits", LONG, || manager.stats().unwrap().waiting == 0);
    other.put(&8).unwrap();
    assert_eq!(other.get_timeout(LONG).unwrap(), 8);
}

#[cfg(feature = "pool")]
#[test]
fn a_hosted_pools_call_is_a_future() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let pool = manager.pool(2).unwrap();
    let sum = block_on(async {
        let (one, two) =
            (pool.submit(|n: u64| n + 1, &1).unwrap(), pool.map_async(|n: u64| n, 0..5).unwrap());
        one.await.unwrap() + two.await.unwrap().into_iter().sum::<u64>()
    });
    assert_eq!(sum, 12);
}

/// Reads a frame: its method, its request's number, and its payload.
fn read_frame(stream: &mut TcpStream) -> (u16, u64, Vec<u8>) {
    let mut header = [0; 32];
    stream.read_exact(&mut header).unwrap();
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    let mut payload = vec![0; word(8) as usize];
    stream.read_exact(&mut payload).unwrap();
    (u16::from_le_bytes([header[4], header[5]]), word(16), payload)
}

fn answer(stream: &mut TcpStream, request: u64, has: u64, payload: &[u8]) {
    let mut bytes = b"pM\x01\x02\0\0\0\0".to_vec();
    [payload.len() as u64, request, has].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes.extend(payload);
    stream.write_all(&bytes).unwrap();
}

#[test]
fn what_went_out_before_the_connection_broke_in_the_middle_of_the_next_counts() {
    let _watchdog = test_watchdog();
    let listener = Listener::builder().authkey("key").bind(("127.0.0.1", 0)).unwrap();
    let address = listener.address().clone();
    let ((begun, begins), (go, goes)) = (channel(), channel());
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let server = thread::spawn(move || {
        let accept = || TcpStream::from(OwnedFd::from(listener.accept::<(), ()>().unwrap()));
        let mut stream = accept();
        let (method, request, _) = read_frame(&mut stream);
        assert_eq!(method, 1);
        // A token of sixteen zeros, and a minute to come back.
        answer(&mut stream, request, 1, &words(&[0, 1, 16, 0, 0, 16, 0, 0, 60_000_000_000]));
        let (method, request, _) = read_frame(&mut stream);
        assert_eq!(method, 10);
        answer(&mut stream, request, 2, &[]);
        let (method, request, _) = read_frame(&mut stream);
        assert_eq!(method, 2);
        answer(&mut stream, request, 3, &words(&[16]));
        let mut header = [0; 32];
        stream.read_exact(&mut header).unwrap();
        let len = u64::from_le_bytes(header[8..16].try_into().unwrap()) as usize;
        begun.send(()).unwrap();
        goes.recv().unwrap();
        // The rest of the first, the second as a whole, a byte of the third; then it breaks.
        stream.read_exact(&mut vec![0; len]).unwrap();
        let (method, second, _) = read_frame(&mut stream);
        assert_eq!(method, 70);
        stream.read_exact(&mut [0]).unwrap();
        drop(stream);
        let mut stream = accept();
        assert_eq!(read_frame(&mut stream).0, 15);
        answer(&mut stream, 0, 0, &words(&[5]));
        let (method, third, payload) = read_frame(&mut stream);
        assert_eq!((method, payload.len()), (70, len));
        (second - 1..=third).for_each(|request| answer(&mut stream, request, 6, &[]));
        // Until it says farewell.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let session = Session::connector("key").reconnect(Reconnect::default()).connect(address).unwrap();
    let queue = session.queue::<Bytes>().unwrap();
    let (big, small) = (Bytes(vec![7; BIG]), Bytes(vec![7]));
    thread::scope(|scope| {
        let first = scope.spawn(|| queue.put(&big));
        begins.recv().unwrap();
        let mut second = Box::pin(queue.put_async(&small));
        let mut third = Box::pin(queue.put_async(&big));
        // Both stand behind the first one.
        begin(&mut second);
        begin(&mut third);
        go.send(()).unwrap();
        block_on(third).unwrap();
        block_on(second).unwrap();
        first.join().unwrap().unwrap();
    });
    drop((queue, session));
    server.join().unwrap();
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("an executor that has ended");
    }
}

#[test]
fn an_executor_that_panics_is_no_other_futures_harm() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, other) = (manager.queue::<u64>().unwrap(), manager.queue::<u64>().unwrap());
    let mut panics = Box::pin(queue.get_async());
    let waker = Waker::from(Arc::new(Panics));
    assert!(panics.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut waits = Box::pin(other.get_async());
    begin(&mut waits);
    eventually("both wait", LONG, || manager.stats().unwrap().waiting == 2);
    // By another process: nobody here reads but the thread for the futures.
    let child = Process::spawn(
        |(queue, other): (Queue<u64>, Queue<u64>)| {
            queue.put(&1).unwrap();
            other.put(&2).unwrap();
        },
        (queue.clone(), other.clone()),
    )
    .unwrap();
    assert_eq!(block_on(waits).unwrap(), 2);
    assert_eq!(block_on(panics).unwrap(), 1);
    child.join().unwrap();
}

#[test]
fn who_waits_as_often_as_may_be_still_gives_back() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u64>().unwrap());
    let guard = lock.lock().unwrap();
    let mut waits: Vec<_> = (0..16 << 10).map(|_| Box::pin(queue.get_async())).collect();
    waits.iter_mut().for_each(begin);
    assert_eq!(block_on(queue.get_async()).unwrap_err().kind(), ErrorKind::Limit);
    drop(guard);
    // These give their places back as well.
    drop(waits);
    queue.put(&7).unwrap();
    assert_eq!(queue.get().unwrap(), 7);
    assert!(!lock.is_locked().unwrap());
}
