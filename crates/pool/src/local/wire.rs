//! The messages on a worker's two lanes. Integers are little endian.
//!
//! | to the worker | |
//! |---|---|
//! | `DEFINE` | kind, function id (`u32`), the encoded function |
//! | `UNDEFINE` | kind, function id (`u32`) |
//! | `DEFINE_PARCEL` | kind, function id (`u32`): the encoded function and its descriptors are in the socket |
//! | `REFUSE` | kind, function id (`u32`), why the function could not be sent, as text |
//! | `TASK` | [`TaskHeader`], then [`Watched`] if it is flagged so, then the items, each a record or a plain number |
//! | `LEAVE` | kind: it is to end; what was sent before is still run, unless its control words say otherwise |
//! | `FRAGMENT`, `LAST_FRAGMENT` | kind, bytes of one message that is larger than a piece |
//!
//! | from the worker | |
//! |---|---|
//! | `BEGUN` | kind: the initialiser is called now |
//! | `READY` | kind: the initialiser is done |
//! | `VALUES` | kind, then the values of the next items, each as its task's header wants it. It [grows](procession_channel::lane) while they run |
//! | `VALUE` | kind, the encoded value of the next item, where that is large or there is little room |
//! | `LARGE_VALUE` | kind, three bytes of nothing, the encoded value of the next item, of more than half a lane |
//! | `FAILURE` | kind, the encoded outcome of the next item |
//! | `CANCELLED` | kind: the next item is not run |
//! | `LEAVING` | kind: it ends by itself after this, and leaves what it has not begun |
//! | `TIMES` | kind, function id (`u32`), items (`u32`), busy nanoseconds (`u64`) |
//! | `SPAN` | kind, [`Span`] as its numbers: what it did, where a timeline is kept |
//! | `INIT_FAILED` | kind, the encoded outcome of the initialiser |
//! | `DAMAGED` | kind: what came to the worker was nonsense, and it ends |
//!
//! Beside the lanes there is a socket to the worker ([packets](procession_parcel::wire::packet)), for functions that have
//! captured descriptors: the encoded function, then its id (`u32`), in one packet. It is sent before the `DEFINE_PARCEL`
//! that tells of it.
//!
//! The worker runs items in the order in which they were sent, so results need no key.

use crate::{
    back::{ENVELOPE_VERSION, Envelope, FunctionId, Key},
    records::{Layout, Layouts},
    seeing::Span,
};

pub(super) const DEFINE: u8 = 1;
pub(super) const UNDEFINE: u8 = 2;
pub(super) const TASK: u8 = 3;
pub(super) const FRAGMENT: u8 = 4;
pub(super) const LAST_FRAGMENT: u8 = 5;
pub(super) const LEAVE: u8 = 6;
pub(super) const DEFINE_PARCEL: u8 = 7;
pub(super) const REFUSE: u8 = 8;

pub(super) const READY: u8 = 16;
pub(super) const VALUE: u8 = 17;
pub(super) const FAILURE: u8 = 18;
pub(super) const TIMES: u8 = 19;
pub(super) const INIT_FAILED: u8 = 20;
pub(super) const BEGUN: u8 = 21;
pub(super) const DAMAGED: u8 = 22;
pub(super) const CANCELLED: u8 = 23;
pub(super) const LEAVING: u8 = 24;
pub(super) const VALUES: u8 = 25;
pub(super) const SPAN: u8 = 26;
/// Its length fits over its first bytes: then it is a record where it lies.
pub(super) const LARGE_VALUE: u8 = 27;

/// Messages to a worker are no larger than this, a quarter of a lane, so that one is on its way while another is
/// taken out. A task goes in as many messages as it needs; an item that is larger goes in fragments.
pub(super) const PIECE: usize = 64 * 1024;

/// Set on a piece after which the parent has more for which there was no room: it wants to be woken.
pub(super) const MORE: u8 = 1;
/// Set on a task whose items are watched: they have a limit of time, or may be cancelled.
pub(super) const WATCHED: u8 = 2;

/// The head of a `TASK`: consecutive items of one task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TaskHeader {
    /// [`MORE`], [`WATCHED`].
    pub(super) flags: u8,
    pub(super) function: FunctionId,
    pub(super) key: Key,
    /// The first item's index in the task, and how many are in this message.
    pub(super) first: u32,
    pub(super) items: u32,
    pub(super) priority: i32,
    /// How long an item may run, in nanoseconds, 0 for any time.
    pub(super) limit: u64,
    /// Of these items, and of their values.
    pub(super) layouts: Layouts,
}

impl TaskHeader {
    pub(super) const SIZE: usize = 42;

