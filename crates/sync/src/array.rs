//! [`Array`]: a row of elements under a lock.
//!
//! Words, protocol and the argument for its soundness: [`data`](crate::data); the lock: [`lock`](crate::lock); parts that
//! have owners: [`part`](crate::part).
//!
//! # When a process dies
//!
//! As for [`value`](crate::value).
#![expect(unsafe_code, reason = "references to the elements, under their lock")]

mod held;

use crate::{
    ArrayPart, CopyError, Deadline, Error, Lock, LockError, LockGuard, PartError, Poison,
    data::{Body, DataWords, Form},
    error::PoisonError,
    mutex::Guarded as _,
    part::{self, Whole},
};
use bytemuck::Pod;
use core::{
    fmt,
    ops::{Deref, DerefMut, Range},
    slice,
    sync::atomic::Ordering,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    time::Duration,
};

/// A row of elements that processes share, under a lock.
///
/// The length is fixed. Clones stand for the same array; they go to other processes inside parcels. What may be an
/// element, and Python's type codes: see [`Value`](crate::Value). [`RawArray`](crate::RawArray) is one of atomics,
/// without a lock.
///
/// ```
/// use procession_sync::Array;
///
/// let array = Array::from_slice(&[1_i32, 2, 3])?;
/// {
///     let mut elements = array.lock().map_err(|error| error.without_guard())?;
///     elements[1] += 40;
///     elements.sort_by(|a, b| b.cmp(a));
/// }
/// assert_eq!(array.to_vec()?, [42, 3, 1]);
/// assert_eq!(array.get(0)?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Memory
///
/// Up to 8 KiB lie in memory with other primitives; a larger array has a segment, and so a descriptor, of its own. That
/// is sparse: an array of many gigabytes takes memory only where it was written. A lack of memory shows at the first
/// touch, as SIGBUS or the OOM killer.
///
/// # Parts with owners
///
/// One lock for all elements lets one process work at a time. [`chunks_mut`](Array::chunks_mut) cuts an array into
/// parts, each of which one process has for itself and reaches without any lock. While there are parts, the array as a
/// whole cannot be locked.
///
/// # From Python
///
/// `Array('i', 10)` is `Array::<i32>::new(10)`, `Array('d', [1.5])` is `Array::from_slice(&[1.5])`; with `lock=False`,
/// [`RawArray`](crate::RawArray). `a[i]` and `a[i] = x` are [`get`](Array::get) and [`set`](Array::set), `a[i:j]` is
/// [`read`](Array::read), `a[i:j] = […]` is [`write`](Array::write) and as strict about the length, and iterating is
/// locking, then `iter()`: one lock instead of one per element. Character arrays (`Array('c', b"…")`) are
/// `Array<u8>`: `a.value` is [`c_str`](Array::c_str) and [`set_c_str`](Array::set_c_str), `a.raw` is
/// [`to_vec`](Array::to_vec) and [`copy_from_slice`](Array::copy_from_slice).
///
/// # When a process dies
///
/// If it held the lock, the next holder gets [`LockError::Poisoned`]: elements may be half written, but each is a valid
/// `T`. If it had a part, so does the next one who locks the whole.
pub struct Array<T> {
    pub(crate) body: Body<DataWords, T>,
    pub(crate) lock: Lock,
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Array { body: self.body.clone(), lock: self.lock.clone() }
    }
}

/// How an array is made: see [`Array::builder`].
#[derive(Clone, Copy, Default, Debug)]
#[must_use]
pub struct ArrayBuilder {
    huge: bool,
}

impl ArrayBuilder {
    /// Asks for huge pages (2 MiB on x86-64) behind a segment of its own, where the kernel gives them to shared memory:
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `advise`, `within_size` or `always`. Elsewhere the array
    /// has ordinary pages. Fewer page faults and TLB misses, for arrays of many MiB that are walked through; one touched
    /// byte may take 2 MiB then. See `madvise(2)`, `MADV_HUGEPAGE`.
    #[doc(alias = "MADV_HUGEPAGE")]
    pub fn huge_pages(mut self, wanted: bool) -> ArrayBuilder {
        self.huge = wanted;
        self
    }

    /// As [`Array::new`].
    ///
    /// # Errors
    ///
    /// As [`Array::new`].
    pub fn zeroed<T: Pod>(self, len: usize) -> Result<Array<T>, Error> {
        Ok(Array::of(Body::new(Form::Row, len, self.huge)?))
    }

