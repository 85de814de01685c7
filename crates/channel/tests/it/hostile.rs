//! A peer that writes anything it likes into the lane.

use crate::support::{drain, lane_in};
use procession_channel::lane::{Config, RawReceiver, RawSender, RecvError, SendError, TrySendError};
use procession_parcel::Parcel;
use procession_shm::{Kind, Segment};
use procession_testkit::{storm::Rng, watchdog};
use std::sync::atomic::{AtomicU64, Ordering};

const TAIL: usize = 0;
const HEAD: usize = 128;
const TAKEN: usize = 136;
const STARTED: usize = 144;
const RING: usize = 512;
const FIRST_AND_LAST: u64 = 3 << 32;

struct Lane {
    segment: Segment,
    sender: RawSender,
    receiver: RawReceiver,
}

impl Lane {
    fn new() -> Lane {
        let config = Config { capacity: 4096, max_message: 10_000, ..Config::default() };
        let segment = Segment::anonymous(Kind::new("hostile", 1, 1), config.footprint()).unwrap();
        let (sender, receiver) = lane_in(&segment, 0, &config).unwrap();
        Lane { segment, sender, receiver }
    }

    fn poke(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.segment.len());
        // SAFETY: the offset lies within the payload.
        let word = unsafe { self.segment.as_ptr().add(offset) };
        // SAFETY: it is aligned and mapped as long as the segment lives.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }.store(value, Ordering::Release);
    }

    /// Receives what must be found out as impossible, and goes on being so.
    fn refuses(mut self, words: &str) {
        for _ in 0..2 {
            let (messages, end) = drain(&mut self.receiver);
            let Some(error @ RecvError::Corrupt(_)) = end else { panic!("{end:?}") };
            assert!(error.to_string().contains(words), "{error}");
            assert!(messages.is_empty());
        }
        assert!(matches!(self.receiver.recv_batch(10, |_| ()), Err(RecvError::Corrupt(_))));
        assert!(matches!(self.receiver.recv(&mut Vec::new(), None), Err(RecvError::Corrupt(_))));
    }
}

#[test]
fn a_tail_beyond_the_ring_is_refused() {
    let _watchdog = watchdog!();
    for tail in [4104, 12, 8 * 4096, u64::MAX, u64::MAX - 7, 1 << 63] {
        let lane = Lane::new();
        lane.poke(TAIL, tail);
        lane.refuses("impossible tail");
    }
}

#[test]
fn a_length_beyond_what_is_committed_is_refused() {
    let _watchdog = watchdog!();
    for len in [9, 16, 4096, u64::from(u32::MAX)] {
        let lane = Lane::new();
        lane.poke(RING, FIRST_AND_LAST | len);
        lane.poke(TAIL, 16);
        lane.refuses("impossible length");
    }
}

#[test]
fn unknown_flags_and_pieces_without_a_start_are_refused() {
    let _watchdog = watchdog!();
    for (flags, words) in
        [(8, "frame"), (5, "frame"), (u64::from(u32::MAX), "frame"), (0, "piece"), (2, "piece")]
    {
        let lane = Lane::new();
        lane.poke(RING, flags << 32 | 8);
        lane.poke(TAIL, 16);
        lane.refuses(words);
    }
}

#[test]
fn pieces_without_end_are_refused_before_they_fill_the_memory() {
    let _watchdog = watchdog!();
    let mut lane = Lane::new();
    let mut tail = 0;
    for round in 0.. {
        lane.poke(RING + (tail as usize % 4096), u64::from(round == 0) << 32 | 1016);
        tail += 1024;
        lane.poke(TAIL, tail);
        match drain(&mut lane.receiver) {
            (messages, None) => assert!(messages.is_empty() && round < 10),
            (_, Some(end)) => {
                assert!(matches!(end, RecvError::Corrupt(_)), "{end:?}");
                break;
            }
        }
    }
}

#[test]
fn a_head_beyond_what_was_sent_is_refused_by_the_sender() {
    let _watchdog = watchdog!();
    for head in [1, 4104, 1 << 40, u64::MAX, u64::MAX - 7] {
        let mut lane = Lane::new();
        while lane.sender.try_send(&[&[0; 100]]).is_ok() {}
        lane.poke(HEAD, head);
        assert!(matches!(lane.sender.try_send(&[&[0; 100]]), Err(TrySendError::Corrupt(_))));
        assert!(matches!(lane.sender.send(&[&[0; 100]], None), Err(SendError::Corrupt(_))));
        assert!(matches!(lane.sender.send(&[&[0; 9_000]], None), Err(SendError::Corrupt(_))));
    }
}

#[test]
fn counts_beyond_what_was_sent_are_cut() {
    let _watchdog = watchdog!();
    let mut lane = Lane::new();
    lane.sender.try_send(&[b"one"]).unwrap();
    lane.poke(TAKEN, u64::MAX);
    lane.poke(STARTED, 99);
    assert_eq!((lane.sender.taken(), lane.sender.started()), (1, 1));
}

#[test]
fn an_end_that_arrives_finds_out_that_its_words_make_no_sense() {
    let _watchdog = watchdog!();
    const SENT: usize = 8;
    for (offset, value) in [(TAIL, 12), (TAIL, u64::MAX - 7), (SENT, u64::MAX), (HEAD, 8)] {
        let lane = Lane::new();
        lane.poke(offset, value);
        let error = Parcel::pack(&lane.sender).unwrap().unpack::<RawSender>().unwrap_err().to_string();
        assert!(error.contains("impossible position"), "{error}");
    }
    for (offset, value) in [(HEAD, 12), (HEAD, u64::MAX - 7), (TAKEN, u64::MAX)] {
        let lane = Lane::new();
        lane.poke(offset, value);
        let error = Parcel::pack(&lane.receiver).unwrap().unpack::<RawReceiver>().unwrap_err().to_string();
        assert!(error.contains("impossible position"), "{error}");
    }
}

/// Neither end panics, hangs or reads beyond the ring, whatever is written where.
#[test]
fn random_words_anywhere_do_no_harm() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    for _ in 0..3_000 {
        let mut lane = Lane::new();
        for _ in 0..rng.below(20) {
            let _ = lane.sender.try_send(&[&vec![1; rng.below(600) as usize]]);
        }
        for _ in 0..=rng.below(6) {
            let offset = match rng.below(4) {
                0 => TAIL,
                1 => HEAD,
                _ => rng.below(4096 + 256) as usize / 8 * 8 + RING - 256,
            };
            let value = match rng.below(4) {
                0 => rng.next_u64(),
                1 => rng.below(5000),
                2 => rng.below(8) << 32 | rng.below(5000),
                _ => rng.below(600) * 8,
            };
            lane.poke(offset.min(RING + 4088), value);
            let (messages, _) = drain(&mut lane.receiver);
            assert!(messages.iter().all(|message| message.len() <= 10_000));
            let _ = lane.receiver.recv_batch(5000, |message| assert!(message.len() <= 10_000));
            let _ = lane.sender.try_send(&[&[2; 40]]);
        }
    }
}
