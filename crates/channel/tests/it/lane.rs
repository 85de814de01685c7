//! One lane, its ends in one process.

use crate::support::{drain, lane_in, next, past, pattern, small, soon, with_capacity};
use procession_channel::lane::{Config, RecvError, SendError, TrySendError, pair};
use procession_shm::{Kind, Segment};
use procession_testkit::watchdog;

#[test]
fn messages_arrive_in_order_with_their_tickets() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    sender.try_send(&[b"one"]).unwrap();
    sender.try_send(&[b"t", b"", b"wo"]).unwrap();
    sender.try_send(&[]).unwrap();
    assert_eq!((sender.sent(), sender.taken(), sender.started()), (3, 0, 0));
    let mut message = b"old".to_vec();
    for (ticket, expected) in [(1, b"one".as_slice()), (2, b"two"), (3, b"")] {
        assert!(receiver.try_recv(&mut message).unwrap());
        assert_eq!(message, expected);
        assert_eq!((receiver.taken(), sender.taken()), (ticket, ticket));
        receiver.mark_started(ticket);
        assert_eq!(sender.started(), ticket);
    }
    assert!(!receiver.try_recv(&mut message).unwrap());
    assert!(sender.is_empty());
}

#[test]
fn a_full_lane_refuses_and_takes_again_after_a_receive() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    let mut accepted = 0;
    while sender.try_send(&[&pattern(accepted, 100)]).is_ok() {
        accepted += 1;
    }
    assert_eq!(accepted, 4096 / 112);
    assert_eq!(sender.try_send(&[&[0; 100]]), Err(TrySendError::Full));
    assert_eq!(sender.send(&[&[0; 100]], Some(soon())), Err(SendError::Timeout));
    assert_eq!(next(&mut receiver).unwrap(), pattern(0, 100));
    sender.try_send(&[&pattern(accepted, 100)]).unwrap();
    for seed in 1..=accepted {
        assert_eq!(next(&mut receiver).unwrap(), pattern(seed, 100));
    }
}

#[test]
fn messages_of_every_length_wrap_around_the_end() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    for round in 0..3 {
        for len in (0..=4088).step_by(if round == 0 { 1 } else { 13 }) {
            let message = pattern(len as u64 + round, len);
            let (front, back) = message.split_at(len / 3);
            sender.try_send(&[front, back]).unwrap();
            assert_eq!(next(&mut receiver).unwrap(), message, "of length {len}");
        }
    }
}

#[test]
fn a_message_larger_than_the_ring_goes_in_pieces_and_counts_once() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    let large = pattern(1, 100_000);
    assert_eq!(
        sender.try_send(&[&large]),
        Err(TrySendError::TooLarge { len: 100_000, limit: sender.largest_frame() })
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sender.send(&[&large[..10], &large[10..70_000], &[], &large[70_000..]], None).unwrap();
            sender.send(&[b"small"], None).unwrap();
        });
        assert_eq!(next(&mut receiver).unwrap(), large);
        assert_eq!(receiver.taken(), 1);
        assert_eq!(next(&mut receiver).unwrap(), b"small");
    });
    assert_eq!(sender.sent(), 2);
}

#[test]
fn a_message_in_pieces_that_times_out_is_dropped_and_the_next_one_arrives() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    assert_eq!(sender.send(&[&pattern(1, 50_000)], Some(past())), Err(SendError::Timeout));
    assert_eq!(sender.sent(), 0);
    assert_eq!(drain(&mut receiver), (vec![], None));
    sender.send(&[b"whole"], None).unwrap();
    assert_eq!(drain(&mut receiver), (vec![b"whole".to_vec()], None));
    assert_eq!((sender.sent(), receiver.taken()), (1, 1));
    // The same, followed by another one in pieces.
    assert_eq!(sender.send(&[&pattern(1, 50_000)], Some(past())), Err(SendError::Timeout));
    assert_eq!(drain(&mut receiver), (vec![], None));
    sender.send(&[&pattern(2, 3_000)], None).unwrap();
    assert_eq!(drain(&mut receiver), (vec![pattern(2, 3_000)], None));
}

#[test]
fn a_message_beyond_the_largest_is_refused() {
    let _watchdog = watchdog!();
    let (mut sender, _receiver) = pair(&Config { max_message: 10_000, ..Config::default() }).unwrap();
    let refused = sender.send(&[&[0; 10_001]], None);
    assert_eq!(refused, Err(SendError::TooLarge { len: 10_001, limit: 10_000 }));
    sender.send(&[&[0; 10_000]], None).unwrap();
}

#[test]
fn a_receiver_gets_what_was_sent_before_the_sender_went() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    sender.try_send(&[b"last"]).unwrap();
    drop(sender);
    assert!(receiver.is_closed());
    assert_eq!(drain(&mut receiver), (vec![b"last".to_vec()], Some(RecvError::Disconnected)));
    assert_eq!(receiver.recv_batch(100, |_| ()), Err(RecvError::Disconnected));
}

#[test]
fn a_sender_learns_that_the_receiver_went() {
    let _watchdog = watchdog!();
    let (mut sender, receiver) = small();
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.try_send(&[b"lost"]), Err(TrySendError::Disconnected));
    assert_eq!(sender.send(&[b"lost"], None), Err(SendError::Disconnected));
}

