//! Data in shared memory: what [`Value`](crate::Value), [`Array`](crate::Array) and their raw forms have in common.
//!
//! # Layout
//!
//! A slot holds words, then elements of one type. Small ones lie among other primitives; what is larger than [`SMALL`]
//! has a segment of its own.
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `element` | size of an element (lower half), hash of form, type name and alignment (upper half) | the maker, once |
//! | `len` | how many elements follow | the maker, once |
//!
//! Both are compared with what the receiver expects when it attaches, and are not looked at again: what a process
//! relies on later is its own copy of the length.
//!
//! # Why references into it are sound
//!
//! 1. *Bits.* Elements are `bytemuck::Pod`: any bytes are a valid value, and none is padding. So whatever a process
//!    left behind that died in the middle of a write is a value, if not a meaningful one.
//! 2. *Aliasing.* A reference to elements is made only by who excludes all others: under the lock in front of them
//!    ([`Value`](crate::Value), [`Array`](crate::Array)), or by the owner of a range ([`ArrayPart`](crate::ArrayPart)).
//!    The raw forms give out atomics and nothing else.
//! 3. *Ordering.* The lock's hand-over, and that of a range, order the last owner's writes before the next one's reads.
//! 4. *Lifetime.* The elements lie within the segment, which is sealed against shrinking, and stay mapped as long as a
//!    handle lives.
//!
//! A process of our tree is trusted to keep to this: one that writes to a segment without the lock breaks the second
//! point, as it could with `unsafe` in a thread. See `ARCHITECTURE.md` for whom we trust.
#![expect(unsafe_code, reason = "elements are reached through pointers into a mapping")]

use crate::{
    Error,
    arena::{Handle, Shared, Tag},
    error::Cause,
    mutex::LockWords,
};
use bytemuck::Pod;
use core::{
    any::type_name,
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};
use procession_shm::Segment;
use serde::{Deserializer, Serialize, Serializer, de::Error as _};

/// Up to that many bytes lie in a slot among others. A segment of its own costs a descriptor and three pages.
const SMALL: usize = 8 << 10;

/// What the elements are, and how many.
#[repr(C)]
pub(crate) struct Shape {
    element: AtomicU64,
    len: AtomicU64,
}

/// Words in front of elements.
pub(crate) trait Shaped: Shared {
    fn shape(&self) -> &Shape;
}

/// In front of data under a lock.
#[repr(C)]
pub(crate) struct DataWords {
    pub(crate) lock: LockWords,
    shape: Shape,
    /// How many parts of an array were given out and not yet given back. See [`part`](crate::part).
    pub(crate) out: AtomicU64,
}

// SAFETY: `repr(C)`; starts with a lock's words, which start with a tag; the rest is atomics.
unsafe impl Shared for DataWords {
    const KIND: u16 = 10;
    const NAME: &'static str = "a Value or Array";

    fn init(&self) -> Result<(), std::io::Error> {
        self.lock.init()
    }

    fn in_use(&self) -> bool {
        self.lock.in_use()
    }
}

impl Shaped for DataWords {
    fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// In front of data without a lock.
#[repr(C)]
pub(crate) struct RawWords {
    tag: Tag,
    shape: Shape,
}

// SAFETY: `repr(C)` with a tag in front; atomics.
unsafe impl Shared for RawWords {
    const KIND: u16 = 11;
    const NAME: &'static str = "a RawValue or RawArray";
}

impl Shaped for RawWords {
    fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// One element or a row of them. They are not taken for each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    One,
    Row,
}

impl Form {
    /// What `element` says for elements of type `T`.
    fn element<T>(self) -> u64 {
        let align = align_of::<T>().to_le_bytes();
        let facts = [self as u8].into_iter().chain(align).chain(type_name::<T>().bytes());
        // FNV-1a.
        let hash =
            facts.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        u64::from(hash) << 32 | (size_of::<T>() as u64 & 0xffff_ffff)
    }