    /// The head of the whole task.
    pub(super) fn of(task: &Envelope<'_>) -> TaskHeader {
        TaskHeader {
            flags: 0,
            function: task.function,
            key: task.key,
            first: 0,
            items: task.items,
            priority: task.priority,
            limit: task.limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1)),
            layouts: task.layouts,
        }
    }

    pub(super) fn encode(&self) -> [u8; TaskHeader::SIZE] {
        let mut bytes = [0; TaskHeader::SIZE];
        bytes[0] = TASK;
        bytes[1] = self.flags;
        bytes[2..4].copy_from_slice(&ENVELOPE_VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.function.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.key.task.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.key.attempt.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.first.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.items.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.priority.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.limit.to_le_bytes());
        bytes[40] = self.layouts.items.to_byte();
        bytes[41] = self.layouts.values.to_byte();
        bytes
    }

    /// The head and the items behind it. `None` for what no parent of this version sends.
    pub(super) fn decode(message: &[u8]) -> Option<(TaskHeader, &[u8])> {
        let (head, records) = message.split_first_chunk::<{ TaskHeader::SIZE }>()?;
        if head[0] != TASK || u16::from_le_bytes([head[2], head[3]]) != ENVELOPE_VERSION {
            return None;
        }
        let header = TaskHeader {
            flags: head[1],
            function: FunctionId(u32_at(head, 4)?),
            key: Key { task: u64_at(head, 8)?, attempt: u32_at(head, 16)? },
            first: u32_at(head, 20)?,
            items: u32_at(head, 24)?,
            priority: i32::from_le_bytes(u32_at(head, 28)?.to_le_bytes()),
            limit: u64_at(head, 32)?,
            layouts: Layouts { items: Layout::from_byte(head[40]), values: Layout::from_byte(head[41]) },
        };
        Some((header, records))
    }
}

/// What a worker must know of a task whose items are watched. See [`hand`](super::hand).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Watched {
    /// The number of the first item in the message.
    pub(super) number: u64,
    /// Which of the tasks that may be cancelled it is, if it is one.
    pub(super) ordinal: Option<u32>,
}

impl Watched {
    pub(super) const SIZE: usize = 13;

    pub(super) fn encode(&self) -> [u8; Watched::SIZE] {
        let mut bytes = [0; Watched::SIZE];
        bytes[0] = u8::from(self.ordinal.is_some());
        bytes[1..5].copy_from_slice(&self.ordinal.unwrap_or(0).to_le_bytes());
        bytes[5..13].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// It and what is behind it.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Watched, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<{ Watched::SIZE }>()?;
        let ordinal = if head[0] == 0 { None } else { Some(u32_at(head, 1)?) };
        Some((Watched { number: u64_at(head, 5)?, ordinal }, rest))
    }
}

/// What a worker tells of its speed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Times {
    pub(super) function: FunctionId,
    pub(super) items: u32,
    pub(super) nanos: u64,
}

impl Times {
    pub(super) fn encode(&self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[0] = TIMES;
        bytes[1..5].copy_from_slice(&self.function.0.to_le_bytes());
        bytes[5..9].copy_from_slice(&self.items.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.nanos.to_le_bytes());
        bytes
    }

    pub(super) fn decode(message: &[u8]) -> Option<Times> {
        Some(Times {
            function: FunctionId(u32_at(message, 1)?),
            items: u32_at(message, 5)?,
            nanos: u64_at(message, 9)?,
        })
    }
}

impl Span {
    pub(super) fn encode(&self) -> [u8; 41] {
        let mut bytes = [0; 41];
        bytes[0] = SPAN;
        bytes[1..5].copy_from_slice(&self.function.0.to_le_bytes());
        bytes[5..13].copy_from_slice(&self.key.task.to_le_bytes());
        bytes[13..17].copy_from_slice(&self.key.attempt.to_le_bytes());
        bytes[17..21].copy_from_slice(&self.first.to_le_bytes());
        bytes[21..25].copy_from_slice(&self.items.to_le_bytes());
        bytes[25..33].copy_from_slice(&self.began.to_le_bytes());
        bytes[33..41].copy_from_slice(&self.ended.to_le_bytes());
        bytes
    }

    pub(super) fn decode(message: &[u8]) -> Option<Span> {
        Some(Span {
            function: FunctionId(u32_at(message, 1)?),
            key: Key { task: u64_at(message, 5)?, attempt: u32_at(message, 13)? },
            first: u32_at(message, 17)?,
            items: u32_at(message, 21)?,
            began: u64_at(message, 25)?,
            ended: u64_at(message, 33)?,
        })
    }
}

/// The number at `at`, if the message is long enough.
pub(super) fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(message: &[u8], at: usize) -> Option<u64> {
    message.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_whole_and_a_foreign_one_not_at_all() {
        let header = TaskHeader {
            flags: MORE,
            function: FunctionId(7),
            key: Key { task: 1 << 40, attempt: 3 },
            first: 5,
            items: 9,
            priority: -2,
            limit: 11,
            layouts: Layouts { items: Layout::from_byte(8), values: Layout::RECORDS },
        };
        let mut message = header.encode().to_vec();
        message.extend_from_slice(b"rest");
        assert_eq!(TaskHeader::decode(&message), Some((header, &b"rest"[..])));
        message[2] += 1;
        assert_eq!(TaskHeader::decode(&message), None);
        assert_eq!(TaskHeader::decode(&message[..20]), None);
        for ordinal in [None, Some(u32::MAX)] {
            let watched = Watched { number: 1 << 50, ordinal };
            let mut message = watched.encode().to_vec();
            message.push(7);
            assert_eq!(Watched::decode(&message), Some((watched, &[7][..])));
        }
        assert_eq!(Watched::decode(&[0; 12]), None);
        let times = Times { function: FunctionId(1), items: 2, nanos: 3 };
        assert_eq!(Times::decode(&times.encode()), Some(times));
        let key = Key { task: 1 << 50, attempt: 2 };
        let span = Span { function: FunctionId(9), key, first: 3, items: 4, began: 1 << 60, ended: u64::MAX };
        assert_eq!(Span::decode(&span.encode()), Some(span));
        assert_eq!(Span::decode(&span.encode()[..40]), None);
    }
}
