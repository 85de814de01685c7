//! A waker that can be asked how often it was woken.

use std::{
    sync::{Arc, Condvar, Mutex},
    task::{Wake, Waker},
    time::{Duration, Instant},
};

/// Counts its wakes.
#[derive(Default)]
pub(crate) struct Counter(Mutex<u32>, Condvar);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }
}

impl Counter {
    /// Waits until it was woken so often, and tells how long that took.
    pub(crate) fn wait(&self, count: u32) -> Duration {
        let start = Instant::now();
        let limit = Duration::from_secs(30);
        let (_guard, late) =
            self.1.wait_timeout_while(self.0.lock().unwrap(), limit, |now| *now < count).unwrap();
        assert!(!late.timed_out());
        start.elapsed()
    }

    pub(crate) fn count(&self) -> u32 {
        *self.0.lock().unwrap()
    }
}

pub(crate) fn counter() -> (Arc<Counter>, Waker) {
    let counter = Arc::new(Counter::default());
    (counter.clone(), counter.into())
}
