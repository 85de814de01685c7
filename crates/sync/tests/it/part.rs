//! Parts of an array that have owners.

use crate::support::{given, take, through_a_parcel};
use procession_parcel::Parcel;
use procession_sync::{Array, ArrayPart, LockError, PartError, Poison};
use procession_testkit::{Census, forked, isolated, limits::Surroundings, role, watchdog};

#[test]
fn a_part_that_stays_is_a_slice_and_free_after_its_drop() {
    let _watchdog = procession_testkit::test_watchdog();
    let array = Array::from_slice(&[1_u32, 2, 3, 4, 5]).unwrap();
    let mut chunk = array.part(1..4).unwrap().stay().unwrap();
    assert_eq!(
        (&chunk[..], chunk.range(), chunk.start(), chunk.array().same(&array)),
        (&[2, 3, 4][..], 1..4, 1, true)
    );
    chunk.reverse();
    assert!(matches!(array.part(3..5), Err(PartError::Taken)));
    drop(chunk);
    assert_eq!(array.to_vec().unwrap(), [1, 4, 3, 2, 5]);
}

#[test]
fn a_part_that_stays_is_out_of_reach_in_a_forked_copy() {
    isolated!({
        let array = Array::from_slice(&[1_u32, 2, 3]).unwrap();
        let mut chunk = array.part(0..2).unwrap().stay().unwrap();
        forked(|| {
            let mut chunk = std::panic::AssertUnwindSafe(&mut chunk);
            assert!(std::panic::catch_unwind(|| chunk[0]).is_err(), "read");
            assert!(std::panic::catch_unwind(move || chunk[0] = 9).is_err(), "written");
        });
        chunk[1] = 5;
        drop(chunk);
        assert_eq!(array.to_vec().unwrap(), [1, 5, 3]);
    });
}

#[test]
fn role_owner() {
    let Some(mut role) = role::enter(role_owner) else { return };
    let mut part: ArrayPart<u64> = take(role.fd());
    let start = part.range().start as u64;
    part.get_mut().unwrap().iter_mut().zip(start..).for_each(|(place, n)| *place = n + 1);
    role.say("filled");
    match role.hear().as_str() {
        "drop" => drop(part),
        "panic" => {
            std::thread::spawn(move || {
                let _part = part;
                panic!("with a part");
            })
            .join()
            .unwrap_err();
        }
        word => panic!("{word}?"),
    }
    role.say("dropped");
}

fn is_out<T>(locked: Result<T, LockError<T>>) -> bool {
    matches!(locked, Err(LockError::PartsOut))
}

#[test]
fn parts_cover_the_array_and_each_element_has_one_owner() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(10).unwrap();
    let mut parts = array.chunks_mut(4).unwrap();
    assert_eq!(parts.iter().map(ArrayPart::range).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
    for part in &mut parts {
        let first = part.range().start as u64;
        assert_eq!((part.len(), part.is_empty()), (part.range().len(), false));
        part.get_mut().unwrap().fill(first);
    }
    for range in [0..1, 3..5, 9..10, 0..10] {
        assert!(matches!(array.part(range), Err(PartError::Taken)));
    }
    assert!(matches!(array.chunks_mut(10), Err(PartError::Lock(LockError::PartsOut))));
    drop(parts.remove(1));
    let middle = array.part(5..7).unwrap();
    assert!(matches!(array.part(4..6), Err(PartError::Taken)));
    drop((middle, parts));
    assert_eq!(array.to_vec().unwrap(), [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]);
}

#[test]
fn the_whole_is_not_locked_while_parts_have_owners() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(8).unwrap();
    let mut parts = array.chunks_mut(4).unwrap();
    let part = parts.pop().unwrap();
    drop(parts);
    assert!(is_out(array.lock()) && is_out(array.try_lock()) && is_out(array.get(0)));
    assert!(matches!(array.set(0, 1), Err(LockError::PartsOut)));
    let parcel = Parcel::pack(&part).unwrap();
    assert!(is_out(array.lock()));
    drop(part);
    assert!(is_out(array.lock()), "a part on its way has no owner, but will have one");
    let part: ArrayPart<u64> = parcel.unpack().unwrap();
    assert!(is_out(array.lock()));
    drop(part);
    drop(array.lock().unwrap());
}