    /// As [`Array::from_slice`].
    ///
    /// # Errors
    ///
    /// As [`Array::new`].
    pub fn copy_of<T: Pod>(self, elements: &[T]) -> Result<Array<T>, Error> {
        let array = self.zeroed(elements.len())?;
        array.body.fill(elements);
        Ok(array)
    }
}

type Guarded<'a, T> = Result<ArrayGuard<'a, T>, LockError<ArrayGuard<'a, T>>>;

impl<T: Pod> Array<T> {
    /// `len` elements whose bytes are zero.
    ///
    /// # Errors
    ///
    /// No memory, address space or descriptors for it, or more than `RLIMIT_FSIZE`: see
    /// [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new(len: usize) -> Result<Array<T>, Error> {
        Array::<T>::builder().zeroed(len)
    }

    /// An array with these elements.
    ///
    /// # Errors
    ///
    /// As [`new`](Array::new).
    pub fn from_slice(elements: &[T]) -> Result<Array<T>, Error> {
        Array::<T>::builder().copy_of(elements)
    }

    fn of(body: Body<DataWords, T>) -> Array<T> {
        let lock = Lock::of(body.handle().project(|words| &words.lock));
        Array { body, lock }
    }

    /// Locks it: waits as long as somebody holds it who lives.
    ///
    /// # Errors
    ///
    /// * [`LockError::Poisoned`], with the guard: the last holder, or the owner of a part, died or panicked;
    /// * [`LockError::PartsOut`]: parts of it have owners. There is no wait for them: join those who have them.
    /// * [`LockError::AlreadyHeld`], [`LockError::TooManyHeld`].
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock(&self) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        self.guarded(self.lock.lock())
    }

    /// Locks it if nobody holds it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Array::lock), and [`LockError::TimedOut`] if somebody holds it.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_lock(&self) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        self.guarded(self.lock.try_lock())
    }

    /// As [`lock`](Array::lock), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock`](Array::lock), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_timeout(&self, timeout: Duration) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        self.guarded(self.lock.lock_timeout(timeout))
    }

    /// As [`lock`](Array::lock), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`lock`](Array::lock), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_deadline(
        &self,
        deadline: Deadline,
    ) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        self.guarded(self.lock.lock_deadline(deadline))
    }

    /// As [`lock`](Array::lock), as a future for any executor (feature `async`). It can be dropped at any time.
    ///
    /// The lock belongs to the thread that polls the future: see [`Lock::lock_async`](crate::Lock::lock_async).
    ///
    /// # Errors
    ///
    /// As [`lock`](Array::lock).
    #[cfg(feature = "async")]
    pub async fn lock_async(&self) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        self.guarded(self.lock.lock_async().await)
    }

    #[inline]
    fn guarded<'a>(&'a self, locked: Result<LockGuard<'a>, LockError<LockGuard<'a>>>) -> Guarded<'a, T> {
        // Only under the lock are parts made, and this counts those that may be about.
        let parts = || self.body.words().out.load(Ordering::Acquire) != 0;
        let guard = |lock| ArrayGuard { array: self, _lock: lock };
        match locked {
            Ok(lock) if parts() => self.with_parts(guard(lock)),
            Ok(lock) => Ok(guard(lock)),
            Err(LockError::Poisoned(poisoned)) if parts() => {
                let cause = poisoned.cause();
                let guard = self.with_parts(guard(poisoned.into_inner()));
                Err(LockError::Poisoned(PoisonError::new(guard?, cause)))
            }
            Err(error) => Err(error.map(guard)),
        }
    }

    #[cold]
    fn with_parts<'a>(&'a self, guard: ArrayGuard<'a, T>) -> Guarded<'a, T> {
        match part::settle(self) {
            Whole::Yes => Ok(guard),
            Whole::No => Err(LockError::PartsOut),
            Whole::Died => {
                // Who died is not on record, unless it held the lock too.
                let cause = self.lock.poison().unwrap_or(Poison::Died { pid: 0 });
                self.lock.poison_by(cause);
                Err(LockError::Poisoned(PoisonError::new(guard, cause)))
            }
        }
    }

    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn with<R>(&self, access: impl FnOnce(&mut [T]) -> R) -> Result<R, LockError> {
        let mut guard = self.lock().map_err(LockError::without_guard)?;
        Ok(access(&mut guard))
    }

    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn look<R>(&self, look: impl FnOnce(&[T]) -> R) -> Result<R, LockError<R>> {
        match self.lock() {
            Ok(guard) => Ok(look(&guard)),
            Err(error) => Err(error.map(|guard| look(&guard))),
        }
    }

    fn check(&self, range: &Range<usize>) {
        let len = self.len();
        assert!(range.start <= range.end && range.end <= len, "{range:?} of an array of {len} elements");
    }

    /// A copy of element `index`, taken under the lock.
    ///
    /// # Errors
    ///
    /// As [`lock`](Array::lock). What is poisoned comes with its error.
    ///
    /// # Panics
    ///
    /// There is no such element. The array is not poisoned by that, here and below.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn get(&self, index: usize) -> Result<T, LockError<T>> {
        assert!(index < self.len(), "element {index} of an array of {} elements", self.len());
        self.look(|elements| elements[index])
    }

    /// Stores element `index`, under the lock.
    ///
    /// # Errors
    ///
    /// As [`lock`](Array::lock). A poisoned array is left as it is.
    ///
    /// # Panics
    ///
    /// There is no such element.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn set(&self, index: usize, value: T) -> Result<(), LockError> {
        self.update(index, |place| *place = value)
    }

    /// Changes element `index` under the lock: nobody comes between what `change` reads and what it writes.
    ///
    /// # Errors
    ///
    /// As [`lock`](Array::lock). For a poisoned array `change` is not called.
    ///
    /// # Panics
    ///
    /// There is no such element.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn update<R>(&self, index: usize, change: impl FnOnce(&mut T) -> R) -> Result<R, LockError> {
        assert!(index < self.len(), "element {index} of an array of {} elements", self.len());
        self.with(|elements| change(&mut elements[index]))
    }

    /// A copy of all elements, taken under the lock.
    ///
    /// # Errors
    ///
    /// As [`get`](Array::get).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn to_vec(&self) -> Result<Vec<T>, LockError<Vec<T>>> {
        self.look(<[T]>::to_vec)
    }

    /// A copy of the elements in `range`, taken under the lock.
    ///
    /// # Errors
    ///
    /// As [`get`](Array::get).
    ///
    /// # Panics
    ///
    /// The range is not within the array.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn read(&self, range: Range<usize>) -> Result<Vec<T>, LockError<Vec<T>>> {
        self.check(&range);
        self.look(|elements| elements[range].to_vec())
    }

    /// Stores `elements` from `index` on, under the lock.
    ///
    /// # Errors
    ///
    /// As [`set`](Array::set).
    ///
    /// # Panics
    ///
    /// They do not fit in.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn write(&self, index: usize, elements: &[T]) -> Result<(), LockError> {
        let range = index..index.saturating_add(elements.len());
        self.check(&range);
        self.with(|places| places[range].copy_from_slice(elements))
    }

    /// Stores all elements, under the lock.
    ///
    /// # Errors
    ///
    /// As [`set`](Array::set).
    ///
    /// # Panics
    ///
    /// The lengths differ.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn copy_from_slice(&self, elements: &[T]) -> Result<(), LockError> {
        assert_eq!(elements.len(), self.len(), "as many elements as the array has");
        self.write(0, elements)
    }

    /// A new array of its own with elements that are equal now.
    ///
    /// # Errors
    ///
    /// As [`Array::new`] and [`get`](Array::get).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn copy(&self) -> Result<Array<T>, CopyError> {
        let copy = Array::new(self.len())?;
        self.with(|elements| copy.body.fill(elements))?;
        Ok(copy)
    }

    /// Cuts it into parts of `len` elements, the last one of what is left, each with one owner at a time: this process,
    /// until a part is sent to another one.
    ///
    /// Each part holds a descriptor. Until the last of them is dropped, in whatever process, the array cannot be locked.
    ///
    /// # Errors
    ///
    /// * [`PartError::Lock`]: it is poisoned, or there are parts already;
    /// * no descriptors, or no `/proc`.
    ///
    /// # Panics
    ///
    /// `len` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use procession_sync::Array;
    ///
    /// let array = Array::<u32>::new(1000)?;
    /// // A part could be the argument of a process just as well.
    /// std::thread::scope(|scope| {
    ///     for mut part in array.chunks_mut(400).unwrap() {
    ///         scope.spawn(move || {
    ///             let start = part.range().start as u32;
    ///             for (place, n) in part.get_mut().unwrap().iter_mut().zip(start..) {
    ///                 *place = n * n;
    ///             }
    ///         });
    ///     }
    /// });
    /// assert_eq!(array.get(999)?, 999 * 999);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn chunks_mut(&self, len: usize) -> Result<Vec<ArrayPart<T>>, PartError> {
        assert!(len > 0, "parts have elements");
        let guard = self.lock().map_err(LockError::without_guard)?;
        let starts = (0..self.len()).step_by(len);
        let parts = part::take(self, starts.map(|start| start..start.saturating_add(len).min(self.len())));
        drop(guard);
        parts
    }

    /// The part `range`, if nobody has an element of it: what an owner left that died, say.
    ///
    /// # Errors
    ///
    /// * [`PartError::Taken`]: somebody has a part that is or overlaps it, or such a part is on its way;
    /// * [`PartError::Lock`]: the array is poisoned, or the calling thread holds its lock;
    /// * no descriptors, or no `/proc`.
    ///
    /// # Panics
    ///
    /// The range is empty or not within the array.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn part(&self, range: Range<usize>) -> Result<ArrayPart<T>, PartError> {
        self.check(&range);
        assert!(!range.is_empty(), "parts have elements");
        let guard = self.lock.lock().map_err(LockError::without_guard)?;
        let parts = part::take(self, [range].into_iter());
        drop(guard);
        Ok(parts?.remove(0))
    }
}

