//! Queues and receivers of channels among what is waited for.

use procession_channel::{
    Pipe, Queue, Receiver, SimpleQueue, Waitable, channel,
    queue::{GetError, Policy},
    wait,
};
use procession_process::Process;
use procession_sys::{Deadline, fd::readable};
use procession_testkit::{forked, isolated, wait::eventually, watchdog};
use std::{
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

const BOUND: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::ZERO;

fn sleeps(thread: &str) -> bool {
    // poll(2) and ppoll(2).
    std::fs::read_to_string(thread)
        .unwrap()
        .split(' ')
        .next()
        .is_some_and(|call| ["7", "271"].contains(&call))
}

#[test]
fn a_queue_is_ready_while_there_is_an_item_and_after_its_end() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    let simple = SimpleQueue::new().unwrap();
    let (receiver, sender) = Pipe::<u8>::one_way().unwrap();
    assert_eq!(wait(&[&queue, &receiver, &simple], AT_ONCE).unwrap(), [0; 0]);
    queue.put(1).unwrap();
    simple.put(2).unwrap();
    for _ in 0..3 {
        assert_eq!(wait(&[&queue, &receiver, &simple], BOUND).unwrap(), [0, 2]);
    }
    sender.send(&3).unwrap();
    assert_eq!(wait(&[&queue, &receiver, &simple, &queue], BOUND).unwrap(), [0, 1, 2, 3]);
    assert_eq!((queue.get().unwrap(), simple.get().unwrap()), (1, 2));
    assert_eq!(wait(&[&queue, &receiver, &simple], BOUND).unwrap(), [1]);
    queue.close().unwrap();
    assert_eq!(wait(&[&queue], BOUND).unwrap(), [0]);
}

#[test]
fn a_wait_sleeps_until_an_item_comes_in_every_round() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    let (idle, _other) = Pipe::<u8>::duplex().unwrap();
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let waits: Vec<_> = (0..2)
            .map(|_| {
                let (queue, idle, tell) = (&queue, &idle, tell.clone());
                scope.spawn(move || {
                    tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
                    let mut taken = 0;
                    loop {
                        assert_eq!(wait(&[idle, queue], None).unwrap(), [1]);
                        match queue.try_get() {
                            Ok(number) => taken += number,
                            // The other one was quicker.
                            Err(error) if error.is_empty() => {}
                            Err(_) => return taken,
                        }
                    }
                })
            })
            .collect();
        let threads: Vec<String> =
            (0..2).map(|_| format!("/proc/self/task/{}/syscall", told.recv().unwrap())).collect();
        for number in 0..10_u64 {
            eventually("both sleep", BOUND, || {
                queue.is_empty() && threads.iter().all(|thread| sleeps(thread))
            });
            queue.put(number).unwrap();
        }
        queue.close().unwrap();
        let taken: u64 = waits.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(taken, 45);
    });
}

#[test]
fn items_of_another_process_and_of_a_dead_one_end_a_wait() {
    let _watchdog = watchdog!();
    let queue: Queue<u32> = Queue::builder().policy(Policy::Redeliver).build().unwrap();
    let put = Process::spawn(|queue: Queue<u32>| queue.put(7).unwrap(), queue.clone()).unwrap();
    assert_eq!(wait(&[&queue], BOUND).unwrap(), [0]);
    put.join().unwrap();
    // It dies with the item in hand: nobody rings, and the slices find it.
    let dies = Process::spawn(
        |queue: Queue<u32>| -> () {
            let _claim = queue.claim().unwrap();
            std::process::abort()
        },
        queue.clone(),
    );
    dies.unwrap().join().unwrap_err();
    assert_eq!(wait(&[&queue], BOUND).unwrap(), [0]);
    assert_eq!(queue.claim().unwrap().attempts(), 1);
}

