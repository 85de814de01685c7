//! The handles that users have: typed views of [`Owned`] and [`Hold`].
#![expect(unsafe_code, reason = "references into the arena")]

use super::{
    arena::Arena,
    hold::{self, Hold},
    unique::{self, Owned},
};
use crate::Error;
use core::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::sync::Arc;

/// What can lie in a shared heap: plain data without padding, of which every byte pattern is a value.
///
/// Whatever is `bytemuck::Pod` is, and so is every type with `bytemuck::AnyBitPattern` and `bytemuck::NoUninit`.
pub trait Plain: bytemuck::AnyBitPattern + bytemuck::NoUninit + Send + Sync {}

impl<T: bytemuck::AnyBitPattern + bytemuck::NoUninit + Send + Sync> Plain for T {}

/// Allocates, and writes `values`.
pub(crate) fn filled<T: Plain>(arena: &Arc<Arena>, values: &[T]) -> Result<Owned, Error> {
    let (mut owned, _) = Owned::new(arena, size_of_val(values), align_of::<T>())?;
    let start = owned.exclusive().cast::<T>().as_ptr();
    // SAFETY: the block is as long as `values`, aligned, this process's alone, and new, so that it does not overlap them.
    unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len()) };
    Ok(owned)
}

/// Allocates so many zero bytes.
pub(crate) fn zeroed(arena: &Arc<Arena>, bytes: usize, align: usize) -> Result<Owned, Error> {
    let (mut owned, clean) = Owned::new(arena, bytes, align)?;
    if !clean {
        // SAFETY: the block has that many bytes, and is this process's alone.
        unsafe { core::ptr::write_bytes(owned.exclusive().as_ptr(), 0, bytes) };
    }
    Ok(owned)
}

/// A value in a [shared heap](super::Heap), with one owner.
///
/// Dropping it frees the block. `&T` and `&mut T` are plain references into memory that no other process accesses
/// while this one owns it.
///
/// # Across processes
///
/// It goes to another process inside a parcel without a copy of the value, whatever its size, at the price of one
/// descriptor, and through a channel that was made on its heap without that. Packing moves it: from then on the one here is empty ([`is_here`](SharedBox::is_here)), and a second pack
/// fails. A parcel that is dropped undelivered gives it back; one that is lost frees it. Where a `&T` was given out
/// since the last `&mut`, the pack fails, since that `&T` may still be in use: [`moved`](SharedBox::moved) shows that it is
/// not.
///
/// # When a process dies
///
/// Its owner's death frees the block (with the next [sweep](super::Heap::sweep)); so does the loss of a parcel.
///
/// # Panics
///
/// Every access to the contents panics where the value was sent away, and in a forked copy of the process.
///
/// ```
/// use procession_shm::Heap;
///
/// let heap = Heap::new()?;
/// let mut point = heap.alloc([1.0, 2.0])?;
/// point[0] += 1.0;
/// assert_eq!(*point, [2.0, 2.0]);
/// # Ok::<(), procession_shm::Error>(())
/// ```
pub struct SharedBox<T: Plain> {
    pub(crate) owned: Owned,
    pub(crate) value: PhantomData<T>,
}

/// Elements in a [shared heap](super::Heap), with one owner. See [`SharedBox`] for what holds across processes.
///
/// Its length is fixed.
///
/// ```
/// use procession_parcel::Parcel;
/// use procession_shm::{Heap, SharedVec};
///
/// let heap = Heap::new()?;
/// let mut frame = heap.vec::<u8>(1920 * 1080)?;
/// frame.fill(7);
/// // In another process, the second line:
/// let parcel = Parcel::pack(&frame)?;
/// let frame: SharedVec<u8> = parcel.unpack()?;
/// assert!(frame.iter().all(|&byte| byte == 7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedVec<T: Plain> {
    pub(crate) owned: Owned,
    pub(crate) len: usize,
    pub(crate) elements: PhantomData<T>,
}

/// Elements in a [shared heap](super::Heap) that nobody can change any more, with any number of holders.
///
/// Made by [`SharedVec::freeze`] or [`SharedBox::freeze`]. Clones are cheap and stand for the same memory. It goes to
/// other processes inside parcels without a copy, at the price of one descriptor each, and stays here too. The
/// block is freed when the last holder, in any process, drops it or dies.
///
/// # Panics
///
/// Every access to the contents panics in a forked copy of the process: it holds nothing there.
///
/// ```
/// use procession_shm::Heap;
///
/// let heap = Heap::new()?;
/// let table = heap.vec_from(&[1_u32, 4, 9])?.freeze()?;
/// let another = table.clone();
/// assert_eq!((table[2], another.len()), (9, 3));
/// # Ok::<(), procession_shm::Error>(())
/// ```
pub struct SharedSlice<T: Plain> {
    hold: Arc<Hold>,
    len: usize,
    elements: PhantomData<T>,
}

/// A string in a [shared heap](super::Heap) that nobody can change, with any number of holders. See [`SharedSlice`].
///
/// ```
/// use procession_shm::Heap;
///
/// let heap = Heap::new()?;
/// let text = heap.str("known everywhere")?;
/// assert!(text.starts_with("known"));
/// # Ok::<(), procession_shm::Error>(())
/// ```
#[derive(Clone)]
pub struct SharedStr {
    bytes: SharedSlice<u8>,
}

impl<T: Plain> SharedBox<T> {
    /// Whether the value is here: not in a parcel, nor sent to another process.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.owned.is_here()
    }

    /// The same value, of which no reference can be in use, so that it can be packed.
    #[must_use]
    pub fn moved(mut self) -> Self {
        self.owned.unread();
        self
    }

    /// Makes it read-only for good, and shared.
    ///
    /// # Errors
    ///
    /// The value was sent away, or the heap has no place for another shared block. The value is freed then.
    pub fn freeze(self) -> Result<SharedSlice<T>, Error> {
        SharedSlice::over(self.owned, 1, false)
    }
}

