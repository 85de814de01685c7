//! Messages that grow record by record, their ends in one process.

use crate::support::{drain, lane_in, small, with_capacity};
use procession_channel::lane::{Config, RawReceiver, RecvError, SendError, TrySendError};
use procession_parcel::Parcel;
use procession_shm::{Kind, Segment};
use procession_testkit::{storm::Rng, watchdog};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is there of a message that grows.
fn early(receiver: &mut RawReceiver) -> Result<Vec<u8>, RecvError> {
    let mut bytes = Vec::new();
    let count = receiver.recv_growing(|part| bytes.extend_from_slice(part))?;
    assert_eq!(count, bytes.len());
    Ok(bytes)
}

#[test]
fn records_arrive_as_one_message_once_it_is_finished() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    for record in [b"one".as_slice(), b"", b"three"] {
        sender.append_quiet(b"> ", record).unwrap();
    }
    assert_eq!((drain(&mut receiver), sender.sent()), ((vec![], None), 0));
    sender.finish();
    sender.finish();
    sender.append_quiet(b"> ", b"next").unwrap();
    sender.finish();
    assert_eq!(drain(&mut receiver).0, [b"> onethree".as_slice(), b"> next"]);
    assert_eq!((sender.sent(), receiver.taken()), (2, 2));
}

#[test]
fn whatever_else_is_sent_comes_after_what_grew() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    let large = [7; 3000];
    sender.append_quiet(b"", b"1").unwrap();
    sender.send_quiet(&[b"2"]).unwrap();
    sender.append_quiet(b"", b"3").unwrap();
    sender.send(&[b"4"], None).unwrap();
    sender.append_quiet(b"", b"5").unwrap();
    assert_eq!(drain(&mut receiver).0, [b"1", b"2", b"3", b"4"]);
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send(&[&large], None).unwrap());
        assert_eq!(crate::support::next(&mut receiver).unwrap(), b"5");
        assert_eq!(crate::support::next(&mut receiver).unwrap(), large);
    });
    sender.append_quiet(b"", b"last").unwrap();
    drop(sender);
    assert_eq!(drain(&mut receiver), (vec![b"last".to_vec()], Some(RecvError::Disconnected)));
}

#[test]
fn what_grows_can_be_taken_early_and_the_rest_comes_later() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    assert_eq!(early(&mut receiver).unwrap(), b"");
    sender.append_quiet(b"> ", b"one ").unwrap();
    assert_eq!(early(&mut receiver).unwrap(), b"> one ");
    assert_eq!(early(&mut receiver).unwrap(), b"");
    sender.append_quiet(b"> ", b"two ").unwrap();
    assert_eq!(early(&mut receiver).unwrap(), b"two ");
    sender.append_quiet(b"> ", b"three").unwrap();
    // The receiver's place in the message is with it.
    assert!(Parcel::pack(&receiver).unwrap_err().to_string().contains("in part"));
    sender.finish();
    sender.append_quiet(b"> ", b"another").unwrap();
    assert_eq!(early(&mut receiver).unwrap(), b"", "the rest of the first is committed");
    let mut parts = Vec::new();
    receiver.recv_parts(1000, |part, rest| parts.push((part.to_vec(), rest)), &mut Vec::new()).unwrap();
    assert_eq!(parts, [(b"three".to_vec(), true)]);
    assert_eq!(receiver.taken(), 1);
    assert_eq!(early(&mut receiver).unwrap(), b"> another");
    sender.send_quiet(&[b"whole"]).unwrap();
    parts.clear();
    receiver.recv_parts(1000, |part, rest| parts.push((part.to_vec(), rest)), &mut Vec::new()).unwrap();
    assert_eq!(parts, [(Vec::new(), true), (b"whole".to_vec(), false)]);
}

#[test]
fn what_a_dead_sender_had_appended_is_there() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    sender.send_quiet(&[b"before"]).unwrap();
    sender.append_quiet(b"", b"one").unwrap();
    assert!(Parcel::pack(&sender).unwrap_err().to_string().contains("not finished"));
    sender.append_quiet(b"", b"two").unwrap();
    std::mem::forget(sender);
    receiver.abandon_peer();
    assert_eq!(early(&mut receiver).unwrap(), b"");
    assert_eq!(drain(&mut receiver), (vec![b"before".to_vec()], Some(RecvError::Disconnected)));
    assert_eq!(early(&mut receiver).unwrap(), b"onetwo");
    assert_eq!(early(&mut receiver).unwrap(), b"");
}

