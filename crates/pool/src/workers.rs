//! [`Pool`]'s workers, seen and steered.

use crate::{Pool, back::WorkerInfo};

impl Pool {
    /// What its workers are doing, by index.
    ///
    /// The counts are as of the last time that somebody waited for results, or that something happened to a worker.
    #[must_use]
    pub fn worker_infos(&self) -> Vec<WorkerInfo> {
        let shared = &self.shared;
        if shared.is_ours() { shared.lock().back.worker_infos() } else { Vec::new() }
    }

    /// Has a worker end once it has finished the task that it is running, in order, with its exit function; and has it
    /// replaced. What was queued for it runs elsewhere, no attempt is spent. A running item can learn of it by
    /// [`cancelled`](crate::cancelled). Tells whether there was such a worker.
    pub fn restart_worker(&self, index: usize) -> bool {
        let shared = &self.shared;
        shared.is_ours() && shared.lock().back.restart_worker(index)
    }

    /// Keeps this many workers from now on. Those that are missing are started; those that are too many, the ones with the
    /// highest indices, end once they have finished the task that they are running, in order. What was queued for those runs
    /// elsewhere, no attempt is spent. It does not wait for any of that.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn resize(&self, workers: usize) {
        assert!(workers > 0, "a pool has at least one worker");
        if self.shared.is_ours() {
            self.shared.resize(workers);
        }
    }
}
