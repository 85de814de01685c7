//! Senders killed at random instants: messages are whole, whatever they were doing.

use crate::support::{give, pattern, take};
use procession_channel::connection::{Connection, Pipe};
use procession_testkit::{
    role,
    storm::{Rng, kill_within, kills, pidfd},
    watchdog,
};
use std::{os::unix::net::UnixStream, time::Duration};

type Bytes = Connection<(), ()>;

/// A message that shows whether it is whole: sender, number, and bytes that depend on both.
fn numbered(sender: u64, number: u64) -> Vec<u8> {
    let len = match number % 16 {
        // In a memfd; more than a stream's socket takes at once.
        5 => 65_537 + (number as usize * 7919) % 400_000,
        // The largest in one packet.
        11 => 65_000,
        _ => 16 + number as usize % 300,
    };
    let mut message = pattern(sender * 77 + number, len);
    message[..8].copy_from_slice(&sender.to_le_bytes());
    message[8..16].copy_from_slice(&number.to_le_bytes());
    message
}

fn check(message: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().unwrap());
    let (sender, number) = (word(0), word(8));
    assert!(message == numbered(sender, number), "message {number} of sender {sender} is torn");
    (sender, number)
}

#[test]
fn role_sender() {
    let Some(mut role) = role::enter(role_sender) else { return };
    let (end, id): (Bytes, u64) = take(role.fd());
    role.say("ready");
    for number in 0.. {
        end.send_bytes(&numbered(id, number)).unwrap();
    }
}

fn sender(end: &Bytes, id: u64) -> role::RoleProcess {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let process = role::start(role_sender, &[&theirs]);
    give(&ours, &(end, id));
    process
}

/// Two processes send on one end, one of them is killed: what the other sends is not torn by that, and of the dead one's
/// messages all up to some are there, whole.
#[test]
fn a_sender_killed_in_mid_send_leaves_whole_messages() {
    let _watchdog = watchdog!(Duration::from_secs(300));
    let mut rng = Rng::from_env();
    let (end, theirs) = Pipe::duplex().unwrap();
    let mut survivor = sender(&theirs, 0);
    survivor.expect("ready");
    let mut of_survivor = 0;
    for round in 1..=u64::from(kills(30)) {
        let mut victim = sender(&theirs, round);
        victim.expect("ready");
        let killer = pidfd(victim.pid()).unwrap();
        let mut killer_rng = rng.split();
        let kill = std::thread::spawn(move || {
            kill_within(&mut killer_rng, killer, Duration::from_millis(5)).unwrap();
            victim.kill();
        });
        let (mut of_victim, mut after) = (0, 0);
        while !kill.is_finished() || after < 200 {
            let (sender, number) = check(&end.recv_bytes().unwrap());
            if sender == 0 {
                assert_eq!(number, of_survivor);
                of_survivor += 1;
                after += u32::from(kill.is_finished());
            } else if sender == round {
                assert_eq!(number, of_victim);
                of_victim += 1;
            }
        }
        kill.join().unwrap();
    }
    drop(theirs);
    survivor.kill();
    loop {
        match end.recv_bytes() {
            Ok(message) => drop(check(&message)),
            Err(error) => break assert!(error.is_eof(), "{error}"),
        }
    }
}

/// On a stream the last message may be cut, and then the receiver is told so.
#[test]
fn a_stream_sender_killed_in_mid_send_is_an_end_or_a_cut() {
    let _watchdog = watchdog!(Duration::from_secs(300));
    let mut rng = Rng::from_env();
    let mut cuts = 0;
    for round in 0..kills(30) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (end, theirs) = (Bytes::from_stream(ours).unwrap(), Bytes::from_stream(theirs).unwrap());
        let mut process = sender(&theirs, u64::from(round));
        drop(theirs);
        process.expect("ready");
        let killer = pidfd(process.pid()).unwrap();
        let mut killer_rng = rng.split();
        let kill = std::thread::spawn(move || {
            kill_within(&mut killer_rng, killer, Duration::from_millis(3)).unwrap();
            process.kill();
        });
        for number in 0.. {
            match end.recv_bytes() {
                Ok(message) => assert_eq!(check(&message), (u64::from(round), number)),
                Err(error) => {
                    assert!(error.is_eof() || error.is_cut_off(), "{error}");
                    cuts += u32::from(error.is_cut_off());
                    break;
                }
            }
        }
        kill.join().unwrap();
    }
    println!("{cuts} cut messages");
}
