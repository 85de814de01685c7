//! The handshake, without any input or output of its own.
//!
//! # Protocol
//!
//! Each message is a frame of CPython's: four bytes of length, big-endian, and at most 256 bytes. One side *delivers* a
//! challenge, and the other *answers* it; the listener delivers first, then they change roles.
//!
//! | who | message |
//! |---|---|
//! | delivers | `#CHALLENGE#` and a text: `{sha256}` and 40 random bytes (CPython up to 3.11: 20 random bytes) |
//! | answers | `{sha256}` and the code of the whole text (CPython up to 3.11: the MD5 code, 16 bytes, without a name) |
//! | delivers | `#WELCOME#`, or `#FAILURE#` and the end |
//!
//! The text of a modern challenge is signed whole by an old peer, and an old challenge is known by its 20 bytes: so both
//! generations understand each other, where MD5 is allowed.
//!
//! # States
//!
//! [`Handshake`] is one side. It says how many bytes it wants next, and never more than belong to the handshake: what a
//! peer sends behind it belongs to the connection. What it wants to send stands ready until it was sent.
//!
//! | state | waits for | then |
//! |---|---|---|
//! | `Answer` | the answer to our challenge | verdict out; next part, or failed |
//! | `Challenge` | a challenge | answer out; `Verdict` |
//! | `Verdict` | `#WELCOME#` | next part |
//! | `Done` | nothing; complete once all output went out | |
//! | `Failed` | nothing; the refusal counts once the verdict went out, or could not | |
//!
//! # What it proves
//!
//! That the other side knows the key, now. Nothing after it is signed or encrypted, and the codes are not bound to an
//! address: who can lure a client to himself and sits between can pass the challenges on. On a network that is not
//! trusted, put a tunnel around it.
//!
//! # When a process dies
//!
//! The other side sees the end of its socket, or its deadline, whichever comes first.

use super::{
    error::Refusal,
    mac::{AuthKey, Digest, random},
};
use std::{collections::VecDeque, fmt};

/// The longest message of a handshake.
pub(super) const CAP: usize = 256;

const CHALLENGE: &[u8] = b"#CHALLENGE#";
const WELCOME: &[u8] = b"#WELCOME#";
const FAILURE: &[u8] = b"#FAILURE#";
/// The length of the text of an old challenge, which is how it is known.
const OLD_TEXT: usize = 20;
/// The length of an old answer.
const OLD_ANSWER: usize = 16;
/// How many bytes of a challenge are random.
const RANDOM: usize = 40;
const HEADER: usize = 4;

/// Half a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Deliver,
    Answer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Answer,
    Challenge,
    Verdict,
    Done,
    Failed,
}

/// One side of a handshake, as a state machine: bytes in, bytes out.
///
/// ```
/// use procession_channel::net::{AuthKey, Handshake};
///
/// let key = AuthKey::new("secret");
/// let mut listener = Handshake::listener(&key)?;
/// let mut client = Handshake::client(&key)?;
/// while listener.outcome().is_none() || client.outcome().is_none() {
///     for turn in 0..2 {
///         let (from, to) = if turn == 0 { (&mut listener, &mut client) } else { (&mut client, &mut listener) };
///         let bytes: Vec<u8> = from.output().iter().copied().take(to.wanted()).collect();
///         to.input(&bytes);
///         from.sent(bytes.len());
///     }
/// }
/// assert_eq!(listener.outcome(), Some(Ok(())));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a handshake does nothing by itself"]
pub struct Handshake {
    key: AuthKey,
    allow_md5: bool,
    state: State,
    /// What comes after the current part.
    parts: VecDeque<Part>,
    /// The text of the challenge that we deliver.
    text: Vec<u8>,
    /// The frame that is arriving.
    frame: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    refusal: Option<Refusal>,
}

impl Handshake {
    /// The side of a listener: it delivers, then answers.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers.
    pub fn listener(key: &AuthKey) -> std::io::Result<Handshake> {
        Handshake::new(key, &[Part::Deliver, Part::Answer])
    }

