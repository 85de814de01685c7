//! How a re-executed program finds out that it is a child, before `main`.
//!
//! # Protocol
//!
//! A constructor in the program's `.init_array` looks at the last argument. It takes the process for a child only if
//! all of this holds, and otherwise lets `main` run as usual, so that no user input can switch a program off:
//!
//! 1. the last argument is the marker followed by a nonce of 32 hexadecimal digits;
//! 2. stdin is a Unix socket whose other end was made by this process's parent, of the same user;
//! 3. a job waits in it already (nothing is waited for), and holds the same nonce.
//!
//! Then the key that seals references to functions is taken over from the job, the marker is cut off the arguments, the constructors after ours are run (registries of other crates fill
//! there), and the job runs. `main` is never reached.
//!
//! Without the feature `auto-init` [`init`] does the same at the top of `main`. A child that was never initialised
//! runs `main` as the parent did, and would start children in turn: [`check_initialised`] refuses that.
#![expect(
    unsafe_code,
    reason = "a constructor reads argv, and the other constructors are found in the ELF image"
)]

use crate::{
    Error, Result,
    child::{self, Origin},
    job::{Job, MARKER, Nonce, SEAL},
    stdio,
};
use procession_parcel::{
    function,
    wire::{self, Limits},
};
use procession_sys::Deadline;
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU8, Ordering},
};

/// Nobody has looked yet.
const UNKNOWN: u8 = 0;
/// This process was not started by the library, or is a child that has been told its job.
const KNOWN: u8 = 1;
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

#[cfg(feature = "auto-init")]
mod constructor {
    use std::ffi::{c_char, c_int};

    type Constructor = extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char);

    /// Runs before `main`, with the arguments of `main` (glibc and musl pass them; others are not supported).
    // SAFETY: `.init_array` holds pointers to functions of this signature.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static BOOT: Constructor = boot;

    extern "C" fn boot(argc: c_int, argv: *mut *mut c_char, environment: *mut *mut c_char) {
        // A panic must not leave the constructor; a child that panics here ends without a result.
        let outcome = std::panic::catch_unwind(|| {
            let Ok(count) = usize::try_from(argc) else { return };
            // In a shared library we are not the program's constructor: `init` is needed there.
            if !procession_parcel::function::image().contains(boot as *const () as usize) {
                return;
            }
            super::STATE.store(super::KNOWN, super::Ordering::Relaxed);
            crate::children::prepare();
            crate::title::keep(argv);
            if count < 2 || argv.is_null() {
                return;
            }
            // SAFETY: `argv` has `argc` entries, so this is its last one.
            let place = unsafe { argv.add(count - 1) };
            // SAFETY: entries of `argv` are readable, and its strings live as long as the process.
            let Some(nonce) = super::marker(unsafe { *place }) else { return };
            let Some((job, socket)) = super::claim(nonce) else { return };
            // SAFETY: `argv` is ours to change before `main`; `std` stops at a null entry.
            unsafe { *place = std::ptr::null_mut() };
            super::run_later_constructors(boot as *const (), argc - 1, argv, environment);
            super::child::run(job, None, socket, super::child::Origin::Executed)
        });
        if outcome.is_err() {
            // SAFETY: ends the process; nothing of Rust's is unwound, and nothing was started yet.
            unsafe { libc::_exit(101) }
        }
    }
}

/// Makes this process run its job and end, if it is a child; returns otherwise.
///
/// Needed only in a program built without the feature `auto-init`, or where this library is part of a shared
/// library: call it first in `main`. Where it is not needed it does nothing.
pub fn init() {
    if STATE.swap(KNOWN, Ordering::Relaxed) == KNOWN {
        return;
    }
    if let Some((job, socket)) = nonce_of_last_argument().and_then(claim) {
        child::run(job, None, socket, child::Origin::Executed)
    }
}

/// Refuses to start a process whose child would not be caught, and so would start the same processes for ever: here, where
/// nobody has looked whether this process is a child, or there, where somebody looked too late. `executes` tells whether
/// the child is to be executed: a forked one need not be caught.
pub(crate) fn check_initialised(executes: bool) -> Result<()> {
    if crate::forkserver::is_serving() {
        return Err(Error::unsupported(
            "failed to start a process: this is the fork server, whose preload hooks may not start any",
        ));
    }
    if STATE.load(Ordering::Relaxed) == KNOWN {
        return Ok(());
    }
    if nonce_of_last_argument().is_some() && job_socket().is_some() {
        return Err(Error::not_initialised());
    }
    if executes {
        return Err(Error::unsupported(
            "failed to start a process: its child could not be caught; build with the feature `auto-init`, or call \
             `procession::init()` first in `main`",
        ));
    }
    Ok(())
}

