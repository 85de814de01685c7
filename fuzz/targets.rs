//! What each target does with its input. The fuzzer runs these functions, and a test replays the corpus through them.
//!
//! They panic where something is not as it must be; that an input is refused is no finding.

use procession_channel::{
    connection::Connection,
    lane::{Config, RawReceiver, RawSender, pair},
};
use procession_parcel::{Bytes, Fd, Parcel, wire};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    io::Write as _,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

/// What fits into a socket's buffer, so that nobody waits for anybody.
const MOST: usize = 64 << 10;

/// Frames of CPython's, in two pieces: the first two bytes say where they part.
pub(crate) fn frame(data: &[u8]) {
    const MAX: u64 = 1 << 16;
    let Some((at, data)) = data.split_first_chunk::<2>() else { return };
    let data = &data[..data.len().min(MOST)];
    let (first, second) = data.split_at(usize::from(u16::from_le_bytes(*at)).min(data.len()));
    let (mut to, from) = UnixStream::pair().unwrap();
    let mut connection = Connection::<(), ()>::from_stream(OwnedFd::from(from)).unwrap();
    connection.set_max_message(MAX);

    let mut messages = Vec::new();
    let mut end = None;
    to.write_all(first).unwrap();
    let take = |messages: &mut Vec<Vec<u8>>, end: &mut Option<_>| {
        while end.is_none() {
            match connection.try_recv_bytes() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => *end = Some(error),
            }
        }
    };
    take(&mut messages, &mut end);
    to.write_all(second).unwrap();
    drop(to);
    take(&mut messages, &mut end);

    let (expected, rest) = frames(data, MAX);
    assert_eq!(messages, expected);
    let end = end.expect("the other end is closed");
    match rest {
        Rest::None => assert!(end.is_eof(), "{end}"),
        Rest::Cut => assert!(end.is_cut_off(), "{end}"),
        Rest::TooLarge => assert!(end.is_too_large(), "{end}"),
        Rest::Impossible => assert!(end.is_malformed(), "{end}"),
    }
}

enum Rest {
    None,
    Cut,
    TooLarge,
    Impossible,
}

/// The framing, written down once more.
fn frames(mut data: &[u8], max: u64) -> (Vec<Vec<u8>>, Rest) {
    let mut messages = Vec::new();
    loop {
        if data.is_empty() {
            return (messages, Rest::None);
        }
        let Some((short, rest)) = data.split_first_chunk::<4>() else { return (messages, Rest::Cut) };
        let (len, rest) = match i32::from_be_bytes(*short) {
            -1 => match rest.split_first_chunk::<8>() {
                Some((long, rest)) => (u64::from_be_bytes(*long), rest),
                None => return (messages, Rest::Cut),
            },
            short @ 0.. => (short as u64, rest),
            _ => return (messages, Rest::Impossible),
        };
        if len > max {
            return (messages, Rest::TooLarge);
        }
        let Some((message, rest)) = rest.split_at_checked(len as usize) else { return (messages, Rest::Cut) };
        messages.push(message.to_vec());
        data = rest;
    }
}

