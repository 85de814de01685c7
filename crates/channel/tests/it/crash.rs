//! Deaths at each step of the protocol: built with `--cfg crash_points`.

use crate::support::{assert_soon_empty, drain, give, next, past, pattern, take, with_capacity};
use procession_channel::{
    Bell, ReceiveError, Receiver, Sender, Unsent, channel_on,
    lane::{Config, RawReceiver, RawSender, RecvError, SendError, pair},
};
use procession_shm::{Heap, SharedStr, SharedVec};
use procession_sys::{Spin, crash};
use procession_testkit::{role, watchdog};
use std::{
    os::unix::{net::UnixStream, process::ExitStatusExt},
    time::Duration,
};

/// From now on this process dies at `point`.
fn arm(point: &str) {
    // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
    // harness's, which waits for this one.
    unsafe { std::env::set_var(crash::VARIABLE, point) };
}

/// Starts a role that is given a point and a value.
fn start<F: Fn()>(role: F, point: &str, value: &impl serde::Serialize) -> role::RoleProcess {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let process = role::start(role, &[&theirs]);
    give(&ours, &(point, value));
    process
}

/// Waits for a death at the crash point, which is by SIGKILL.
fn died(process: &mut role::RoleProcess, point: &str) {
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "at {point}: {status:?}\n{}", process.output());
}

#[test]
fn role_sender() {
    let Some(mut role) = role::enter(role_sender) else { return };
    let (point, mut sender): (String, RawSender) = take(role.fd());
    sender.send(&[b"first"], None).unwrap();
    arm(&point);
    let len = if point.starts_with("lane.send.piece") { 9_000 } else { 40 };
    sender.send(&[&pattern(1, len)], None).unwrap();
}

#[test]
fn a_sender_that_dies_before_its_commit_leaves_nothing_and_after_it_the_message() {
    let _watchdog = watchdog!();
    let points = [
        ("lane.send.header", false),
        ("lane.send.copied", false),
        ("lane.send.piece", false),
        ("lane.send.piece:2", false),
        ("lane.send.committed", true),
    ];
    for (point, accepted) in points {
        let (sender, mut receiver) = with_capacity(16_384);
        let mut process = start(role_sender, point, &sender);
        drop(sender);
        died(&mut process, point);
        receiver.abandon_peer();
        let mut expected = vec![b"first".to_vec()];
        expected.extend(accepted.then(|| pattern(1, 40)));
        assert_eq!(drain(&mut receiver), (expected, Some(RecvError::Disconnected)), "at {point}");
    }
}

#[test]
fn role_appender() {
    let Some(mut role) = role::enter(role_appender) else { return };
    let (point, mut sender): (String, RawSender) = take(role.fd());
    sender.send(&[b"first"], None).unwrap();
    arm(&point);
    sender.append_quiet(b">", b"one").unwrap();
    sender.append_quiet(b">", b"two").unwrap();
    sender.finish();
}

#[test]
fn a_sender_that_dies_while_a_message_grows_leaves_the_records_that_were_appended() {
    let _watchdog = watchdog!();
    let points = [
        ("lane.append.padded", ""),
        ("lane.append.written", ""),
        ("lane.append.grown", ">one"),
        ("lane.append.written:2", ">one"),
        ("lane.append.grown:2", ">onetwo"),
        ("lane.append.finished", ">onetwo"),
        ("lane.send.committed", ">onetwo"),
    ];
    for (point, expected) in points {
        let (sender, mut receiver) = with_capacity(16_384);
        let mut process = start(role_appender, point, &sender);
        drop(sender);
        died(&mut process, point);
        receiver.abandon_peer();
        let committed = point == "lane.send.committed";
        let mut messages = vec![b"first".to_vec()];
        messages.extend(committed.then(|| expected.as_bytes().to_vec()));
        assert_eq!(drain(&mut receiver), (messages, Some(RecvError::Disconnected)), "at {point}");
        let mut grown = Vec::new();
        receiver.recv_growing(|part| grown.extend_from_slice(part)).unwrap();
        let left = if committed { "" } else { expected };
        assert_eq!(String::from_utf8_lossy(&grown), left, "at {point}");
    }
}