#[test]
fn a_receiver_is_ready_while_there_is_a_value_and_at_its_end() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = channel::<u32>().unwrap();
    let (idle, _other) = Pipe::<u8>::duplex().unwrap();
    let queue = Queue::<u8>::unbounded().unwrap();
    assert_eq!(wait(&[&receiver, &idle, &queue], AT_ONCE).unwrap(), [0; 0]);
    sender.send(1).unwrap();
    assert_eq!(wait(&[&idle, &receiver, &receiver], BOUND).unwrap(), [1, 2]);
    queue.put(2).unwrap();
    assert_eq!(wait(&[&queue, &idle, &receiver], BOUND).unwrap(), [0, 2]);
    assert_eq!(receiver.try_recv().unwrap(), Some(1));
    assert_eq!(wait(&[&receiver], AT_ONCE).unwrap(), [0; 0]);
    drop(sender);
    assert_eq!(wait(&[&receiver], BOUND).unwrap(), [0]);
    assert!(receiver.try_recv().unwrap_err().is_disconnected());
    // One that is elsewhere by now says so at once.
    let (_sender, receiver) = channel::<u32>().unwrap();
    let parcel = procession_parcel::Parcel::pack(&receiver).unwrap();
    assert_eq!(wait(&[&receiver], BOUND).unwrap(), [0]);
    drop(parcel);
}

#[test]
fn a_wait_for_a_receiver_sleeps_until_a_value_comes_in_every_round() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = channel::<u64>().unwrap();
    let (mut answers, mut answered) = channel::<u64>().unwrap();
    let (idle, _other) = Pipe::<u8>::duplex().unwrap();
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let waits = scope.spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            loop {
                assert_eq!(wait(&[&idle, &receiver], None).unwrap(), [1]);
                match receiver.try_recv() {
                    Ok(Some(number)) => answers.send(number).unwrap(),
                    Ok(None) => panic!("nobody else receives here"),
                    Err(end) => return end.is_disconnected(),
                }
            }
        });
        let thread = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
        for number in 0..10 {
            eventually("it sleeps", BOUND, || sleeps(&thread));
            sender.send(number).unwrap();
            assert_eq!(answered.recv().unwrap(), number);
        }
        drop(sender);
        assert!(waits.join().unwrap());
    });
}

#[test]
fn a_wait_for_a_receiver_ends_when_the_sender_s_process_dies() {
    let _watchdog = watchdog!();
    let (sender, mut receiver) = channel::<u32>().unwrap();
    let dies = Process::spawn(
        |mut sender: procession_channel::Sender<u32>| -> () {
            sender.send(7).unwrap();
            std::process::abort()
        },
        sender,
    );
    assert_eq!(wait(&[&receiver], BOUND).unwrap(), [0]);
    assert_eq!(receiver.try_recv().unwrap(), Some(7));
    assert_eq!(wait(&[&receiver], BOUND).unwrap(), [0]);
    assert!(receiver.try_recv().unwrap_err().is_disconnected());
    dies.unwrap().join().unwrap_err();
    let _: Receiver<u32> = receiver;
}

#[test]
fn who_holds_claims_does_not_wait_for_those_of_others() {
    let _watchdog = watchdog!();
    let queue: Queue<u32> = Queue::builder().policy(Policy::Redeliver).build().unwrap();
    (0..2).for_each(|n| queue.put(n).unwrap());
    let ours = queue.claim().unwrap();
    // The other one has a claim too, and asks for more: each would wait for the other.
    let (told, tell) = Pipe::<bool>::one_way().unwrap();
    let other = Process::spawn(
        |(queue, tell): (Queue<u32>, procession_channel::connection::PipeSender<bool>)| {
            let claim = queue.claim().unwrap();
            tell.send(&true).unwrap();
            let error = queue.claim().unwrap_err();
            assert!(matches!(error, GetError::InHand) && error.is_closed(), "{error}");
            assert!(queue.iter().next().is_none());
            drop(claim);
            // With nothing in hand it waits for what the others have.
            queue.get().unwrap()
        },
        (queue.clone(), tell),
    );
    assert!(told.recv().unwrap());
    queue.close().unwrap();
    assert_eq!(wait(&[&queue], BOUND).unwrap(), [0]);
    // Until the other one is done with its own.
    while let Err(GetError::InHand) = queue.try_get() {
        std::thread::yield_now();
    }
    ours.give_back();
    assert_eq!(other.unwrap().join().unwrap(), 0);
    assert!(matches!(queue.get(), Err(GetError::Closed)));
}

