//! What a worker needs of its pool's heap. See [`loads`] for the protocol.

use super::control::Control;
use crate::loads;
use procession_shm::HeapRing;
use serde::{Deserialize, Serialize, Serializer};
use std::sync::atomic::Ordering;

/// An end of the pool's ring, which stays with who sends it, too.
#[derive(Deserialize, Debug)]
#[serde(transparent)]
pub(super) struct Place(pub(super) HeapRing);

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_copy(serializer)
    }
}

/// Runs items, and notes each result's token in the worker's control words.
pub(super) type Cargo = loads::Cargo<Box<dyn Fn(u64)>>;

impl Place {
    /// For this process, a worker.
    pub(super) fn cargo(self, control: &Control) -> Cargo {
        let Place(ring) = self;
        loads::set_worker_ring(ring.beside());
        let control = control.clone();
        Cargo::new(ring, Box::new(move |token| control.load.store(token, Ordering::Release)))
    }
}