#[test]
fn a_full_lane_and_a_large_record_are_refused_and_change_nothing() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    // An eighth of the ring.
    assert_eq!(sender.append_quiet(b"> ", &[0; 511]), Err(TrySendError::TooLarge { len: 511, limit: 510 }));
    let mut appended = 0;
    while sender.append_quiet(b"> ", &[appended; 100]).is_ok() {
        appended += 1;
    }
    assert_eq!(sender.append_quiet(b"> ", &[0; 100]), Err(TrySendError::Full));
    assert_eq!(sender.send(&[&[0; 1000]], Some(crate::support::soon())), Err(SendError::Timeout));
    let messages = drain(&mut receiver).0;
    let records = |message: &Vec<u8>| message.strip_prefix(b"> ").unwrap().to_vec();
    let all: Vec<u8> = messages.iter().flat_map(records).collect();
    assert_eq!(all, (0..appended).flat_map(|n| [n; 100]).collect::<Vec<u8>>());
    sender.append_quiet(b"> ", b"again").unwrap();
    drop(receiver);
    assert_eq!(sender.append_quiet(b"> ", &[0; 508]), Err(TrySendError::Disconnected));
}

#[test]
fn any_mix_of_records_messages_and_looks_gives_every_byte_once_and_in_order() {
    let _watchdog = watchdog!();
    for (seed, capacity) in (0..20).flat_map(|seed| [(seed, 4096), (seed, 1 << 20)]) {
        let mut random = Rng::from_seed(seed);
        let (mut sender, mut receiver) = with_capacity(capacity);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        let mut next = 0_u8;
        for _ in 0..4000 {
            match random.below(8) {
                0..5 => {
                    let record = vec![next; random.below(if capacity > 4096 { 3000 } else { 60 }) as usize];
                    next = next.wrapping_add(1);
                    if sender.append_quiet(b"", &record).is_ok() {
                        sent.extend_from_slice(&record);
                    }
                }
                5 => sender.finish(),
                6 => {
                    let message = vec![next; random.below(90) as usize];
                    next = next.wrapping_add(1);
                    if sender.send_quiet(&[&message]).is_ok() {
                        sent.extend_from_slice(&message);
                    }
                }
                _ => {
                    receiver
                        .recv_parts(
                            random.below(500) as usize,
                            |part, _| got.extend_from_slice(part),
                            &mut Vec::new(),
                        )
                        .unwrap();
                    receiver.recv_growing(|part| got.extend_from_slice(part)).unwrap();
                }
            }
        }
        drop(sender);
        while receiver.recv_parts(9999, |part, _| got.extend_from_slice(part), &mut Vec::new()).is_ok() {}
        assert!(got == sent, "seed {seed}, capacity {capacity}: {} bytes of {}", got.len(), sent.len());
    }
}

#[test]
fn a_sender_that_lies_about_what_grows_is_found_out() {
    let _watchdog = watchdog!();
    const TAIL: usize = 0;
    const GROWN: usize = 24;
    const RING: usize = 512;
    let config = Config { capacity: 4096, max_message: 3000, ..Config::default() };
    let segment = Segment::anonymous(Kind::new("hostile", 1, 1), config.footprint()).unwrap();
    let poke = |offset: usize, value: u64| {
        // SAFETY: the offset lies within the payload.
        let word = unsafe { segment.as_ptr().add(offset) };
        // SAFETY: it is aligned and mapped as long as the segment lives.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }.store(value, Ordering::Release);
    };
    for grown in [3009, 4097, 1 << 40, u64::MAX] {
        let (_sender, mut receiver) = lane_in(&segment, 0, &config).unwrap();
        poke(GROWN, grown);
        let error = early(&mut receiver).unwrap_err().to_string();
        assert!(error.contains("impossible growth"), "{error}");
        assert!(matches!(drain(&mut receiver).1, Some(RecvError::Corrupt(_))));
        assert!(early(&mut receiver).is_err());
    }
    // Nothing is there: no more than a header, or what was received long ago.
    for grown in [1, 8] {
        let (_sender, mut receiver) = lane_in(&segment, 0, &config).unwrap();
        poke(GROWN, grown);
        assert_eq!(early(&mut receiver).unwrap(), b"");
    }
    // The message has less than was taken of it, or comes in pieces.
    for header in [3 << 32 | 15, 1 << 32 | 16, 2 << 32 | 16] {
        let (_sender, mut receiver) = lane_in(&segment, 0, &config).unwrap();
        poke(GROWN, 24);
        assert_eq!(early(&mut receiver).unwrap().len(), 16);
        poke(RING, header);
        poke(TAIL, 24);
        assert!(matches!(drain(&mut receiver).1, Some(RecvError::Corrupt(_))), "{header:x}");
    }
}
