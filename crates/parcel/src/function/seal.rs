//! The seal on a reference to a function: a MAC under a key that only the processes of one tree have.
//!
//! The bytes of a parcel are anybody's to write, in safe code too: a `Serialize` implementation is enough. What such
//! bytes call a reference must not become an address to jump to. So each reference carries a SipHash-2-4 of all that
//! it says, and only this module has the key.
//!
//! # Invariants
//! 1. [`seal`] is called only with facts about a function that was named by its type in this very process.
//! 2. The key leaves this module only by [`seal_key`], whose caller promises that it gets no further than to other
//!    processes of the same program.
//! 3. `KEY` is null, or points to a key that neither changes nor goes away. It is set once, without a lock: a copy
//!    of this process that was forked meanwhile must not wait for a thread that it does not have.
#![expect(unsafe_code, reason = "the key lies behind a pointer that is published once")]

use crate::error::Error;
use rustix::rand::{GetRandomFlags, getrandom};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

type Key = [u8; 16];

static KEY: AtomicPtr<Key> = AtomicPtr::new(ptr::null_mut());

/// What a reference is to. One form's seal is none for another.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// A function of the type that its signature stands for.
    Typed = 1,
    /// An entry, and a function of the type that it calls.
    Erased = 2,
}

/// The seal of a reference.
pub(super) fn seal(form: Form, words: [u64; 3], build_id: &[u8; 20]) -> Result<u64, Error> {
    let mut hasher = SipHasher24::new_with_key(key()?);
    let [entry, function, signature] = words;
    // Each part has a fixed length, so that no two references make the same bytes.
    for word in [form as u64, entry, function, signature] {
        hasher.write(&word.to_le_bytes());
    }
    hasher.write(build_id);
    Ok(hasher.finish())
}

/// This process's key, drawn now if it has none yet.
fn key() -> Result<&'static Key, Error> {
    if let Some(key) = published() {
        return Ok(key);
    }
    let mut key = Key::default();
    let drawn = getrandom(&mut key, GetRandomFlags::empty());
    let failed = |cause: io::Error| Error::io("draw the key that seals references to functions", "", cause);
    if drawn.map_err(|errno| failed(errno.into()))? != key.len() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(publish(key))
}

fn published() -> Option<&'static Key> {
    // SAFETY: null, or a key that was published for good (invariant 3).
    unsafe { KEY.load(Ordering::Acquire).as_ref() }
}

/// Makes `key` this process's, unless it has one; returns the one that it has then.
fn publish(key: Key) -> &'static Key {
    let new = Box::into_raw(Box::new(key));
    match KEY.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: published just now, for good.
        Ok(_) => unsafe { &*new },
        Err(first) => {
            // SAFETY: made above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(new) });
            // SAFETY: not null, so published for good (invariant 3).
            unsafe { &*first }
        }
    }
}

/// The key that seals this process's references to functions, for a process that it starts; drawn from the kernel
/// when it is first needed.
///
/// # Errors
/// If the kernel gives no random bytes.
///
/// # Safety
/// Whoever has the key can make a reference to any address: hand it to processes only that run this very program,
/// over a channel that nobody else reads, and use it for nothing but [`adopt_seal_key`].
pub unsafe fn seal_key() -> Result<[u8; 16], Error> {
    key().copied()
}

/// Takes over the key of the process that started this one, so that each understands the other's references to
/// functions. Call it before the first of them is packed or unpacked.
///
/// # Errors
/// If this process has another key already. References go on being sealed under that.
///
/// # Safety
/// The key is [`seal_key`]'s of a process that runs this very program, and came by a channel that nobody else reads.
pub unsafe fn adopt_seal_key(key: [u8; 16]) -> Result<(), Error> {
    if *publish(key) == key {
        return Ok(());
    }
    let cause = "this process has drawn one of its own, as it packed or unpacked a reference before";
    Err(Error::io(
        "adopt the key that seals references to functions",
        "",
        io::Error::new(io::ErrorKind::AlreadyExists, cause),
    ))
}
