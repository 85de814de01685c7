//! A block that many hold, as a value: [`Hold`], which the typed handles wrap in an `Arc`.
//!
//! A process has one slot in the block's record, however many clones it has; a parcel has one of its own.
//!
//! # Send and receive
//!
//! 1. Pack: open a description of the arena, lock the token's byte through it; add the holder `Transit(token)` to the
//!    record: **the commit**. The descriptor moves into the parcel.
//! 2. Unpack: check that the slot says `Transit(token)`. Since the descriptor is here, it goes on doing so. Add this process
//!    as a holder: **the commit**; close the descriptor. If the lock is gone by that, clear the parcel's slot.
//!
//! Through a ring it goes without a descriptor (see `ring`): the message has a slot, which the receiver clears when it holds
//! the block itself.
//!
//! The slot of a parcel belongs to the lock, not to one receiver: copies of a parcel all bring the block.
//!
//! # When a process dies
//!
//! * The sender before 1: nothing. After it: as for a unique block, the lock tells. The receiver before 2: the lock is
//!   gone. After it: a holder that is dead, and a slot whose lock is gone.
//! * Slots of the dead and of lost parcels are cleared by a sweep, and by a sender before it adds another one.
#![expect(unsafe_code, reason = "a pointer into the arena crosses threads")]

use super::{
    arena::{Arena, Block, forks},
    holders::{self, COLUMNS, Records, Refused},
    ring::{incoming, outgoing},
    sweep,
    transit::{depart, is_under_way},
    word::{Life, Token, Word},
};
use crate::{Error, error::Cause};
use core::{ptr::NonNull, sync::atomic::Ordering};
use procession_parcel::{
    carrier::{self, offered},
    handle::Unique,
};
use procession_sys::crash_point;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Visitor},
    ser::Error as _,
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

/// This process's hold on a read-only block.
pub(crate) struct Hold {
    arena: Arc<Arena>,
    me: Life,
    forks: u32,
    record: u32,
    column: u32,
    start: NonNull<u8>,
    bytes: usize,
    /// Parcels whose slots this process has not cleared: those that it made, of which the last may not have left yet, and
    /// those that brought the block, whose sender may still have them.
    ways: Mutex<Vec<Way>>,
}

struct Way {
    column: u32,
    token: Token,
    fd: Unique,
}

// SAFETY: the block is only read, as what its wrapper says, which is `Send` and `Sync`; nobody writes to it any more.
unsafe impl Send for Hold {}
// SAFETY: as for `Send`.
unsafe impl Sync for Hold {}

/// What a parcel says of a block: record, column and token, how many elements, their size and alignment. Of fixed length,
/// since packing twice (to count, to write) may find different numbers where threads pack at once.
type Numbers = [[u8; 8]; 6];

#[derive(Serialize)]
struct Out<'a> {
    fd: &'a Unique,
    numbers: Numbers,
}

/// As it comes out of a parcel.
#[derive(Deserialize)]
struct In {
    #[serde(deserialize_with = "procession_parcel::handle::deserialize")]
    fd: OwnedFd,
    numbers: Numbers,
}

impl Hold {
    /// Of a record in whose first column this process is the only holder.
    pub(crate) fn first(
        arena: Arc<Arena>,
        me: Life,
        record: u32,
        start: NonNull<u8>,
        bytes: usize,
    ) -> Arc<Hold> {
        Hold { arena, me, forks: forks(), record, column: 0, start, bytes, ways: Mutex::default() }.known()
    }

    /// Remembers it, so that what comes in a parcel later finds it.
    fn known(self) -> Arc<Hold> {
        let hold = Arc::new(self);
        // The membership is there, so this cannot fail; if it did, there would be another holder later.
        let _ = hold.arena.cached(|cache, _| cache.holds.insert(hold.record, Arc::downgrade(&hold)));
        hold
    }

    /// The block's start and length.
    ///
    /// # Panics
    ///
    /// In a forked copy of the process.
    #[inline]
    pub(crate) fn bytes(&self) -> (NonNull<u8>, usize) {
        assert!(
            self.forks == forks(),
            "this block of a shared heap belongs to the process that this one was forked from"
        );
        (self.start, self.bytes)
    }

    /// The block's record.
    pub(crate) fn record(&self) -> u32 {
        self.record
    }

    /// Adds a holder to the block.
    pub(crate) fn add(&self, value: u64) -> Result<u32, Error> {
        let mine = || self.arena.slot(self.record, self.column).load(Ordering::Acquire) == self.me.owned();
        let add = || holders::add(&*self.arena, self.record, value, mine);
        let added = match add() {
            Err(Refused::Full) => {
                sweep::everything(&self.arena, self.me);
                add()
            }
            added => added,
        };
        added.map_err(|refused| refusal(&self.arena, refused))
    }

