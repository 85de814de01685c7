//! The algorithm for the model checker, with deaths at its steps and mistakes to plant.

use super::permits::Books;
pub use super::{
    bug::{Bug, plant},
    permits::{Attempt, Fate, Permits, Slot, Waited},
};
use loom::sync::Arc;

/// A semaphore in the model, for a few processes.
#[derive(Debug)]
pub struct Semaphore {
    /// The words.
    pub permits: Permits,
    /// A slot per process.
    pub slots: Vec<Slot>,
}

impl Semaphore {
    /// A semaphore with so many permits, a bound, and so many processes.
    #[must_use]
    pub fn new(permits: u32, bound: u32, processes: usize) -> Arc<Semaphore> {
        let words = Permits::default();
        words.set(permits, bound);
        Arc::new(Semaphore { permits: words, slots: (0..processes).map(|_| Slot::default()).collect() })
    }

    /// Takes permits for a process, which may be fated to die at a step.
    pub fn take(&self, process: usize, count: u32, fate: Fate) -> Attempt {
        self.books(fate).take(process, count)
    }

    /// Gives them back.
    pub fn give(&self, process: usize, count: u32, fate: Fate) -> Attempt {
        self.books(fate).give(process, count)
    }

    /// What is done for a dead process. The recoverer may be fated to die too.
    pub fn recover(&self, process: usize, fate: Fate) -> Attempt {
        self.books(fate).recover(process)
    }

    /// How many a process holds. Exact for one that does nothing meanwhile.
    #[must_use]
    pub fn held(&self, process: usize) -> u32 {
        self.books(Fate::Lives).held(process)
    }

    fn books(&self, fate: Fate) -> Books<'_> {
        Books { permits: &self.permits, slots: &self.slots, fate }
    }
}
