//! Ends and memory of ipc-channel's in messages of ours.

use procession_channel::{
    connection::{Pipe, PipeReceiver, PipeSender},
    ipc::{
        Ipc, Server,
        ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory},
    },
};
use procession_parcel::Parcel;
use procession_process::Process;
use procession_testkit::{Census, isolated, role, watchdog};
use serde::{Deserialize, Serialize};
use std::{io::ErrorKind, time::Duration};

const LONG: Duration = Duration::from_secs(60);

/// A value through a pipe of ours.
fn through<T: Serialize + serde::de::DeserializeOwned + 'static>(value: T) -> T {
    let (receiver, sender) = Pipe::<T>::one_way().unwrap();
    sender.send(&value).unwrap();
    drop(value);
    receiver.recv().unwrap()
}

#[test]
fn ends_and_memory_travel_through_a_pipe_of_ours() {
    isolated!({
        let _watchdog = watchdog!();
        let before = Census::take();
        {
            let (sender, receiver) = ipc::channel::<(u32, String)>().unwrap();
            let (sender, receiver) = (Ipc::new(sender).unwrap(), Ipc::new(receiver).unwrap());
            let sender = through(sender).into_inner().unwrap();
            let receiver = through(receiver).into_inner().unwrap();
            sender.send((7, "seven".to_owned())).unwrap();
            assert_eq!(receiver.recv().unwrap(), (7, "seven".to_owned()));
            drop(sender);
            assert!(receiver.recv().is_err());
            for memory in [IpcSharedMemory::from_bytes(&[1, 2, 3]), IpcSharedMemory::from_bytes(&[])] {
                let bytes = memory.to_vec();
                assert_eq!(*through(Ipc::new(memory).unwrap()).into_inner().unwrap(), *bytes);
            }
        }
        before.assert_settles(Duration::from_secs(10));
    });
}

/// Whatever serde can encode, with ends in it.
#[derive(Serialize, Deserialize)]
struct Mixed {
    text: String,
    sender: IpcSender<u64>,
    memory: Vec<IpcSharedMemory>,
    receiver: Option<IpcReceiver<u64>>,
}

#[test]
fn ends_anywhere_in_a_value_of_any_size_keep_their_places() {
    let _watchdog = watchdog!();
    for len in [0, 10, (32 << 10) - 1, 32 << 10, 300_000, 3 << 20] {
        let (to_us, from_them) = ipc::channel().unwrap();
        let (to_them, from_us) = ipc::channel().unwrap();
        let memory = (0..5).map(|n| IpcSharedMemory::from_byte(n, 10 + usize::from(n))).collect();
        let mixed = Mixed { text: "x".repeat(len), sender: to_us, memory, receiver: Some(from_us) };
        let mixed = through(Ipc::new(mixed).unwrap()).into_inner().unwrap();
        assert!(mixed.text.len() == len && mixed.text.bytes().all(|byte| byte == b'x'));
        for (n, memory) in (0..).zip(&mixed.memory) {
            assert_eq!(**memory, vec![n; 10 + usize::from(n)]);
        }
        to_them.send(41).unwrap();
        mixed.sender.send(mixed.receiver.unwrap().recv().unwrap() + 1).unwrap();
        assert_eq!(from_them.recv().unwrap(), 42);
    }
}

fn sum(memory: Ipc<IpcSharedMemory>) -> u64 {
    memory.into_inner().unwrap().iter().map(|byte| u64::from(*byte)).sum()
}

fn answer((requests, answers): (Ipc<IpcReceiver<u32>>, Ipc<IpcSender<u32>>)) {
    let (requests, answers) = (requests.into_inner().unwrap(), answers.into_inner().unwrap());
    while let Ok(request) = requests.recv() {
        answers.send(request * 2).unwrap();
    }
}

#[test]
fn memory_and_ends_are_arguments_of_a_process() {
    let _watchdog = watchdog!();
    let memory = IpcSharedMemory::from_byte(3, 1_000_000);
    let child = Process::spawn(sum, Ipc::new(memory).unwrap()).unwrap();
    assert_eq!(child.join().unwrap(), 3_000_000);
    let (to_child, requests) = ipc::channel().unwrap();
    let (answers, from_child) = ipc::channel().unwrap();
    let child = Process::spawn(answer, (Ipc::new(requests).unwrap(), Ipc::new(answers).unwrap())).unwrap();
    for number in 0..100 {
        to_child.send(number).unwrap();
        assert_eq!(from_child.recv().unwrap(), number * 2);
    }
    drop(to_child);
    child.join().unwrap();
    assert!(from_child.recv().is_err());
}