    /// The side of a client: it answers, then delivers.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers.
    pub fn client(key: &AuthKey) -> std::io::Result<Handshake> {
        Handshake::new(key, &[Part::Answer, Part::Deliver])
    }

    /// Half a handshake: it only delivers a challenge, as CPython's `deliver_challenge`.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers.
    pub fn deliver_challenge(key: &AuthKey) -> std::io::Result<Handshake> {
        Handshake::new(key, &[Part::Deliver])
    }

    /// Half a handshake: it only answers a challenge, as CPython's `answer_challenge`.
    ///
    /// # Errors
    ///
    /// If the kernel has no random numbers.
    pub fn answer_challenge(key: &AuthKey) -> std::io::Result<Handshake> {
        Handshake::new(key, &[Part::Answer])
    }

    /// Whether codes by MD5 are made and accepted: CPython up to 3.11 knows no other. Not by default.
    ///
    /// Nothing is known that forges HMAC-MD5 without the key, but nobody should rely on it for long. Where it is allowed,
    /// any peer may use it, a new one too.
    pub fn allow_md5(mut self, allow: bool) -> Handshake {
        self.allow_md5 = allow;
        self
    }

    fn new(key: &AuthKey, parts: &[Part]) -> std::io::Result<Handshake> {
        random().map(|bytes| Handshake::with_random(key, parts, bytes))
    }

    fn with_random(key: &AuthKey, parts: &[Part], random: [u8; RANDOM]) -> Handshake {
        let mut handshake = Handshake {
            key: key.clone(),
            allow_md5: false,
            state: State::Done,
            parts: parts.iter().copied().collect(),
            text: [Digest::Sha256.prefix(), &random].concat(),
            frame: Vec::new(),
            output: Vec::new(),
            sent: 0,
            refusal: None,
        };
        handshake.next_part();
        handshake
    }

    /// A listener's or a client's side whose random bytes are given, so that a test can be run again.
    #[doc(hidden)]
    pub fn fixed(key: &AuthKey, listener: bool, random: [u8; 40]) -> Handshake {
        let parts = if listener { [Part::Deliver, Part::Answer] } else { [Part::Answer, Part::Deliver] };
        Handshake::with_random(key, &parts, random)
    }

    /// What is to be sent.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Takes note that so many bytes of the [`output`](Handshake::output) were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.output.len().min(self.sent + bytes);
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// How many bytes it takes next, 0 when it has come to its end.
    #[must_use]
    pub fn wanted(&self) -> usize {
        match self.state {
            State::Done | State::Failed => 0,
            _ => self.expected() - self.frame.len(),
        }
    }

