//! A block that one process owns, as a value: [`Owned`], which the typed handles wrap.
//!
//! # Who may touch the bytes
//!
//! The block's word says `Owned` by this process from here on until a pack, so no other process touches it; within
//! the process the usual rules of Rust do the rest, since an [`Owned`] is the only one for its block.
//!
//! A pack sees `&self`, as serde demands, and after it another process may write. So no `&T` from before may be in use
//! then. The handle keeps note of it: a `&T` sets `READ`, a `&mut self` clears it (no `&T` can be left), and a pack swaps
//! the note from 0 to `PACKED`, or fails. From `PACKED` on there is no access until the block is back for certain.
//!
//! # Send and receive
//!
//! 1. Pack: open a description of the arena, lock the token's byte through it; swap the word from `Owned` to
//!    `Transit(token)`: **the commit**. The descriptor moves into the parcel.
//! 2. The handle is used again: if the descriptor is here (the pack failed, or the parcel was dropped undelivered), swap
//!    the word from `Transit(token)` back. Where that fails, a copy of the parcel was faster, and the block is gone.
//! 3. Unpack: check that the block is one, long enough, aligned, and its word `Transit(token)`; swap that to `Owned` by this
//!    process: **the commit**; close the descriptor.
//!
//! Through a ring it goes without a descriptor: see `ring`. The handle is closed as by a pack, and open again when the ring
//! says that the message came back.
//!
//! # When a process dies
//!
//! * The sender before 1: the block is owned by a dead process. After it, the parcel unsent: all descriptors are closed, the
//!   lock is gone. Sent: the lock lives in the socket's queue, or in the receiver.
//! * The receiver before 3, or a socket with the parcel in its queue is closed: the lock is gone. After 3: owned by a
//!   dead process.
//! * A sweep at the same time: it looks at the lock of the token that the word names. Whoever swaps the word at 2 or 3 has
//!   the lock until then, so that the sweep finds it held; and if it looked too late, its own swap fails.
//! * A forked copy of this process has the value, but not the block: every access panics there, and its drop does nothing.
//!   Its copies of a descriptor keep a lost parcel alive until it ends.
#![expect(unsafe_code, reason = "a pointer into the arena crosses threads")]

use super::{
    arena::{Arena, Block, forks},
    holders::Records,
    ring::{Trip, incoming, outgoing},
    transit::depart,
    word::{Life, Token},
};
use crate::{Error, error::Cause};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};
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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A `&T` may be in use.
const READ: u32 = 1;
/// A parcel may have the block.
const PACKED: u32 = 2;
/// The block is read-only, and no longer this value's.
const FROZEN: u32 = 3;

/// A block, and where this process has it.
pub(crate) struct Owned {
    pub(crate) arena: Arc<Arena>,
    pub(crate) me: Life,
    pub(crate) block: Block,
    start: NonNull<u8>,
    forks: u32,
    note: AtomicU32,
    /// The way that it is on, or was.
    way: Mutex<Option<Box<Way>>>,
}

enum Way {
    Parcel {
        token: Token,
        fd: Unique,
    },
    Ring(Arc<Trip>),
    /// Others work on it. See `lend`.
    Lent,
}

// SAFETY: the block is accessed by the rules for the value that the wrapper says is in it, which is `Send`.
unsafe impl Send for Owned {}
// SAFETY: as for `Send`; the wrapper's value is `Sync`.
unsafe impl Sync for Owned {}

/// What a parcel says of a block: its number, the token, how many elements, their size and alignment. Of fixed length, since
/// packing twice (to count, to write) may find different numbers where threads pack at once.
type Numbers = [[u8; 8]; 5];

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

impl Owned {
    /// A fresh block; tells whether it is known to be all zero.
    #[inline]
    pub(crate) fn new(arena: &Arc<Arena>, bytes: usize, align: usize) -> Result<(Owned, bool), Error> {
        let (block, clean) = arena.allocate(bytes, align)?;
        Ok((Owned::over(arena.clone(), arena.me()?, block), clean))
    }

