//! Too little of something: a typed error that names it, nothing left behind, and success once there is room.

use crate::support::KIND;
use procession_shm::{Error, Segment};
use procession_testkit::{Census, isolated, limits::Surroundings};
use std::{fs::File, io, time::Duration};

fn refused(len: usize) -> Error {
    let before = Census::take();
    let error = Segment::anonymous(KIND, len).unwrap_err();
    before.assert_settles(Duration::from_secs(10));
    error
}

#[test]
fn without_descriptors_the_error_names_the_limit_and_the_next_try_works() {
    isolated!({
        if !Surroundings::new().nofile(40).apply_or_skip() {
            return;
        }
        let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let error = Segment::anonymous(KIND, 4096).unwrap_err();
        assert!(error.is_no_descriptors());
        assert!(error.to_string().contains("RLIMIT_NOFILE of this process is 40"), "{error}");
        assert_eq!(error.os_error().unwrap().raw_os_error(), Some(libc::EMFILE));
        files.pop();
        Segment::anonymous(KIND, 4096).unwrap();
    });
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_no_signal() {
    isolated!({
        if !Surroundings::new().fsize(1 << 20).apply_or_skip() {
            return;
        }
        let error = refused(1 << 20);
        assert!(error.is_limit());
        assert!(error.to_string().contains("RLIMIT_FSIZE of this process is 1048576 bytes"), "{error}");
        Segment::anonymous(KIND, (1 << 20) - 2 * 4096).unwrap();
    });
}

#[test]
fn without_address_space_the_error_names_the_limit_and_the_next_try_works() {
    isolated!({
        if !Surroundings::new().address_space(1 << 30).apply_or_skip() {
            return;
        }
        let error = refused(2 << 30);
        assert!(error.is_no_memory());
        assert!(error.to_string().contains("RLIMIT_AS of this process is 1073741824 bytes"), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::OutOfMemory);
        Segment::anonymous(KIND, 1 << 20).unwrap();
    });
}

fn without_memfd_create(errno: i32) {
    if Surroundings::new().fail(libc::SYS_memfd_create, errno).apply_or_skip() {
        let error = refused(4096);
        assert!(error.is_unsupported());
        assert!(error.to_string().contains("refuses memfd_create"), "{error}");
    }
}

#[test]
fn a_kernel_without_memfd_create_is_an_error_that_says_so() {
    isolated!({ without_memfd_create(libc::ENOSYS) });
}

#[test]
fn a_sandbox_that_forbids_memfd_create_is_an_error_that_says_so() {
    isolated!({ without_memfd_create(libc::EPERM) });
}

#[test]
fn a_kernel_that_does_not_know_how_to_forbid_execution_still_makes_segments() {
    const MFD_NOEXEC_SEAL: u32 = 8;
    isolated!({
        let old =
            Surroundings::new().fail_with_flags(libc::SYS_memfd_create, 1, MFD_NOEXEC_SEAL, libc::EINVAL);
        if !old.apply_or_skip() {
            return;
        }
        Segment::anonymous(KIND, 4096).unwrap();
    });
}

#[test]
fn memory_that_cannot_be_reserved_is_an_error_now_and_no_signal_later() {
    isolated!({
        let segment = Segment::anonymous(KIND, 1 << 20).unwrap();
        if !Surroundings::new().fail(libc::SYS_fallocate, libc::ENOSPC).apply_or_skip() {
            return;
        }
        let error = segment.reserve(0..8192).unwrap_err();
        assert!(error.is_no_space());
        assert!(error.to_string().contains("bytes 0 to 8192): no room is left"), "{error}");
    });
}

/// A memfd lives in a file system of the kernel's own, so that one is not what limits an anonymous segment.
#[test]
fn a_full_shared_memory_file_system_does_not_matter_to_an_anonymous_segment() {
    isolated!({
        const ROOM: usize = 64 * 1024;
        if !Surroundings::new().small_shm(ROOM as u64).apply_or_skip() {
            return;
        }
        let filler = "/dev/shm/procession-filler";
        let error = std::fs::write(filler, vec![1; ROOM + 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "it is full");
        let segment = Segment::anonymous(KIND, 4 * ROOM).unwrap();
        segment.reserve(0..4 * ROOM).unwrap();
        std::fs::remove_file(filler).unwrap();
    });
}
