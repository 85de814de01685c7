//! Mistakes that the model checker must find. In any other build there are none.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

/// A mistake in the algorithm, to be planted in a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bug {
    /// The commit of a message does not publish its bytes.
    RelaxedCommit = 1,
    /// The freed space is announced before it has been copied out.
    HeadBeforeCopy,
    /// The freed space is announced by a store that does not order the copy before it.
    RelaxedHead,
    /// A ringer looks for sleepers without a fence after its commit.
    NoFenceBeforeRing,
    /// A ringer clears the flag after the wake, and with it the flag of the next sleep.
    FlagClearedAfterWake,
    /// A ringer does not count, so a sleeper on its way falls asleep after the wake.
    BellNotCounted,
    /// A sleeper reads the count after it has set the flag.
    BellReadAfterFlag,
    /// A sleeper looks at the state before it sets the flag, and not after.
    LookBeforeFlag,
    /// An end that closes does not ring.
    CloseWithoutRing,
    /// A receiver that finds the other end closed does not look for a last message.
    NoLookAfterClose,
    /// The commit of a put does not publish the frame.
    RelaxedTail,
    /// A consumer frees the space before it has copied the frame out.
    FreedBeforeCopy,
    /// A consumer's word that space is free does not order the copy before it.
    RelaxedFree,
    /// A producer that uses space again does not order that after the consumer's word.
    RelaxedFreed,
    /// A ringer looks at a gate without a fence after its commit.
    NoFenceBeforeGate,
    /// A ringer at a gate does not count, so a sleeper on its way falls asleep after the wake.
    GateNotCounted,
    /// A ringer at a gate clears the flag though others may sleep.
    GateClearedAlways,
    /// A queue that is closed wakes nobody.
    QueueCloseWithoutRing,
    /// A consumer looks at the tail before it looks whether the queue is closed.
    NoLookAfterQueueClose,
    /// A record of a message that grows is told of without publishing its bytes.
    RelaxedGrown,
    /// A receiver takes what grows without looking whether that is the next message.
    GrownWithoutTail,
}

procession_sys::plantable!(Bug);
