//! Too little of something for a named segment: a typed error, and no name is left.

use crate::support::{folder, fresh, path};
use procession_shm::SharedMemory;
use procession_testkit::{isolated, limits::Surroundings};
use std::fs::{self, File};

#[test]
fn a_full_file_system_is_an_error_now_and_no_signal_later() {
    isolated!({
        const ROOM: usize = 1 << 20;
        if !Surroundings::new().small_shm(ROOM as u64).apply_or_skip() {
            return;
        }
        for size in [ROOM + 1, 1 << 40, 1 << 46] {
            let error = SharedMemory::create_named("large", size).unwrap_err();
            assert!(error.is_no_space(), "{size}: {error}");
            assert_eq!(folder(), [""; 0], "{size}");
        }
        let half = SharedMemory::create(ROOM / 2).unwrap();
        let error = SharedMemory::create_named("large", ROOM / 2 + 4096).unwrap_err();
        assert!(
            error.is_no_space() && error.os_error().unwrap().raw_os_error() == Some(libc::ENOSPC),
            "{error}"
        );
        assert_eq!(folder().len(), 2, "the half and its record: {:?}", folder());
        drop(half);
        // Not a page left, not even for a record.
        fs::write("/dev/shm/filler", vec![1; ROOM]).unwrap();
        assert!(SharedMemory::create(1).unwrap_err().is_no_space());
        assert_eq!(folder(), ["filler"]);
        fs::remove_file("/dev/shm/filler").unwrap();
        SharedMemory::create(ROOM / 2).unwrap();
    });
}

#[test]
fn pages_that_cannot_be_reserved_leave_no_name() {
    isolated!({
        let name = fresh("unreserved");
        if !Surroundings::new().fail(libc::SYS_fallocate, libc::ENOSPC).apply_or_skip() {
            return;
        }
        assert!(SharedMemory::create_named(&name, 10).unwrap_err().is_no_space());
        let left: Vec<_> = folder().into_iter().filter(|file| file.contains(&name)).collect();
        assert_eq!(left, [""; 0]);
    });
}

#[test]
fn without_descriptors_nothing_is_made_and_the_next_try_works() {
    isolated!({
        if !Surroundings::new().nofile(40).apply_or_skip() {
            return;
        }
        let name = fresh("no-descriptors");
        let before = SharedMemory::create(10).unwrap();
        let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        // One after the other: the record, the segment, and the descriptor that reserves.
        for free in 0..3 {
            let error = SharedMemory::create_named(&name, 10).unwrap_err();
            assert!(error.is_no_descriptors(), "with {free}: {error}");
            assert!(error.to_string().contains("RLIMIT_NOFILE of this process is 40"), "{error}");
            let left: Vec<_> = folder_of(&name);
            assert_eq!(left, [""; 0], "with {free}");
            if free == 0 {
                assert!(SharedMemory::open(before.name()).unwrap_err().is_no_descriptors());
                assert!(SharedMemory::open_read_only(before.name()).unwrap_err().is_no_descriptors());
            }
            files.pop();
        }
        SharedMemory::create_named(&name, 10).unwrap();
    });
}

/// By the path, since listing needs a descriptor.
fn folder_of(name: &str) -> Vec<String> {
    [name.to_owned(), format!("procession-owner-{name}")]
        .into_iter()
        .filter(|name| path(name).exists())
        .collect()
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_no_signal() {
    isolated!({
        if !Surroundings::new().fsize(1 << 20).apply_or_skip() {
            return;
        }
        let error = SharedMemory::create((1 << 20) + 1).unwrap_err();
        assert!(error.is_limit(), "{error}");
        assert!(error.to_string().contains("RLIMIT_FSIZE of this process is 1048576 bytes"), "{error}");
        SharedMemory::create(1 << 20).unwrap();
    });
}

#[test]
fn without_address_space_the_error_names_the_limit() {
    isolated!({
        if !Surroundings::new().address_space(1 << 30).apply_or_skip() {
            return;
        }
        let name = fresh("no-address-space");
        let error = SharedMemory::create_named(&name, 2 << 30).unwrap_err();
        assert!(error.is_no_memory(), "{error}");
        assert_eq!(folder_of(&name), [""; 0]);
    });
}

#[test]
fn another_users_segment_is_refused() {
    isolated!({
        let made = SharedMemory::create(10).unwrap();
        let name = made.name().to_owned();
        if !rustix_is_root() || !Surroundings::new().unprivileged().apply_or_skip() {
            println!("skipped: only root has another user to become");
            return;
        }
        for error in [SharedMemory::open(&name), SharedMemory::open_read_only(&name)].map(Result::unwrap_err)
        {
            assert!(error.is_permission_denied(), "{error}");
        }
        // What is another user's is not stale for us, and not ours to judge.
        SharedMemory::remove_stale().unwrap();
        assert!(path(&name).exists());
        assert!(SharedMemory::create_named(&name, 10).is_err());
        assert!(SharedMemory::remove(&name).unwrap_err().is_permission_denied());
        // The user that this process is now may not unlink it: the next remover of root's does.
        drop(made);
        assert!(path(&name).exists());
    });
    // As root again.
    SharedMemory::remove_stale().unwrap();
}

fn rustix_is_root() -> bool {
    // SAFETY: only asks.
    unsafe { libc::geteuid() == 0 }
}
