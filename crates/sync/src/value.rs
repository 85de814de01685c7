//! [`Value`]: one value under a lock.
//!
//! Words, protocol and the argument for its soundness: [`data`](crate::data); the lock: [`lock`](crate::lock).
//!
//! # When a process dies
//!
//! Under the lock: the kernel lets go of it, and the next holder is told of the death ([`lock`](crate::lock)). The value
//! may be half written; it is a value all the same, since any bytes are one. At any other place: it had no part in it.
#![expect(unsafe_code, reason = "references to the value, under its lock")]

use crate::{
    Deadline, Error, Holder, Lock, LockError, LockGuard, Poison,
    data::{Body, DataWords, Form},
    mutex::Guarded as _,
};
use bytemuck::Pod;
use core::{
    fmt,
    ops::{Deref, DerefMut},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    time::Duration,
};

/// A value that processes share, under a lock.
///
/// Clones stand for the same value; they go to other processes inside parcels. The lock guards the value, so there is no
/// way to the value without it, and no way to let it go but to drop the guard. [`RawValue`](crate::RawValue) is one
/// without a lock.
///
/// # Types
///
/// `T` is plain data ([`bytemuck::Pod`](crate::bytemuck::Pod)): numbers, arrays of them, and structures that derive it.
/// The derive refuses padding and fields for which not all bytes are valid (`bool`, `char`, references). No `unsafe` is
/// needed, and no dependency on `bytemuck`:
///
/// ```
/// use procession_sync::{Value, bytemuck};
///
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[bytemuck(crate = "procession_sync::bytemuck")]
/// #[repr(C)]
/// struct Point { x: f64, y: f64 }
///
/// let point = Value::new(Point { x: 1.0, y: 2.0 })?;
/// point.update(|point| point.x += 1.0)?;
/// assert_eq!(point.get()?.x, 2.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A process that unpacks a value of another type than was packed is given an error.
///
/// # From Python
///
/// | code | ctypes | here | | code | ctypes | here |
/// |---|---|---|---|---|---|---|
/// | `c` | `c_char` | `u8` | | `l` | `c_long` | `i64` |
/// | `u` | `c_wchar` | `u32` (`char::from_u32`) | | `L` | `c_ulong` | `u64` |
/// | `b` | `c_byte` | `i8` | | `q` | `c_longlong` | `i64` |
/// | `B` | `c_ubyte` | `u8` | | `Q` | `c_ulonglong` | `u64` |
/// | `h`, `H` | `c_short`, `c_ushort` | `i16`, `u16` | | `f` | `c_float` | `f32` |
/// | `i`, `I` | `c_int`, `c_uint` | `i32`, `u32` | | `d` | `c_double` | `f64` |
///
/// * `Value('i', 7)` is `Value::new(7_i32)`; with `lock=False` it is `RawValue::new(7_i32)`. A value with a lock of its
///   caller's, and `synchronized(raw, lock)`, are a `RawValue` beside a [`Lock`](crate::Lock) or
///   [`RLock`](crate::Lock): send both.
/// * `v.value` is [`get`](Value::get) and [`set`](Value::set). `v.value += 1` takes the lock twice there, and loses
///   updates; [`update`](Value::update) takes it once.
/// * A number that is too large wraps silently there; here that is `wrapping_add`, and `+` panics in a debug build, which
///   poisons the value.
/// * `with v.get_lock():` is [`lock`](Value::lock). `copy(v)` is [`copy`](Value::copy).
///
/// # When a process dies
///
/// If it held the lock, the next holder gets [`LockError::Poisoned`] with the value as it is: perhaps half written, but
/// a valid `T`. [`clear_poison`](Value::clear_poison) ends that. The value lives as long as any process has a handle.
pub struct Value<T> {
    body: Body<DataWords, T>,
    lock: Lock,
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Value { body: self.body.clone(), lock: self.lock.clone() }
    }
}

impl<T: Pod> Value<T> {
    /// A value of its own. (Zero is `Value::new(T::zeroed())`.)
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new(value: T) -> Result<Value<T>, Error> {
        let value_of = Value::of(Body::new(Form::One, 1, false)?);
        value_of.body.fill(&[value]);
        Ok(value_of)
    }

    fn of(body: Body<DataWords, T>) -> Value<T> {
        let lock = Lock::of(body.handle().project(|words| &words.lock));
        Value { body, lock }
    }