    /// Of a block that this process owns.
    #[inline]
    fn over(arena: Arc<Arena>, me: Life, block: Block) -> Owned {
        // A block that is owned is one.
        let offset = arena.extent(block).map_or(0, |(offset, _)| offset);
        let start = arena.address(offset);
        let (note, way) = (AtomicU32::new(0), Mutex::new(None));
        Owned { arena, me, block, start, forks: forks(), note, way }
    }

    /// The block's start, for a `&T`.
    ///
    /// # Panics
    ///
    /// If the block is not here any more.
    #[inline]
    pub(crate) fn shared(&self) -> NonNull<u8> {
        if self.note.load(Ordering::Acquire) != READ || self.forks != forks() {
            self.note_read();
        }
        self.start
    }

    #[cold]
    fn note_read(&self) {
        self.assert_not_forked();
        while let Err(seen) = self.note.compare_exchange(0, READ, Ordering::AcqRel, Ordering::Acquire) {
            if seen == READ {
                return;
            }
            let mut way = self.way();
            if self.note.load(Ordering::Acquire) == PACKED {
                assert!(self.come_back(&mut way), "{GONE}");
            }
        }
    }

    /// The block's start, for a `&mut T`.
    ///
    /// # Panics
    ///
    /// If the block is not here any more.
    #[inline]
    pub(crate) fn exclusive(&mut self) -> NonNull<u8> {
        if *self.note.get_mut() == PACKED || self.forks != forks() {
            self.assert_not_forked();
            assert!(self.come_back(&mut self.way()), "{GONE}");
        }
        *self.note.get_mut() = 0;
        self.start
    }

    fn assert_not_forked(&self) {
        assert!(
            self.forks == forks(),
            "this block of a shared heap belongs to the process that this one was forked from"
        );
    }

    /// Whether the block is here.
    pub(crate) fn is_here(&self) -> bool {
        let mut way = self.way();
        self.forks == forks() && (self.note.load(Ordering::Acquire) != PACKED || self.come_back(&mut way))
    }

    fn way(&self) -> MutexGuard<'_, Option<Box<Way>>> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a block that was packed back, if its parcel was not delivered and no copy of it was. Under the lock of the
    /// way.
    fn come_back(&self, way: &mut Option<Box<Way>>) -> bool {
        let back = match way.as_deref() {
            None => return true,
            Some(Way::Ring(trip)) => trip.is_back(self.block),
            Some(Way::Lent) => return false,
            Some(Way::Parcel { token, fd }) => {
                let Some(fd) = fd.take() else { return false };
                let (transit, owned) = (token.transit(), self.me.owned());
                let owner = self.arena.owner(self.block);
                let back =
                    owner.compare_exchange(transit, owned, Ordering::AcqRel, Ordering::Relaxed).is_ok();
                crash_point!("heap.send.back");
                drop(fd);
                back
            }
        };
        if back {
            *way = None;
            self.note.store(0, Ordering::Release);
        }
        back
    }

    /// Puts the block into the parcel or message that is being packed, as `len` elements of that size and alignment.
    pub(crate) fn pack<S: Serializer>(
        &self,
        len: usize,
        size: usize,
        align: usize,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        carrier::serialize(&Packing { owned: self, len, size, align }, serializer)
    }

    /// Closes the handle, for a block that sets out.
    fn close(&self) -> Result<MutexGuard<'_, Option<Box<Way>>>, &'static str> {
        if self.forks != forks() {
            return Err("it belongs to the process that this one was forked from");
        }
        let way = self.way();
        match self.note.compare_exchange(0, PACKED, Ordering::AcqRel, Ordering::Acquire) {
            Err(READ) => {
                Err("a reference to it that was given out may still be in use: pass `value.moved()`, which \
                              shows that there is none")
            }
            _ => Ok(way),
        }
    }

