//! Lanes between processes, and deaths at random moments.

use crate::support::{drain, give, next, pattern, take, with_capacity};
use procession_channel::lane::{Config, RawReceiver, RawSender, RecvError, SendError, pair};
use procession_testkit::{role, storm::Rng, watchdog};
use std::{os::unix::net::UnixStream, time::Duration};

/// Starts a role and gives it a value.
fn start<F: Fn()>(role: F, value: &impl serde::Serialize) -> role::RoleProcess {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let process = role::start(role, &[&theirs]);
    give(&ours, value);
    process
}

#[test]
fn role_echo() {
    let Some(mut role) = role::enter(role_echo) else { return };
    let (mut requests, mut answers): (RawReceiver, RawSender) = take(role.fd());
    while let Ok(message) = next(&mut requests) {
        requests.mark_started(requests.taken());
        answers.send(&[b"echo ", &message], None).unwrap();
    }
}

#[test]
fn messages_cross_to_another_process_and_back() {
    let _watchdog = watchdog!();
    let (mut requests, there) = with_capacity(4096);
    let (back, mut answers) = with_capacity(4096);
    let mut echo = start(role_echo, &(&there, &back));
    drop((there, back));
    for seed in 0..2_000 {
        let message = pattern(seed, (seed as usize * 37) % 9_000);
        requests.send(&[&message], None).unwrap();
        assert_eq!(next(&mut answers).unwrap(), [b"echo ", message.as_slice()].concat());
        assert_eq!(requests.started(), seed + 1);
    }
    drop(requests);
    assert_eq!(next(&mut answers), Err(RecvError::Disconnected));
    assert!(echo.wait().success(), "{}", echo.output());
}

/// Messages of many lengths, some of them larger than the ring.
fn numbered(seed: u64) -> Vec<u8> {
    let bound = if seed.is_multiple_of(16) { 20_000 } else { 300 };
    pattern(seed, seed as usize * 7919 % bound)
}

#[test]
fn role_sender() {
    let Some(mut role) = role::enter(role_sender) else { return };
    let mut sender: RawSender = take(role.fd());
    for seed in 0.. {
        sender.send(&[&numbered(seed)], None).unwrap();
    }
}

#[test]
fn a_sender_killed_at_random_leaves_whole_messages_only() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let mut rng = Rng::from_env();
    for _ in 0..40 {
        let (sender, mut receiver) = with_capacity(4096);
        let mut process = start(role_sender, &sender);
        drop(sender);
        let kill_at = rng.below(400);
        let mut seed = 0;
        let check = |seed: u64, message: &[u8]| {
            assert!(message == numbered(seed), "message {seed} is torn");
        };
        while seed < kill_at {
            check(seed, &next(&mut receiver).unwrap());
            seed += 1;
        }
        process.kill();
        receiver.abandon_peer();
        let (rest, end) = drain(&mut receiver);
        assert_eq!(end, Some(RecvError::Disconnected));
        for message in rest {
            check(seed, &message);
            seed += 1;
        }
    }
}

#[test]
fn role_receiver() {
    let Some(mut role) = role::enter(role_receiver) else { return };
    let mut receiver: RawReceiver = take(role.fd());
    while next(&mut receiver).is_ok() {
        receiver.mark_started(receiver.taken());
    }
}

#[test]
fn a_receiver_killed_at_random_leaves_a_sender_that_learns_of_it_and_what_was_started() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let mut rng = Rng::from_env();
    for _ in 0..40 {
        let (mut sender, receiver) = with_capacity(4096);
        let mut process = start(role_receiver, &receiver);
        drop(receiver);
        let hangup = sender.hangup();
        let kill_at = rng.below(3_000);
        std::thread::scope(|scope| {
            let (reached, wait) = std::sync::mpsc::channel();
            let sender = &mut sender;
            let sends = scope.spawn(move || {
                loop {
                    if sender.sent() == kill_at {
                        reached.send(()).unwrap();
                    }
                    if let Err(error) = sender.send(&[&pattern(1, 64)], None) {
                        return error;
                    }
                }
            });
            wait.recv().unwrap();
            process.kill();
            hangup.peer_died();
            assert_eq!(sends.join().unwrap(), SendError::Disconnected);
        });
        let (started, taken, sent) = (sender.started(), sender.taken(), sender.sent());
        assert!(started <= taken && taken <= started + 1 && taken <= sent, "{started} {taken} {sent}");
    }
}

#[test]
fn a_stopped_receiver_delays_but_loses_nothing() {
    let _watchdog = watchdog!();
    let (mut sender, receiver) = pair(&Config { capacity: 4096, ..Config::default() }).unwrap();
    let mut process = start(role_receiver, &receiver);
    drop(receiver);
    sender.send(&[b"first"], None).unwrap();
    let pid = rustix::process::Pid::from_raw(process.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let stopped = rustix::process::WaitIdOptions::STOPPED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), stopped).unwrap();
    while sender.try_send(&[&[0; 100]]).is_ok() {}
    assert!(!sender.is_empty());
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    sender.send(&[&[0; 3_000]], None).unwrap();
    drop(sender);
    assert!(process.wait().success(), "{}", process.output());
}
