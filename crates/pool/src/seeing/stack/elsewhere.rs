//! Registers are read on x86-64 only.

use procession_sys::Deadline;

/// What was copied of a thread.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) registers: [Option<u64>; 17],
    pub(super) start: u64,
    pub(super) stack: Vec<u8>,
}

pub(super) fn copy(_: u32, _: Deadline, _: usize, _: impl Fn() -> bool) -> Result<Copied, String> {
    Err("this works on x86-64 only".to_owned())
}
