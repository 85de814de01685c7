//! Frames, and how what is in them is written and read.
//!
//! # A frame
//! A header of 32 bytes, little-endian, then the payload.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | magic, `pM` |
//! | 2 | version, 1 |
//! | 3 | kind: 0 a request, 1 a request without a reply, 2 a reply |
//! | 4..6 | method; in a reply the status, 0 where all went well |
//! | 6..8 | reserved, zero |
//! | 8..16 | length of the payload |
//! | 16..24 | request, a number of the client's choice; in a reply the same |
//! | 24..32 | object, 0 for the server itself; in a reply to a client that may come back, how many of its frames were done |
//!
//! A payload is a row of numbers (`u64`), byte strings (length, bytes) and values: a byte string, and the numbers of the
//! hosted objects whose proxies are inside. Nothing is believed: each count and length is compared with what is there
//! before it is used. A payload with bytes left over is malformed.

use bytes::Bytes;
use std::fmt;

pub(crate) const HEADER: usize = 32;
/// Byte strings from this length on stay where they are, as far as that goes, and are not copied once more. A fuzzer comes there
/// with the frames that it makes.
pub(crate) const LARGE: usize = if cfg!(fuzzing) { 48 } else { 64 << 10 };
const MAGIC: [u8; 2] = *b"pM";
pub(crate) const VERSION: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Request,
    OneWay,
    Reply,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Method, or status.
    pub(crate) method: u16,
    pub(crate) len: u64,
    pub(crate) request: u64,
    pub(crate) object: u64,
}

/// What is wrong with a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Malformed(pub(crate) String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[3] = match self.kind {
            Kind::Request => 0,
            Kind::OneWay => 1,
            Kind::Reply => 2,
        };
        bytes[4..6].copy_from_slice(&self.method.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.request.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.object.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Header, Malformed> {
        if bytes[..2] != MAGIC {
            return Err(Malformed(format!("it starts with {:02x?}, no frame does", &bytes[..2])));
        }
        if bytes[2] != VERSION {
            return Err(Malformed(format!("it has version {}, this program knows {VERSION}", bytes[2])));
        }
        let kind = match bytes[3] {
            0 => Kind::Request,
            1 => Kind::OneWay,
            2 => Kind::Reply,
            other => return Err(Malformed(format!("kind {other}, there is none"))),
        };
        if bytes[6..8] != [0; 2] {
            return Err(Malformed("reserved bytes are set".to_owned()));
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let method = u16::from_le_bytes([bytes[4], bytes[5]]);
        Ok(Header { kind, method, len: word(8), request: word(16), object: word(24) })
    }
}

/// Begins a frame at the end of `out`; the payload follows.
pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER]);
    at
}

/// Ends the frame that began at `at`.
pub(crate) fn end(out: &mut [u8], at: usize, kind: Kind, method: u16, request: u64, object: u64) {
    let len = (out.len() - at - HEADER) as u64;
    fill(&mut out[at..], kind, method, len, request, object);
}

/// Fills in a frame's header, at the front of `out`.
pub(crate) fn fill(out: &mut [u8], kind: Kind, method: u16, len: u64, request: u64, object: u64) {
    out[..HEADER].copy_from_slice(&Header { kind, method, len, request, object }.encode());
}

/// How many of the first `most` frames are whole in `bytes`, and where they end.
pub(crate) fn skip(bytes: &[u8], most: u64) -> (u64, usize) {
    let (mut count, mut at) = (0, 0);
    while count < most
        && let Some(header) = bytes[at..].first_chunk::<HEADER>()
        && let Ok(header) = Header::decode(header)
        && let Some(end) = usize::try_from(header.len).ok().and_then(|len| (at + HEADER).checked_add(len))
        && end <= bytes.len()
    {
        (count, at) = (count + 1, end);
    }
    (count, at)
}

pub(crate) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_value(out: &mut Vec<u8>, bytes: &[u8], refs: &[u64]) {
    // At once: what comes behind a large value is not to have it copied.
    out.reserve(bytes.len() + 8 * (2 + refs.len()));
    put_bytes(out, bytes);
    put_refs(out, refs);
}

/// What follows a value's bytes.
pub(crate) fn put_refs(out: &mut Vec<u8>, refs: &[u64]) {
    put_u64(out, refs.len() as u64);
    refs.iter().for_each(|&object| put_u64(out, object));
}

/// Reads a payload from its front.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// The memory that the payload lies in, where it can be kept.
    memory: Option<&'a Bytes>,
}

