//! Descriptors inside values.
//!
//! A type that holds a descriptor implements `Serialize` with [`serialize`] and `Deserialize` with
//! [`deserialize`]. In a parcel, the descriptor is put into the parcel's table and its index into the bytes.
//! With any other format, and in a ring, both give an error that says so.
//!
//! ```
//! use procession_parcel::{Parcel, handle};
//! use serde::{Deserialize, Deserializer, Serialize, Serializer};
//! use std::os::fd::{AsFd, OwnedFd};
//!
//! struct Log(OwnedFd);
//!
//! impl Serialize for Log {
//!     fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
//!         handle::serialize(self.0.as_fd(), s)
//!     }
//! }
//! impl<'de> Deserialize<'de> for Log {
//!     fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Log, D::Error> {
//!         handle::deserialize(d).map(Log)
//!     }
//! }
//!
//! let log = Log(std::fs::File::open("/dev/null")?.into());
//! let parcel = Parcel::pack(&("start", &log))?;
//! assert_eq!(parcel.fds().len(), 1);
//! let (word, log): (String, Log) = parcel.unpack()?;
//! # assert_eq!(word, "start"); drop(log);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a descriptor gets past serde
//! serde's interface has no place for one, so it is laid down in a thread-local for the length of one call:
//! by [`serialize`] for our serialiser, which is called by a name that no other one knows, and the other way
//! round. Nothing stays open while other code runs, so packing may nest at will.
#![expect(unsafe_code, reason = "borrows a descriptor whose lender is further up the call stack")]

use crate::codec::Fault;
use rustix::io::fcntl_dupfd_cloexec;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The name by which our (de)serialiser knows a handle.
pub(crate) const MARK: &str = "procession_parcel::handle";
/// The name of one that others in the parcel may have as well.
pub(crate) const MARK_SHARED: &str = "procession_parcel::shared_handle";

const NO_PARCEL_OUT: &str = "a handle (it holds a file descriptor) can only be packed into a parcel: pass it \
                             as an argument of a process, to a pool's initialiser, or through a Pipe";
const NO_PARCEL_IN: &str = "a handle (it holds a file descriptor) can only be unpacked from a parcel: receive \
                            it as an argument of a process";

enum Offer {
    Borrowed(RawFd),
    /// One that may be in the parcel already, as what this key stands for.
    Shared(RawFd, Object),
    /// One of an inner parcel's, and that parcel's marks of delivery.
    Lent(RawFd, Vec<Delivered>),
    Unique(Arc<Cell1>),
}

/// What a descriptor stands for: device and inode.
type Object = (u64, u64);

/// The place of a descriptor that may be packed once.
type Cell1 = Mutex<Option<OwnedFd>>;

thread_local! {
    static OFFER: Cell<Option<Offer>> = const { Cell::new(None) };
    static GIVEN: Cell<Option<OwnedFd>> = const { Cell::new(None) };
}

/// Puts a duplicate of `fd` into the parcel being packed, close-on-exec, and its index into the bytes.
///
/// # Errors
/// The serialiser's, if it packs no parcel, or if this process has no descriptor left.
pub fn serialize<S: Serializer>(fd: BorrowedFd<'_>, s: S) -> Result<S::Ok, S::Error> {
    offer(Offer::Borrowed(fd.as_raw_fd()), MARK, s)
}

/// As [`serialize`], but values that stand for one object share one descriptor in the parcel: thousands of locks in one
/// segment cost one. `object` is its device and inode.
///
/// It is read by [`deserialize_shared`] only.
///
/// # Errors
/// As [`serialize`].
pub fn serialize_shared<S: Serializer>(
    fd: BorrowedFd<'_>,
    object: (u64, u64),
    s: S,
) -> Result<S::Ok, S::Error> {
    offer(Offer::Shared(fd.as_raw_fd(), object), MARK_SHARED, s)
}

/// Moves the descriptor of `unique` into the parcel being packed, and puts its index into the bytes.
///
/// # Errors
/// The serialiser's, if it packs no parcel, or the descriptor has been packed before.
pub fn serialize_owned<S: Serializer>(unique: &Unique, s: S) -> Result<S::Ok, S::Error> {
    offer(Offer::Unique(unique.cell.clone()), MARK, s)
}

fn offer<S: Serializer>(offer: Offer, mark: &'static str, s: S) -> Result<S::Ok, S::Error> {
    struct Withdraw;
    impl Drop for Withdraw {
        fn drop(&mut self) {
            OFFER.set(None);
        }
    }
    let withdraw = Withdraw;
    OFFER.set(Some(offer));
    let result = s.serialize_newtype_struct(mark, &Stray);
    drop(withdraw);
    result
}