    /// Where the elements start. A row starts on a cache line of its own; one element shares its lock's.
    fn offset<W, T>(self) -> usize {
        size_of::<W>().next_multiple_of(if self == Form::Row { 128 } else { align_of::<T>() })
    }
}

/// Elements behind words `W`, as this process knows them.
pub(crate) struct Body<W, T> {
    handle: Handle<W>,
    start: NonNull<T>,
    len: usize,
    form: Form,
    elements: PhantomData<fn() -> T>,
}

impl<W, T> Clone for Body<W, T> {
    fn clone(&self) -> Self {
        let Body { start, len, form, elements, .. } = *self;
        Body { handle: self.handle.clone(), start, len, form, elements }
    }
}

// SAFETY: the elements are in shared memory, mapped in all threads; who reaches them, and how, is decided by the types
// around this one. Values of `T` move between threads by them.
unsafe impl<W: Shared, T: Send> Send for Body<W, T> {}
// SAFETY: as for `Send`; nothing here gives out a reference to an element.
unsafe impl<W: Shared, T: Send> Sync for Body<W, T> {}

impl<W: Shaped, T> Body<W, T> {
    /// `len` elements whose bytes are zero.
    pub(crate) fn new(form: Form, len: usize, huge: bool) -> Result<Body<W, T>, Error> {
        const { assert!(size_of::<T>() > 0, "elements in shared memory need a size") };
        const { assert!(size_of::<T>() <= u32::MAX as usize, "an element is smaller than 4 GiB") };
        const { assert!(align_of::<T>() <= 128, "elements in shared memory are aligned to 128 bytes at most") };
        let before = form.offset::<W, T>() - size_of::<W>();
        // What is too large for a number is too large for the address space, and refused as such.
        let bytes = len.saturating_mul(size_of::<T>());
        let extra = bytes.saturating_add(before);
        let handle: Handle<W> = if bytes <= SMALL && !huge {
            Handle::new(extra, |words: &W| Self::set(words, form, len))?
        } else {
            let handle = Handle::alone(extra)?;
            Self::set(handle.words(), form, len);
            handle
        };
        if huge {
            handle.place().segment().advise_huge_pages();
        }
        Ok(Body::of(handle, form, len))
    }

    fn set(words: &W, form: Form, len: usize) {
        words.shape().element.store(form.element::<T>(), Ordering::Relaxed);
        words.shape().len.store(len as u64, Ordering::Relaxed);
    }

    fn of(handle: Handle<W>, form: Form, len: usize) -> Body<W, T> {
        // SAFETY: the slot has room for `len` elements from there on: it was made so, or that was checked.
        let start = unsafe { handle.start().add(form.offset::<W, T>()) }.cast();
        Body { handle, start, len, form, elements: PhantomData }
    }

    /// What came in a parcel: is it elements of this type, and are as many there as it says?
    fn attach(handle: Handle<W>, form: Form) -> Result<Body<W, T>, Error> {
        let fail = |what| Error::new("attach", W::NAME, Cause::Differs { what });
        let shape = handle.words().shape();
        let (element, expected) = (shape.element.load(Ordering::Relaxed), form.element::<T>());
        if element != expected {
            let (size, found) = (size_of::<T>(), element as u32);
            let name = type_name::<T>();
            return Err(fail(format!(
                "it does not hold what is expected, `{name}` of {size} bytes, but another type, of {found} bytes"
            )));
        }
        let len = shape.len.load(Ordering::Relaxed);
        let room = handle.room().saturating_sub(form.offset::<W, T>());
        let len = usize::try_from(len)
            .ok()
            .filter(|len| len.checked_mul(size_of::<T>()).is_some_and(|bytes| bytes <= room))
            .filter(|&len| form == Form::Row || len == 1)
            .ok_or_else(|| {
                fail(format!("its length is said to be {len}, and there is room for {room} bytes"))
            })?;
        Ok(Body::of(handle, form, len))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        form: Form,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let handle = serde::Deserialize::deserialize(deserializer)?;
        Body::attach(handle, form).map_err(D::Error::custom)
    }
}

impl<W, T> Body<W, T> {
    #[inline]
    pub(crate) fn handle(&self) -> &Handle<W> {
        &self.handle
    }

    #[inline]
    pub(crate) fn words(&self) -> &W {
        self.handle.words()
    }

    /// The first element. Good for [`len`](Body::len) elements, as long as a clone of this lives.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<T> {
        self.start
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn segment(&self) -> &Segment {
        self.handle.place().segment()
    }

    /// Where the first element lies in the segment's payload.
    pub(crate) fn offset(&self) -> usize {
        self.handle.place().offset() + self.form.offset::<W, T>()
    }
}

impl<W, T: Pod> Body<W, T> {
    /// Fills one that nobody else knows yet.
    pub(crate) fn fill(&self, elements: &[T]) {
        assert_eq!(elements.len(), self.len, "as many elements as there are places");
        // SAFETY: there is room for `len` elements, and other memory than this process's own slices is there; the
        // caller has the only handle.
        unsafe { self.start.as_ptr().copy_from_nonoverlapping(elements.as_ptr(), elements.len()) };
    }
}

impl<W, T> Serialize for Body<W, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.handle.serialize(serializer)
    }
}
