//! What a named segment promises: its name, its bytes, its owner.

use crate::support::{fresh, path};
use procession_parcel::Parcel;
use procession_shm::{SharedMemory, SharedMemoryManager};
use procession_testkit::{Census, census::Options, forked, isolated, watchdog};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    sync::atomic::Ordering,
    time::Duration,
};

#[test]
fn a_segment_has_name_size_and_mode_of_cpython_and_is_found_by_its_name() {
    let _watchdog = watchdog!();
    let name = fresh("basics");
    let made = SharedMemory::create_named(&format!("/{name}"), 1000).unwrap();
    assert_eq!((made.name(), made.len(), made.is_owner()), (name.as_str(), 1000, true));
    let file = fs::metadata(path(&name)).unwrap();
    assert_eq!((file.len(), file.mode() & 0o7777, file.nlink()), (1000, 0o600, 1));
    assert!(file.blocks() * 512 >= 1000, "its pages are reserved");
    assert!(made.to_vec().iter().all(|&byte| byte == 0));

    made.write_at(0, &[42]).unwrap();
    let found = SharedMemory::open(&name).unwrap();
    assert_eq!((found.len(), found.is_owner(), found.get::<u8>(0).unwrap()), (1000, false, 42));
    found.write_at(999, b"!").unwrap();
    assert_eq!(made.get::<u8>(999).unwrap(), b'!');
}

#[test]
fn a_name_that_is_drawn_looks_as_cpythons() {
    let _watchdog = watchdog!();
    let one = SharedMemory::create(1).unwrap();
    let other = SharedMemory::create(1).unwrap();
    assert_ne!(one.name(), other.name());
    let digits = one.name().strip_prefix("psm_").unwrap();
    assert!(digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", one.name());
}

#[test]
fn a_name_that_is_taken_is_refused_by_whomever_it_was_made() {
    let _watchdog = watchdog!();
    let name = fresh("taken");
    let first = SharedMemory::create_named(&name, 10).unwrap();
    let error = SharedMemory::create_named(&name, 10).unwrap_err();
    assert!(error.is_already_exists());
    assert!(
        error.to_string().contains(&format!("create segment `{name}` (10 bytes): a segment of this name"))
    );
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AlreadyExists);
    drop(first);
    fs::write(path(&name), "another program's").unwrap();
    assert!(SharedMemory::create_named(&name, 10).unwrap_err().is_already_exists());
    assert_eq!(fs::read(path(&name)).unwrap(), b"another program's");
    SharedMemory::remove(&name).unwrap();
    SharedMemory::create_named(&name, 10).unwrap();
}

