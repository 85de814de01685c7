//! What the kernel tells of a process: its memory, and its time on a processor.

use std::fs;
use std::time::Duration;

use crate::scenario::Failure;

/// Bytes of memory that this process alone has, none of which would stay without it.
///
/// # Errors
///
/// If the kernel does not tell.
pub fn private_memory(pid: u32) -> Result<u64, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kib.sum::<u64>() * 1024)
}

/// How long the threads that a process has now have been on a processor so far.
///
/// # Errors
///
/// If the kernel does not tell.
pub fn processor_time(pid: u32) -> Result<Duration, Failure> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let first = text.split_whitespace().next().ok_or("an empty schedstat")?;
        total += Duration::from_nanos(first.parse()?);
    }
    Ok(total)
}