#[test]
fn both_ends_of_a_channel_become_a_pipes_and_the_reverse() {
    let _watchdog = watchdog!();
    let (sender, receiver) = ipc::channel::<String>().unwrap();
    let (sender, receiver) =
        (PipeSender::try_from(sender).unwrap(), PipeReceiver::try_from(receiver).unwrap());
    sender.send(&"as a pipe".to_owned()).unwrap();
    assert_eq!(receiver.recv().unwrap(), "as a pipe");
    assert!(!receiver.is_writable() && !sender.is_readable());
    let (sender, receiver) = (IpcSender::try_from(sender).unwrap(), IpcReceiver::try_from(receiver).unwrap());
    sender.send("and back".to_owned()).unwrap();
    assert_eq!(receiver.recv().unwrap(), "and back");
    let (receiver, sender) = Pipe::<u32>::one_way().unwrap();
    let (sender, receiver) = (IpcSender::try_from(sender).unwrap(), IpcReceiver::try_from(receiver).unwrap());
    sender.send(5).unwrap();
    assert_eq!(receiver.recv().unwrap(), 5);
    drop(sender);
    assert!(receiver.recv().is_err());
    let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
    let stream: PipeSender<u32> = PipeSender::from_stream(a).unwrap();
    assert_eq!(IpcSender::try_from(stream).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_ipc_channel_panics_at_is_an_error() {
    isolated!({
        let _watchdog = watchdog!();
        // More handles than it takes.
        let memory = vec![IpcSharedMemory::from_byte(1, 8); 65];
        assert_eq!(Ipc::new(memory).unwrap_err().kind(), ErrorKind::InvalidInput);
        let memory = vec![IpcSharedMemory::from_byte(1, 8); 64];
        assert_eq!(Ipc::new(memory).unwrap().into_inner().unwrap().len(), 64);
        // Bytes that name a handle that did not come.
        let hostile = |bytes: &[u8]| -> Ipc<IpcSender<u32>> {
            let nothing: Vec<u8> = Vec::new();
            Parcel::pack(&(procession_parcel::Bytes(bytes.to_vec()), nothing)).unwrap().unpack().unwrap()
        };
        for bytes in [&[5_u8][..], &[], &[0xff; 12]] {
            assert_eq!(hostile(bytes).into_inner().unwrap_err().kind(), ErrorKind::InvalidData);
        }
        // And the thread goes on.
        let (sender, receiver) = ipc::channel::<u32>().unwrap();
        Ipc::new(sender).unwrap().into_inner().unwrap().send(1).unwrap();
        assert_eq!(receiver.recv().unwrap(), 1);
    });
}

/// Cannot be encoded, after a handle was.
struct Failing(IpcSender<u32>);

impl Serialize for Failing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{Error as _, SerializeTuple as _};
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&self.0)?;
        Err(S::Error::custom("no further"))
    }
}

impl<'de> Deserialize<'de> for Failing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Failing, D::Error> {
        IpcSender::deserialize(deserializer).map(Failing)
    }
}

#[test]
fn handles_of_a_value_that_cannot_be_encoded_go_nowhere() {
    let _watchdog = watchdog!();
    let (sender, receiver) = ipc::channel::<u32>().unwrap();
    assert_eq!(Ipc::new(Failing(sender)).unwrap_err().kind(), ErrorKind::InvalidInput);
    // Not with the next message either.
    let (next, _receiver) = ipc::channel::<u32>().unwrap();
    next.send(1).unwrap();
    assert!(receiver.recv().is_err(), "its only sender is closed");
}

#[test]
fn a_peer_hands_its_ends_over_in_its_first_message() {
    let _watchdog = watchdog!();
    let (server, name) = Server::<(String, IpcSender<u32>)>::new().unwrap();
    let mut peer = role::start(role_peer, &[]);
    peer.say(&name);
    peer.say("send");
    let (receiver, (text, sender)) = server.accept(peer.pidfd(), LONG).unwrap();
    assert_eq!(text, "hello");
    sender.send(17).unwrap();
    peer.expect("17");
    drop(sender);
    let (text, _): (String, IpcSender<u32>) = receiver.recv().unwrap();
    assert_eq!(text, "again");
    assert!(!std::path::Path::new(&name).exists());
}

#[test]
fn a_peer_that_ends_or_says_nothing_does_not_hold_up_its_starter() {
    let _watchdog = watchdog!();
    for (word, kill, expected) in [
        ("wait", true, ErrorKind::ConnectionAborted),
        ("connect", true, ErrorKind::ConnectionAborted),
        ("wait", false, ErrorKind::TimedOut),
        ("connect", false, ErrorKind::TimedOut),
    ] {
        let (server, name) = Server::<(String, IpcSender<u32>)>::new().unwrap();
        let mut peer = role::start(role_peer, &[]);
        peer.say(&name);
        peer.say(word);
        peer.expect("here");
        if kill {
            let pidfd = peer.pidfd().try_clone_to_owned().unwrap();
            peer.kill();
            assert_eq!(server.accept(pidfd, LONG).unwrap_err().kind(), expected, "{word}");
        } else {
            let refused = server.accept(peer.pidfd(), Duration::from_millis(30)).unwrap_err();
            assert_eq!(refused.kind(), expected, "{word}");
        }
        assert!(!std::path::Path::new(&name).exists());
    }
}

#[test]
fn what_a_peer_sent_before_its_end_is_received() {
    let _watchdog = watchdog!();
    let (server, name) = Server::<(String, IpcSender<u32>)>::new().unwrap();
    let mut peer = role::start(role_peer, &[]);
    peer.say(&name);
    peer.say("send and end");
    peer.wait();
    let (_, (text, _)) = server.accept(peer.pidfd(), LONG).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn role_peer() {
    let Some(mut role) = role::enter(role_peer) else { return };
    let (name, word) = (role.hear(), role.hear());
    if word == "wait" {
        role.say("here");
        role.hear();
    }
    let server = IpcSender::<(String, IpcSender<u32>)>::connect(name).unwrap();
    if word == "connect" {
        role.say("here");
        role.hear();
    }
    let (sender, receiver) = ipc::channel().unwrap();
    server.send(("hello".to_owned(), sender.clone())).unwrap();
    if word == "send and end" {
        return;
    }
    role.say(&receiver.recv().unwrap().to_string());
    server.send(("again".to_owned(), sender)).unwrap();
    role.hear();
}

#[test]
fn its_own_server_takes_what_is_sent_from_here() {
    let _watchdog = watchdog!();
    let (server, name) = IpcOneShotServer::<String>::new().unwrap();
    IpcSender::connect(name).unwrap().send("plain".to_owned()).unwrap();
    let (receiver, first) = server.accept().unwrap();
    assert_eq!(first, "plain");
    through(Ipc::new(receiver).unwrap()).into_inner().unwrap();
}
