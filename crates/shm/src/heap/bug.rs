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

#[cfg(loom)]
static PLANTED: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Plants a mistake.
#[cfg(loom)]
#[allow(dead_code, reason = "called by the model only")]
pub(crate) fn plant(bug: Bug) {
    PLANTED.store(bug as u32, core::sync::atomic::Ordering::SeqCst);
}

/// Whether this mistake is planted.
#[cfg(loom)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.load(core::sync::atomic::Ordering::SeqCst) == bug as u32
}

/// Whether this mistake is planted: never outside the model.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
