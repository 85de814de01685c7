//! Where a server is, and this process's one connection to it.
//!
//! A forked child has its parent's sites. The connection in them is the parent's: the child sees by the generation that it is
//! not its own, and connects itself.

use crate::{
    access::Access,
    client::{self, Client},
    error::{Error, ErrorKind, Result},
};
use procession_sys::{
    OverFork,
    hooks::{ForkHooks, around_fork},
};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(20);

static SITES: OverFork<Vec<Weak<Site>>> = OverFork::new(Vec::new());
static FORKS: AtomicU32 = AtomicU32::new(0);

/// How often this process is a forked child of one that had connections.
pub(crate) fn generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

pub(crate) struct Site {
    pub(crate) access: Access,
    client: Mutex<Option<Arc<Client>>>,
}

impl Site {
    /// The site of this process for an address.
    pub(crate) fn of(access: Access) -> Arc<Site> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Before ours: the last handle of a site unmaps its lanes under the lock of sites.
            procession_shm::watch_forks();
            around_fork(ForkHooks {
                before: Some(|| SITES.hold()),
                in_parent: Some(|| SITES.release()),
                in_child: Some(|| {
                    FORKS.fetch_add(1, Ordering::Relaxed);
                    SITES.reset(|_| {});
                }),
            });
        });
        let mut sites = SITES.lock();
        sites.retain(|site| site.strong_count() > 0);
        if let Some(site) = sites.iter().filter_map(Weak::upgrade).find(|site| site.access == access) {
            return site;
        }
        let site = Arc::new(Site { access, client: Mutex::new(None) });
        sites.push(Arc::downgrade(&site));
        site
    }

    /// The connection, which is made when it is first needed. One that is dead stays so: what was held by way of it is gone.
    pub(crate) fn client(&self, doing: &'static str) -> Result<Arc<Client>> {
        let place = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        self.connected(place, doing, PATIENCE)
    }

    /// As [`client`](Site::client), but waits for nobody who connects, and no longer than `patience` for the server.
    pub(crate) fn client_soon(&self, doing: &'static str, patience: Duration) -> Result<Arc<Client>> {
        let place = match self.client.try_lock() {
            Ok(place) => place,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Timeout, doing, "another thread connects"));
            }
        };
        self.connected(place, doing, patience)
    }

    fn connected(
        &self,
        mut place: MutexGuard<'_, Option<Arc<Client>>>,
        doing: &'static str,
        patience: Duration,
    ) -> Result<Arc<Client>> {
        if let Some(client) = &*place
            && client.generation == generation()
            && !client.is_dead()
        {
            return Ok(client.clone());
        }
        let client =
            client::connect(&self.access, client::CLIENT, patience).map_err(|error| match error.kind() {
                ErrorKind::ServerGone => Error::gone(doing, error.to_string()).with_source(error),
                _ => error,
            })?;
        let client = client.share();
        *place = Some(client.clone());
        Ok(client)
    }

    /// Whether both are the same server, perhaps under two addresses.
    pub(crate) fn is_same(self: &Arc<Site>, other: &Arc<Site>) -> bool {
        let identity = |site: &Site| {
            let place = site.client.lock().unwrap_or_else(PoisonError::into_inner);
            place.as_ref().map(|client| client.identity)
        };
        Arc::ptr_eq(self, other) || identity(self).is_some_and(|ours| identity(other) == Some(ours))
    }

    /// Keeps the connection until this process ends, for what was issued by way of it.
    pub(crate) fn pin(self: &Arc<Site>) {
        static PINNED: Mutex<Vec<Arc<Site>>> = Mutex::new(Vec::new());
        let mut pinned = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
        if !pinned.iter().any(|site| Arc::ptr_eq(site, self)) {
            pinned.push(self.clone());
        }
    }

    /// A connection of its own for one lease, that goes to other processes.
    pub(crate) fn transit(&self) -> Result<Client> {
        client::connect(&self.access, client::TRANSIT, PATIENCE)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.access.address)
    }
}