impl<T: Plain> SharedVec<T> {
    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the elements are here: not in a parcel, nor sent to another process.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.owned.is_here()
    }

    /// The same elements, of which no reference can be in use, so that they can be packed.
    #[must_use]
    pub fn moved(mut self) -> Self {
        self.owned.unread();
        self
    }

    /// Makes them read-only for good, and shared.
    ///
    /// # Errors
    ///
    /// The elements were sent away, or the heap has no place for another shared block. They are freed then.
    pub fn freeze(self) -> Result<SharedSlice<T>, Error> {
        SharedSlice::over(self.owned, self.len, false)
    }
}

impl<T: Plain> SharedSlice<T> {
    pub(crate) fn over(owned: Owned, len: usize, text: bool) -> Result<SharedSlice<T>, Error> {
        let bytes = len * size_of::<T>();
        let (arena, me, record, start) = owned.freeze(bytes, text)?;
        Ok(SharedSlice { hold: Hold::first(arena, me, record, start, bytes), len, elements: PhantomData })
    }

    /// Whether both stand for the same memory.
    #[must_use]
    pub fn same(&self, other: &SharedSlice<T>) -> bool {
        self.hold.bytes() == other.hold.bytes()
    }
}

impl SharedStr {
    pub(crate) fn new(arena: &Arc<Arena>, text: &str) -> Result<SharedStr, Error> {
        let owned = filled(arena, text.as_bytes())?;
        Ok(SharedStr { bytes: SharedSlice::over(owned, text.len(), true)? })
    }
}

impl<T: Plain> Deref for SharedBox<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        let place = self.owned.shared().cast::<T>();
        // SAFETY: the block holds a `T`, aligned; any bytes are one (`Plain`). This process owns the block and nobody
        // else writes to it: as long as the reference lives no pack succeeds (see `unique`).
        unsafe { place.as_ref() }
    }
}

impl<T: Plain> DerefMut for SharedBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        let mut place = self.owned.exclusive().cast::<T>();
        // SAFETY: as for `deref`; `self` is borrowed as long as the reference lives, and is the only handle.
        unsafe { place.as_mut() }
    }
}

impl<T: Plain> Deref for SharedVec<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        let start = self.owned.shared().cast::<T>().as_ptr();
        // SAFETY: as for a box; the block holds `len` elements.
        unsafe { core::slice::from_raw_parts(start, self.len) }
    }
}

impl<T: Plain> DerefMut for SharedVec<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        let start = self.owned.exclusive().cast::<T>().as_ptr();
        // SAFETY: as for a box; the block holds `len` elements.
        unsafe { core::slice::from_raw_parts_mut(start, self.len) }
    }
}

impl<T: Plain> Deref for SharedSlice<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        let (start, _) = self.hold.bytes();
        // SAFETY: the block holds `len` elements, aligned; any bytes are such (`Plain`). It is held as long as `self`
        // lives, and of a held block nobody gives out a `&mut`.
        unsafe { core::slice::from_raw_parts(start.cast::<T>().as_ptr(), self.len) }
    }
}

impl Deref for SharedStr {
    type Target = str;
    #[inline]
    fn deref(&self) -> &str {
        // SAFETY: the block was made from a `str`: by this process, or its record says so, which a process of our tree
        // wrote that made it from one.
        unsafe { core::str::from_utf8_unchecked(&self.bytes) }
    }
}

impl<T: Plain> Clone for SharedSlice<T> {
    fn clone(&self) -> Self {
        SharedSlice { hold: self.hold.clone(), len: self.len, elements: PhantomData }
    }
}

/// Only inside a parcel or a message of a ring on its heap, and once: packing moves the value.
impl<T: Plain> Serialize for SharedBox<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.owned.pack(1, size_of::<T>(), align_of::<T>(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for SharedBox<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (owned, len) = unique::unpack(size_of::<T>(), align_of::<T>(), deserializer)?;
        if len != 1 {
            return Err(D::Error::custom(format_args!("a box holds one value, and this block {len}")));
        }
        Ok(SharedBox { owned, value: PhantomData })
    }
}

/// Only inside a parcel or a message of a ring on its heap, and once: packing moves the elements.
impl<T: Plain> Serialize for SharedVec<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.owned.pack(self.len, size_of::<T>(), align_of::<T>(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for SharedVec<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (owned, len) = unique::unpack(size_of::<T>(), align_of::<T>(), deserializer)?;
        Ok(SharedVec { owned, len, elements: PhantomData })
    }
}

/// Only inside a parcel or a message of a ring on its heap.
impl<T: Plain> Serialize for SharedSlice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.hold.pack(self.len, size_of::<T>(), align_of::<T>(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for SharedSlice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (hold, len) = hold::unpack(size_of::<T>(), align_of::<T>(), false, deserializer)?;
        Ok(SharedSlice { hold, len, elements: PhantomData })
    }
}

/// Only inside a parcel or a message of a ring on its heap.
impl Serialize for SharedStr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bytes.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedStr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (hold, len) = hold::unpack(1, 1, true, deserializer)?;
        Ok(SharedStr { bytes: SharedSlice { hold, len, elements: PhantomData } })
    }
}

impl<T: Plain> fmt::Debug for SharedBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a look at the value, which would count as a reference to it.
        f.debug_struct("SharedBox").field("is_here", &self.is_here()).finish_non_exhaustive()
    }
}

impl<T: Plain> fmt::Debug for SharedVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedVec")
            .field("len", &self.len)
            .field("is_here", &self.is_here())
            .finish_non_exhaustive()
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for SharedSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for SharedStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for SharedStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}