    /// Locks it: waits as long as somebody holds it who lives.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock`]: above all [`LockError::Poisoned`], with the guard.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock(&self) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        self.guarded(self.lock.lock())
    }

    /// Locks it if nobody holds it.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_lock`].
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_lock(&self) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        self.guarded(self.lock.try_lock())
    }

    /// As [`lock`](Value::lock), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock_timeout`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_timeout(&self, timeout: Duration) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        self.guarded(self.lock.lock_timeout(timeout))
    }

    /// As [`lock`](Value::lock), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock_deadline`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_deadline(
        &self,
        deadline: Deadline,
    ) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        self.guarded(self.lock.lock_deadline(deadline))
    }

    /// As [`lock`](Value::lock), as a future for any executor (feature `async`). It can be dropped at any time.
    ///
    /// The lock belongs to the thread that polls the future: see [`Lock::lock_async`](crate::Lock::lock_async).
    ///
    /// # Errors
    ///
    /// As [`lock`](Value::lock).
    #[cfg(feature = "async")]
    pub async fn lock_async(&self) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        self.guarded(self.lock.lock_async().await)
    }

    #[inline]
    fn guarded<'a>(
        &'a self,
        locked: Result<LockGuard<'a>, LockError<LockGuard<'a>>>,
    ) -> Result<ValueGuard<'a, T>, LockError<ValueGuard<'a, T>>> {
        let guard = |lock| ValueGuard { value: self, _lock: lock };
        match locked {
            Ok(lock) => Ok(guard(lock)),
            Err(error) => Err(error.map(guard)),
        }
    }

    /// A copy of the value, taken under the lock.
    ///
    /// # Errors
    ///
    /// As [`lock`](Value::lock). A poisoned value comes with its error.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn get(&self) -> Result<T, LockError<T>> {
        match self.lock() {
            Ok(guard) => Ok(*guard),
            Err(error) => Err(error.map(|guard| *guard)),
        }
    }

    /// Stores a value, under the lock.
    ///
    /// # Errors
    ///
    /// As [`lock`](Value::lock). A poisoned value is left as it is: see [`clear_poison`](Value::clear_poison).
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn set(&self, value: T) -> Result<(), LockError> {
        self.update(|place| *place = value)
    }

    /// Changes the value under the lock: nobody comes between what `change` reads and what it writes.
    ///
    /// # Errors
    ///
    /// As [`lock`](Value::lock). For a poisoned value `change` is not called.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R, LockError> {
        let mut guard = self.lock().map_err(LockError::without_guard)?;
        Ok(change(&mut guard))
    }

    /// A new value of its own that is equal now.
    ///
    /// # Errors
    ///
    /// As [`Value::new`] and [`get`](Value::get).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn copy(&self) -> Result<Value<T>, CopyError> {
        let value = self.get().map_err(LockError::without_guard)?;
        Ok(Value::new(value)?)
    }
}

impl<T> Value<T> {
    /// Who holds the lock. It may have changed by the time that the answer is there.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.lock.holder()
    }

    /// For how long the lock is held.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_since(&self) -> Option<Duration> {
        self.lock.held_since()
    }

    /// Where the lock was locked: the end of the source file's name, and the line.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_at(&self) -> Option<String> {
        self.lock.held_at()
    }

    /// Whether a holder died or panicked, and who, since the poison was cleared last.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        self.lock.poison()
    }

    /// Declares that the value is whole again. Best called under the lock.
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }

    /// Whether both stand for the same value.
    #[must_use]
    pub fn same(&self, other: &Value<T>) -> bool {
        self.body.handle().same(other.body.handle())
    }
}

/// A locked [`Value`]: the way to what is in it. Dropping it lets the lock go.
///
/// It stays with its thread. Dropped by a panic, it poisons the value.
#[must_use = "the lock is let go when the guard is dropped"]
pub struct ValueGuard<'a, T> {
    value: &'a Value<T>,
    _lock: LockGuard<'a>,
}

impl<T> ValueGuard<'_, T> {
    /// A forked child has a copy of a guard, but not the lock.
    #[inline]
    fn assert_held(&self) {
        assert!(self.value.lock.is_mine(), "the lock is held by the process that this one was forked from");
    }
}

impl<T> Deref for ValueGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.assert_held();
        // SAFETY: the guard holds the lock, so nobody else reaches the value; any bytes are one (`Pod`, which every
        // maker demands); it stays mapped as long as the handle that is borrowed.
        unsafe { self.value.body.start().as_ref() }
    }
}

impl<T> DerefMut for ValueGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.assert_held();
        // SAFETY: as in `deref`; the guard is borrowed exclusively, and there is one.
        unsafe { self.value.body.start().as_mut() }
    }
}

/// Why a copy was not made.
#[derive(Debug)]
#[non_exhaustive]
pub enum CopyError {
    /// The original could not be locked, or is poisoned.
    Lock(LockError),
    /// The copy could not be made.
    Make(Error),
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyError::Lock(error) => error.fmt(f),
            CopyError::Make(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CopyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CopyError::Lock(error) => Some(error),
            CopyError::Make(error) => Some(error),
        }
    }
}

impl From<LockError> for CopyError {
    fn from(error: LockError) -> CopyError {
        CopyError::Lock(error)
    }
}

impl From<Error> for CopyError {
    fn from(error: Error) -> CopyError {
        CopyError::Make(error)
    }
}

// A panic under the lock poisons, as for `std`'s mutexes.
impl<T> UnwindSafe for Value<T> {}
impl<T> RefUnwindSafe for Value<T> {}

/// Only inside a parcel.
impl<T> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.body.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value<T>, D::Error> {
        Body::deserialize(Form::One, deserializer).map(Value::of)
    }
}

impl<T> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("type", &core::any::type_name::<T>())
            .field("holder", &self.holder())
            .field("poison", &self.poison())
            .finish()
    }
}

impl<T: fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueGuard").field(&**self).finish()
    }
}