/// What another format's serialiser is given: an error.
struct Stray;

impl Serialize for Stray {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom(NO_PARCEL_OUT))
    }
}

/// Takes a descriptor out of the parcel being unpacked; each can be taken once.
///
/// # Errors
/// The deserialiser's, if it unpacks no parcel, or the bytes name a descriptor that the parcel does not hold.
pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<OwnedFd, D::Error> {
    take(MARK, d)
}

/// A duplicate of a descriptor that [`serialize_shared`] put into the parcel being unpacked.
///
/// # Errors
/// As [`deserialize`]; and if this process has no descriptor left.
pub fn deserialize_shared<'de, D: Deserializer<'de>>(d: D) -> Result<OwnedFd, D::Error> {
    take(MARK_SHARED, d)
}

fn take<'de, D: Deserializer<'de>>(mark: &'static str, d: D) -> Result<OwnedFd, D::Error> {
    struct Take;
    impl<'de> Visitor<'de> for Take {
        type Value = OwnedFd;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a handle in a parcel")
        }
        fn visit_unit<E: serde::de::Error>(self) -> Result<OwnedFd, E> {
            GIVEN.take().ok_or_else(|| E::custom(NO_PARCEL_IN))
        }
        fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<OwnedFd, D::Error> {
            Err(D::Error::custom(NO_PARCEL_IN))
        }
        fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<OwnedFd, E> {
            Err(E::custom(NO_PARCEL_IN))
        }
    }
    drop(GIVEN.take());
    d.deserialize_newtype_struct(mark, Take)
}

/// The descriptors of a parcel being packed.
#[derive(Default)]
pub(crate) struct Outgoing {
    next: u32,
    /// Those of [`serialize_shared`] in this pass, by object.
    shared: BTreeMap<Object, u32>,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) returns: Returns,
    /// Why a descriptor could not be duplicated, for the error's predicates.
    pub(crate) failed: Option<io::Error>,
}

impl Outgoing {
    pub(crate) fn second_pass(&mut self) {
        self.next = 0;
        self.shared.clear();
    }
}

/// Called by our serialiser: takes what [`offer`] laid down, and gives its index.
pub(crate) fn take_offer(handles: Option<&mut Outgoing>, moves: bool) -> Result<u32, Fault> {
    let offer = OFFER.take().ok_or_else(|| Fault::new("a type misuses the name that marks handles"))?;
    let handles = handles.ok_or_else(|| Fault::new(NO_PARCEL_OUT))?;
    if let Offer::Shared(_, object) = offer {
        if let Some(&index) = handles.shared.get(&object) {
            return Ok(index);
        }
        handles.shared.insert(object, handles.next);
    }
    match offer {
        // Only counted in the first pass.
        Offer::Borrowed(_) | Offer::Shared(..) | Offer::Lent(..) if !moves => {}
        Offer::Borrowed(raw) | Offer::Shared(raw, _) => {
            // SAFETY: `offer`'s caller laid down this number in this very call, and borrows its descriptor until we
            // return to it; a number is taken once and withdrawn when `offer` returns.
            let fd = unsafe { BorrowedFd::borrow_raw(raw) };
            let copy = duplicate(fd, &mut handles.failed)?;
            handles.fds.push(copy);
        }
        Offer::Lent(raw, marks) => {
            // SAFETY: as above.
            let fd = unsafe { BorrowedFd::borrow_raw(raw) };
            let copy = duplicate(fd, &mut handles.failed)?;
            handles.fds.push(copy);
            handles.returns.others.extend(marks);
        }
        Offer::Unique(cell) => {
            let mut place = cell.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(fd) = place.take() else {
                return Err(Fault::new("it can be sent only once, and has been packed already"));
            };
            if !moves {
                *place = Some(fd);
            } else {
                match duplicate(fd.as_fd(), &mut handles.failed) {
                    Ok(copy) => handles.fds.push(copy),
                    Err(fault) => {
                        *place = Some(fd);
                        return Err(fault);
                    }
                }
                drop(place);
                handles.returns.hold(cell, fd);
            }
        }
    }
    let index = handles.next;
    handles.next += 1;
    Ok(index)
}

fn duplicate(fd: BorrowedFd<'_>, failed: &mut Option<io::Error>) -> Result<OwnedFd, Fault> {
    fcntl_dupfd_cloexec(fd, 3).map_err(|errno| {
        *failed = Some(errno.into());
        Fault::text(format!("its descriptor could not be duplicated: {errno}"))
    })
}

/// Whether a parcel, or a copy of it, reached its receiver.
type Delivered = Arc<AtomicBool>;

