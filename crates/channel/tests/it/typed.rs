//! Channels of values.

use crate::support::{give, past, soon, take};
use procession_channel::{ChannelBuilder, ReceiveError, Receiver, Sender, Unsent, channel};
use procession_parcel::Parcel;
use procession_sys::Deadline;
use procession_testkit::{role, watchdog};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, os::unix::net::UnixStream, time::Duration};

const LONG: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Task {
    id: u64,
    name: String,
    values: Vec<f64>,
    tags: BTreeMap<String, Option<u8>>,
}

/// A channel with the smallest ring, 4096 bytes.
fn small<T>() -> (Sender<T>, Receiver<T>) {
    ChannelBuilder::new().capacity(4096).build().unwrap()
}

/// The same end, as if it came from another process.
fn moved<T: Serialize + serde::de::DeserializeOwned + 'static>(end: &T) -> T {
    Parcel::pack(end).unwrap().unpack().unwrap()
}

#[test]
fn values_arrive_as_they_were() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small::<Task>();
    let task = Task {
        id: 7,
        name: "count".to_owned(),
        values: vec![0.5; 20],
        tags: [("a".to_owned(), Some(1)), ("b".to_owned(), None)].into(),
    };
    sender.send(task.clone()).unwrap();
    sender.try_send(task.clone()).unwrap();
    sender.send_deadline(task.clone(), soon()).unwrap();
    sender.send_timeout(task.clone(), LONG).unwrap();
    assert_eq!((sender.sent(), sender.pending()), (4, 4));
    assert_eq!(receiver.recv().unwrap(), task);
    assert_eq!(receiver.try_recv().unwrap(), Some(task.clone()));
    assert_eq!(receiver.recv_deadline(Deadline::after(LONG)).unwrap(), Some(task.clone()));
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), Some(task));
    assert_eq!(receiver.try_recv().unwrap(), None);
    assert_eq!(receiver.recv_deadline(past()).unwrap(), None);
    assert!(receiver.is_empty() && receiver.received() == 4 && sender.pending() == 0);
}

#[test]
fn what_is_refused_comes_back_with_the_reason() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) =
        ChannelBuilder::new().capacity(4096).max_message(5000).build::<Vec<u8>>().unwrap();
    let value = |len| vec![7_u8; len];
    sender.send(value(4000)).unwrap();
    let full = sender.try_send(value(3000)).unwrap_err();
    assert!(full.is_full() && full.into_value() == value(3000));
    let full = sender.send_deadline(value(3000), past()).unwrap_err();
    assert!(full.is_full() && !full.is_disconnected());
    let large = sender.send(value(5000)).unwrap_err();
    assert!(matches!(large, Unsent::TooLarge { len: 5002, limit: 5000, .. }), "{large}");
    assert_eq!(large.into_value(), value(5000));
    assert_eq!(receiver.recv().unwrap().len(), 4000);
    drop(receiver);
    let closed = sender.try_send(value(9)).unwrap_err();
    assert!(matches!(closed, Unsent::Closed(_)) && closed.is_disconnected(), "{closed}");
    assert_eq!(closed.map(|value| value.len()).into_value(), 9);
    assert!(sender.is_closed());
}

#[test]
fn what_cannot_be_decoded_is_an_error_and_the_next_value_arrives() {
    let _watchdog = watchdog!();
    let (sender, mut receiver) = small::<u8>();
    let mut wrong: Sender<String> = Parcel::pack(&sender).unwrap().unpack().unwrap();
    wrong.send("nonsense".to_owned()).unwrap();
    assert!(matches!(receiver.recv(), Err(ReceiveError::Decode(_))));
    assert!(receiver.try_recv().unwrap().is_none());
    // In the middle of a batch.
    for text in ["", "nonsense", "", ""] {
        wrong.send(text.to_owned()).unwrap();
    }
    let mut got = Vec::new();
    assert_eq!(receiver.recv_many(&mut got, 9).unwrap(), 1);
    assert!(matches!(receiver.try_recv(), Err(ReceiveError::Decode(_))));
    assert_eq!(receiver.recv_many(&mut got, 9).unwrap(), 2);
    assert_eq!((got, receiver.received()), (vec![0, 0, 0], 5));
}

#[test]
fn what_holds_a_descriptor_is_refused_with_a_hint() {
    let _watchdog = watchdog!();
    let (mut sender, _receiver) = channel::<procession_channel::Bell>().unwrap();
    let error = sender.send(procession_channel::Bell::new().unwrap()).unwrap_err();
    assert!(matches!(error, Unsent::Encode(..)));
    assert!(error.to_string().contains("argument of a process"), "{error}");
}

#[test]
fn batches_go_through_whole_and_in_order() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small::<(u32, Vec<u8>)>();
    // Some are larger than half the ring, and go in pieces.
    let value = |number: u32| (number, vec![number as u8; (number as usize * 7919) % 6000]);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            assert_eq!(sender.send_many((0..500).map(value)).unwrap(), 500);
        });
        let mut got = Vec::new();
        while got.len() < 500 {
            let before = got.len();
            let count = receiver.recv_many(&mut got, 64).unwrap();
            assert!((1..=64).contains(&count) && got.len() == before + count);
        }
        assert!(got.into_iter().eq((0..500).map(value)));
        assert!(matches!(receiver.recv_many(&mut Vec::new(), 1), Err(ReceiveError::Closed)));
    });
}