impl<T> Array<T> {
    /// For arrays with wishes.
    pub fn builder() -> ArrayBuilder {
        ArrayBuilder::default()
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both stand for the same array.
    #[must_use]
    pub fn same(&self, other: &Array<T>) -> bool {
        self.body.handle().same(other.body.handle())
    }
}

/// Text that C would understand: up to the first zero byte.
impl Array<u8> {
    /// The bytes before the first zero, or all.
    ///
    /// # Errors
    ///
    /// As [`get`](Array::get).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn c_str(&self) -> Result<Vec<u8>, LockError<Vec<u8>>> {
        self.look(|bytes| bytes.iter().copied().take_while(|&byte| byte != 0).collect())
    }

    /// Stores `text`, and a zero behind it if there is room. What follows stays.
    ///
    /// # Errors
    ///
    /// As [`set`](Array::set).
    ///
    /// # Panics
    ///
    /// It is longer than the array.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn set_c_str(&self, text: &[u8]) -> Result<(), LockError> {
        self.check(&(0..text.len()));
        self.with(|bytes| {
            bytes[..text.len()].copy_from_slice(text);
            if let Some(end) = bytes.get_mut(text.len()) {
                *end = 0;
            }
        })
    }
}

/// A locked [`Array`]: the way to its elements. Dropping it lets the lock go.
///
/// It stays with its thread. Dropped by a panic, it poisons the array.
#[must_use = "the lock is let go when the guard is dropped"]
pub struct ArrayGuard<'a, T> {
    array: &'a Array<T>,
    _lock: LockGuard<'a>,
}

