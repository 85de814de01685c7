//! A wait that was too short.

use std::fmt;

/// No result came in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no result came before the timeout")
    }
}

impl std::error::Error for TimedOut {}
