//! How much memory a large ring takes.

use crate::support::{drain, lane_in, next, pattern, small};
use procession_channel::lane::{Config, RawReceiver};
use procession_shm::{Kind, Segment};
use procession_testkit::{isolated, watchdog};
use std::{fs::File, os::unix::fs::MetadataExt};

const LARGE: usize = 16 << 20;

fn resident(segment: &Segment) -> u64 {
    File::from(segment.fd().try_clone_to_owned().unwrap()).metadata().unwrap().blocks() * 512
}

fn config() -> Config {
    Config { capacity: LARGE, ..Config::default() }
}

fn segment() -> Segment {
    Segment::anonymous(Kind::new("large", 1, 1), config().footprint()).unwrap()
}

#[test]
fn a_large_ring_whose_receiver_keeps_up_uses_little_memory() {
    let _watchdog = watchdog!();
    let segment = segment();
    let (mut sender, mut receiver) = lane_in(&segment, 0, &config()).unwrap();
    for seed in 0..40_000 {
        let message = pattern(seed, 1000 + (seed as usize % 500));
        sender.try_send(&[&message]).unwrap();
        if seed % 3 == 0 {
            sender.try_send(&[&message]).unwrap();
            assert_eq!(next(&mut receiver).unwrap(), message);
        }
        assert_eq!(next(&mut receiver).unwrap(), message);
    }
    // Some 65 MB went through.
    assert!(resident(&segment) < 512 << 10, "{} bytes", resident(&segment));
}

#[test]
fn the_memory_of_a_burst_is_given_back_and_no_message_with_it() {
    let _watchdog = watchdog!();
    let segment = segment();
    let (mut sender, mut receiver) = lane_in(&segment, 0, &config()).unwrap();
    let mut next_seed = 0;
    for _ in 0..3 {
        let first = next_seed;
        while sender.try_send(&[&pattern(next_seed, 4000)]).is_ok() {
            next_seed += 1;
        }
        assert!(resident(&segment) > LARGE as u64 * 3 / 4, "{} bytes", resident(&segment));
        let (messages, _) = drain(&mut receiver);
        assert_eq!(messages.len() as u64, next_seed - first);
        assert!((first..).zip(&messages).all(|(seed, message)| *message == pattern(seed, 4000)));
        // Ordinary traffic again, long enough to come round.
        for seed in 0..200 {
            sender.try_send(&[&pattern(seed, 4000)]).unwrap();
            assert_eq!(next(&mut receiver).unwrap(), pattern(seed, 4000));
        }
        assert!(resident(&segment) < 1 << 20, "{} bytes", resident(&segment));
    }
}

#[test]
fn a_stream_through_a_large_ring_arrives_whole() {
    let _watchdog = watchdog!();
    let segment = segment();
    let (mut sender, mut receiver) = lane_in(&segment, 0, &config()).unwrap();
    let len = |seed: u64| (seed * 7919 % 200_000) as usize;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for seed in 0..2_000 {
                sender.send(&[&pattern(seed, len(seed))], None).unwrap();
            }
        });
        for seed in 0..2_000 {
            assert!(next(&mut receiver).unwrap() == pattern(seed, len(seed)), "message {seed}");
        }
    });
}

/// Memory of this process that is no file's, in bytes.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn what_a_large_message_took_is_given_back_once_it_was_received() {
    isolated!({
        const LEN: usize = 64 << 20;
        // Each leaves its message's memory to somebody else: the end itself, or its caller.
        let in_a_batch: fn(&mut RawReceiver) = |receiver| {
            while receiver.recv_batch(1, |message| assert_eq!(message.len(), LEN)).unwrap() == 0 {
                receiver.wait(None);
            }
        };
        let alone: fn(&mut RawReceiver) = |receiver| {
            let mut message = vec![1; LEN];
            while !receiver.recv(&mut message, None).unwrap() {}
            assert_eq!(message.len(), LEN);
        };
        let before = anonymous();
        for take in [in_a_batch, alone] {
            let (mut sender, mut receiver) = small();
            let sends = std::thread::spawn(move || {
                sender.send(&[&vec![7; LEN]], None).unwrap();
                sender
            });
            take(&mut receiver);
            let _sender = sends.join().unwrap();
            let kept = anonymous().saturating_sub(before);
            assert!(kept < 16 << 20, "{kept} bytes are kept");
        }
    });
}
