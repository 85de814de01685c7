//! Every interleaving of the lane and the bell, within a bound on preemptions, and mistakes that must be found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-channel --test loom --target-dir target/loom`
#![cfg(loom)]

use loom::{sync::Arc, thread};
use procession_channel::{
    lane::{RecvError, SendError},
    model::{BellWords, Bug, Cells, Consumer, Producer, plant},
};
use procession_sys::{
    Spin,
    sync::{AtomicU32, Ordering},
};

fn holds(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// The model must find this mistake.
fn finds(bug: Bug, model: fn()) {
    procession_sys::planted::finds(&bug, || {
        plant(Some(bug));
        holds(model);
    });
}

const MAX: usize = 64;

fn ends(capacity: usize) -> (Producer<Arc<Cells>>, Consumer<Arc<Cells>>) {
    let cells = Cells::new(capacity);
    (Producer::attach(cells.clone(), MAX).unwrap(), Consumer::attach(cells, MAX).unwrap())
}

fn receive(consumer: &mut Consumer<Arc<Cells>>) -> Result<Vec<u8>, RecvError> {
    let mut message = Vec::new();
    while !consumer.recv(&mut message, None, &mut Spin::none())? {}
    Ok(message)
}

fn two_messages() {
    let (mut producer, mut consumer) = ends(64);
    let sender = thread::spawn(move || {
        producer.try_send_quiet(&[b"one"]).unwrap();
        producer.ring();
        producer.try_send_quiet(&[b"two", b"more"]).unwrap();
        producer.ring();
    });
    assert_eq!(receive(&mut consumer).unwrap(), b"one");
    assert_eq!(consumer.taken(), 1);
    assert_eq!(receive(&mut consumer).unwrap(), b"twomore");
    assert_eq!(consumer.taken(), 2);
    sender.join().unwrap();
}

fn full_ring() {
    let (mut producer, mut consumer) = ends(16);
    let sender = thread::spawn(move || {
        for message in [b"first", b"secon", b"third"] {
            producer.send(&[message], None, &mut Spin::none()).unwrap();
        }
    });
    assert_eq!(receive(&mut consumer).unwrap(), b"first");
    assert_eq!(receive(&mut consumer).unwrap(), b"secon");
    assert_eq!(receive(&mut consumer).unwrap(), b"third");
    sender.join().unwrap();
}

fn message_in_pieces() {
    let (mut producer, mut consumer) = ends(32);
    let sender = thread::spawn(move || {
        producer.send(&[b"0123456789", b"abcdefghij"], None, &mut Spin::none()).unwrap();
        assert_eq!(producer.sent(), 1);
    });
    assert_eq!(receive(&mut consumer).unwrap(), b"0123456789abcdefghij");
    assert_eq!(consumer.taken(), 1);
    sender.join().unwrap();
}

fn batches() {
    let (mut producer, mut consumer) = ends(32);
    let sender = thread::spawn(move || {
        for message in [b"1", b"2", b"3"] {
            producer.send(&[message], None, &mut Spin::none()).unwrap();
        }
        producer.close();
    });
    let mut got = Vec::new();
    let end = loop {
        consumer.wait(None, &mut Spin::none());
        if let Err(error) = consumer.recv_batch(100, |message| got.extend_from_slice(message)) {
            break error;
        }
    };
    assert_eq!((got.as_slice(), end), (b"123".as_slice(), RecvError::Disconnected));
    sender.join().unwrap();
}

/// Records of one cell of the model each, so that what is appended and what is taken share none.
fn growing() {
    let (mut producer, mut consumer) = ends(128);
    let sender = thread::spawn(move || {
        producer.append(b"", b"11111111").unwrap();
        producer.append(b"", b"22222222").unwrap();
        producer.finish();
        producer.append(b"", b"33333333").unwrap();
        producer.finish();
    });
    let mut got = Vec::new();
    for _ in 0..2 {
        consumer.recv_growing(|part| got.extend_from_slice(part)).unwrap();
    }
    consumer.recv_parts(100, |part, _| got.extend_from_slice(part), &mut Vec::new()).unwrap();
    consumer.recv_growing(|part| got.extend_from_slice(part)).unwrap();
    sender.join().unwrap();
    while consumer.recv_parts(100, |part, _| got.extend_from_slice(part), &mut Vec::new()).unwrap() > 0 {}
    assert_eq!(String::from_utf8(got).unwrap(), "111111112222222233333333");
    assert_eq!(consumer.taken(), 2);
}

fn sender_closes() {
    let (mut producer, mut consumer) = ends(64);
    let sender = thread::spawn(move || {
        producer.try_send_quiet(&[b"last"]).unwrap();
        producer.close();
    });
    assert_eq!(receive(&mut consumer).unwrap(), b"last");
    assert_eq!(receive(&mut consumer), Err(RecvError::Disconnected));
    sender.join().unwrap();
}

fn receiver_closes() {
    let (mut producer, consumer) = ends(16);
    producer.try_send_quiet(&[b"fills"]).unwrap();
    let receiver = thread::spawn(move || consumer.close());
    let sent = producer.send(&[b"waits"], None, &mut Spin::none());
    assert_eq!(sent, Err(SendError::Disconnected));
    receiver.join().unwrap();
}

fn supervisor_ends_a_wait() {
    let (producer, mut consumer) = ends(16);
    let cells = consumer.memory().clone();
    let supervisor = thread::spawn(move || {
        let other = Consumer::attach(cells, MAX).unwrap();
        other.abandon_peer();
    });
    assert_eq!(receive(&mut consumer), Err(RecvError::Disconnected));
    supervisor.join().unwrap();
    drop(producer);
}

/// One sleeper waits for two ringers, as a pool's parent does.
fn shared_bell() {
    let shared = Arc::new((BellWords::new(), AtomicU32::new(0)));
    let ringers: Vec<_> = (0..2)
        .map(|_| {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.1.fetch_add(1, Ordering::Release);
                shared.0.ring();
            })
        })
        .collect();
    shared.0.wait_until(None, &mut Spin::none(), || shared.1.load(Ordering::Acquire) == 2);
    for ringer in ringers {
        ringer.join().unwrap();
    }
}

