//! What the front has at the moment.

use super::Front;
use std::collections::VecDeque;

impl Front {
    /// How many tasks wait to be given to the back.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.values().map(VecDeque::len).sum::<usize>().saturating_sub(self.stale)
    }
}
