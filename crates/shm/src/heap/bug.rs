//! Mistakes that the model checker must find. In any other build there are none.

/// A mistake in the protocol of holders or of rings, to be planted in a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Bug {
    /// A new holder makes no new version, so that an end which looked at its slot too early succeeds.
    NoNewVersion = 1,
    /// An end reads the version after it has looked.
    VersionReadLate,
    /// Two that clear their slots at once may each see the other's as taken.
    NoFenceBeforeLook,
    /// All messages of a dead ring's entry count as over, those of the next ring there among them.
    AllOfADeadRing,
    /// A look reads after the entries which tokens were given out.
    TokensReadLate,
}

procession_sys::plantable!(Bug);
