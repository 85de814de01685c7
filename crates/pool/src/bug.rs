//! Mistakes that the model must find. In any other build there are none.
#![cfg_attr(not(shuttle), allow(unreachable_pub, dead_code, reason = "public in the model only"))]

/// A mistake in the front or the driver, to be planted in a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bug {
    /// A driver that has what it wanted wakes nobody to take over.
    NoHandOver = 1,
    /// Who settles something for others does not tell them.
    NoWordOfSettlement,
    /// What was in hand runs again as if it had been behind.
    HandRunsAgain,
    /// What is behind an item in hand spends an attempt.
    BehindSpends,
    /// A task that has ended is forgotten with the results that are still on their way.
    EndForgetsResults,
}

procession_sys::plantable!(Bug);
