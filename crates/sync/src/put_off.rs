//! Wakes that are put off until a lock is let go.
//!
//! Who notifies holds the condition's lock. A waiter that is woken then finds the lock taken, and sleeps again: twice the
//! switches. So the wake waits, in the notifier's own memory, for the moment at which it lets the lock go.
//!
//! # When a process dies
//!
//! With a wake put off: the waiters' entries say already that they are notified, so each finds out within a slice. The lock
//! is the dead one's then, too.

use crate::{arena::Handle, condition::ConditionWords, table::Wakes, who};
use std::cell::RefCell;

struct PutOff {
    /// The words of the lock that is held.
    lock: usize,
    /// Where they sleep.
    condition: Handle<ConditionWords>,
    wakes: Wakes,
}

thread_local! {
    static PUT_OFF: RefCell<Vec<PutOff>> = const { RefCell::new(Vec::new()) };
}

/// Wakes these when the calling thread lets go of the lock at this address, which it holds.
pub(crate) fn put_off(lock: usize, condition: Handle<ConditionWords>, wakes: Wakes) {
    let mut late = Some(PutOff { lock, condition, wakes });
    // At the thread's end there may be no place for them any more.
    let _ = PUT_OFF.try_with(|list| {
        if let (Ok(mut list), Some(late)) = (list.try_borrow_mut(), late.take()) {
            list.push(late);
            who::set_puts_off(true);
        }
    });
    if let Some(late) = late {
        late.condition.words().ring(&late.wakes);
    }
}

/// The calling thread has let go of the lock at this address.
#[cold]
pub(crate) fn let_go(lock: usize) {
    let due: Vec<PutOff> = PUT_OFF
        .try_with(|list| {
            let Ok(mut list) = list.try_borrow_mut() else { return Vec::new() };
            let due = list.extract_if(.., |late| late.lock == lock).collect();
            who::set_puts_off(!list.is_empty());
            due
        })
        .unwrap_or_default();
    for late in &due {
        late.condition.words().ring(&late.wakes);
    }
}