#[test]
fn a_part_moves_to_another_process_and_back_to_nobody() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let mut parts = array.chunks_mut(3).unwrap();
    let mut second = parts.pop().unwrap();
    let mut other = role::start(role_owner, &[&given(&second)]);
    assert!(matches!(second.get_mut(), Err(PartError::Taken)));
    let error = Parcel::pack(&second).unwrap_err().to_string();
    assert!(error.contains("elements 3..6") && error.contains("sent away"), "{error}");
    drop(second);
    other.expect("filled");
    assert!(matches!(array.part(5..6), Err(PartError::Taken)));
    parts[0].get_mut().unwrap().fill(9);
    drop(parts);
    assert!(is_out(array.lock()));
    other.say("drop");
    other.expect("dropped");
    assert_eq!(array.to_vec().unwrap(), [9, 9, 9, 4, 5, 6]);
}

#[test]
fn a_dead_owners_part_is_free_and_the_array_poisoned() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let mut parts = array.chunks_mut(3).unwrap();
    let mut other = role::start(role_owner, &[&given(&parts.remove(1))]);
    other.expect("filled");
    other.kill();
    let mut again = array.part(3..6).unwrap();
    assert_eq!(again.get_mut().unwrap(), [4, 5, 6]);
    again.get_mut().unwrap().fill(1);
    drop(parts);
    assert!(is_out(array.lock()));
    drop(again);
    let Err(LockError::Poisoned(poisoned)) = array.lock() else { panic!("not poisoned") };
    assert_eq!(poisoned.cause(), Poison::Died { pid: 0 });
    assert_eq!(*poisoned.into_inner(), [0, 0, 0, 1, 1, 1]);
    assert!(matches!(array.chunks_mut(3), Err(PartError::Lock(LockError::Poisoned(_)))));
    array.clear_poison();
    assert_eq!(array.chunks_mut(3).unwrap().len(), 2);
    assert_eq!(array.get(5).unwrap(), 1);
}

#[test]
fn a_part_that_dies_on_its_way_is_a_death() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let part = array.chunks_mut(6).unwrap().remove(0);
    let socket = given(&part);
    drop(part);
    assert!(is_out(array.lock()));
    drop(socket);
    assert_eq!(array.lock().unwrap_err().poison(), Some(Poison::Died { pid: 0 }));
}

#[test]
fn a_panic_with_a_part_poisons() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let part = array.chunks_mut(6).unwrap().remove(0);
    let mut other = role::start(role_owner, &[&given(&part)]);
    drop(part);
    other.expect("filled");
    other.say("panic");
    other.expect("dropped");
    assert_eq!(array.lock().unwrap_err().poison(), Some(Poison::Panicked { pid: other.pid() }));
}

#[test]
fn a_part_whose_parcel_is_dropped_is_here_again() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let mut part = array.chunks_mut(6).unwrap().remove(0);
    part.get_mut().unwrap()[0] = 5;
    drop(Parcel::pack(&part).unwrap());
    assert_eq!(part.get_mut().unwrap()[0], 5);
    assert!(matches!(array.part(0..1), Err(PartError::Taken)));
    drop(Parcel::pack(&part).unwrap());
    // It came back, and goes with its drop.
    drop(part);
    assert_eq!(array.get(0).unwrap(), 5);
}

#[test]
fn of_a_parcels_copies_one_brings_the_part() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let mut part = array.chunks_mut(6).unwrap().remove(0);
    let parcel = Parcel::pack(&part).unwrap();
    let copy = parcel.try_clone().unwrap();
    let mut first: ArrayPart<u64> = copy.unpack().unwrap();
    let error = parcel.unpack::<ArrayPart<u64>>().unwrap_err().to_string();
    assert!(error.contains("failed to unpack elements 0..6"), "{error}");
    assert!(part.get_mut().is_err());
    drop(part);
    first.get_mut().unwrap()[1] = 3;
    drop(first);
    assert_eq!(array.get(1).unwrap(), 3);
}

#[test]
fn a_stale_copy_of_a_parcel_brings_nothing_and_is_in_nobodys_way() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let stale = || {
        let parcel = Parcel::pack(&array.part(0..3).unwrap()).unwrap();
        let copy = parcel.try_clone().unwrap();
        (parcel.unpack::<ArrayPart<u64>>().unwrap(), copy)
    };
    // Of a part that was given back: the whole can be locked, and the copy is no way into it.
    let (part, copy) = stale();
    drop(part);
    let guard = array.lock().unwrap();
    assert!(std::thread::scope(|scope| {
        let late = scope.spawn(|| copy.unpack::<ArrayPart<u64>>().is_err());
        drop(guard);
        late.join().unwrap()
    }));
    // Of a part that was sent on.
    let (part, copy) = stale();
    let next = Parcel::pack(&part).unwrap();
    copy.unpack::<ArrayPart<u64>>().unwrap_err();
    drop(next.unpack::<ArrayPart<u64>>().unwrap());
    drop(array.lock().unwrap());
}

