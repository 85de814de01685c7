//! What is not attached, and what the error says.

use crate::support::KIND;
use procession_shm::{Error, Kind, Segment};
use procession_testkit::watchdog;
use rustix::fs::{MemfdFlags, SealFlags};
use std::{
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

const SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// A memory file with these bytes, of this size, with these seals.
fn memory_file(bytes: &[u8], size: u64, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("foreign", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    file.set_len(size).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

/// The header of a segment, with some bytes changed.
fn forged(changes: &[(usize, u8)]) -> OwnedFd {
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let mut header = [0; 64];
    let file = File::from(segment.fd().try_clone_to_owned().unwrap());
    file.read_exact_at(&mut header, 0).unwrap();
    for &(offset, byte) in changes {
        header[offset] = byte;
    }
    memory_file(&header, 3 * 4096, SIZE)
}

fn refused(fd: OwnedFd, words: &str) -> Error {
    let error = Segment::attach(fd, KIND).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("failed to attach segment `test` (fd ") && text.contains(words), "{text}");
    assert_eq!(format!("{error:?}"), text);
    assert!(error.is_incompatible());
    error
}

#[test]
fn an_unchanged_copy_of_a_header_is_attached() {
    let _watchdog = watchdog!();
    assert_eq!(Segment::attach(forged(&[]), KIND).unwrap().len(), 4096);
}

#[test]
fn the_error_says_which_part_of_the_header_differs() {
    let _watchdog = watchdog!();
    refused(forged(&[(0, b'X')]), "does not start as a segment does");
    refused(forged(&[(8, 99)]), "its version is 0x63, expected 0x2");
    refused(forged(&[(12, 8)]), "its kind is 0x8, expected 0x7");
    refused(forged(&[(16, 1)]), "from another build, this one expects");
    refused(forged(&[(20, 0)]), "its ready mark is 0x0, expected 0x1");
    refused(forged(&[(24, 1)]), "its size is 0x3001, expected 0x3000");
}

#[test]
fn a_segment_of_another_kind_or_layout_is_refused() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let others = [(Kind::new("test", 8, KIND.layout), "kind"), (Kind::new("test", 7, 1), "layout")];
    for (kind, differs) in others {
        let error = Segment::attach(segment.fd().try_clone_to_owned().unwrap(), kind).unwrap_err();
        assert!(error.to_string().contains(differs), "{error}");
        let any = Segment::attach_any(segment.fd().try_clone_to_owned().unwrap()).unwrap();
        let error = any.check(kind).unwrap_err();
        assert!(error.to_string().contains(differs), "{error}");
    }
}

#[test]
fn what_could_still_shrink_is_refused() {
    let _watchdog = watchdog!();
    let missing = "not sealed against shrinking and growing";
    for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::GROW] {
        refused(memory_file(b"", 8192, seals), missing);
    }
}

#[test]
fn what_is_no_memory_file_is_refused() {
    let _watchdog = watchdog!();
    refused(File::open("/dev/null").unwrap().into(), "no memory file");
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    refused(socket.into(), "no memory file");
}

#[test]
fn what_is_too_small_for_a_header_and_a_payload_is_refused() {
    let _watchdog = watchdog!();
    for size in [0, 64, 4096, 8192] {
        refused(memory_file(b"", size, SIZE), "too small");
    }
}

#[test]
fn what_cannot_be_written_to_is_an_error() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&segment.fd()));
    let read_only = File::open(path).unwrap();
    drop(segment);
    let error = Segment::attach(read_only.into(), KIND).unwrap_err();
    assert!(error.to_string().contains("mmap"), "{error}");
    let sealed = forged(&[]);
    rustix::fs::fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    let error = Segment::attach(sealed, KIND).unwrap_err();
    assert!(error.to_string().contains("mmap"), "{error}");
}

#[test]
fn a_segment_cannot_be_resized_sealed_further_or_executed() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let file = File::from(segment.fd().try_clone_to_owned().unwrap());
    assert!(file.set_len(4096).is_err());
    assert!(file.set_len(1 << 20).is_err());
    assert!(rustix::fs::fcntl_add_seals(segment.as_fd(), SealFlags::FUTURE_WRITE).is_err());
    let mode = rustix::fs::fstat(segment.fd()).unwrap().st_mode;
    assert_eq!(mode & 0o111, 0, "mode {mode:o}");
    assert!(rustix::io::fcntl_getfd(segment.fd()).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}