fn nonce_of_last_argument() -> Option<Nonce> {
    parse(std::env::args_os().skip(1).last()?.to_str()?)
}

/// The nonce in an argument that is a marker.
#[cfg(feature = "auto-init")]
fn marker(argument: *const std::ffi::c_char) -> Option<Nonce> {
    if argument.is_null() {
        return None;
    }
    // SAFETY: entries of `argv` that are not null are strings that live as long as the process.
    parse(unsafe { std::ffi::CStr::from_ptr(argument) }.to_str().ok()?)
}

fn parse(argument: &str) -> Option<Nonce> {
    let digits = argument.strip_prefix(MARKER)?;
    let mut nonce = Nonce::default();
    if digits.len() != 2 * nonce.len() || !digits.is_ascii() {
        return None;
    }
    for (byte, pair) in nonce.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(nonce)
}

/// Stdin, if it is a Unix socket made by the parent.
fn job_socket() -> Option<OwnedFd> {
    // SAFETY: descriptor 0 is borrowed for this function only; if it is closed the first call fails.
    let stdin = unsafe { BorrowedFd::borrow_raw(0) };
    let peer = peer_of(0)?;
    // Both are 0 for the first process of a pid namespace, whose parent is outside.
    let parent = rustix::process::Pid::as_raw(rustix::process::getppid());
    // A parent that is dead is our parent no more: it has closed its end, or is about to.
    if peer.pid != parent && !hung_up(stdin) && !dies(peer.pid) {
        return None;
    }
    rustix::io::fcntl_dupfd_cloexec(stdin, 3).ok()
}

/// Whether a process is dead, or dies just now: its threads may be gone one by one, and its children orphans, before its
/// descriptors are closed; and a copy that it has forked may hold them on.
fn dies(pid: i32) -> bool {
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);
    let Some(pid) = u32::try_from(pid).ok().filter(|&pid| pid != 0) else { return false };
    match procession_sys::PidFd::open(pid) {
        Ok(pidfd) => pidfd.wait(Some(Deadline::after(PATIENCE))).unwrap_or(false),
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}

fn hung_up(socket: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags};
    let mut poll = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    procession_sys::fd::look(&mut poll).is_ok() && poll[0].revents().contains(PollFlags::HUP)
}

/// Who made the other end of a Unix socket. (rustix has no room for a pid of 0.)
fn peer_of(socket: i32) -> Option<libc::ucred> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let place = (&raw mut peer).cast();
    // SAFETY: the place has room for `length` bytes, and both are written by the kernel only during the call.
    let result =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut length) };
    (result == 0).then_some(peer)
}

/// Takes the job, if this process is the child that it is for.
fn claim(nonce: Nonce) -> Option<(Job, OwnedFd)> {
    let socket = job_socket()?;
    stdio::fill_standard_streams();
    // A job is there whole; for the rest of something else nobody waits.
    let at_once = Some(Deadline::from_nanos(0));
    let parcel = wire::recv(socket.as_fd(), &Limits::default(), at_once).ok()??;
    // The nonce comes first. From here on this process is a child, whatever else is wrong: `main` is not for it.
    if !parcel.bytes().starts_with(&nonce) {
        return None;
    }
    let peer = peer_of(0)?;
    if peer.uid != rustix::process::geteuid().as_raw() && peer.uid != 0 {
        child::refuse(
            &socket,
            "the executable runs as another user than its parent (set-user-ID)",
            Origin::Executed,
        )
    }
    // The rest of the job holds a reference to a function, which this key seals.
    let Some(Ok(key)) = parcel.bytes().get(SEAL).map(<[u8; 16]>::try_from) else {
        child::refuse(&socket, "the executable is another build than its parent", Origin::Executed)
    };
    // SAFETY: the socket pair was made by our parent (checked), who executed this very program, drew the key or got it
    // in this way, and keeps it as we do.
    if let Err(error) = unsafe { function::adopt_seal_key(key) } {
        child::refuse(&socket, &error.to_string(), Origin::Executed)
    }
    // SAFETY: the socket pair was made by our parent (checked), who executed this very program. Should it be another
    // program that knows the format, the build id and the addresses in the job are checked before they are used.
    let Ok(job) = unsafe { parcel.assume_same_program() }.unpack::<Job>() else {
        child::refuse(&socket, "the executable is another build than its parent", Origin::Executed)
    };
    close_inherited();
    Some((job, socket))
}

/// Closes what this process was handed over the execution by accident: descriptors of its parent that are not
/// close-on-exec. What a constructor has opened here before is left alone, as long as it is.
fn close_inherited() {
    // The size of this directory is the number of open descriptors (Linux 6.2, 0 before): a call instead of a listing,
    // which takes 40 µs. The standard streams are open.
    let open = rustix::fs::stat("/proc/self/fd").map_or(0, |stat| stat.st_size);
    if open > 0 && usize::try_from(open - 3).is_ok_and(close_first_inherited) {
        return;
    }
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|&number| number > 2) {
        close_if_inherited(number);
    }
}

