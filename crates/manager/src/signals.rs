//! What the server does about signals.
#![expect(unsafe_code, reason = "a signal is ignored")]

/// A terminal sends SIGINT to all of its processes. The server's end is its owner's.
pub(crate) fn ignore_interrupts() {
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}