#[test]
fn a_missing_segment_is_a_typed_error() {
    let _watchdog = watchdog!();
    let name = fresh("missing");
    for error in [SharedMemory::open(&name), SharedMemory::open_read_only(&name)].map(Result::unwrap_err) {
        assert!(error.is_not_found(), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    }
    assert!(SharedMemory::remove(&name).unwrap_err().is_not_found());
}

#[test]
fn an_impossible_name_is_refused_before_anything_is_made() {
    let _watchdog = watchdog!();
    let long = "x".repeat(256);
    let names =
        ["", "/", "a/b", "//a", "a\0b", "\0", ".", "..", &long, "procession-owner-x", "procession-new-x"];
    for name in names {
        for error in [
            SharedMemory::create_named(name, 10).unwrap_err(),
            SharedMemory::open(name).unwrap_err(),
            SharedMemory::remove(name).unwrap_err(),
        ] {
            assert!(error.is_invalid(), "{name:?}: {error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
        }
    }
    let error = SharedMemory::open(&long).unwrap_err().to_string();
    assert!(error.contains("256 bytes, at most 255"), "{error}");
}

#[test]
fn names_as_long_as_the_kernel_allows_are_made_and_leave_nothing() {
    isolated!({
        let before = crate::support::folder();
        for length in [237, 238, 239, 255] {
            let name = format!("{}-{}", std::process::id(), "é".repeat(200));
            let name = &name[..name.floor_char_boundary(length)];
            let made = SharedMemory::create_named(name, 10).unwrap();
            assert!(path(name).exists());
            assert!(SharedMemory::create_named(name, 10).unwrap_err().is_already_exists());
            drop(made);
        }
        let left: Vec<_> =
            crate::support::folder().into_iter().filter(|name| !before.contains(name)).collect();
        let pid = std::process::id().to_string();
        assert!(!left.iter().any(|name| name.contains(&pid)), "{left:?}");
    });
}

#[test]
fn a_size_of_zero_or_beyond_the_address_space_is_refused() {
    let _watchdog = watchdog!();
    for size in [0, usize::MAX, isize::MAX as usize + 1] {
        let error = SharedMemory::create(size).unwrap_err();
        assert!(error.is_invalid(), "{error}");
    }
    // No machine has that much, and none is filled up to find out.
    for size in [isize::MAX as usize, 1 << 50, 1 << 46] {
        let error = SharedMemory::create(size).unwrap_err();
        assert!(error.is_no_memory() || error.is_no_space() || error.is_limit(), "{size}: {error}");
    }
}

#[test]
fn a_second_unlink_finds_nothing_and_the_memory_lives_on() {
    let _watchdog = watchdog!();
    let made = SharedMemory::create(10).unwrap();
    let found = SharedMemory::open(made.name()).unwrap();
    made.unlink().unwrap();
    assert!(!made.is_owner());
    assert!(made.unlink().unwrap_err().is_not_found());
    assert!(SharedMemory::open(made.name()).unwrap_err().is_not_found());
    made.write_at(0, b"on").unwrap();
    assert_eq!(found.get::<[u8; 2]>(0).unwrap(), *b"on");
    // The name is free again.
    SharedMemory::create_named(made.name(), 10).unwrap();
}

#[test]
fn only_the_owner_unlinks() {
    let _watchdog = watchdog!();
    let made = SharedMemory::create(10).unwrap();
    let found = made.try_clone().unwrap();
    let error = found.unlink().unwrap_err();
    assert!(error.is_not_owner());
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
    assert!(!found.persist());
    drop(found);
    assert!(path(made.name()).exists(), "dropping an attached handle leaves the name");
}

#[test]
fn the_owners_drop_unlinks_and_persist_leaves_the_name() {
    let _watchdog = watchdog!();
    let made = SharedMemory::create(10).unwrap();
    let name = made.name().to_owned();
    drop(made);
    assert!(!path(&name).exists());

    let made = SharedMemory::create_named(&name, 10).unwrap();
    assert!(made.persist());
    assert!(!made.is_owner() && !made.persist());
    assert!(made.unlink().unwrap_err().is_not_owner());
    drop(made);
    assert!(!SharedMemory::remove_stale().unwrap().contains(&name));
    SharedMemory::open(&name).unwrap();
    SharedMemory::remove(&name).unwrap();
}

#[test]
fn a_name_that_stands_for_another_segment_by_now_is_left_alone() {
    let _watchdog = watchdog!();
    let name = fresh("recreated");
    for by_drop in [true, false] {
        let made = SharedMemory::create_named(&name, 10).unwrap();
        SharedMemory::remove(&name).unwrap();
        fs::write(path(&name), "another program's").unwrap();
        if by_drop {
            drop(made);
        } else {
            assert!(made.unlink().unwrap_err().is_not_found());
        }
        assert_eq!(fs::read(path(&name)).unwrap(), b"another program's");
        SharedMemory::remove(&name).unwrap();
    }
}

#[test]
fn a_forked_childs_copy_does_not_own() {
    isolated!({
        let made = SharedMemory::create(10).unwrap();
        let name = made.name().to_owned();
        let place = std::cell::Cell::new(Some(made));
        forked(|| {
            // The copy of the handle, in the child's own memory.
            let made = place.take().unwrap();
            assert!(!made.is_owner());
            assert!(made.unlink().unwrap_err().is_not_owner());
            assert!(!made.persist());
            // It can use the memory, and own segments itself.
            made.write_at(0, b"child").unwrap();
            let own = SharedMemory::create(10).unwrap();
            assert!(own.is_owner());
            drop((made, own));
        });
        let made = SharedMemory::open(&name).unwrap();
        assert_eq!(made.get::<[u8; 5]>(0).unwrap(), *b"child");
        assert!(place.take().unwrap().is_owner());
    });
}

/// A raw clone runs no fork hooks.
#[test]
fn a_raw_clones_copy_does_not_own() {
    isolated!({
        let made = SharedMemory::create(10).unwrap();
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as fork, of a process whose other thread only waits: the copy returns here with memory of its own.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, null, null, null, null) } as i32;
        assert!(pid >= 0);
        if pid == 0 {
            let owner = made.is_owner();
            drop(made);
            // SAFETY: ends the copy.
            unsafe { libc::_exit(i32::from(owner)) }
        }
        let mut status = 0;
        // SAFETY: the place is valid.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(status, 0);
        assert!(path(made.name()).exists() && made.is_owner());
    });
}