#[test]
fn role_receiver() {
    let Some(mut role) = role::enter(role_receiver) else { return };
    let (point, mut receiver): (String, RawReceiver) = take(role.fd());
    next(&mut receiver).unwrap();
    receiver.mark_started(receiver.taken());
    arm(&point);
    next(&mut receiver).unwrap();
    receiver.mark_started(receiver.taken());
}

#[test]
fn a_receiver_that_dies_has_recorded_what_it_had_in_hand_and_what_it_started() {
    let _watchdog = watchdog!();
    let points = [
        ("lane.recv.copied", 1, 1),
        ("lane.recv.taken", 2, 1),
        ("lane.recv.freed", 2, 1),
        ("lane.recv.started", 2, 2),
    ];
    for (point, taken, started) in points {
        let (mut sender, receiver) = with_capacity(4096);
        for seed in 0..3 {
            sender.try_send(&[&pattern(seed, 40)]).unwrap();
        }
        let mut process = start(role_receiver, point, &receiver);
        drop(receiver);
        died(&mut process, point);
        assert_eq!((sender.sent(), sender.taken(), sender.started()), (3, taken, started), "at {point}");
        // Nobody waits for room that will never come.
        let hangup = sender.hangup();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| sender.send(&[&pattern(0, 100_000)], None));
            hangup.peer_died();
            assert_eq!(waits.join().unwrap(), Err(SendError::Disconnected), "at {point}");
        });
    }
}

#[test]
fn role_ringer() {
    let Some(mut role) = role::enter(role_ringer) else { return };
    let (point, mut sender): (String, RawSender) = take(role.fd());
    arm(&point);
    sender.send(&[b"committed, perhaps not rung for"], None).unwrap();
}

#[test]
fn a_sender_that_dies_before_its_wake_call_delays_a_sleeper_by_a_slice_at_most() {
    let _watchdog = watchdog!();
    for point in ["bell.ring.cleared", "bell.ring.counted", "bell.ring.woken"] {
        let (sender, mut receiver) = with_capacity(4096);
        // A sleep that ended at once leaves the flag set, as a sleep that goes on does.
        assert!(!receiver.wait(Some(past())));
        let mut process = start(role_ringer, point, &sender);
        drop(sender);
        // Nobody tells that the sender died: the message must be found all the same.
        assert_eq!(next(&mut receiver).unwrap(), b"committed, perhaps not rung for", "at {point}");
        died(&mut process, point);
    }
}

#[test]
fn role_sleeper() {
    let Some(mut role) = role::enter(role_sleeper) else { return };
    let (point, (bell, mut receiver)): (String, (Bell, RawReceiver)) = take(role.fd());
    arm(&point);
    bell.wait_while(None, &mut Spin::none(), || !receiver.has_news());
    next(&mut receiver).unwrap();
}

#[test]
fn a_sleeper_that_dies_takes_no_wake_with_it() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    for point in ["bell.wait.flagged", "bell.wait.woken"] {
        // Two lanes on one bell: one sleeper is killed, the other one must still be woken.
        let bell = Bell::new().unwrap();
        let config = Config { receiver_bell: Some(bell.clone()), ..Config::default() };
        let (_to_victim, victims) = pair(&config).unwrap();
        let (mut to_us, mut ours) = pair(&config).unwrap();
        let mut process = start(role_sleeper, point, &(&bell, &victims));
        drop(victims);
        std::thread::scope(|scope| {
            let wakes = scope.spawn(|| {
                bell.wait_while(None, &mut Spin::none(), || !ours.has_news());
                next(&mut ours).unwrap()
            });
            // One dies with its flag set and our ring after it, the other one as the ring, or a slice, wakes it.
            let rings_first = point == "bell.wait.woken";
            if rings_first {
                to_us.try_send(&[b"ours"]).unwrap();
            }
            died(&mut process, point);
            if !rings_first {
                to_us.try_send(&[b"ours"]).unwrap();
            }
            assert_eq!(wakes.join().unwrap(), b"ours", "at {point}");
        });
        // The flag of the dead one costs a wake call for nobody, and no more.
        to_us.try_send(&[b"again"]).unwrap();
        assert_eq!(next(&mut ours).unwrap(), b"again");
    }
}