fn short(what: &str) -> Malformed {
    Malformed(format!("it ends within {what}"))
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Reader<'a> {
        Reader { rest: payload, memory: None }
    }

    /// Of a payload that lies in `memory`.
    pub(crate) fn within(payload: &'a [u8], memory: Option<&'a Bytes>) -> Reader<'a> {
        Reader { rest: payload, memory }
    }

    /// The memory that some of what was read lies in, if that is at most twice as long: it may be kept for its sake.
    pub(crate) fn memory_of(&self, bytes: &[u8]) -> Option<&'a Bytes> {
        self.memory.filter(|memory| bytes.len() >= memory.len() / 2)
    }

    /// How much is left.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// Keeps all that is left.
    pub(crate) fn keep_rest(&self) -> Bytes {
        let memory = self.memory_of(self.rest);
        memory.map_or_else(|| Bytes::copy_from_slice(self.rest), |memory| memory.slice_ref(self.rest))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let (word, rest) = self.rest.split_first_chunk::<8>().ok_or_else(|| short("a number"))?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*word))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u64()?).map_err(|_| short("a byte string"))?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| short("a byte string"))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8".to_owned()))
    }

    /// How many things follow, of which each takes `least` bytes or more.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, Malformed> {
        let count = self.u64()?;
        if count > (self.rest.len() / least) as u64 {
            return Err(Malformed(format!("{count} things are announced in {} bytes", self.rest.len())));
        }
        Ok(count as usize)
    }

    /// A value's bytes, and the objects that it refers to.
    pub(crate) fn value(&mut self) -> Result<(&'a [u8], Vec<u64>), Malformed> {
        let bytes = self.bytes()?;
        let count = self.count(8)?;
        let refs = (0..count).map(|_| self.u64()).collect::<Result<_, _>>()?;
        Ok((bytes, refs))
    }

    /// What follows, if something does.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Malformed(format!("{left} bytes are left over"))),
        }
    }
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $number:literal),* $(,)?) => {
        /// What can be asked of the server, or of an object.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub(crate) enum Op { $($(#[$doc])* $name = $number),* }

        impl Op {
            pub(crate) fn of(number: u16) -> Option<Op> {
                match number {
                    $($number => Some(Op::$name),)*
                    _ => None,
                }
            }
        }
    };
}

impl Op {
    /// Whether it gives something back that somebody may wait for.
    pub(crate) fn gives_back(self) -> bool {
        use Op::{Cancel, Forget, GiveBack, GiveOwned, GivePermits, Release, ReleaseLock, Took};
        matches!(self, Release | Cancel | Forget | Took | GiveBack | ReleaseLock | GivePermits | GiveOwned)
    }
}

ops! {
    // The server.
    Hello = 1, Create = 2, Lease = 3, Release = 4, Publish = 5, Find = 6, Unpublish = 7, Shutdown = 8, Stats = 9, Ping = 10,
    Ticket = 11, Redeem = 12, Cancel = 13, Refusals = 14,
    // A connection that comes back: in the place of `Hello`; what was received; that nobody will come back.
    Resume = 15, Ack = 16, Bye = 17,
    // A request that waits is given up.
    Forget = 18,
    // A local client asks for lanes, and, without a reply, says that it uses those that it got.
    Lanes = 19,
    // Everything that holds values.
    Len = 20, Clear = 21, Snapshot = 22, Update = 23, UpdateAll = 24, Compare = 25, Page = 26,
    // Dictionaries and sets; their keys come first.
    Get = 30, Insert = 31, Remove = 32, Contains = 33, GetOrInsert = 34, PopItem = 35, GetMany = 36, InsertMany = 37,
    RemoveMany = 38, Put = 39,
    // Lists, by index.
    At = 50, SetAt = 51, Push = 52, Pop = 53, InsertAt = 54, Extend = 55, Range = 56, Splice = 57, Index = 58, Count = 59,
    Reverse = 60, RemoveValue = 61, Swap = 62, Repeat = 63,
    // Queues.
    PutItem = 70, GetItem = 71, Full = 72, TaskDone = 73, Join = 74, Took = 75, GiveBack = 76,
    // Locks and conditions.
    Acquire = 80, ReleaseLock = 81, WaitFor = 82, Notify = 83, IsLocked = 84, ClearPoison = 85,
    // Semaphores.
    Permit = 90, GivePermits = 91, Permits = 92, GiveOwned = 93,
    // Events.
    Set = 100, Unset = 101, IsSet = 102, Wait = 103,
    // Barriers.
    Pass = 110, Abort = 111, Reset = 112, State = 113,
    // Custom objects.
    Call = 120, CallMethod = 121, Methods = 122,
    // Pools.
    PoolRun = 130, PoolInfo = 131, PoolClose = 132, PoolJoin = 133, PoolEnd = 134,
}

/// The types of hosted objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(crate) enum Type {
    Dict = 1,
    List = 2,
    Set = 3,
    Namespace = 4,
    Value = 5,
    Array = 6,
    Queue = 7,
    JoinableQueue = 8,
    Lock = 9,
    RLock = 10,
    Semaphore = 11,
    BoundedSemaphore = 12,
    Event = 13,
    Barrier = 14,
    Custom = 15,
    /// Of a type that the server knows by its name.
    Instance = 16,
    Pool = 17,
}

impl Type {
    pub(crate) fn of(number: u64) -> Option<Type> {
        use Type::*;
        [
            Dict,
            List,
            Set,
            Namespace,
            Value,
            Array,
            Queue,
            JoinableQueue,
            Lock,
            RLock,
            Semaphore,
            BoundedSemaphore,
            Event,
            Barrier,
            Custom,
            Instance,
            Pool,
        ]
        .into_iter()
        .find(|one| *one as u64 == number)
    }
}

/// The number of a type, by its name: the same in every build that names its types alike.
pub(crate) fn type_number(names: &[&str]) -> u64 {
    // FNV-1a.
    let mut number = 0xcbf2_9ce4_8422_2325_u64;
    for byte in names.iter().flat_map(|name| name.bytes().chain([0])) {
        number = (number ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    number
}

/// The time of a wait: nanoseconds from now, [`FOREVER`] without an end.
pub(crate) const FOREVER: u64 = u64::MAX;

/// A process that shows a version this program does not know, or is another build, says so in its first frame.
pub(crate) const PROTOCOL: u64 = 1;
