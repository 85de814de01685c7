//! Queues among what is waited for.

use procession_channel::{Pipe, Queue, SimpleQueue, queue::Policy, wait};
use procession_process::Process;
use procession_testkit::{wait::eventually, watchdog};
use std::time::Duration;

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