    /// Sets out in a parcel: gives what that says of the block.
    fn pack_in_parcel<R>(
        &self,
        way: &mut Option<Box<Way>>,
        tell: impl FnOnce(&Unique, Token) -> R,
    ) -> Result<R, String> {
        if matches!(way.as_deref(), Some(Way::Ring(_))) && !self.come_back(way) {
            return Err(ONCE.to_owned());
        }
        self.note.store(PACKED, Ordering::Release);
        let way = match way {
            Some(way) => way,
            none => match self.set_out() {
                Ok(way) => none.insert(Box::new(way)),
                Err(error) => {
                    self.note.store(0, Ordering::Release);
                    return Err(error.to_string());
                }
            },
        };
        let Way::Parcel { token, fd } = &**way else { return Err(ONCE.to_owned()) };
        // Packing counts first, then writes: here for the second time, and after a parcel that was dropped undelivered,
        // the block still is on its way under the same token.
        let owner = self.arena.owner(self.block).load(Ordering::Acquire);
        if owner != token.transit() || !fd.is_here() {
            return Err(ONCE.to_owned());
        }
        Ok(tell(fd, *token))
    }

    /// Sets out in a message of a ring.
    fn pack_in_message(
        &self,
        way: &mut Option<Box<Way>>,
        trip: Result<(Arc<Trip>, bool), &'static str>,
    ) -> Result<Token, String> {
        let known =
            |trip: &Arc<Trip>| matches!(way.as_deref(), Some(Way::Ring(known)) if Arc::ptr_eq(known, trip));
        match trip {
            Ok((trip, writes)) if known(&trip) || self.come_back(way) => {
                self.note.store(PACKED, Ordering::Release);
                let token = trip.token;
                let alone = trip.take_along(self.block, self.me, writes);
                *way = Some(Box::new(Way::Ring(trip)));
                if alone { Ok(token) } else { Err(ONCE.to_owned()) }
            }
            Ok(_) => Err(ONCE.to_owned()),
            Err(why) => {
                self.come_back(way).then(|| self.note.store(0, Ordering::Release));
                Err(why.to_owned())
            }
        }
    }

    fn set_out(&self) -> Result<Way, Error> {
        let token = self.arena.token();
        let fd = depart(&self.arena, token)?;
        crash_point!("heap.send.locked");
        let owner = self.arena.owner(self.block);
        let ours =
            owner.compare_exchange(self.me.owned(), token.transit(), Ordering::AcqRel, Ordering::Relaxed);
        debug_assert!(ours.is_ok(), "a block of this process");
        crash_point!("heap.send.transit");
        Ok(Way::Parcel { token, fd: Unique::new(fd) })
    }

    /// Takes the block over to read-only: gives its arena, record and start.
    pub(crate) fn freeze(
        mut self,
        bytes: usize,
        text: bool,
    ) -> Result<(Arc<Arena>, Life, u32, NonNull<u8>), Error> {
        if self.forks != forks() || !self.is_here() {
            let what = GONE.to_owned();
            return Err(Error::new("share a block of", self.arena.name(), Cause::Invalid { what }));
        }
        let start = self.exclusive();
        let record = self.arena.share(self.me, self.block, bytes, text)?;
        *self.note.get_mut() = FROZEN;
        Ok((self.arena.clone(), self.me, record, start))
    }

    /// Whether this is a forked copy of the owner's handle.
    pub(super) fn is_forked(&self) -> bool {
        self.forks != forks()
    }

    /// Closes the handle, and swaps the block's word to `message`; false if the block is not here. `&mut self` shows that no
    /// reference to the contents is in use.
    pub(super) fn lend(&mut self, message: u64) -> bool {
        if !self.is_here() {
            return false;
        }
        let (word, owned) = (self.arena.owner(self.block), self.me.owned());
        let lent = word.compare_exchange(owned, message, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if lent {
            *self.note.get_mut() = PACKED;
            *self.way() = Some(Box::new(Way::Lent));
        }
        lent
    }

    /// Swaps the word back, and opens the handle, if the block is lent as `message`.
    pub(super) fn take_back(&mut self, message: u64) {
        let (word, owned) = (self.arena.owner(self.block), self.me.owned());
        if self.forks == forks()
            && word.compare_exchange(message, owned, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            *self.way() = None;
            *self.note.get_mut() = 0;
        }
    }

    /// Says that no reference to the contents is in use, which `self` proves.
    pub(crate) fn unread(&mut self) {
        if *self.note.get_mut() == READ {
            *self.note.get_mut() = 0;
        }
    }
}

const GONE: &str = "this block of a shared heap was sent to another process";
const ONCE: &str = "it can be sent only once, and has been packed already";

/// A block that is being packed.
struct Packing<'a> {
    owned: &'a Owned,
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
        let Packing { owned, len, size, align } = *self;
        let numbers = |token: Token| {
            [owned.block.number(), token.number(), len as u64, size as u64, align as u64]
                .map(u64::to_le_bytes)
        };
        let mut way = owned.close().map_err(|why| fail(&why))?;
        match outgoing(offered, &owned.arena) {
            Some(trip) => {
                let token = owned.pack_in_message(&mut way, trip).map_err(|why| fail(&why))?;
                numbers(token).serialize(serializer)
            }
            None => owned
                .pack_in_parcel(&mut way, |fd, token| {
                    Out { fd, numbers: numbers(token) }.serialize(serializer)
                })
                .map_err(|why| fail(&why))?,
        }
    }
}

