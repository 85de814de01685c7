//! The token by which a running item learns that it was asked to end.

use std::{cell::RefCell, rc::Rc};

type Asked = Rc<dyn Fn() -> bool>;

thread_local! {
    /// How to find out whether the item that this thread runs was asked to end.
    static ASKED: RefCell<Option<Asked>> = const { RefCell::new(None) };
}

/// Whether the item that this thread is running for a pool was asked to end: it was cancelled, its worker is to be
/// replaced, or its pool ends. A long task looks from time to time, and returns what it has, or an error; if it does not,
/// it may be killed.
///
/// `false` outside of a pool's workers. It costs some nanoseconds.
///
/// ```
/// fn search(limit: u64) -> Option<u64> {
///     (0..limit).take_while(|_| !procession_pool::cancelled()).find(|n| n * n == 1_000_000)
/// }
/// assert_eq!(search(5_000), Some(1_000));
/// ```
#[must_use]
pub fn cancelled() -> bool {
    ASKED.with_borrow(|asked| asked.as_ref().is_some_and(|asked| asked()))
}

/// Calls `run`, in which [`cancelled`] asks `asked`.
pub(crate) fn with_token<R>(asked: Asked, run: impl FnOnce() -> R) -> R {
    struct Reset(Option<Asked>);
    impl Drop for Reset {
        fn drop(&mut self) {
            ASKED.set(self.0.take());
        }
    }
    let _reset = Reset(ASKED.replace(Some(asked)));
    run()
}