/// Looks for `left` open descriptors above the standard streams, and closes those that are not close-on-exec. False if
/// it did not find as many.
fn close_first_inherited(mut left: usize) -> bool {
    /// How many numbers one call looks at: a few, since most of the descriptors are the lowest, and then many, since one
    /// that somebody put out of the way is far off.
    const FEW: usize = 8;
    const MANY: usize = 256;
    let mut numbers = [libc::pollfd { fd: -1, events: 0, revents: 0 }; MANY];
    let (mut next, mut count) = (3, FEW);
    while left > 0 && next < MOST_DESCRIPTORS {
        for (number, place) in (next..).zip(&mut numbers[..count]) {
            place.fd = number;
        }
        // SAFETY: the array has at least as many entries.
        if unsafe { libc::poll(numbers.as_mut_ptr(), count as libc::nfds_t, 0) } == -1 {
            // More numbers than the limit of descriptors, which may be lower than one that is open.
            return false;
        }
        for place in numbers[..count].iter().filter(|place| place.revents & libc::POLLNVAL == 0) {
            close_if_inherited(place.fd);
            left = left.saturating_sub(1);
        }
        (next, count) = (next + count as i32, MANY);
    }
    left == 0
}

/// No number is beyond this one that is worth a look. (The listing finds it.)
const MOST_DESCRIPTORS: i32 = 1 << 16;

/// Closes a descriptor that is not close-on-exec.
fn close_if_inherited(number: i32) {
    // SAFETY: only asks; a number that is closed gives an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags != -1 && flags & libc::FD_CLOEXEC == 0 {
        // SAFETY: nobody in this process knows of it yet.
        unsafe { libc::close(number) };
    }
}

/// Runs the constructors that the loader would have run after ours.
#[cfg(feature = "auto-init")]
fn run_later_constructors(
    ours: *const (),
    argc: std::ffi::c_int,
    argv: *mut *mut std::ffi::c_char,
    environment: *mut *mut std::ffi::c_char,
) {
    type Constructor = extern "C" fn(std::ffi::c_int, *mut *mut std::ffi::c_char, *mut *mut std::ffi::c_char);
    let mut after = false;
    for &entry in init_array() {
        if after && entry != 0 && entry != usize::MAX {
            // SAFETY: entries of the main program's `.init_array` are relocated pointers to such functions; 0 and -1
            // are the linker's fillers.
            let constructor = unsafe { std::mem::transmute::<usize, Constructor>(entry) };
            constructor(argc, argv, environment);
        }
        after |= entry == ours.addr();
    }
}

/// The main program's `.init_array`.
#[cfg(feature = "auto-init")]
fn init_array() -> &'static [usize] {
    const DT_NULL: i64 = 0;
    const DT_INIT_ARRAY: i64 = 25;
    const DT_INIT_ARRAYSZ: i64 = 27;
    #[repr(C)]
    struct Dynamic {
        tag: i64,
        value: u64,
    }
    unsafe extern "C" fn first(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        found: *mut std::ffi::c_void,
    ) -> std::ffi::c_int {
        // SAFETY: the loader passes a valid record.
        let info = unsafe { &*info };
        // SAFETY: `dlpi_phdr` points to `dlpi_phnum` headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        if let Some(dynamic) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) {
            // SAFETY: `found` is the pair below.
            unsafe { *found.cast::<(u64, u64)>() = (info.dlpi_addr, info.dlpi_addr + dynamic.p_vaddr) };
        }
        1
    }
    let mut found = (0_u64, 0_u64);
    // SAFETY: the callback writes one pair, and stops at the first record, the main program's.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut found).cast()) };
    let (bias, mut dynamic) = (found.0, found.1 as *const Dynamic);
    if dynamic.is_null() {
        return &[];
    }
    let (mut start, mut bytes) = (0, 0);
    loop {
        // SAFETY: the table is mapped and ends with DT_NULL.
        let entry = unsafe { &*dynamic };
        match entry.tag {
            DT_NULL => break,
            DT_INIT_ARRAY => start = bias + entry.value,
            DT_INIT_ARRAYSZ => bytes = entry.value as usize,
            _ => {}
        }
        // SAFETY: the end was not reached.
        dynamic = unsafe { dynamic.add(1) };
    }
    if start == 0 {
        return &[];
    }
    // SAFETY: the linker laid out the array at this address with this many bytes; it is not written after relocation.
    unsafe { std::slice::from_raw_parts(start as *const usize, bytes / size_of::<usize>()) }
}