/// Takes a block over that comes in a parcel or message, which must hold elements of that size and alignment; gives how
/// many.
pub(crate) fn unpack<'de, D: Deserializer<'de>>(
    size: usize,
    align: usize,
    deserializer: D,
) -> Result<(Owned, usize), D::Error> {
    struct Unpacking(usize, usize);
    impl<'de> Visitor<'de> for Unpacking {
        type Value = (Owned, usize);
        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("a block of a shared heap")
        }
        fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<(Owned, usize), D::Error> {
            let Unpacking(size, align) = self;
            match incoming(offered()) {
                Some(inbox) => {
                    let numbers = Numbers::deserialize(d)?;
                    let message = inbox.core.message(Token::new(u64::from_le_bytes(numbers[1])));
                    receive(&inbox.core.arena, message, numbers, size, align)
                }
                None => {
                    let In { fd, numbers } = In::deserialize(d)?;
                    let transit = Token::new(u64::from_le_bytes(numbers[1])).transit();
                    Arena::behind(fd.as_fd()).and_then(|arena| receive(&arena, transit, numbers, size, align))
                }
            }
            .map_err(D::Error::custom)
        }
    }
    carrier::deserialize(Unpacking(size, align), deserializer)
}

/// Takes a block over whose word says `from`.
fn receive(
    arena: &Arc<Arena>,
    from: u64,
    numbers: Numbers,
    size: usize,
    align: usize,
) -> Result<(Owned, usize), Error> {
    const RECEIVE: &str = "receive a block of";
    let [number, _, count, found_size, found_align] = numbers.map(u64::from_le_bytes);
    let fail = |what: String| Error::new(RECEIVE, arena.name(), Cause::Invalid { what });
    if (found_size, found_align) != (size as u64, align as u64) {
        return Err(fail(format!(
            "it holds elements of {found_size} bytes aligned to {found_align}, expected {size} bytes aligned to \
             {align}"
        )));
    }
    let block = Block::from_number(number);
    let nowhere = || fail(format!("it says that {count} elements lie where there is no such block"));
    arena.extent(block).ok_or_else(nowhere)?;
    let me = arena.me()?;
    crash_point!("heap.receive.attached");
    arena.owner(block).compare_exchange(from, me.owned(), Ordering::AcqRel, Ordering::Relaxed).map_err(
        |_| fail("it is not on its way any more: another copy of the parcel brought it".to_owned()),
    )?;
    crash_point!("heap.receive.owned");
    // From here on the block stays what it is; if it is too small it is dropped.
    let owned = Owned::over(arena.clone(), me, block);
    let len = usize::try_from(count).unwrap_or(usize::MAX);
    let fits = arena.extent(block).is_some_and(|(_, capacity)| {
        len.checked_mul(size).is_some_and(|bytes| bytes <= capacity)
            && owned.start.as_ptr().addr().is_multiple_of(align)
    });
    if fits { Ok((owned, len)) } else { Err(nowhere()) }
}

impl Drop for Owned {
    #[inline]
    fn drop(&mut self) {
        if self.forks != forks() || *self.note.get_mut() == FROZEN {
            return;
        }
        if *self.note.get_mut() == PACKED && !self.come_back(&mut self.way()) {
            return;
        }
        self.arena.free(self.me, self.block);
    }
}