    /// Clears the slots of parcels that are no more, and takes those back that never left.
    fn tidy(&self, ways: &mut Vec<Way>) {
        ways.retain(|way| self.tidy_one(way));
    }

    /// Closes this process's descriptor of a parcel; tells whether the parcel still exists. If not, its slot is cleared.
    fn tidy_one(&self, way: &Way) -> bool {
        drop(way.fd.take());
        let exists = is_under_way(self.arena.as_fd(), way.token);
        if !exists {
            holders::clear(&*self.arena, self.record, way.column, way.token.transit());
        }
        exists
    }

    /// Puts the block into the parcel or message that is being packed, as `len` elements of that size and alignment.
    pub(crate) fn pack<S: Serializer>(
        self: &Arc<Hold>,
        len: usize,
        size: usize,
        align: usize,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        carrier::serialize(&Packing { hold: self, len, size, align }, serializer)
    }

    fn set_out(&self) -> Result<Way, Error> {
        let token = self.arena.token();
        let fd = depart(&self.arena, token)?;
        crash_point!("heap.hold.locked");
        let column = self.add(token.transit())?;
        crash_point!("heap.hold.transit");
        Ok(Way { column, token, fd: Unique::new(fd) })
    }
}

fn refusal(arena: &Arena, refused: Refused) -> Error {
    let what = match refused {
        Refused::Over => "it is not on its way any more".to_owned(),
        Refused::Full => format!("{} processes and parcels hold it, which is all that can", holders::COLUMNS),
    };
    Error::new("hold a block of", arena.name(), Cause::Invalid { what })
}

/// A block that is being packed.
struct Packing<'a> {
    hold: &'a Arc<Hold>,
    len: usize,
    size: usize,
    align: usize,
}

impl Serialize for Packing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let offered = offered();
        let fail = |why: &dyn core::fmt::Display| {
            S::Error::custom(format_args!("failed to pack a block of a shared heap: {why}"))
        };
        let Packing { hold, len, size, align } = *self;
        if hold.forks != forks() {
            return Err(fail(&"it belongs to the process that this one was forked from"));
        }
        let numbers = |column: u32, token: Token| {
            [hold.record.into(), column.into(), token.number(), len as u64, size as u64, align as u64]
                .map(u64::to_le_bytes)
        };
        if let Some(trip) = outgoing(offered, &hold.arena) {
            let (trip, _) = trip.map_err(|why| fail(&why))?;
            trip.hold(hold);
            // Its slot is made when the message departs: the receiver looks for it.
            return numbers(0, trip.token).serialize(serializer);
        }
        let mut ways = hold.ways.lock().unwrap_or_else(PoisonError::into_inner);
        // Packing counts first, then writes: what was made ready for the first is there for the second, and so is what
        // came back from a parcel that was dropped undelivered.
        if !ways.last().is_some_and(|way| way.fd.is_here()) {
            hold.tidy(&mut ways);
            ways.push(hold.set_out().map_err(|error| fail(&error))?);
        }
        let Some(Way { column, token, fd }) = ways.last() else { return Err(fail(&"it is gone")) };
        Out { fd, numbers: numbers(*column, *token) }.serialize(serializer)
    }
}

/// Holds a block that comes in a parcel or message, which must be of elements of that size and alignment, and a string if
/// `text` asks for that; gives how many elements it has.
pub(crate) fn unpack<'de, D: Deserializer<'de>>(
    size: usize,
    align: usize,
    text: bool,
    deserializer: D,
) -> Result<(Arc<Hold>, usize), D::Error> {
    struct Unpacking(Expected);
    impl<'de> Visitor<'de> for Unpacking {
        type Value = (Arc<Hold>, usize);
        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a read-only block of a shared heap")
        }
        fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<(Arc<Hold>, usize), D::Error> {
            let Unpacking(expected) = self;
            match incoming(offered()) {
                Some(inbox) => {
                    let numbers = Numbers::deserialize(d)?;
                    let message = inbox.core.message(Token::new(u64::from_le_bytes(numbers[2])));
                    let found = find(&inbox.core.arena, numbers, message).and_then(|(record, column)| {
                        let (hold, len) =
                            receive(&inbox.core.arena, record, column, message, numbers, expected)?;
                        inbox.clear_later(record, column, message);
                        Ok((hold, len))
                    });
                    found.map_err(D::Error::custom)
                }
                None => In::deserialize(d)?.receive(expected).map_err(D::Error::custom),
            }
        }
    }
    carrier::deserialize(Unpacking(Expected { size, align, text }), deserializer)
}

/// What the handle expects that unpacks a block.
#[derive(Clone, Copy)]
struct Expected {
    size: usize,
    align: usize,
    text: bool,
}

