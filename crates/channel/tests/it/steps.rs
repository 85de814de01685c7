//! Death at every instruction of one send and of one receive.
//!
//! After each death the message is in the lane or not, never half, the survivor's end goes on, and the counts agree
//! with what is there.

use crate::support::{drain, past, pattern, with_capacity};
use procession_channel::lane::{RawReceiver, RawSender, RecvError};
use procession_parcel::Parcel;
use procession_testkit::{
    isolated_within,
    step::{Options, each_instruction},
};
use std::time::Duration;

fn isolated(name: &str, body: impl FnOnce()) {
    isolated_within(name, Duration::from_secs(240), body);
}

/// The same end, taken up anew from what is in shared memory: this process's own is as old as the fork.
fn anew<T: serde::Serialize + serde::de::DeserializeOwned + 'static>(end: &T) -> T {
    Parcel::pack(end).unwrap().unpack().unwrap()
}

struct World {
    sender: RawSender,
    receiver: RawReceiver,
    sent: Vec<Vec<u8>>,
}

/// A lane with one message in it, whose next one starts `before_the_end` bytes before the end of the ring.
fn world(before_the_end: usize) -> World {
    let (mut sender, mut receiver) = with_capacity(4096);
    sender.try_send(&[&vec![0; 4096 - 8 - 24 - before_the_end]]).unwrap();
    assert_eq!(drain(&mut receiver).0.len(), 1);
    let sent = vec![pattern(1, 16)];
    sender.try_send(&[&sent[0]]).unwrap();
    World { sender, receiver, sent }
}

/// Kills a sender of `message`; tells at how many instructions the message was in.
fn sender_dies(setup: impl Fn() -> World, message: &[u8]) {
    let (mut inside, mut outside) = (0, 0);
    let report = each_instruction(
        &Options::one_of(11),
        setup,
        |world| world.sender.try_send(&[message]).unwrap(),
        |death, world| {
            // Another process may take the sender's place, whatever its predecessor left.
            let mut heir = anew(&world.sender);
            heir.try_send(&[b"heir"]).unwrap();
            drop(heir);
            let (mut messages, end) = drain(&mut world.receiver);
            assert_eq!(end, Some(RecvError::Disconnected));
            assert_eq!(messages.pop().unwrap(), b"heir");
            assert_eq!(messages.remove(0), world.sent[0]);
            match messages.as_slice() {
                [] => {
                    assert!(!death.finished);
                    outside += 1;
                }
                [one] => {
                    assert_eq!(one, message);
                    inside += 1;
                }
                more => panic!("{} messages", more.len()),
            }
            // The one before, perhaps this one, and the heir's, after the one that world() has sent first.
            assert_eq!(world.receiver.taken(), 3 + messages.len() as u64);
        },
    );
    println!("send: {report}; the message was in after {inside} of the deaths, and not after {outside}");
    assert!(inside > 0 && outside > 0);
}

#[test]
fn a_sender_dies_at_every_instruction() {
    isolated("steps::a_sender_dies_at_every_instruction", || sender_dies(|| world(2000), &pattern(9, 21)));
}

#[test]
fn a_sender_of_a_message_that_wraps_dies_at_every_instruction() {
    isolated("steps::a_sender_of_a_message_that_wraps_dies_at_every_instruction", || {
        sender_dies(|| world(24), &pattern(9, 40));
    });
}

#[test]
fn a_sender_that_rings_for_a_sleeper_dies_at_every_instruction() {
    isolated("steps::a_sender_that_rings_for_a_sleeper_dies_at_every_instruction", || {
        let sleeping = || {
            let mut world = world(2000);
            let (sent, _) = drain(&mut world.receiver);
            // A sleep that ends at once leaves its flag, as that of a killed sleeper would.
            assert!(!world.receiver.wait(Some(past())));
            world.sender.send_quiet(&[&sent[0]]).unwrap();
            // Its ticket is one higher than in the other worlds.
            world.sender.send_quiet(&[b"spare"]).unwrap();
            world
        };
        let (mut inside, mut outside) = (0, 0);
        each_instruction(
            &Options::one_of(11),
            sleeping,
            |world| world.sender.try_send(&[b"rings"]).unwrap(),
            |_, world| {
                world.receiver.abandon_peer();
                let mut got = Vec::new();
                while world.receiver.recv(&mut got, None) == Ok(true) {}
                if got == b"rings" {
                    inside += 1
                } else {
                    outside += 1
                }
                assert!(got == b"rings" || got == b"spare");
            },
        );
        assert!(inside > 0 && outside > 0);
    });
}

#[test]
fn a_sender_of_pieces_dies_at_every_instruction() {
    isolated("steps::a_sender_of_pieces_dies_at_every_instruction", || {
        // Three pieces, and room for all of them.
        let large = pattern(5, 2100);
        let (mut inside, mut outside) = (0, 0);
        let report = each_instruction(
            &Options::one_of(97),
            || with_capacity(4096),
            |(sender, _)| sender.send(&[&large], None).unwrap(),
            |_, (sender, receiver)| {
                let mut heir = anew(sender);
                heir.try_send(&[b"heir"]).unwrap();
                drop(heir);
                let (mut messages, end) = drain(receiver);
                assert_eq!(end, Some(RecvError::Disconnected));
                assert_eq!(messages.pop().unwrap(), b"heir");
                assert!(messages.len() <= 1 && messages.iter().all(|message| *message == large));
                if messages.is_empty() { outside += 1 } else { inside += 1 }
            },
        );
        println!("send in pieces: {report}; the message was in after {inside} of the deaths");
        assert!(inside > 0 && outside > 0);
    });
}