#[test]
fn a_batch_that_is_cut_short_leaves_the_rest_with_its_owner() {
    let _watchdog = watchdog!();
    let (mut sender, receiver) = small::<Vec<u8>>();
    let hangup = sender.hangup();
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let mut values = (0..100_u8).map(|number| vec![number; 1000]);
            let unsent = sender.send_many(&mut values).unwrap_err();
            (unsent, values.next().unwrap()[0], sender.sent())
        });
        procession_testkit::wait::eventually("the channel is full", LONG, || receiver.as_raw().has_news());
        hangup.peer_died();
        let (unsent, next, sent) = sends.join().unwrap();
        assert!(matches!(unsent, Unsent::Died(_)), "{unsent}");
        let refused = unsent.into_value()[0];
        assert_eq!((u64::from(refused), next), (sent, refused + 1));
    });
}

#[test]
fn iterators_end_when_the_sender_is_closed() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = channel::<u64>().unwrap();
    sender.send_many(0..10).unwrap();
    assert!(receiver.try_iter().map(Result::unwrap).eq(0..10));
    sender.send_many(10..20).unwrap();
    sender.close();
    assert!(receiver.iter().map(Result::unwrap).eq(10..20));
    assert_eq!(receiver.into_iter().count(), 0);
}

#[test]
fn role_dies_sending() {
    let Some(mut role) = role::enter(role_dies_sending) else { return };
    let mut sender: Sender<u64> = take(role.fd());
    sender.send_many(0..100).unwrap();
    role.say("sent");
    role.hear();
}

#[test]
fn a_receiver_gets_all_that_a_dead_sender_committed_and_then_is_told_of_its_death() {
    let _watchdog = watchdog!();
    let (sender, receiver) = channel::<u64>().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut process = role::start(role_dies_sending, &[&theirs]);
    give(&ours, &sender);
    // What is left of the end here keeps nobody alive.
    let _husk = sender;
    process.expect("sent");
    assert!(!receiver.is_closed());
    process.kill();
    let all: Vec<Result<u64, ReceiveError>> = receiver.into_iter().collect();
    assert_eq!(all.len(), 101);
    assert!(all.iter().take(100).zip(0..).all(|(got, number)| matches!(got, Ok(got) if *got == number)));
    assert!(matches!(all[100], Err(ReceiveError::Died)), "{:?}", all[100]);
}

#[test]
fn role_dies_receiving() {
    let Some(mut role) = role::enter(role_dies_receiving) else { return };
    let _receiver: Receiver<Vec<u8>> = take(role.fd());
    role.say("has it");
    role.hear();
}

#[test]
fn a_sender_that_waits_for_room_is_told_of_the_receivers_death() {
    let _watchdog = watchdog!();
    let (mut sender, receiver) = small::<Vec<u8>>();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut process = role::start(role_dies_receiving, &[&theirs]);
    give(&ours, &receiver);
    drop(receiver);
    process.expect("has it");
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| (0..).find_map(|_| sender.send(vec![0; 1000]).err()).unwrap());
        process.kill();
        let unsent = sends.join().unwrap();
        assert!(matches!(unsent, Unsent::Died(_)), "{unsent}");
    });
}

#[test]
fn a_deadline_does_not_hide_a_death() {
    let _watchdog = watchdog!();
    let (sender, mut receiver) = channel::<u64>().unwrap();
    let parcel = Parcel::pack(&sender).unwrap();
    // An end that is under way is not lost.
    assert_eq!(receiver.recv_deadline(past()).unwrap(), None);
    let (ours, theirs) = UnixStream::pair().unwrap();
    procession_parcel::wire::send(&ours, &parcel, None).unwrap();
    drop((parcel, sender));
    assert_eq!(receiver.recv_deadline(past()).unwrap(), None);
    // With the socket goes what lies in it.
    drop((ours, theirs));
    procession_testkit::wait::eventually("the loss is known", LONG, || {
        matches!(receiver.recv_deadline(past()), Err(ReceiveError::Died))
    });
}

#[test]
fn ends_move_and_keep_what_is_in_the_channel() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = channel::<u64>().unwrap();
    for number in 0..50 {
        sender.send(number).unwrap();
        sender = moved(&sender);
        assert_eq!(receiver.recv().unwrap(), number);
        let next = moved(&receiver);
        let mut gone = core::mem::replace(&mut receiver, next);
        assert!(matches!(gone.try_recv(), Err(ReceiveError::Moved)));
    }
    let next = moved(&sender);
    let mut gone = core::mem::replace(&mut sender, next);
    assert!(matches!(gone.send(1), Err(Unsent::Moved(1))));
    drop(gone);
    assert_eq!(receiver.recv_deadline(past()).unwrap(), None);
    drop(sender);
    assert!(matches!(receiver.recv(), Err(ReceiveError::Closed)));
}
