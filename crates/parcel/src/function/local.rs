//! State that stays in a process: made there once, lent to calls, never sent.

use std::any::{Any, type_name};
use std::cell::RefCell;

thread_local! {
    static STATE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Gives this thread the state that functions made by [`Erased::with_local_state`](super::Erased::with_local_state) are
/// called with, in place of the one that it had.
pub fn set_local_state<S: 'static>(state: S) {
    // The old one's `drop` runs when the place is free again.
    let old = STATE.replace(Some(Box::new(state)));
    drop(old);
}

/// Takes the state of this thread away, and drops it.
pub fn drop_local_state() {
    let old = STATE.take();
    drop(old);
}

/// Lends the state to `run`. It stays with the thread whatever becomes of the call, also if that panics.
pub(super) fn lend<S: 'static, R>(run: impl FnOnce(&mut S) -> R) -> Result<R, String> {
    struct Back(Option<Box<dyn Any>>);
    impl Drop for Back {
        fn drop(&mut self) {
            STATE.with_borrow_mut(|place| {
                if place.is_none() {
                    *place = self.0.take();
                }
            });
        }
    }
    let mut lent = Back(STATE.take());
    let Some(state) = lent.0.as_mut() else {
        return Err(format!("this process has no state of type `{}`", type_name::<S>()));
    };
    match state.downcast_mut() {
        Some(state) => Ok(run(state)),
        None => Err(format!("the state of this process is not of type `{}`", type_name::<S>())),
    }
}