/// Descriptors that go back to their [`Unique`] if the parcel is dropped undelivered.
#[derive(Default)]
pub(crate) struct Returns {
    held: Vec<(Arc<Cell1>, OwnedFd)>,
    /// Set together with the first of `held`.
    own: Option<Delivered>,
    /// The marks of the parcels that this one is a copy of, or holds: what reaches its receiver here did so there.
    others: Vec<Delivered>,
}

impl Returns {
    fn hold(&mut self, cell: Arc<Cell1>, fd: OwnedFd) {
        self.own.get_or_insert_default();
        self.held.push((cell, fd));
    }

    fn marks(&self) -> impl Iterator<Item = &Delivered> {
        self.own.iter().chain(&self.others)
    }

    pub(crate) fn delivered(&self) {
        // Where one thread delivers what another one drops at the same time, the handle itself must tell which of
        // its copies counts.
        self.marks().for_each(|mark| mark.store(true, Ordering::Relaxed));
    }

    /// For a copy of the parcel: it holds nothing, and its delivery is the original's.
    pub(crate) fn of_a_copy(&self) -> Returns {
        Returns { held: Vec::new(), own: None, others: self.marks().cloned().collect() }
    }
}

impl Drop for Returns {
    fn drop(&mut self) {
        if self.own.as_ref().is_some_and(|own| !own.load(Ordering::Relaxed)) {
            for (cell, fd) in self.held.drain(..) {
                *cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(fd);
            }
        }
    }
}

/// The descriptors of a parcel being unpacked.
pub(crate) struct Incoming {
    fds: Vec<Place>,
    left: usize,
}

struct Place {
    fd: Option<OwnedFd>,
    /// Whether the value has named it.
    named: bool,
}

impl Incoming {
    pub(crate) fn new(fds: Vec<OwnedFd>) -> Incoming {
        Incoming {
            left: fds.len(),
            fds: fds.into_iter().map(|fd| Place { fd: Some(fd), named: false }).collect(),
        }
    }

    pub(crate) fn left(&self) -> usize {
        self.left
    }
}

/// Called by our deserialiser: lays down descriptor `index`, or a duplicate of it if it is shared, while `visit` runs.
pub(crate) fn give<T>(
    handles: Option<&mut Incoming>,
    index: u32,
    shared: bool,
    visit: impl FnOnce() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let handles = handles.ok_or_else(|| Fault::new(NO_PARCEL_IN))?;
    let count = handles.fds.len();
    let missing =
        || Fault::text(format!("it names descriptor {index} of {count}, which is missing or already taken"));
    let place = handles.fds.get_mut(index as usize).ok_or_else(missing)?;
    let fd = if shared {
        let fd = place.fd.as_ref().ok_or_else(missing)?;
        duplicate(fd.as_fd(), &mut None)?
    } else {
        place.fd.take().ok_or_else(missing)?
    };
    if !core::mem::replace(&mut place.named, true) {
        handles.left -= 1;
    }
    GIVEN.set(Some(fd));
    let result = visit();
    drop(GIVEN.take());
    result
}

/// A descriptor that must have one owner: packing moves it, and it can be packed once.
///
/// A pack that fails leaves it here, and a parcel that is dropped undelivered brings it back: one of which neither a
/// copy ([`Parcel::try_clone`](crate::Parcel::try_clone)) nor a parcel around it was delivered. A copy of the parcel
/// may still be about, and hold a duplicate of the descriptor: where there must be one owner of what is behind it,
/// that must keep count of the owners itself, as the ends of lanes do.
pub struct Unique {
    cell: Arc<Cell1>,
}

impl Unique {
    /// Takes the descriptor in.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Unique {
        Unique { cell: Arc::new(Mutex::new(Some(fd))) }
    }

    /// Whether the descriptor is still here.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A duplicate of the descriptor, if it is still here.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        let place = self.cell.lock().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Takes the descriptor out, if it is still here.
    #[must_use]
    pub fn take(&self) -> Option<OwnedFd> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Unique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unique").field("is_here", &self.is_here()).finish()
    }
}

impl Serialize for Unique {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serialize_owned(self, s)
    }
}

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Unique, D::Error> {
        deserialize(d).map(Unique::new)
    }
}

/// A descriptor of an inner parcel, which is delivered with the one around it.
pub(crate) struct Lent<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) returns: &'a Returns,
}

impl Serialize for Lent<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        offer(Offer::Lent(self.fd.as_raw_fd(), self.returns.marks().cloned().collect()), MARK, s)
    }
}

/// A borrowed descriptor as a value, for `Serialize` implementations with several.
#[derive(Clone, Copy, Debug)]
pub struct Borrowed<'a>(pub BorrowedFd<'a>);

impl Serialize for Borrowed<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serialize(self.0, s)
    }
}
