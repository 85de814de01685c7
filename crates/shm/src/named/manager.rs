//! One owner for many named segments.

use super::SharedMemory;
use crate::{Error, Item, ShareableList, error::Cause};
use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

const MANAGE: &str = "make a segment in";

/// Owns named segments and takes all of their names away together: CPython's `SharedMemoryManager`.
///
/// What it makes it keeps; what it returns are handles that do not own, so they can be dropped, sent to processes and
/// returned from there without an end to the name. It has no server process: there is nothing to start, and segments cost
/// what they cost otherwise.
///
/// ```
/// use procession_shm::{SharedMemory, SharedMemoryManager};
///
/// let manager = SharedMemoryManager::new();
/// let frame = manager.create(640 * 480)?;
/// let name = frame.name().to_owned();
/// drop(frame); // the manager keeps it
/// assert_eq!(SharedMemory::open(&name)?.len(), 640 * 480);
/// manager.shutdown();
/// assert!(SharedMemory::open(&name).unwrap_err().is_not_found());
/// # Ok::<(), procession_shm::Error>(())
/// ```
///
/// # When a process dies
///
/// The names go as those of any owner, SIGKILL included: see [`SharedMemory`]. A copy in a forked child owns nothing.
#[must_use = "a manager that is dropped takes its memory away"]
pub struct SharedMemoryManager {
    /// `None` once it was shut down.
    owned: Mutex<Option<Vec<SharedMemory>>>,
}

impl Default for SharedMemoryManager {
    fn default() -> Self {
        SharedMemoryManager::new()
    }
}

impl SharedMemoryManager {
    /// One that owns nothing yet.
    pub const fn new() -> SharedMemoryManager {
        SharedMemoryManager { owned: Mutex::new(Some(Vec::new())) }
    }

    /// Makes a segment of `size` zero bytes under a fresh name.
    ///
    /// # Errors
    ///
    /// As [`SharedMemory::create`], and after [`shutdown`](SharedMemoryManager::shutdown).
    pub fn create(&self, size: usize) -> Result<SharedMemory, Error> {
        self.keep(|| SharedMemory::create(size))
    }

    /// Makes a segment of `size` zero bytes under a name of your own.
    ///
    /// # Errors
    ///
    /// As [`SharedMemory::create_named`], and after [`shutdown`](SharedMemoryManager::shutdown).
    pub fn create_named(&self, name: &str, size: usize) -> Result<SharedMemory, Error> {
        self.keep(|| SharedMemory::create_named(name, size))
    }

    /// Makes a list of these values under a fresh name.
    ///
    /// # Errors
    ///
    /// As [`ShareableList::create`], and after [`shutdown`](SharedMemoryManager::shutdown).
    pub fn list<I>(&self, items: I) -> Result<ShareableList, Error>
    where
        I: IntoIterator<Item: Into<Item>>,
    {
        // The iterator is the caller's code: it runs outside the mutex.
        let items: Vec<Item> = items.into_iter().map(Into::into).collect();
        ShareableList::from_shm(self.keep(|| Ok(ShareableList::create(items)?.into_shm()))?)
    }

    /// The names that it owns, in the order in which they were made.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.owned().iter().flatten().map(|shm| shm.name().to_owned()).collect()
    }

    /// Takes all names away; from now on it makes nothing. Whoever has a segment mapped keeps its memory. The second call
    /// does nothing; drop does the same.
    pub fn shutdown(&self) {
        let owned = self.owned().take();
        drop(owned);
    }

    fn keep(&self, make: impl FnOnce() -> Result<SharedMemory, Error>) -> Result<SharedMemory, Error> {
        let mut owned = self.owned();
        let Some(owned) = owned.as_mut() else {
            let what = "it was shut down".to_owned();
            return Err(Error::new(MANAGE, "a manager of segments".to_owned(), Cause::Invalid { what }));
        };
        let made = make()?;
        let handle = made.try_clone()?;
        owned.push(made);
        Ok(handle)
    }

    fn owned(&self) -> MutexGuard<'_, Option<Vec<SharedMemory>>> {
        // Nothing panics between two changes.
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SharedMemoryManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemoryManager").field("names", &self.names()).finish()
    }
}