/// The slot of a message in the record that it names.
fn find(arena: &Arena, numbers: Numbers, message: u64) -> Result<(u32, u32), Error> {
    let record = u64::from_le_bytes(numbers[0]);
    let slot = |column| {
        let (record, column) = arena.slot_of(record, column)?;
        (arena.slot(record, column).load(Ordering::Acquire) == message).then_some((record, column))
    };
    let columns =
        arena.slot_of(record, 0).map(|(record, _)| Word::read(arena.record(record).load(Ordering::Acquire)));
    let Some(Word::Shared { columns }) = columns else { return Err(refusal(arena, Refused::Over)) };
    (0..columns.min(COLUMNS))
        .find_map(|column| slot(column.into()))
        .ok_or_else(|| refusal(arena, Refused::Over))
}

/// Holds the block of a record in which a slot says `coming`, as long as the caller sees to it that it goes on doing so.
fn receive(
    arena: &Arc<Arena>,
    record: u32,
    column: u32,
    coming: u64,
    numbers: Numbers,
    expected: Expected,
) -> Result<(Arc<Hold>, usize), Error> {
    let [_, _, _, count, found_size, found_align] = numbers.map(u64::from_le_bytes);
    let Expected { size, align, text } = expected;
    let fail = |what: String| Error::new("hold a block of", arena.name(), Cause::Invalid { what });
    if (found_size, found_align) != (size as u64, align as u64) {
        return Err(fail(format!(
            "it holds elements of {found_size} bytes aligned to {found_align}, expected {size} bytes aligned to \
             {align}"
        )));
    }
    let me = arena.me()?;
    let coming = || arena.slot(record, column).load(Ordering::Acquire) == coming;
    if !coming() {
        return Err(refusal(arena, Refused::Over));
    }
    crash_point!("heap.hold.attached");
    let known = arena.cached(|cache, _| cache.holds.get(&record).and_then(std::sync::Weak::upgrade))?;
    let hold = match known {
        Some(hold) => hold,
        None => {
            let mut added = holders::add(&**arena, record, me.owned(), coming);
            if added == Err(Refused::Full) {
                sweep::everything(arena, me);
                added = holders::add(&**arena, record, me.owned(), coming);
            }
            let mine = added.map_err(|refused| refusal(arena, refused))?;
            crash_point!("heap.hold.added");
            // From here on the record stays what it is.
            let about = arena.record_of(record);
            let block = Block::from_number(about.block.load(Ordering::Acquire));
            let bytes = usize::try_from(about.bytes.load(Ordering::Acquire)).unwrap_or(usize::MAX);
            let place = arena.extent(block).filter(|&(_, capacity)| bytes <= capacity);
            let (start, bytes) = match place {
                Some((offset, _)) => (arena.address(offset), bytes),
                // Damaged: an empty one, which is let go below.
                None => (arena.address(arena.shape().data), 0),
            };
            let forks = forks();
            let (arena, ways) = (arena.clone(), Mutex::default());
            Hold { arena, me, forks, record, column: mine, start, bytes, ways }.known()
        }
    };
    let len = usize::try_from(count).unwrap_or(usize::MAX);
    let fits = len.checked_mul(size) == Some(hold.bytes)
        && hold.start.as_ptr().addr().is_multiple_of(align)
        && (!text || arena.record_of(record).text.load(Ordering::Acquire) == 1);
    if !fits {
        return Err(fail(format!("it says that {len} elements lie where there is no such block")));
    }
    Ok((hold, len))
}

impl In {
    /// Holds the block of a parcel.
    fn receive(self, expected: Expected) -> Result<(Arc<Hold>, usize), Error> {
        let [record, column, token, ..] = self.numbers.map(u64::from_le_bytes);
        let arena = Arena::behind(self.fd.as_fd())?;
        let nowhere = || {
            let what = "it says that it lies where there is nothing".to_owned();
            Error::new("hold a block of", arena.name(), Cause::Invalid { what })
        };
        let (record, column) = arena.slot_of(record, column).ok_or_else(nowhere)?;
        let token = Token::new(token);
        if !is_under_way(arena.as_fd(), token) {
            return Err(refusal(&arena, Refused::Over));
        }
        let (hold, len) = receive(&arena, record, column, token.transit(), self.numbers, expected)?;
        let came = Way { column, token, fd: Unique::new(self.fd) };
        let mut ways = hold.ways.lock().unwrap_or_else(PoisonError::into_inner);
        hold.tidy_one(&came).then(|| ways.insert(0, came));
        drop(ways);
        Ok((hold, len))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.forks != forks() {
            return;
        }
        let mut ways = core::mem::take(self.ways.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.tidy(&mut ways);
        let this: *const Hold = self;
        let _ = self.arena.cached(|cache, _| {
            if cache.holds.get(&self.record).is_some_and(|other| other.as_ptr() == this) {
                cache.holds.remove(&self.record);
            }
        });
        holders::clear(&*self.arena, self.record, self.column, self.me.owned());
        if holders::end(&*self.arena, self.record, self.me.owned()) {
            crash_point!("heap.hold.ended");
            self.arena.finish(self.me, self.record);
        }
    }
}