#[test]
fn bytes_beyond_the_end_are_refused_and_nothing_is_written() {
    let _watchdog = watchdog!();
    let shm = SharedMemory::create(13).unwrap();
    shm.fill(0..13, 7).unwrap();
    for (offset, len) in [(13, 1), (14, 0), (6, 8), (usize::MAX, 1), (0, 14)] {
        let error = shm.write_at(offset, &vec![1; len]).unwrap_err();
        assert!(error.is_invalid(), "{error}");
        assert!(shm.read_at(offset, &mut vec![0; len]).is_err());
    }
    assert!(shm.fill(3..14, 1).is_err() && shm.get::<u64>(6).is_err() && shm.set(6, 1_u64).is_err());
    assert!(shm.atomic_u64(8).is_err() && shm.atomic_u64(4).is_err());
    #[expect(clippy::reversed_empty_ranges, reason = "a range that a caller got wrong")]
    let reversed = 4..3;
    assert!(shm.fill(reversed, 1).is_err());
    assert_eq!(shm.to_vec(), [7; 13]);
    shm.write_at(13, &[]).unwrap();
    shm.fill(5..5, 1).unwrap();
}

#[test]
fn values_ranges_and_atomics_are_kept_at_any_offset() {
    let _watchdog = watchdog!();
    let shm = SharedMemory::create(10_001).unwrap();
    shm.set(3, 1.5_f64).unwrap();
    shm.set(11, [1_u16, 2, 3]).unwrap();
    assert_eq!((shm.get::<f64>(3).unwrap(), shm.get::<[u16; 3]>(11).unwrap()), (1.5, [1, 2, 3]));
    shm.fill(100..9_999, 9).unwrap();
    let all = shm.to_vec();
    assert!(all[100..9_999].iter().all(|&byte| byte == 9) && all[99] == 0 && all[9_999..] == [0, 0]);
    let before = shm.atomic_u64(8 * 1249).unwrap().fetch_add(1 << 32, Ordering::AcqRel);
    assert_eq!(shm.get::<u64>(8 * 1249).unwrap(), before + (1 << 32));
}

