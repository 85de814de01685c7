//! Mistakes that the model checker must find. In any other build there are none.

/// A mistake in the protocol of a row, to be planted in its model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Bug {
    /// The commit does not publish the bytes.
    RelaxedCommit = 1,
    /// The commit comes before the bytes.
    CommitBeforeCopy,
    /// The reader does not order its copy behind the commit that it has seen.
    RelaxedLook,
    /// Room is given back before the bytes were copied out.
    HeadBeforeCopy,
    /// Room is given back by a store that does not order the copy before it.
    RelaxedHead,
    /// The writer does not order its bytes behind the word that there is room.
    RelaxedRoom,
    /// The ring's first position is moved after the commit.
    OriginAfterCommit,
    /// Who is about to sleep looks without a fence behind its flag.
    NoFenceBeforeSleep,
    /// Who has committed, or given room back, looks at the flag without a fence.
    NoFenceBeforeBell,
    /// The reader looks before it sets its flag, and not after.
    LookBeforeFlag,
    /// The writer does not try once more after it has set its flag.
    NoSecondTry,
    /// Who rings clears the flag after the bell, and with it the flag of the next sleep.
    FlagClearedAfterBell,
    /// What was committed before the hang-up is taken for not there.
    EndBeforeLook,
    /// Who waits for room behind the one who reads does not set the flag again before it sleeps.
    WaiterDoesNotAsk,
    /// Who reads, and hears a bell, does not set the flag again where there is no room.
    HearerDoesNotAsk,
}

procession_sys::plantable!(Bug);
