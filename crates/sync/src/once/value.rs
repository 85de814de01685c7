//! [`OnceValue`]: a value that is computed once. Its bytes follow the words in the slot.

use super::{OnceError, OnceWords};
use crate::{
    Error,
    arena::{Handle, Shared},
    error::Cause,
};
use bytemuck::Pod;
use core::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};
use procession_shm::{Member, Segment};
use procession_sys::{Deadline, crash_point};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, time::Duration};

/// What lies in shared memory, before the value.
#[repr(C)]
pub(crate) struct OnceValueWords {
    once: OnceWords,
    /// The value's length in bytes.
    len: AtomicU64,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)`, with the words of a `Once`, which begin with a tag, in front.
unsafe impl Shared for OnceValueWords {
    const KIND: u16 = 25;
    const NAME: &'static str = "a OnceValue";

    fn init(&self) -> Result<(), std::io::Error> {
        self.once.init()
    }

    fn recover(&self, segment: &Segment, dead: Member, until: Deadline) -> bool {
        self.once.recover(segment, dead, until)
    }
}

#[cfg(feature = "async")]
impl OnceValueWords {
    pub(super) fn once(&self) -> &OnceWords {
        &self.once
    }
}

/// A value that is computed once, by whichever process comes first, for all.
///
/// Plain data, up to some megabytes. Clones stand for the same one; they go to other processes inside parcels. Where the
/// value is there, getting it copies it and makes no system call.
///
/// # When a process dies
///
/// If the process that computes it dies, the next caller computes it, also one that waits already, within half a second.
/// A value is there as a whole or not at all.
///
/// # Examples
///
/// ```
/// use procession_sync::OnceValue;
///
/// let answer = OnceValue::<u64>::new()?;
/// assert_eq!(answer.get(), None);
/// assert_eq!(answer.get_or_init(|| 42)?, 42);
/// assert_eq!(answer.clone().get_or_init(|| 43)?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OnceValue<T> {
    handle: Handle<OnceValueWords>,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for OnceValue<T> {
    fn clone(&self) -> Self {
        OnceValue { handle: self.handle.clone(), value: PhantomData }
    }
}

impl<T: Pod> OnceValue<T> {
    const WORDS: usize = size_of::<T>().div_ceil(size_of::<u64>());

    /// A value that is not there yet.
    ///
    /// # Errors
    ///
    /// The type is larger than some 8 MB; no memory for it.
    pub fn new() -> Result<OnceValue<T>, Error> {
        let handle = Handle::new(Self::WORDS * size_of::<u64>(), |words: &OnceValueWords| {
            words.len.store(size_of::<T>() as u64, Ordering::Relaxed);
        })?;
        Ok(OnceValue { handle, value: PhantomData })
    }

    fn place(&self) -> &[AtomicU64] {
        let rest = self.handle.rest();
        // A slot that was written over may say that there is less.
        &rest[..Self::WORDS.min(rest.len())]
    }

    /// The value, if it is there.
    #[must_use]
    pub fn get(&self) -> Option<T> {
        self.handle.words().once.is_done().then(|| self.read())
    }

    #[cfg(feature = "async")]
    pub(super) fn handle(&self) -> &Handle<OnceValueWords> {
        &self.handle
    }

    pub(super) fn read(&self) -> T {
        let mut value = T::zeroed();
        let words = self.place().iter().map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
        for (bytes, word) in bytemuck::bytes_of_mut(&mut value).chunks_mut(size_of::<u64>()).zip(words) {
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
        value
    }

    pub(super) fn write(&self, value: &T) {
        for (bytes, place) in bytemuck::bytes_of(value).chunks(size_of::<u64>()).zip(self.place()) {
            let mut word = [0; size_of::<u64>()];
            word[..bytes.len()].copy_from_slice(bytes);
            place.store(u64::from_ne_bytes(word), Ordering::Relaxed);
            crash_point!("once.value.written");
        }
    }

    /// The value; computed by `f` if it is not there and nobody else computes it. Waits for whoever does.
    ///
    /// # Errors
    ///
    /// As [`Once::call_once`](crate::Once::call_once).
    pub fn get_or_init(&self, f: impl FnOnce() -> T) -> Result<T, OnceError> {
        self.get_or_init_until(None, f)
    }

    /// As [`get_or_init`](OnceValue::get_or_init), but waits for others no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Once::call_once_timeout`](crate::Once::call_once_timeout).
    pub fn get_or_init_timeout(&self, timeout: Duration, f: impl FnOnce() -> T) -> Result<T, OnceError> {
        self.get_or_init_until(Some(Deadline::after(timeout)), f)
    }

    /// As [`get_or_init`](OnceValue::get_or_init), but waits for others no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Once::call_once_deadline`](crate::Once::call_once_deadline).
    pub fn get_or_init_deadline(&self, deadline: Deadline, f: impl FnOnce() -> T) -> Result<T, OnceError> {
        self.get_or_init_until(Some(deadline), f)
    }

    fn get_or_init_until(&self, deadline: Option<Deadline>, f: impl FnOnce() -> T) -> Result<T, OnceError> {
        let segment = self.handle.place().segment();
        self.handle.words().once.run(segment, false, deadline, f, |value| self.write(&value))?;
        Ok(self.read())
    }

    /// Waits until the value is there. It does not compute anything.
    #[must_use]
    pub fn wait(&self) -> T {
        self.handle.words().once.wait(None);
        self.read()
    }

    /// As [`wait`](OnceValue::wait), but no longer than `timeout`: `None` if it was not there by then.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> Option<T> {
        self.wait_deadline(Deadline::after(timeout))
    }

    /// As [`wait`](OnceValue::wait), but no longer than until `deadline`: `None` if it was not there by then.
    #[must_use]
    pub fn wait_deadline(&self, deadline: Deadline) -> Option<T> {
        self.handle.words().once.wait(Some(deadline)).then(|| self.read())
    }

    /// Whether both stand for the same value.
    #[must_use]
    pub fn same(&self, other: &OnceValue<T>) -> bool {
        self.handle.same(&other.handle)
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for OnceValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("OnceValue");
        self.handle.words().once.debug(self.handle.place().segment(), &mut f);
        f.field("value", &self.get()).finish()
    }
}

impl<T: Pod> Serialize for OnceValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.handle.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for OnceValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OnceValue<T>, D::Error> {
        let handle = Handle::<OnceValueWords>::deserialize(deserializer)?;
        let len = handle.words().len.load(Ordering::Relaxed);
        if len != size_of::<T>() as u64 || handle.rest().len() < Self::WORDS {
            let what = format!("its value has {len} bytes, not the {} of this type", size_of::<T>());
            let error = Error::new("attach", OnceValueWords::NAME, Cause::Invalid { what });
            return Err(serde::de::Error::custom(error));
        }
        Ok(OnceValue { handle, value: PhantomData })
    }
}