/// One side of a handshake whose random bytes are all 7 and whose key is `key`. The first byte says which side, whether MD5
/// is allowed, and in pieces of how many bytes the rest comes.
#[cfg(feature = "net")]
pub(crate) fn handshake(data: &[u8]) {
    use procession_channel::net::{AuthKey, Handshake};
    let Some((&how, mut data)) = data.split_first() else { return };
    let (listener, md5, step) = (how & 1 != 0, how & 2 != 0, usize::from(how >> 2) + 1);
    let mut side = Handshake::fixed(&AuthKey::new("key"), listener, [7; 40]).allow_md5(md5);
    let mut sent = 0;
    loop {
        sent += side.output().len();
        side.sent(side.output().len());
        // Three messages at most: a challenge, an answer, a verdict.
        assert!(sent <= 4 + 59 + 4 + 56 + 4 + 9, "{sent}");
        if let Some(outcome) = side.outcome() {
            assert_eq!(side.wanted(), 0);
            // Nobody comes through with less than a challenge, a code and a verdict.
            assert!(outcome.is_err() || sent >= 63 + 13 + 20);
            return;
        }
        assert!((1..=256).contains(&side.wanted()));
        if data.is_empty() {
            return;
        }
        let (now, later) = data.split_at(data.len().min(step).min(side.wanted()));
        side.input(now);
        data = later;
    }
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Tree {
    value: i16,
    branches: Vec<Tree>,
    next: Option<Box<Tree>>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Choice {
    Nothing,
    Number(u64),
    Text { text: String, more: Option<char> },
    Both(i128, Bytes),
}

/// A value out of bytes of which the first says of what type, or a frame as it comes over a socket.
pub(crate) fn parcel(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    match kind % 8 {
        0 => again::<(u8, String, Vec<u16>, Option<bool>)>(data),
        1 => again::<Tree>(data),
        2 => again::<Vec<Choice>>(data),
        3 => again::<BTreeMap<String, Bytes>>(data),
        4 => again::<(i64, u128, char, ())>(data),
        5 => drop(unpack::<(Fd, Vec<Fd>)>(data)),
        6 => drop(unpack::<Parcel>(data).map(|inner| inner.unpack::<Tree>())),
        _ => {
            let (mut to, from) = UnixStream::pair().unwrap();
            to.write_all(&data[..data.len().min(MOST)]).unwrap();
            drop(to);
            let limits = wire::Limits { max_bytes: 1 << 16, max_fds: 4 };
            while let Ok(Some(parcel)) = wire::recv(&from, &limits, None) {
                let _ = parcel.unpack::<Tree>();
            }
        }
    }
}

fn unpack<T: DeserializeOwned + 'static>(data: &[u8]) -> Option<T> {
    Parcel::new(data.to_vec(), Vec::new()).unpack().ok()
}

/// What can be decoded can be encoded, and is then the same.
fn again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static>(data: &[u8]) {
    let Some(value) = unpack::<T>(data) else { return };
    let parcel = Parcel::pack(&value).unwrap();
    assert_eq!(parcel.unpack::<T>().unwrap(), value);
}

/// A pickle. What can be loaded can be dumped, and loaded again.
#[cfg(feature = "pickle")]
pub(crate) fn pickle(data: &[u8]) {
    use procession_channel::net::pickle::{dumps_value, loads, loads_value};
    let _ = loads::<(i64, String, Vec<f64>)>(data);
    let _ = loads::<BTreeMap<String, Vec<Option<bool>>>>(data);
    let Ok(value) = loads_value(data) else { return };
    let dumped = dumps_value(&value).unwrap();
    // A set is dumped as a call, which CPython loads and we do not.
    let has_set = dumped.windows(4).any(|bytes| bytes == b"set\n");
    assert!(loads_value(&dumped).is_ok() || has_set);
}

/// The end of a lane whose parcel and whose memory a hostile peer writes into.
///
/// The first byte says which end; the second how many pairs of place and value follow that change the parcel's bytes. Then come
/// steps of 11 bytes, before and after the end was unpacked: what to do, and if it is a store, a word's place and value.
pub(crate) fn ring(data: &[u8]) {
    let Some((&[which, edits], data)) = data.split_first_chunk::<2>() else { return };
    let Some((edits, data)) = data.split_at_checked(usize::from(edits % 16) * 2) else { return };
    let config = Config { capacity: 4096, max_message: 10_000, ..Config::default() };
    let (mut sender, receiver) = pair(&config).unwrap();
    sender.try_send(&[b"honest"]).unwrap();
    let packed = if which & 1 == 0 { Parcel::pack(&receiver) } else { Parcel::pack(&sender) };
    let (mut bytes, fds) = packed.unwrap().into_parts();
    for edit in edits.chunks_exact(2) {
        let place = usize::from(edit[0]) % bytes.len();
        bytes[place] = edit[1];
    }
    // The lane's memory, by a way that no end sees.
    let memory: Vec<_> = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let (before, after) = if which & 2 == 0 { (&data[..0], data) } else { (data, &data[..0]) };
    steps(before, &memory, |_| true);
    let parcel = Parcel::new(bytes, fds);
    if which & 1 == 0 {
        let Ok(mut end) = parcel.unpack::<RawReceiver>() else { return };
        steps(after, &memory, |what| receive(&mut end, what));
        while receive(&mut end, 1) {}
    } else {
        let Ok(mut end) = parcel.unpack::<RawSender>() else { return };
        steps(after, &memory, |what| send(&mut end, what));
        let _ = send(&mut end, 1);
    }
}

fn steps(data: &[u8], memory: &[OwnedFd], mut act: impl FnMut(u8) -> bool) {
    for step in data.chunks_exact(11) {
        let (what, place, value) = (step[0], u16::from_le_bytes([step[1], step[2]]), &step[3..]);
        if what % 4 > 0 {
            act(what % 4);
        } else if let Some(fd) = memory.get(usize::from(what / 4) % memory.len().max(1)) {
            // Beyond its end it is refused: the memory is sealed against growth.
            let _ = rustix::io::pwrite(fd, value, u64::from(place % 2048) * 8);
        }
    }
}

/// Takes something, if there is something and it is whole.
fn receive(end: &mut RawReceiver, what: u8) -> bool {
    let mut message = Vec::new();
    let more = match what {
        1 => end.try_recv(&mut message).unwrap_or(false),
        2 => end.recv_batch(1000, |message| assert!(message.len() <= 10_000)).is_ok_and(|count| count > 0),
        _ => {
            end.mark_started(end.taken());
            end.has_news()
        }
    };
    assert!(message.len() <= 10_000);
    more
}

fn send(end: &mut RawSender, what: u8) -> bool {
    match what {
        1 => end.try_send(&[b"a message"]).is_ok(),
        2 => end.try_send(&[&[1; 3000], &[2; 3000]]).is_ok(),
        _ => {
            let (started, taken, sent) = (end.started(), end.taken(), end.sent());
            assert!(started <= sent && taken <= sent, "{started} {taken} {sent}");
            !end.is_empty()
        }
    }
}