#[test]
fn a_sender_dies_at_every_instruction_while_a_message_grows() {
    isolated("steps::a_sender_dies_at_every_instruction_while_a_message_grows", || {
        let records = [pattern(3, 21), pattern(4, 16)];
        let whole = |count: usize| [b">".to_vec(), records[..count].concat()].concat();
        let mut seen = [0; 3];
        let mut committed = 0;
        let report = each_instruction(
            &Options::one_of(11),
            || world(40),
            |world| {
                records.iter().for_each(|record| world.sender.append_quiet(b">", record).unwrap());
                world.sender.finish();
            },
            |death, world| {
                let mut got = Vec::new();
                let take = |receiver: &mut RawReceiver, got: &mut Vec<u8>| {
                    let mut all = |part: &[u8], _| got.extend_from_slice(part);
                    while receiver.recv_parts(9999, &mut all, &mut Vec::new()).is_ok_and(|count| count > 0) {}
                };
                take(&mut world.receiver, &mut got);
                assert_eq!(got.drain(..16).collect::<Vec<_>>(), world.sent[0]);
                let whole_message = !got.is_empty();
                world.receiver.recv_growing(|part| got.extend_from_slice(part)).unwrap();
                let records = if got.is_empty() { 0 } else { (1..3).find(|n| got == whole(*n)).unwrap() };
                // An heir finishes what grew, of which nothing comes twice.
                let mut heir = anew(&world.sender);
                heir.try_send(&[b"heir"]).unwrap();
                let taken = got.len();
                take(&mut world.receiver, &mut got);
                assert_eq!(&got[taken..], b"heir");
                if whole_message {
                    assert_eq!(records, 2);
                    committed += 1;
                } else {
                    assert!(!death.finished);
                    seen[records] += 1;
                }
            },
        );
        println!(
            "append: {report}; 0, 1 and 2 records were there after {seen:?} deaths, the message after {committed}"
        );
        assert!(seen.iter().all(|deaths| *deaths > 0) && committed > 0);
    });
}

#[test]
fn who_takes_up_the_place_of_a_sender_that_died_finishes_what_grew() {
    isolated("steps::who_takes_up_the_place_of_a_sender_that_died_finishes_what_grew", || {
        let mut seen = [0; 2];
        each_instruction(
            &Options::one_of(11),
            || world(40),
            |world| world.sender.append_quiet(b">", b"record").unwrap(),
            |_, world| {
                let mut heir = anew(&world.sender);
                heir.try_send(&[b"heir"]).unwrap();
                let (mut messages, _) = drain(&mut world.receiver);
                assert_eq!(messages.pop().unwrap(), b"heir");
                assert_eq!(messages.remove(0), world.sent[0]);
                assert!(messages.iter().all(|message| message == b">record"));
                assert_eq!(heir.sent(), world.receiver.taken());
                seen[messages.len()] += 1;
            },
        );
        assert!(seen.iter().all(|deaths| *deaths > 0), "{seen:?}");
    });
}

#[test]
fn a_receiver_dies_at_every_instruction() {
    isolated("steps::a_receiver_dies_at_every_instruction", || {
        let (mut in_ring, mut in_doubt, mut started) = (0, 0, 0);
        let report = each_instruction(
            &Options::one_of(11),
            || {
                let mut world = world(24);
                world.sent.push(pattern(2, 40));
                world.sender.try_send(&[&world.sent[1]]).unwrap();
                world
            },
            |world| {
                let mut message = Vec::with_capacity(64);
                assert!(world.receiver.try_recv(&mut message).unwrap());
                world.receiver.mark_started(world.receiver.taken());
            },
            |death, world| {
                // The first message of a world was taken long ago: ticket 1. The one in question has ticket 2.
                let (taken, begun) = (world.sender.taken(), world.sender.started());
                assert!((1..=2).contains(&taken) && (begun == 0 || begun == 2) && begun <= taken);
                // What the sender is told holds for what is in the ring.
                let mut heir = anew(&world.receiver);
                let (messages, end) = drain(&mut heir);
                assert_eq!(end, None);
                assert_eq!(messages.last().unwrap(), &world.sent[1]);
                match messages.len() {
                    2 => {
                        assert!(messages[0] == world.sent[0] && begun == 0 && !death.finished);
                        in_ring += 1;
                    }
                    1 => {
                        assert_eq!(taken, 2, "a message left the ring without being recorded");
                        if begun == 2 { started += 1 } else { in_doubt += 1 }
                    }
                    more => panic!("{more} messages"),
                }
                // The sender goes on.
                world.sender.try_send(&[b"next"]).unwrap();
                assert_eq!(drain(&mut heir).0, [b"next"]);
            },
        );
        println!(
            "receive: {report}; in the ring after {in_ring} deaths, in doubt after {in_doubt}, started after {started}"
        );
        assert!(in_ring > 0 && in_doubt > 0 && started > 0);
    });
}