#[test]
fn waits_end_when_a_third_party_says_that_the_peer_is_dead() {
    let _watchdog = watchdog!();
    let (mut sender, receiver) = small();
    let hangup = sender.hangup();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| sender.send(&[&[0; 100_000]], None));
        // It has begun, and its ring has no room for the rest.
        while !receiver.has_news() {
            std::thread::yield_now();
        }
        hangup.peer_died();
        assert_eq!(waits.join().unwrap(), Err(SendError::Disconnected));
    });
    let (_sender, mut receiver) = small();
    let hangup = receiver.hangup();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| next(&mut receiver));
        hangup.peer_died();
        assert_eq!(waits.join().unwrap(), Err(RecvError::Disconnected));
    });
}

#[test]
fn a_batch_gives_what_is_there_up_to_its_limit() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    for seed in 0..20 {
        sender.send_quiet(&[&pattern(seed, 50)]).unwrap();
    }
    sender.ring();
    let mut got = Vec::new();
    assert_eq!(receiver.recv_batch(499, |message| got.push(message.to_vec())), Ok(9));
    assert_eq!(receiver.recv_batch(1, |message| got.push(message.to_vec())), Ok(1));
    assert_eq!(receiver.taken(), 10);
    assert_eq!(receiver.recv_batch(usize::MAX, |message| got.push(message.to_vec())), Ok(10));
    assert_eq!(receiver.recv_batch(usize::MAX, |message| got.push(message.to_vec())), Ok(0));
    assert_eq!(got, (0..20).map(|seed| pattern(seed, 50)).collect::<Vec<_>>());
}

#[test]
fn batches_and_pieces_mix() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    let sizes = [10, 20_000, 5, 3_000, 0, 9_999, 100, 100, 4_080];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (seed, len) in sizes.into_iter().enumerate() {
                sender.send(&[&pattern(seed as u64, len)], None).unwrap();
            }
            drop(sender);
        });
        let mut got = Vec::new();
        let error = loop {
            receiver.wait(None);
            match receiver.recv_batch(300, |message| got.push(message.to_vec())) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error, RecvError::Disconnected);
        let sent: Vec<_> =
            sizes.into_iter().enumerate().map(|(seed, len)| pattern(seed as u64, len)).collect();
        assert!(got == sent, "{:?}", got.iter().map(Vec::len).collect::<Vec<_>>());
    });
}

#[test]
fn a_large_message_comes_in_memory_of_its_own() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    let sizes = [10, 20_000, 30, 9_999, 40, 50];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (seed, len) in sizes.into_iter().enumerate() {
                sender.send(&[&pattern(seed as u64, len)], None).unwrap();
            }
            drop(sender);
        });
        let (mut got, mut large) = (Vec::new(), vec![1, 2, 3]);
        let error = loop {
            receiver.wait(None);
            let each = |message: &[u8], _| got.push(message.to_vec());
            match receiver.recv_parts(300, each, &mut large) {
                Ok(1) if large.len() > 100 => assert_eq!(got.last(), Some(&large)),
                Ok(_) => assert!(large.is_empty() && got.last().is_none_or(|last| last.len() < 100)),
                Err(error) => break error,
            }
        };
        assert_eq!(error, RecvError::Disconnected);
        let sent: Vec<_> =
            sizes.into_iter().enumerate().map(|(seed, len)| pattern(seed as u64, len)).collect();
        assert!(got == sent, "{:?}", got.iter().map(Vec::len).collect::<Vec<_>>());
        assert_eq!(receiver.taken(), 6);
    });
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before() {
    let _watchdog = watchdog!();
    let (_sender, mut receiver) = small();
    let deadline = soon();
    assert!(!receiver.recv(&mut Vec::new(), Some(deadline)).unwrap());
    assert!(deadline.passed());
    assert!(!receiver.wait(Some(past())));
}

#[test]
fn several_lanes_share_a_segment() {
    let _watchdog = watchdog!();
    let config = Config { capacity: 4096, ..Config::default() };
    let size = config.footprint();
    let segment = Segment::anonymous(Kind::new("lanes", 1, 1), 3 * size).unwrap();
    let mut lanes: Vec<_> = (0..3).map(|lane| lane_in(&segment, lane * size, &config).unwrap()).collect();
    for (seed, (sender, _)) in (0..).zip(&mut lanes) {
        while sender.try_send(&[&pattern(seed, 120)]).is_ok() {}
    }
    for (seed, (_, receiver)) in (0..).zip(&mut lanes) {
        let (messages, _) = drain(receiver);
        assert!(
            messages.len() == 4096 / 128 && messages.iter().all(|message| *message == pattern(seed, 120))
        );
    }
    for offset in [segment.len() - size + 128, segment.len(), 64, usize::MAX & !127] {
        let error = lane_in(&segment, offset, &config).unwrap_err().to_string();
        assert!(error.contains("not within the segment's"), "{error}");
    }
}

#[test]
fn a_place_that_is_used_again_starts_afresh() {
    let _watchdog = watchdog!();
    let config = Config { capacity: 4096, ..Config::default() };
    let segment = Segment::anonymous(Kind::new("lanes", 1, 1), config.footprint()).unwrap();
    for _ in 0..3 {
        let (mut sender, mut receiver) = lane_in(&segment, 0, &config).unwrap();
        sender.try_send(&[b"again"]).unwrap();
        assert_eq!(next(&mut receiver).unwrap(), b"again");
        assert_eq!(receiver.taken(), 1);
        sender.try_send(&[b"left behind"]).unwrap();
    }
}

#[test]
fn capacities_are_rounded_into_their_bounds() {
    let _watchdog = watchdog!();
    for (asked, got) in [(0, 4096), (4097, 8192), (1 << 20, 1 << 20), (usize::MAX, 64 << 20)] {
        assert_eq!(Config { capacity: asked, ..Config::default() }.rounded_capacity(), got);
    }
    assert_eq!(with_capacity(5000).0.largest_frame(), 8192 - 8);
}