#[test]
fn threads_that_copy_at_once_lose_nothing_beside_what_they_write() {
    let _watchdog = watchdog!();
    let shm = SharedMemory::create(64).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let shm = &shm;
            // Neighbours share words.
            scope.spawn(move || {
                for round in 0..5_000_u32 {
                    let bytes = [(round % 251) as u8; 5];
                    shm.write_at(thread * 5, &bytes).unwrap();
                    assert_eq!(shm.get::<[u8; 5]>(thread * 5).unwrap(), bytes);
                    shm.atomic_u64(56).unwrap().fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(shm.get::<u64>(56).unwrap(), 40_000);
}

#[test]
fn what_is_attached_to_read_only_sees_changes_and_refuses_to_make_any() {
    let _watchdog = watchdog!();
    let made = SharedMemory::create(100).unwrap();
    let view = SharedMemory::open_read_only(made.name()).unwrap();
    made.write_at(90, b"0123456789").unwrap();
    assert_eq!((view.len(), view.get::<[u8; 10]>(90).unwrap()), (100, *b"0123456789"));
    let refused =
        [view.write_at(0, &[1]), view.fill(0..1, 1), view.set(0, 1_u32), view.atomic_u64(0).map(drop)];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.is_permission_denied() && error.to_string().contains("read only"), "{error}");
    }
    assert!(view.try_clone().unwrap().is_read_only());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let start = format!("{:x}-", view.as_ptr().addr());
    let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
    assert!(line.contains(" r--s "), "the processor enforces it: {line}");
}

#[test]
fn a_copy_made_from_the_serialised_handle_sees_the_same_bytes() {
    let _watchdog = watchdog!();
    let made = SharedMemory::create(32).unwrap();
    made.write_at(0, b"same").unwrap();
    let parcel = Parcel::pack(&made).unwrap();
    let json = serde_json::to_string(&made).unwrap();
    assert_eq!(json, format!("[\"{}\",32]", made.name()), "name and size, as CPython pickles them");
    let copies: [SharedMemory; 2] = [parcel.unpack().unwrap(), serde_json::from_str(&json).unwrap()];
    for copy in copies {
        assert_eq!((copy.name(), copy.len(), copy.is_owner()), (made.name(), 32, false));
        assert_eq!(copy.get::<[u8; 4]>(0).unwrap(), *b"same");
    }
}

#[test]
fn a_serialised_handle_of_a_segment_that_is_gone_says_so() {
    let _watchdog = watchdog!();
    let made = SharedMemory::create(32).unwrap();
    let json = serde_json::to_string(&made).unwrap();
    made.unlink().unwrap();
    let error = serde_json::from_str::<SharedMemory>(&json).unwrap_err().to_string();
    assert!(error.contains("not found") && error.contains(made.name()), "{error}");
    let other = SharedMemory::create_named(made.name(), 33).unwrap();
    let error = serde_json::from_str::<SharedMemory>(&json).unwrap_err().to_string();
    assert!(error.contains("size is 0x21, expected 0x20"), "{error}");
    drop(other);
}

#[test]
fn a_segment_without_a_size_yet_is_waited_for() {
    let _watchdog = watchdog!();
    for read_only in [false, true] {
        let name = fresh("no-size-yet");
        // As CPython makes one: the size comes a moment after the name.
        let file = File::create_new(path(&name)).unwrap();
        std::thread::scope(|scope| {
            let open = if read_only { SharedMemory::open_read_only } else { SharedMemory::open };
            let name = &name;
            let opened = scope.spawn(move || open(name));
            file.set_len(77).unwrap();
            assert_eq!(opened.join().unwrap().unwrap().len(), 77);
        });
        file.set_len(0).unwrap();
        let error = SharedMemory::open(&name).unwrap_err();
        assert!(error.is_incompatible() && error.to_string().contains("it is empty"), "{error}");
        SharedMemory::remove(&name).unwrap();
    }
}

#[test]
fn a_mapping_is_left_out_of_core_dumps_and_nothing_is_left_behind() {
    isolated!({
        // What a process does once.
        drop(SharedMemory::create(1).unwrap());
        let name = fresh("census");
        // The segment and the record of its owner.
        let names = vec![name.clone(), format!("procession-owner-{name}")];
        let options = Options { shm_prefixes: names, ..Options::default() };
        let before = Census::with(&options);
        let made = SharedMemory::create_named(&name, 5000).unwrap();
        let views = (SharedMemory::open(&name).unwrap(), SharedMemory::open_read_only(&name).unwrap());
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let ours = maps.split("VmFlags:").collect::<Vec<_>>();
        // The flags of a mapping follow its name. It was mapped under the name under which it was made.
        let flags: Vec<&str> = ours
            .windows(2)
            .filter(|pair| pair[0].contains("/dev/shm/"))
            .map(|pair| pair[1].lines().next().unwrap())
            .collect();
        assert_eq!(flags.len(), 3, "{maps}");
        assert!(flags.iter().all(|flags| flags.contains(" dd")), "{flags:?}");
        assert_eq!(Census::with(&options).shm_names().len(), 2);
        drop((made, views));
        before.assert_settles(Duration::from_secs(10));
    });
}

fn send_and_sync<T: Send + Sync>() {}

#[test]
fn handles_go_to_other_threads() {
    send_and_sync::<SharedMemory>();
    send_and_sync::<procession_shm::ShareableList>();
}

#[test]
fn a_managers_segments_vanish_at_its_shutdown_and_at_its_end() {
    let _watchdog = watchdog!();
    for by_drop in [false, true] {
        let manager = SharedMemoryManager::new();
        let name = fresh("managed");
        let own = manager.create_named(&name, 10).unwrap();
        let drawn = manager.create(20).unwrap();
        let list = manager.list([1, 2, 3]).unwrap();
        let names = [own.name().to_owned(), drawn.name().to_owned(), list.name().to_owned()];
        assert_eq!(manager.names(), names);
        assert!(!own.is_owner() && !drawn.is_owner() && !list.shm().is_owner());
        assert!(manager.create_named(&name, 10).unwrap_err().is_already_exists());
        drop((own, drawn));
        assert_eq!(SharedMemory::open(&names[1]).unwrap().len(), 20, "handles own nothing");
        if by_drop {
            drop(manager);
        } else {
            manager.shutdown();
            manager.shutdown();
            assert_eq!(manager.names(), [""; 0]);
            let error = manager.create(1).unwrap_err().to_string();
            assert!(error.contains("it was shut down"), "{error}");
        }
        for name in names {
            assert!(SharedMemory::open(&name).unwrap_err().is_not_found());
        }
        assert_eq!(list.get(2).unwrap(), 3.into(), "what is mapped stays");
    }
}
