//! Mistakes that the model checker must find. In any other build there are none.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

/// A mistake in the algorithm, to be planted in a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bug {
    /// A tag is overwritten without a record that its operation is complete.
    NoHelp = 1,
    /// A helper does not look whether the tag is still there after it has read the number of the operation.
    NoSecondLook,
    /// A helper records after its own commit.
    HelpAfterCommit,
    /// The count before the operation is overwritten in place.
    OneBook,
    /// An operation that was given up is followed by the next number.
    NumberNotReused,
    /// A recovery reads what was recorded before it reads the tag.
    RecordBeforeTag,
    /// A recovery gives back first and then writes that it has.
    GiveThenForget,
    /// The commit does not publish what was done before.
    RelaxedCommit,
    /// A sleeper reads the bell after it has set the flag.
    BellReadAfterFlag,
    /// A sleeper looks at the value before it sets the flag, and not after.
    LookBeforeFlag,
    /// A ringer does not count, so a sleeper on its way falls asleep after the wake.
    BellNotCounted,
    /// A ringer that finds nobody asleep clears the flag, and does not ring once more.
    ClearedSilently,
    /// A ringer wakes as many as there are permits, though some sleepers want more than one.
    AsManyAsGiven,
}

procession_sys::plantable!(Bug);
