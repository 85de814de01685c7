//! Stops a thread of another process, copies its registers and its stack, and lets it go.
//!
//! No call here waits for a child: that could take an exit status that is somebody else's to take. Whether a thread has
//! stopped is found by asking for its registers, which the kernel refuses until then.
#![expect(unsafe_code, reason = "ptrace and process_vm_readv have no safe form")]

use procession_sys::Deadline;
use std::{io, mem, ptr, thread, time::Duration};

/// Below the stack pointer leaf functions may keep something (System V ABI, the red zone).
const RED_ZONE: u64 = 128;
const PAGE: u64 = 4096;
/// How much is read at once.
const PIECE: usize = 16 * PAGE as usize;
/// In the upper bits of a stop's code where it is not the delivery of a signal (`ptrace(2)`).
const EVENT_STOP: i32 = 128;

/// What was copied of a thread.
#[derive(Debug)]
pub(super) struct Copied {
    /// In the order of DWARF: rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15, and the address of the next instruction.
    pub(super) registers: [Option<u64>; 17],
    /// Where the copied part of the stack begins, and it.
    pub(super) start: u64,
    pub(super) stack: Vec<u8>,
}

/// A thread that this one is attached to.
struct Tracee(libc::pid_t);

/// Copies the state of thread `id`, if it stops before `until`, and is of the process that is meant.
pub(super) fn copy(
    id: u32,
    until: Deadline,
    most: usize,
    is_meant: impl Fn() -> bool,
) -> Result<Copied, String> {
    let id = libc::pid_t::try_from(id).map_err(|_| "it is no thread".to_owned())?;
    let tracee = Tracee::seize(id).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => {
            "this process may not trace it (`kernel.yama.ptrace_scope`, or a debugger is attached)".to_owned()
        }
        _ => format!("it cannot be traced: {error}"),
    })?;
    let registers = loop {
        match tracee.registers() {
            Ok(registers) => break registers,
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                return Err(format!("its registers cannot be read: {error}"));
            }
            Err(_) if until.passed() => return Err("it does not stop, or has ended".to_owned()),
            Err(_) => thread::sleep(Duration::from_micros(50)),
        }
    };
    let r = &registers;
    let [rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp] = [r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp];
    let (start, stack) =
        if is_meant() { tracee.read(rsp.saturating_sub(RED_ZONE), most) } else { (0, Vec::new()) };
    tracee.let_go();
    if stack.is_empty() {
        return Err("its stack cannot be read".to_owned());
    }
    let registers =
        [rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rip];
    Ok(Copied { registers: registers.map(Some), start, stack })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Tracee {
    /// Attaches to a thread, and asks it to stop.
    fn seize(id: libc::pid_t) -> io::Result<Tracee> {
        let nothing = ptr::null_mut::<libc::c_void>();
        // SAFETY: it takes numbers. It changes this process's memory in no way.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, id, nothing, nothing) })?;
        // SAFETY: likewise.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, id, nothing, nothing) })?;
        Ok(Tracee(id))
    }

    /// Its registers, once it has stopped; `ESRCH` until then.
    fn registers(&self) -> io::Result<libc::user_regs_struct> {
        let nothing = ptr::null_mut::<libc::c_void>();
        // SAFETY: all of its fields are integers, for which zero is a value.
        let mut registers: libc::user_regs_struct = unsafe { mem::zeroed() };
        // SAFETY: the call writes one such structure, where there is one.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.0, nothing, &raw mut registers) })?;
        Ok(registers)
    }

    /// Up to `most` bytes of its memory from `start` on, as far as it is mapped.
    fn read(&self, start: u64, most: usize) -> (u64, Vec<u8>) {
        let mut bytes = vec![0_u8; most];
        let (mut filled, mut piece) = (0, PIECE);
        while filled < most {
            let from = start + filled as u64;
            // A piece ends with a page, since one that meets a hole may give nothing at all.
            let end = most.min(filled + piece - (from % PAGE) as usize);
            match self.read_piece(from, &mut bytes[filled..end]) {
                count if filled + count == end => filled = end,
                _ if piece > PAGE as usize => piece = PAGE as usize,
                count => {
                    filled += count;
                    break;
                }
            }
        }
        bytes.truncate(filled);
        (start, bytes)
    }

    fn read_piece(&self, from: u64, into: &mut [u8]) -> usize {
        let ours = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let theirs = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: `ours` is a slice that is exclusively borrowed; what `theirs` says is checked by the kernel.
        let count = unsafe { libc::process_vm_readv(self.0, &raw const ours, 1, &raw const theirs, 1, 0) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Has it go on as if nothing had been. If it stopped because a signal was about to be delivered, that is
    /// delivered.
    fn let_go(self) {
        let nothing = ptr::null_mut::<libc::c_void>();
        // SAFETY: all of its fields are integers or arrays of them, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: the call writes one such structure, where there is one.
        let told = check(unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, self.0, nothing, &raw mut info) });
        let signal = if told.is_ok() && info.si_code >> 8 != EVENT_STOP { info.si_signo } else { 0 };
        let signal = usize::try_from(signal).unwrap_or(0) as *mut libc::c_void;
        // SAFETY: it takes numbers. If it fails, the end of this thread does the same.
        let _ = unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, nothing, signal) };
    }
}
