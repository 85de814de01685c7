//! Why a queue cannot do its work.
#![cfg_attr(loom, allow(unreachable_pub, reason = "public in the model only"))]

use super::words::NoLock;
use std::fmt;

/// The queue cannot do its work. Nothing was put or taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Trouble {
    /// Its memory holds what no honest process writes.
    Corrupt {
        /// Which word.
        what: &'static str,
        /// What it holds.
        found: u64,
        /// What it could hold.
        limit: u64,
    },
    /// The deadline came first: somebody who was stopped holds its lock, perhaps.
    TimedOut,
    /// A mutex in it was overwritten: the operating system's error number.
    Damaged(i32),
    /// The calling thread holds as many locks as a thread can.
    TooManyLocks,
    /// There is no memory for what is to be put, or for the record of what is to be taken: the error number.
    NoMemory(i32),
    /// As many items are in hand as there are records: acknowledge some.
    TooManyInHand,
    /// This process could not become a member of the queue: no descriptor is left, `/proc` is not mounted, or a thousand
    /// processes take part already. The error number, if there was one.
    NoMember(Option<i32>),
}

impl Trouble {
    /// Why a lock could not be had. Without a deadline there is no end of waiting.
    pub(super) fn of_no_lock(error: NoLock) -> Trouble {
        match error {
            NoLock::Held => Trouble::TimedOut,
            NoLock::Trouble(trouble) => trouble,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let os = |code: &i32| std::io::Error::from_raw_os_error(*code);
        match self {
            Trouble::Corrupt { what, found, limit } => {
                write!(f, "its memory holds an impossible {what}: {found}, where {limit} is possible")
            }
            Trouble::TimedOut => {
                f.write_str("its lock could not be had in time: a process that is stopped may hold it")
            }
            Trouble::Damaged(code) => write!(f, "its mutex is damaged: {}", os(code)),
            Trouble::TooManyLocks => f.write_str("this thread holds as many locks as a thread can"),
            Trouble::NoMemory(code) => write!(f, "there is no memory for it: {}", os(code)),
            Trouble::TooManyInHand => {
                f.write_str("too many items are in hand: acknowledge some before you take more")
            }
            Trouble::NoMember(Some(code)) => {
                write!(f, "this process could not become a member of it: {}", os(code))
            }
            Trouble::NoMember(None) => f.write_str(
                "this process could not become a member of it: /proc is not mounted, or too many are members",
            ),
        }
    }
}

impl std::error::Error for Trouble {}
