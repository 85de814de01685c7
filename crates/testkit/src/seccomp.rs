//! Making system calls fail: a hand-written filter, so that no library is needed.

#![expect(unsafe_code, reason = "installing a filter has no safe form")]

use std::io;

/// `AUDIT_ARCH_*` of this build, where known. A call through another entry (32 bit) passes.
const ARCH: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xc000_00f3)
} else {
    None
};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// One call that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) number: libc::c_long,
    pub(crate) errno: i32,
    /// Only if the low half of this argument has one of these bits.
    pub(crate) flags: Option<(u32, u32)>,
}

/// The program for `rules`: the first that fits decides.
fn program(rules: &[Rule], arch: u32) -> Vec<libc::sock_filter> {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let allow = step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let mut program = vec![step(LOAD, ARCHITECTURE, 0, 0), step(JUMP_IF_EQUAL, arch, 1, 0), allow];
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    for rule in rules {
        let fail = step(RETURN, libc::SECCOMP_RET_ERRNO | (rule.errno.cast_unsigned() & 0xffff), 0, 0);
        program.push(step(LOAD, NUMBER, 0, 0));
        let number = rule.number as u32;
        match rule.flags {
            None => program.extend([step(JUMP_IF_EQUAL, number, 0, 1), fail]),
            Some((argument, mask)) => program.extend([
                step(JUMP_IF_EQUAL, number, 0, 3),
                step(LOAD, ARGUMENTS + 8 * argument + low_half, 0, 0),
                step(JUMP_IF_SET, mask, 0, 1),
                fail,
            ]),
        }
    }
    program.push(allow);
    program
}

/// Puts all threads of this process, and whatever it starts, under `rules`. There is no way back.
pub(crate) fn install(rules: &[Rule]) -> io::Result<()> {
    let Some(arch) = ARCH else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "no filter is written for this architecture"));
    };
    rustix::thread::set_no_new_privs(true)?;
    let mut program = program(rules, arch);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points to `len` instructions that live until the call returns; the kernel copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            std::ptr::from_ref(&filter),
        )
    };
    match result {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}