#[cfg(feature = "async")]
#[test]
fn a_wait_as_a_future_is_woken_by_whatever_becomes_ready() {
    use procession_channel::wait_async;
    use std::{
        future::Future,
        pin::pin,
        sync::mpsc::{Sender, channel as tell},
        task::{Context, Poll, Wake},
    };
    struct Tells(std::sync::Mutex<Sender<()>>);
    impl Wake for Tells {
        fn wake(self: std::sync::Arc<Self>) {
            let _ = self.0.lock().unwrap().send(());
        }
    }
    fn crosses<T: Send>(value: T) -> T {
        value
    }
    let _watchdog = watchdog!();
    let (woken, wakes) = tell();
    let waker = std::sync::Arc::new(Tells(std::sync::Mutex::new(woken))).into();
    let mut context = Context::from_waker(&waker);
    let queue = Queue::<u32>::unbounded().unwrap();
    let (mut sender, receiver) = channel::<u32>().unwrap();
    let (end, other) = Pipe::<u8>::duplex().unwrap();
    // By the type of the objects: it is for futures that cross threads.
    let objects: [&(dyn procession_channel::Waitable + Sync); 4] = [&end, &queue, &end, &receiver];
    for round in 0..3 {
        let mut wait = pin!(crosses(wait_async(&objects)));
        assert!(wait.as_mut().poll(&mut context).is_pending());
        match round {
            0 => queue.put(1).unwrap(),
            1 => other.send(&1).unwrap(),
            _ => sender.send(1).unwrap(),
        }
        let ready = loop {
            wakes.recv_timeout(BOUND).unwrap();
            if let Poll::Ready(ready) = wait.as_mut().poll(&mut context) {
                break ready.unwrap();
            }
        };
        assert_eq!(ready, [vec![1], vec![0, 2], vec![3]][round]);
        match round {
            0 => assert_eq!(queue.get().unwrap(), 1),
            1 => assert_eq!(end.recv().unwrap(), 1),
            _ => {}
        }
    }
    // One that is dropped leaves the others as they are.
    let empty = Queue::<u32>::unbounded().unwrap();
    let objects: [&(dyn procession_channel::Waitable + Sync); 1] = [&empty];
    {
        let dropped = pin!(wait_async(&objects));
        assert!(dropped.poll(&mut context).is_pending());
    }
    let mut nothing = pin!(wait_async(&[]));
    assert!(nothing.as_mut().poll(&mut context).is_ready());
    empty.put(1).unwrap();
    let mut at_once = pin!(wait_async(&objects));
    assert!(at_once.as_mut().poll(&mut context).is_ready());
}

/// Which event fd this is, in whatever process.
fn event_of(fd: BorrowedFd<'_>) -> String {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    info.lines().find(|line| line.starts_with("eventfd-id")).expect("an event fd").to_owned()
}

#[test]
fn a_forked_child_waits_by_an_event_of_its_own() {
    isolated!({
        let queue = Queue::<u8>::unbounded().unwrap();
        let (mut sender, receiver) = channel::<u8>().unwrap();
        let objects: [&dyn Waitable; 2] = [&queue, &receiver];
        // These waits of the parent are under way for ever, as far as the child can see.
        let parents = objects.map(|object| event_of(object.prepare().unwrap()));
        let mut put = || {
            queue.put(1).unwrap();
            sender.send(1).unwrap();
        };
        forked(|| {
            for round in 0..2 {
                let fds = objects.map(|object| object.prepare().unwrap());
                assert!(fds.iter().zip(&parents).all(|(fd, parent)| event_of(*fd) != *parent), "{round}");
                if round == 0 {
                    put();
                }
                // The queue has its item in the second round, and says nothing more.
                let silent = if round == 0 { 2 } else { 0 };
                for &fd in &fds[..silent] {
                    assert!(readable(fd, Some(Deadline::after(BOUND))).unwrap());
                }
                assert_eq!(wait(&objects, BOUND).unwrap(), [0, 1]);
                objects.iter().for_each(|object| object.finish());
            }
            // And so does its own child.
            let mine = event_of(queue.prepare().unwrap());
            forked(|| {
                let fd = queue.prepare().unwrap();
                assert!(![&mine, &parents[0]].contains(&&event_of(fd)));
                queue.put(2).unwrap();
                assert!(readable(fd, Some(Deadline::after(BOUND))).unwrap());
                queue.finish();
            });
            queue.finish();
        });
        objects.iter().for_each(|object| object.finish());
    });
}
