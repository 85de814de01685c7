//! The two types, [`Semaphore`] and [`BoundedSemaphore`], and their methods.

use super::{
    error::{AcquireError, TooManyReleased},
    permit::Permit,
    words::Inner,
};
use crate::Error;
#[cfg(feature = "async")]
use crate::later::{Later, Try};
use procession_sys::Deadline;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// A number of permits, shared by processes.
///
/// There are two ways to use it:
///
/// * [`permit`](Semaphore::permit) gives a guard. The permit belongs to this process, whichever of its threads drops
///   the guard, and returns if the process dies;
/// * [`acquire`](Semaphore::acquire) and [`release`](Semaphore::release), as in Python: nobody owns the permit, anybody
///   may release, and what a dead process acquired stays acquired.
///
/// Clones stand for the same semaphore; they go to other processes inside parcels. Where permits are free no form makes a
/// system call, but for this process's first permit. Waiters are not served in the order in which they came.
///
/// # When a process dies
///
/// Permits that it held by a guard return within a second, also for waiters that sleep already. A process that has let go
/// of its last handle counts as dead, for guards that it forgot by [`std::mem::forget`].
///
/// # Examples
///
/// ```
/// use procession_sync::Semaphore;
///
/// let downloads = Semaphore::new(2)?;
/// let one = downloads.permit()?;
/// let two = downloads.permit()?;
/// assert!(downloads.try_permit().is_err());
/// drop(one);
/// assert_eq!(downloads.value(), 1);
/// std::thread::scope(|scope| scope.spawn(move || drop(two)).join().unwrap());
/// assert_eq!(downloads.value(), 2);
///
/// // As a signal: one process acquires, another one releases.
/// let ready = Semaphore::new(0)?;
/// ready.release()?;
/// ready.acquire()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Semaphore {
    inner: Inner,
}

/// A [`Semaphore`] that never has more permits than at its start: releasing more than was acquired is an error.
///
/// The check and the release are one step, so of two releases for one permit exactly one fails.
///
/// A guard that is dropped while others have released in its stead gives back what fits.
///
/// # When a process dies
///
/// As with [`Semaphore`].
///
/// # Examples
///
/// ```
/// use procession_sync::BoundedSemaphore;
///
/// let seats = BoundedSemaphore::new(2)?;
/// seats.acquire()?;
/// seats.release()?;
/// assert!(seats.release().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct BoundedSemaphore {
    inner: Inner,
}

impl Semaphore {
    /// A semaphore with that many permits.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new(permits: u32) -> Result<Semaphore, Error> {
        Ok(Semaphore { inner: Inner::new(permits, u32::MAX)? })
    }
}

impl BoundedSemaphore {
    /// A semaphore with that many permits, and never more.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new(permits: u32) -> Result<BoundedSemaphore, Error> {
        Ok(BoundedSemaphore { inner: Inner::new(permits, permits)? })
    }

    /// The most permits that can be free: as many as at the start.
    #[must_use]
    pub fn bound(&self) -> u32 {
        self.inner.bound()
    }
}

/// A deadline that has passed.
const NOW: Option<Deadline> = Some(Deadline::from_nanos(0));