#[test]
fn a_parcel_that_names_what_nobody_sent_is_refused() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let parts = array.chunks_mut(3).unwrap();
    let fd =
        || procession_parcel::Fd::from(std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
    let refused = |start: u64, end: u64| {
        Parcel::pack(&(&array, start, end, fd())).unwrap().unpack::<ArrayPart<u64>>().unwrap_err().to_string()
    };
    for (start, end) in [(0, 0), (3, 2), (0, 7), (u64::MAX, u64::MAX), (0, u64::MAX)] {
        assert!(refused(start, end).contains("are no elements of an Array of 6"));
    }
    // Owned, not sent.
    assert!(refused(0, 3).contains("somebody else has it"));
    drop(parts);
    // Free, not sent.
    assert!(refused(0, 3).contains("somebody else has it"));
    let part = array.part(0..3).unwrap();
    let sent = Parcel::pack(&part).unwrap();
    // Another range than the one that was sent.
    assert!(refused(0, 2).contains("somebody else has it"));
    assert!(refused(0, 6).contains("somebody else has it"));
    drop(sent.unpack::<ArrayPart<u64>>().unwrap());
}

#[test]
fn arrays_in_one_segment_do_not_take_each_others_parts() {
    let _watchdog = watchdog!();
    let arrays = [0; 20].map(|_| Array::<u8>::new(100).unwrap());
    let parts: Vec<_> = arrays.iter().flat_map(|array| array.chunks_mut(30).unwrap()).collect();
    assert_eq!(parts.len(), 80);
    drop(parts);
    arrays.iter().for_each(|array| drop(array.lock().unwrap()));
}

#[test]
fn a_forked_child_neither_has_nor_keeps_its_parents_parts() {
    isolated!({
        let array = Array::<u64>::new(6).unwrap();
        let mut part = array.part(0..3).unwrap();
        forked(|| {
            assert!(part.get_mut().is_err());
            assert!(Parcel::pack(&part).is_err());
            assert!(matches!(array.part(0..1), Err(PartError::Taken)));
            let mut other = array.part(3..6).unwrap();
            other.get_mut().unwrap().fill(8);
        });
        part.get_mut().unwrap().fill(1);
        let also = array.clone();
        forked(move || {
            // A part of the child's own outlives no child: its drop is a return.
            drop(also.part(3..6).unwrap());
        });
        drop(part);
        assert_eq!(array.to_vec().unwrap(), [1, 1, 1, 8, 8, 8]);
    });
}

#[test]
fn a_copy_that_a_raw_clone_has_does_not_keep_a_part_that_is_given_back() {
    isolated!({
        let array = Array::<u64>::new(6).unwrap();
        let part = array.part(0..3).unwrap();
        // SAFETY: as a fork without its hooks; the child only waits for its end.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } as libc::pid_t;
        if pid == 0 {
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        drop(part);
        let again = array.part(0..3);
        // SAFETY: the child above.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        // SAFETY: as above; its status is of no interest.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        assert_eq!(again.unwrap().get_mut().unwrap(), [0; 3]);
    });
}

#[test]
fn without_descriptors_no_part_is_taken_and_none_is_lost() {
    isolated!({
        let array = Array::<u64>::new(100).unwrap();
        drop(array.chunks_mut(50).unwrap());
        if !Surroundings::new().nofile(40).apply_or_skip() {
            return;
        }
        let before = Census::take();
        let Err(PartError::System(error)) = array.chunks_mut(1) else { panic!("100 descriptors of 40") };
        assert!(error.to_string().contains("failed to take a part of an Array"), "{error}");
        assert_eq!(before.difference(&Census::take()), None);
        assert_eq!(array.chunks_mut(10).unwrap().len(), 10);
        assert_eq!(array.get(0).unwrap(), 0);
    });
}

#[test]
fn a_part_goes_by_way_of_a_parcel_in_one_process() {
    let _watchdog = watchdog!();
    let array = Array::<u64>::new(6).unwrap();
    let mut part = array.part(1..2).unwrap();
    for n in 0..5 {
        let mut next = through_a_parcel(&part);
        next.get_mut().unwrap()[0] += n;
        part = next;
    }
    drop(part);
    assert_eq!(array.get(1).unwrap(), 10);
}