/// A value with a block of each kind.
type Load = (u64, SharedVec<u64>, SharedStr);

fn load(heap: &Heap, number: u64) -> Load {
    (number, heap.vec_from(&[number; 20_000]).unwrap(), heap.str(&number.to_string()).unwrap())
}

fn check((number, vec, text): &Load, expected: u64) {
    assert!(*number == expected && vec.iter().all(|one| *one == expected) && **text == expected.to_string());
}

#[test]
fn role_sends_blocks() {
    let Some(mut role) = role::enter(role_sends_blocks) else { return };
    let (point, (heap, mut sender)): (String, (Heap, Sender<Load>)) = take(role.fd());
    sender.send(load(&heap, 1)).unwrap();
    let second = load(&heap, 2);
    arm(&point);
    sender.send(second).unwrap();
}

#[test]
fn a_sender_of_blocks_that_dies_has_sent_them_with_its_commit_or_not_at_all() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        ("heap.ring.held", false),
        ("heap.ring.departed", false),
        ("lane.send.header", false),
        ("lane.send.copied", false),
        ("lane.send.committed", true),
    ];
    for (point, accepted) in points {
        let heap = Heap::builder().cap(64 << 20).build().unwrap();
        let (sender, mut receiver) = channel_on::<Load>(&heap).unwrap();
        let mut process = start(role_sends_blocks, point, &(&heap, &sender));
        drop(sender);
        died(&mut process, point);
        // A sweep between the death and the receipt takes nothing that was accepted.
        heap.sweep().unwrap();
        for number in 1..=1 + u64::from(accepted) {
            check(&receiver.recv().unwrap(), number);
        }
        assert!(matches!(receiver.recv(), Err(ReceiveError::Died)), "at {point}");
        assert_soon_empty(&heap);
    }
}

#[test]
fn role_receives_blocks() {
    let Some(mut role) = role::enter(role_receives_blocks) else { return };
    let (point, mut receiver): (String, Receiver<Load>) = take(role.fd());
    check(&receiver.recv().unwrap(), 1);
    arm(&point);
    drop(receiver.recv().unwrap());
}

#[test]
fn what_a_receiver_of_blocks_had_in_hand_when_it_died_is_freed_with_the_rest() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        ("lane.recv.copied", 1),
        ("lane.recv.taken", 2),
        ("lane.recv.freed", 2),
        ("heap.receive.attached", 2),
        ("heap.receive.owned", 2),
        ("heap.hold.added", 2),
    ];
    for (point, taken) in points {
        let heap = Heap::builder().cap(64 << 20).build().unwrap();
        let (mut sender, receiver) = channel_on::<Load>(&heap).unwrap();
        sender.send_many((1..=3).map(|number| load(&heap, number))).unwrap();
        let mut process = start(role_receives_blocks, point, &receiver);
        drop(receiver);
        died(&mut process, point);
        assert_eq!((sender.sent(), sender.as_raw().taken()), (3, taken), "at {point}");
        assert!(sender.is_closed());
        let unsent = sender.send(load(&heap, 4)).unwrap_err();
        assert!(matches!(unsent, Unsent::Died(_)), "at {point}: {unsent}");
        check(&unsent.into_value(), 4);
        assert_soon_empty(&heap);
    }
}
