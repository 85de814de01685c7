//! A helper that outlives this process, for what no descriptor's end can undo: names.
//!
//! # Who does what
//!
//! A crate that leaves names in the file system asks for a helper by [`ensure`], before it makes the first one, and
//! says what the helper is to run. The crate that can start processes [`provide`]s the helper. Neither knows the other.
//!
//! The helper waits for the end of this process, whatever ends it, runs the work once, and ends.
//!
//! # When a process dies
//!
//! Should the helper be killed, the next [`ensure`] starts another. Should both die, nobody is left to do the work:
//! whoever asks for a helper needs a second way to find what was left.

use std::{io, sync::OnceLock};

/// What a helper runs when this process has ended. It is called in another process, which was executed anew: it knows
/// nothing but its argument.
pub type Work = fn(String);

/// Makes sure that a helper is there that will run the work on the argument. Returns at once if it is.
pub type Provider = fn(Work, &str) -> io::Result<()>;

static PROVIDER: OnceLock<Provider> = OnceLock::new();

/// Names who starts helpers for this process. The first one stays.
pub fn provide(provider: Provider) {
    let _ = PROVIDER.set(provider);
}

/// Makes sure that a helper runs `work` on `argument` after the end of this process. False if nobody here can start one.
///
/// # Errors
///
/// What the provider reports: no descriptor or process left, no `/proc`.
pub fn ensure(work: Work, argument: &str) -> io::Result<bool> {
    match PROVIDER.get() {
        Some(provider) => provider(work, argument).map(|()| true),
        None => Ok(false),
    }
}