/// Two sleepers wait for one ringer: the flag of one must not stand for both.
fn two_sleepers() {
    let shared = Arc::new((BellWords::new(), AtomicU32::new(0)));
    let sleep = |shared: &(BellWords, AtomicU32)| {
        shared.0.wait_until(None, &mut Spin::none(), || shared.1.load(Ordering::Acquire) == 1);
    };
    let sleeper = {
        let shared = shared.clone();
        thread::spawn(move || sleep(&shared))
    };
    let ringer = {
        let shared = shared.clone();
        thread::spawn(move || {
            shared.1.store(1, Ordering::Release);
            shared.0.ring();
        })
    };
    sleep(&shared);
    sleeper.join().unwrap();
    ringer.join().unwrap();
}

#[test]
fn messages_arrive_whole_and_in_order() {
    holds(two_messages);
}

#[test]
fn a_sender_waits_for_room_and_is_woken() {
    holds(full_ring);
}

#[test]
fn a_message_larger_than_the_ring_arrives_whole() {
    holds(message_in_pieces);
}

#[test]
fn batches_lose_nothing() {
    holds(batches);
}

#[test]
fn records_of_messages_that_grow_arrive_once_and_in_order() {
    holds(growing);
}

#[test]
fn finds_a_record_that_is_not_published() {
    finds(Bug::RelaxedGrown, growing);
}

#[test]
fn finds_growth_taken_for_that_of_another_message() {
    finds(Bug::GrownWithoutTail, growing);
}

#[test]
fn a_close_comes_after_the_last_message() {
    holds(sender_closes);
}

#[test]
fn a_sender_that_waits_learns_that_the_receiver_closed() {
    holds(receiver_closes);
}

#[test]
fn a_receiver_that_waits_learns_that_the_sender_died() {
    holds(supervisor_ends_a_wait);
}

#[test]
fn a_bell_shared_by_two_ringers_loses_no_wake() {
    holds(shared_bell);
}

#[test]
fn a_bell_wakes_all_its_sleepers() {
    holds(two_sleepers);
}

#[test]
fn finds_a_commit_that_does_not_publish() {
    finds(Bug::RelaxedCommit, two_messages);
}

#[test]
fn finds_space_given_back_before_it_is_copied() {
    finds(Bug::HeadBeforeCopy, full_ring);
}

#[test]
fn finds_space_given_back_without_order() {
    finds(Bug::RelaxedHead, full_ring);
}

#[test]
fn finds_a_ring_without_a_fence() {
    finds(Bug::NoFenceBeforeRing, two_messages);
}

#[test]
fn finds_a_flag_cleared_after_the_wake() {
    finds(Bug::FlagClearedAfterWake, shared_bell);
}

#[test]
fn finds_a_ring_that_is_not_counted() {
    finds(Bug::BellNotCounted, two_messages);
}

#[test]
fn finds_a_count_that_is_read_after_the_flag() {
    finds(Bug::BellReadAfterFlag, two_messages);
}

#[test]
fn finds_a_look_before_the_flag() {
    finds(Bug::LookBeforeFlag, two_messages);
}

#[test]
fn finds_a_close_without_a_ring() {
    finds(Bug::CloseWithoutRing, sender_closes);
}

#[test]
fn finds_a_missing_look_after_a_close() {
    finds(Bug::NoLookAfterClose, sender_closes);
}
