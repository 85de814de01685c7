//! Pinning the calling thread to a core.

use std::io;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::scenario::{Cores, Failure, Regime};

/// The cores that this process may use.
///
/// # Errors
///
/// If the kernel does not tell.
pub fn cores() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Pins the calling thread.
///
/// # Errors
///
/// If this process may not use that core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// Pins the first thread of another process.
///
/// # Errors
///
/// If there is none, or it may not use that core.
pub fn pin_process(pid: u32, core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(Pid::from_raw(pid.cast_signed()), &set)?;
    Ok(())
}

/// Lets the calling thread run on all cores again. What looks at the cores when it is made, to see whether a spin is of any
/// use, is made after this where each side has a core to itself.
///
/// # Errors
///
/// If the kernel refuses.
pub fn widen() -> io::Result<()> {
    let mut set = CpuSet::new();
    ALL.with(|all| all.iter().for_each(|core| set.set(*core)));
    sched_setaffinity(None, &set)?;
    Ok(())
}

/// Pins the near side (this thread) as the regime says, and returns the core for the far side.
///
/// # Errors
///
/// If the regime needs two cores and there is one.
pub fn near_side(regime: Regime) -> Result<Option<usize>, Failure> {
    let cores = ALL.with(|all| all.clone());
    let (near, far) = match (regime.cores, &cores[..]) {
        (Cores::Free, _) => return Ok(None),
        (Cores::One, [first, ..]) => (*first, *first),
        (Cores::Two, [first, second, ..]) => (*first, *second),
        _ => return Err("needs two cores".into()),
    };
    pin(near)?;
    Ok(Some(far))
}

thread_local! {
    /// The cores as they were before anything was pinned: looked up once, by the first who asks.
    static ALL: Vec<usize> = cores().unwrap_or_default();
}