    /// The length of the frame that is arriving, as far as it is known.
    fn expected(&self) -> usize {
        // A length that is too large was refused when it arrived.
        HEADER + self.length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0)
    }

    fn length(&self) -> Option<u32> {
        self.frame.first_chunk().map(|header| u32::from_be_bytes(*header))
    }

    /// Takes bytes that have arrived, at most as many as it [wanted](Handshake::wanted). More are left out.
    pub fn input(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while !bytes.is_empty() && self.wanted() > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(self.wanted()));
            self.frame.extend_from_slice(now);
            bytes = later;
            match self.length() {
                Some(length) if length > CAP as u32 => {
                    self.refuse(Refusal::protocol(format!(
                        "a message starts with {:02x?}, which announces more than {CAP} bytes",
                        &self.frame[..HEADER]
                    )));
                }
                Some(_) if self.frame.len() == self.expected() => {
                    let frame = std::mem::take(&mut self.frame);
                    self.message(&frame[HEADER..]);
                }
                _ => {}
            }
        }
    }

    /// How it ended: `None` as long as it goes on, or its last message was not sent yet.
    #[must_use]
    pub fn outcome(&self) -> Option<Result<(), Refusal>> {
        match self.state {
            _ if !self.output().is_empty() => None,
            State::Done => Some(Ok(())),
            State::Failed => Some(Err(self.refusal.clone().unwrap_or_else(|| Refusal::protocol("")))),
            _ => None,
        }
    }

    /// Why it has failed, its last message sent or not.
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    fn next_part(&mut self) {
        self.state = match self.parts.pop_front() {
            Some(Part::Deliver) => {
                let challenge = [CHALLENGE, &self.text].concat();
                self.send(&challenge);
                State::Answer
            }
            Some(Part::Answer) => State::Challenge,
            None => State::Done,
        };
    }

    fn send(&mut self, message: &[u8]) {
        self.output.extend_from_slice(&(message.len() as u32).to_be_bytes());
        self.output.extend_from_slice(message);
    }

    fn message(&mut self, message: &[u8]) {
        match self.state {
            State::Answer => match self.check(message) {
                Ok(()) => {
                    self.send(WELCOME);
                    self.next_part();
                }
                Err(refusal) => self.refuse(refusal),
            },
            State::Challenge => match self.answer(message) {
                Ok(answer) => {
                    self.send(&answer);
                    self.state = State::Verdict;
                }
                Err(refusal) => self.refuse(refusal),
            },
            State::Verdict if message == WELCOME => self.next_part(),
            State::Verdict if message == FAILURE => self.refuse(Refusal::Rejected),
            State::Verdict => {
                self.refuse(Refusal::protocol(format!("{} where a verdict should come", shown(message))));
            }
            State::Done | State::Failed => {}
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        // Only who waits for a verdict can make something of one.
        if self.state == State::Answer {
            self.send(FAILURE);
        }
        self.refusal = Some(refusal);
        self.state = State::Failed;
    }

    fn check(&self, answer: &[u8]) -> Result<(), Refusal> {
        let (digest, code) = match answer.len() {
            OLD_ANSWER => (Digest::Md5, answer),
            _ => named(answer, "an answer")?,
        };
        self.allow(digest)?;
        match digest.verify(&self.key, &self.text, code) {
            true => Ok(()),
            false => Err(Refusal::WrongKey),
        }
    }

    fn answer(&self, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Some(text) = message.strip_prefix(CHALLENGE) else {
            return Err(Refusal::protocol(format!(
                "{} where a challenge should come: it may ask for no key",
                shown(message)
            )));
        };
        if text.len() == OLD_TEXT {
            self.allow(Digest::Md5)?;
            return Ok(Digest::Md5.sign(&self.key, text));
        }
        if text.len() < OLD_TEXT {
            return Err(Refusal::protocol(format!("a challenge of {} bytes", text.len())));
        }
        let (digest, _) = named(text, "a challenge")?;
        self.allow(digest)?;
        Ok([digest.prefix(), &digest.sign(&self.key, text)].concat())
    }

    fn allow(&self, digest: Digest) -> Result<(), Refusal> {
        match digest {
            Digest::Md5 if !self.allow_md5 => Err(Refusal::Md5),
            _ => Ok(()),
        }
    }
}

/// Splits the digest's name off.
fn named<'a>(bytes: &'a [u8], what: &str) -> Result<(Digest, &'a [u8]), Refusal> {
    let parts = bytes.strip_prefix(b"{").and_then(|rest| {
        let end = rest.iter().take(20).position(|byte| *byte == b'}')?;
        Some((&rest[..end], &rest[end + 1..]))
    });
    match parts {
        Some((name, rest)) => match Digest::named(name) {
            Some(digest) => Ok((digest, rest)),
            None => Err(Refusal::protocol(format!(
                "{what} by the digest `{}`, which is not known here",
                name.escape_ascii()
            ))),
        },
        None => Err(Refusal::protocol(format!("{} where {what} should name its digest", shown(bytes)))),
    }
}

/// The beginning of a message, for an error.
fn shown(message: &[u8]) -> String {
    let start = &message[..message.len().min(16)];
    format!("`{}`{}", start.escape_ascii(), if message.len() > 16 { "…" } else { "" })
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("state", &self.state)
            .field("wanted", &self.wanted())
            .field("output", &self.output().len())
            .finish_non_exhaustive()
    }
}

/// Whether a first frame is a challenge: then the other side asks for a key.
pub(crate) fn is_challenge(message: &[u8]) -> bool {
    message.strip_prefix(CHALLENGE).is_some_and(|text| text.len() >= OLD_TEXT && message.len() <= CAP)
}