impl<T> ArrayGuard<'_, T> {
    /// A forked child has a copy of a guard, but not the lock.
    #[inline]
    fn assert_held(&self) {
        assert!(self.array.lock.is_mine(), "the lock is held by the process that this one was forked from");
    }
}

impl<T> Deref for ArrayGuard<'_, T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        let body = &self.array.body;
        self.assert_held();
        // SAFETY: the guard holds the lock, and no part has an owner (else there would be no guard), so nobody else
        // reaches the elements; any bytes are some (`Pod`, which every maker demands); they stay mapped as long as the
        // handle that is borrowed.
        unsafe { slice::from_raw_parts(body.start().as_ptr(), body.len()) }
    }
}

impl<T> DerefMut for ArrayGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        let body = &self.array.body;
        self.assert_held();
        // SAFETY: as in `deref`; the guard is borrowed exclusively, and there is one.
        unsafe { slice::from_raw_parts_mut(body.start().as_ptr(), body.len()) }
    }
}

// A panic under the lock poisons, as for `std`'s mutexes.
impl<T> UnwindSafe for Array<T> {}
impl<T> RefUnwindSafe for Array<T> {}

/// Only inside a parcel.
impl<T> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.body.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Array<T>, D::Error> {
        Body::deserialize(Form::Row, deserializer).map(Array::of)
    }
}

impl<T> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("type", &core::any::type_name::<T>())
            .field("len", &self.len())
            .field("holder", &self.holder())
            .field("poison", &self.poison())
            .finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&**self).finish()
    }
}
