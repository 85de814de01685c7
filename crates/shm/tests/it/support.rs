//! Small tools for these tests.

use procession_shm::{Kind, Segment, signature};
use std::sync::atomic::{AtomicU8, Ordering};

pub(crate) const KIND: Kind = Kind::new("test", 7, signature(&[1, 2, 3]));

/// One byte of a segment's payload, as an atomic.
pub(crate) fn byte(segment: &Segment, offset: usize) -> &AtomicU8 {
    assert!(offset < segment.len());
    // SAFETY: the offset lies within the payload.
    let byte = unsafe { segment.as_ptr().add(offset) };
    // SAFETY: the byte is mapped as long as the segment lives, and only ever accessed as an atomic.
    unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
}

pub(crate) fn set(segment: &Segment, offset: usize, value: u8) {
    byte(segment, offset).store(value, Ordering::Relaxed);
}

pub(crate) fn get(segment: &Segment, offset: usize) -> u8 {
    byte(segment, offset).load(Ordering::Relaxed)
}

/// The memory that an object has, in bytes.
pub(crate) fn resident(segment: &Segment) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::File::from(segment.fd().try_clone_to_owned().unwrap());
    file.metadata().unwrap().blocks() * 512
}

/// A name that no other test uses.
pub(crate) fn fresh(what: &str) -> String {
    use std::sync::atomic::AtomicU32;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The file behind a name.
pub(crate) fn path(name: &str) -> std::path::PathBuf {
    std::path::Path::new("/dev/shm").join(name)
}

/// All there is in the folder of named segments.
pub(crate) fn folder() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir("/dev/shm")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