macro_rules! methods {
    ($type:ident, $above:literal) => {
        impl $type {
            /// Takes a permit, which this process owns until the guard is dropped: waits until one is free.
            ///
            /// # Errors
            ///
            /// * [`AcquireError::NotAMember`]: no descriptor is left, `/proc` is not mounted, or a thousand processes
            ///   own permits already;
            /// * [`AcquireError::MoreThanBound`], [`AcquireError::Damaged`].
            #[inline]
            pub fn permit(&self) -> Result<Permit<'_>, AcquireError> {
                self.owned(1, None)
            }

            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), but does not wait.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), and [`AcquireError::TimedOut`].")]
            #[inline]
            pub fn try_permit(&self) -> Result<Permit<'_>, AcquireError> {
                self.owned(1, NOW)
            }

            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), but waits no longer than `timeout`.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), and [`AcquireError::TimedOut`].")]
            pub fn permit_timeout(&self, timeout: Duration) -> Result<Permit<'_>, AcquireError> {
                self.owned(1, Some(Deadline::after(timeout)))
            }

            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), but waits no longer than until `deadline`.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), and [`AcquireError::TimedOut`].")]
            pub fn permit_deadline(&self, deadline: Deadline) -> Result<Permit<'_>, AcquireError> {
                self.owned(1, Some(deadline))
            }

            /// Takes `count` permits at once, as one guard: waits until that many are free at the same time. Others may
            /// take fewer meanwhile.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit).")]
            pub fn permits(&self, count: u32) -> Result<Permit<'_>, AcquireError> {
                self.owned(count, None)
            }

            #[doc = concat!("As [`permits`](", stringify!($type), "::permits), but does not wait.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), and [`AcquireError::TimedOut`].")]
            pub fn try_permits(&self, count: u32) -> Result<Permit<'_>, AcquireError> {
                self.owned(count, NOW)
            }

            #[doc = concat!("As [`permits`](", stringify!($type), "::permits), but waits no longer than `timeout`.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), and [`AcquireError::TimedOut`].")]
            pub fn permits_timeout(&self, count: u32, timeout: Duration) -> Result<Permit<'_>, AcquireError> {
                self.owned(count, Some(Deadline::after(timeout)))
            }

            #[doc = concat!("As [`permits`](", stringify!($type), "::permits), but waits no longer than until `deadline`.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), and [`AcquireError::TimedOut`].")]
            pub fn permits_deadline(&self, count: u32, deadline: Deadline) -> Result<Permit<'_>, AcquireError> {
                self.owned(count, Some(deadline))
            }

            /// Acquires a permit that nobody owns: waits until one is free. It stays acquired until somebody, in
            /// whatever process, releases it.
            ///
            /// # Errors
            ///
            /// [`AcquireError::MoreThanBound`], [`AcquireError::Damaged`].
            #[inline]
            pub fn acquire(&self) -> Result<(), AcquireError> {
                self.inner.acquire(1, None)
            }

            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), but does not wait.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), and [`AcquireError::TimedOut`].")]
            #[inline]
            pub fn try_acquire(&self) -> Result<(), AcquireError> {
                self.inner.acquire(1, NOW)
            }

            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), but waits no longer than `timeout`.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), and [`AcquireError::TimedOut`].")]
            pub fn acquire_timeout(&self, timeout: Duration) -> Result<(), AcquireError> {
                self.inner.acquire(1, Some(Deadline::after(timeout)))
            }

            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), but waits no longer than until `deadline`.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), and [`AcquireError::TimedOut`].")]
            pub fn acquire_deadline(&self, deadline: Deadline) -> Result<(), AcquireError> {
                self.inner.acquire(1, Some(deadline))
            }

            /// Acquires `count` permits at once that nobody owns: waits until that many are free at the same time.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire).")]
            pub fn acquire_many(&self, count: u32) -> Result<(), AcquireError> {
                self.inner.acquire(count, None)
            }

            #[doc = concat!("As [`acquire_many`](", stringify!($type), "::acquire_many), but does not wait.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), and [`AcquireError::TimedOut`].")]
            pub fn try_acquire_many(&self, count: u32) -> Result<(), AcquireError> {
                self.inner.acquire(count, NOW)
            }

            #[doc = concat!("As [`acquire_many`](", stringify!($type), "::acquire_many), but waits no longer than `timeout`.")]
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), and [`AcquireError::TimedOut`].")]
            pub fn acquire_many_timeout(&self, count: u32, timeout: Duration) -> Result<(), AcquireError> {
                self.inner.acquire(count, Some(Deadline::after(timeout)))
            }

            #[doc = concat!("As [`acquire_many`](", stringify!($type), "::acquire_many), but waits no longer than until")]
            /// `deadline`.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), and [`AcquireError::TimedOut`].")]
            pub fn acquire_many_deadline(&self, count: u32, deadline: Deadline) -> Result<(), AcquireError> {
                self.inner.acquire(count, Some(deadline))
            }

            #[doc = concat!("As [`permit`](", stringify!($type), "::permit), as a future for any executor (feature")]
            /// `async`). It can be dropped at any time.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit).")]
            #[cfg(feature = "async")]
            pub async fn permit_async(&self) -> Result<Permit<'_>, AcquireError> {
                self.permits_async(1).await
            }

            #[doc = concat!("As [`permits`](", stringify!($type), "::permits), as a future for any executor (feature")]
            /// `async`). It can be dropped at any time.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`permit`](", stringify!($type), "::permit).")]
            #[cfg(feature = "async")]
            pub async fn permits_async(&self, count: u32) -> Result<Permit<'_>, AcquireError> {
                Later::new(Permits { inner: &self.inner, count, owned: true }).await?;
                Ok(Permit::new(&self.inner, count))
            }

            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire), as a future for any executor (feature")]
            /// `async`). It can be dropped at any time.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire).")]
            #[cfg(feature = "async")]
            pub async fn acquire_async(&self) -> Result<(), AcquireError> {
                self.acquire_many_async(1).await
            }

            #[doc = concat!("As [`acquire_many`](", stringify!($type), "::acquire_many), as a future for any executor (feature")]
            /// `async`). It can be dropped at any time.
            ///
            /// # Errors
            ///
            #[doc = concat!("As [`acquire`](", stringify!($type), "::acquire).")]
            #[cfg(feature = "async")]
            pub async fn acquire_many_async(&self, count: u32) -> Result<(), AcquireError> {
                Later::new(Permits { inner: &self.inner, count, owned: false }).await
            }

            /// Gives a permit and wakes one who waits. Anybody may.
            ///
            /// # Errors
            ///
            #[doc = $above]
            #[inline]
            pub fn release(&self) -> Result<(), TooManyReleased> {
                self.release_many(1)
            }

            /// Gives `count` permits at once and wakes as many as wait. Anybody may.
            ///
            /// # Errors
            ///
            #[doc = $above]
            #[inline]
            pub fn release_many(&self, count: u32) -> Result<(), TooManyReleased> {
                self.inner.release(count).map_err(|above| TooManyReleased { bound: above.0 })
            }

            /// How many permits are free. It may have changed by the time that the answer is there.
            ///
            /// It looks after the dead, ten times a second at most: permits that a process held when it died may be missing here
            /// for that long, also after it was joined.
            #[must_use]
            pub fn value(&self) -> u32 {
                self.inner.value()
            }

            /// How many permits living processes own.
            #[must_use]
            pub fn held(&self) -> u64 {
                self.inner.held()
            }

            /// Whether both stand for the same semaphore.
            #[must_use]
            pub fn same(&self, other: &$type) -> bool {
                self.inner.same(&other.inner)
            }

            #[inline]
            fn owned(&self, count: u32, deadline: Option<Deadline>) -> Result<Permit<'_>, AcquireError> {
                self.inner.take(count, deadline)?;
                Ok(Permit::new(&self.inner, count))
            }
        }
    };
}

/// Permits to be had sooner or later.
#[cfg(feature = "async")]
struct Permits<'a> {
    inner: &'a Inner,
    count: u32,
    owned: bool,
}

#[cfg(feature = "async")]
impl Try for Permits<'_> {
    type Output = Result<(), AcquireError>;

    fn attempt(&self, waited: bool) -> Option<Self::Output> {
        self.inner.attempt(self.count, self.owned, waited)
    }

    fn flag(&self) -> Option<u32> {
        self.inner.flag(self.count)
    }

    fn word(&self) -> std::sync::Arc<dyn procession_sys::waker::Word> {
        self.inner.word()
    }
}

methods!(Semaphore, "There would be more than [`u32::MAX`] permits; none was given.");
methods!(BoundedSemaphore, "There would be more than at the start; none was given.");

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("value", &self.value())
            .field("held", &self.held())
            .field("owners", &self.inner.owners())
            .finish()
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSemaphore")
            .field("value", &self.value())
            .field("bound", &self.bound())
            .field("held", &self.held())
            .field("owners", &self.inner.owners())
            .finish()
    }
}
