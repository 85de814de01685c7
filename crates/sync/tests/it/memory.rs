//! What locks cost, where they live, and what must not go away under them.

use crate::support::{BOUND, given, take, through_a_parcel};
use procession_parcel::Parcel;
use procession_sync::{Lock, LockError, OnceValue, Poison, RLock, Semaphore};
use procession_testkit::{Census, forked, isolated, role, watchdog};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// As many as one thread may hold.
const MOST: usize = 1024;

fn many(count: usize) -> Vec<Lock> {
    (0..count).map(|_| Lock::new().unwrap()).collect()
}

#[test]
fn role_hoarder() {
    let Some(mut role) = role::enter(role_hoarder) else { return };
    let locks: Vec<Lock> = take(role.fd());
    for lock in &locks[..MOST] {
        lock.acquire().unwrap();
    }
    let refused = |error: LockError| matches!(error, LockError::TooManyHeld);
    assert!(refused(locks[MOST].acquire().unwrap_err()));
    assert!(refused(locks[MOST].try_acquire().unwrap_err()));
    // Another thread has a count of its own, and one that is let go makes room.
    std::thread::scope(|scope| {
        scope.spawn(|| drop(locks[MOST].lock().unwrap())).join().unwrap();
    });
    locks[0].release().unwrap();
    locks[MOST].acquire().unwrap();
    locks[MOST].release().unwrap();
    locks[0].acquire().unwrap();
    role.say("full");
    role.hear();
}

#[test]
fn all_locks_that_one_thread_may_hold_are_handed_on_at_its_death_and_one_more_is_refused() {
    let _watchdog = watchdog!();
    let locks = many(MOST + 1);
    let mut hoarder = role::start(role_hoarder, &[&given(&locks)]);
    hoarder.expect("full");
    hoarder.kill();
    let died = Some(Poison::Died { pid: hoarder.pid() });
    for lock in &locks[..MOST] {
        assert_eq!(lock.lock_timeout(BOUND).unwrap_err().poison(), died);
    }
    drop(locks[MOST].lock().unwrap());
}

#[test]
fn ten_thousand_locks_cost_a_handful_of_descriptors_here_and_in_a_parcel() {
    isolated!({
        drop(Lock::new().unwrap());
        let before = Census::take();
        let locks = many(10_000);
        let after = Census::take();
        let more = after.descriptors().len() - before.descriptors().len();
        assert!(more <= 3, "{more} descriptors more");
        let parcel = Parcel::pack(&locks).unwrap();
        assert!(parcel.fds().len() <= 4, "{} descriptors in the parcel", parcel.fds().len());
        let again: Vec<Lock> = parcel.unpack().unwrap();
        assert!(locks.iter().zip(&again).all(|(one, other)| one.same(other)));
        drop((locks, again));
        // One segment at most stays for the next lock.
        let left = Census::take().descriptors().len();
        assert!(left <= before.descriptors().len() + 1, "{left} descriptors are left");
    });
}

/// Pages of this process that are shared with others, by the kernel's count.
fn shared_pages() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn slots_are_used_again() {
    isolated!({
        let stays = Lock::new().unwrap();
        let rounds = |count| {
            for _ in 0..count {
                let lock = Lock::new().unwrap();
                drop(lock.lock().unwrap());
                drop((RLock::new().unwrap(), lock));
            }
        };
        // The program's own pages count too.
        rounds(100);
        let (census, pages) = (Census::take(), shared_pages());
        rounds(100_000);
        assert_eq!(census.difference(&Census::take()), None);
        let grown = shared_pages() - pages;
        assert!(grown < 256, "{grown} pages more");
        drop(stays.lock().unwrap());
    });
}

#[test]
fn a_semaphore_takes_memory_for_its_owners_only() {
    isolated!({
        // As large as a slot gets, for 1,000 processes; one of them owns permits.
        let all: Vec<_> = (0..64).map(|_| Semaphore::new(1).unwrap()).collect();
        all.iter().for_each(|semaphore| drop(semaphore.permit().unwrap()));
        let pages = shared_pages();
        drop(all);
        let grown = shared_pages().saturating_sub(pages);
        assert!(grown < 64, "{grown} pages more after they are gone");
        let again: Vec<_> = (0..64).map(|_| Semaphore::new(2).unwrap()).collect();
        assert!(again.iter().all(|semaphore| semaphore.value() == 2 && semaphore.held() == 0));
    });
}

#[test]
fn a_used_slot_is_a_new_lock() {
    isolated!({
        let lock = Lock::new().unwrap();
        let _ = std::panic::catch_unwind(|| {
            let _guard = lock.lock().unwrap();
            panic!("poisons it");
        });
        assert!(lock.is_poisoned());
        drop(lock);
        let next = Lock::new().unwrap();
        assert!(!next.is_poisoned() && !next.is_locked());
    });
}

#[test]
fn a_slot_that_another_process_may_know_is_not_used_again() {
    isolated!({
        let stays = Lock::new().unwrap();
        let lock = Lock::new().unwrap();
        let parcel = Parcel::pack(&lock).unwrap();
        drop(lock);
        let next = Lock::new().unwrap();
        let old: Lock = parcel.unpack().unwrap();
        assert!(!old.same(&next) && !old.same(&stays));
        old.acquire().unwrap();
        drop(next.try_lock().unwrap());
    });
}

#[test]
fn a_forked_child_makes_locks_of_its_own_and_shares_its_parents() {
    isolated!({
        let locks = many(3);
        let before = Census::take().descriptors().len();
        let held = locks[0].lock().unwrap();
        forked(|| {
            // The guard's copy is not the holder's.
            assert!(locks[0].release().is_err());
            assert!(matches!(locks[0].try_lock(), Err(LockError::TimedOut)));
            let own = Lock::new().unwrap();
            assert!(locks.iter().all(|lock| !lock.same(&own)));
            assert!(Parcel::pack(&(&own, &locks[0])).unwrap().fds().len() == 2);
            locks[1].acquire().unwrap();
            // What was inherited goes with its last handle, and the segment of one's own is the only one then.
            drop(own);
        });
        // The child has ended with that one locked.
        assert!(locks[1].try_lock().unwrap_err().poison().is_some());
        assert!(locks[0].is_locked());
        assert_eq!(locks[0].holder().unwrap().pid, std::process::id());
        drop(held);
        assert!(!locks[0].is_locked());
        assert_eq!(Census::take().descriptors().len(), before);
    });
}

#[test]
fn a_slot_that_a_forked_child_knows_is_not_used_again() {
    isolated!({
        let (stays, lock) = (Lock::new().unwrap(), Lock::new().unwrap());
        let (mut from, mut to) = std::io::pipe().unwrap();
        forked(|| {
            let Forged(_, offset) = through(&lock);
            to.write_all(&offset.to_ne_bytes()).unwrap();
        });
        let mut offset = [0; 8];
        from.read_exact(&mut offset).unwrap();
        drop(lock);
        let new = Lock::new().unwrap();
        assert_ne!(through(&new).1, u64::from_ne_bytes(offset));
        drop(stays);
    });
}

#[test]
fn a_guard_that_a_forked_child_drops_leaves_the_parents_lock_alone() {
    isolated!({
        let lock = Lock::new().unwrap();
        let mut guard = Some(lock.lock().unwrap());
        forked(|| drop(guard.take()));
        assert_eq!(lock.holder().map(|holder| holder.pid), Some(std::process::id()));
        drop(guard);
        assert!(!lock.is_locked());
    });
}

/// The wire form of a lock, with whatever offset.
#[derive(Serialize, Deserialize)]
struct Forged(procession_shm::Segment, u64);

#[test]
fn what_looks_like_a_lock_inside_another_slot_is_none() {
    let _watchdog = watchdog!();
    // Bytes that the user chose: at each unit they begin as a slot with a lock does.
    let value = OnceValue::<[u64; 128]>::new().unwrap();
    value.get_or_init(|| [1 << 16 | 1; 128]).unwrap();
    let Forged(segment, offset) = Parcel::pack(&value).unwrap().unpack().unwrap();
    for inside in [256, 384, 512] {
        let forged = Parcel::pack(&Forged(segment.clone(), offset + inside)).unwrap();
        let error = forged.unpack::<Lock>().unwrap_err();
        assert!(error.to_string().contains("there is none at offset"), "{error}");
    }
}

#[test]
fn what_is_no_lock_is_an_error_and_not_attached() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    let again = RLock::new().unwrap();
    let Forged(segment, offset) = through(&lock);
    let Forged(_, other) = through(&again);
    let attach = |offset| Parcel::pack(&Forged(segment.clone(), offset)).unwrap().unpack::<Lock>();
    assert!(attach(offset).unwrap().same(&lock));
    let len = segment.len() as u64;
    for wrong in [offset + 1, offset + 8, offset + 64, other, len - 128, len, len + 128, 1 << 40, u64::MAX] {
        let error = attach(wrong).unwrap_err().to_string();
        assert!(error.contains("failed to attach a Lock"), "at {wrong}: {error}");
    }
    let foreign = procession_shm::Segment::anonymous(procession_shm::Kind::new("other", 7, 7), 4096).unwrap();
    let error = Parcel::pack(&Forged(foreign, 0)).unwrap().unpack::<Lock>().unwrap_err().to_string();
    assert!(error.contains("kind"), "{error}");
}

fn through(value: &impl Serialize) -> Forged {
    Parcel::pack(value).unwrap().unpack().unwrap()
}

#[test]
fn role_forgetter() {
    let Some(mut role) = role::enter(role_forgetter) else { return };
    let (first, second): (Lock, Lock) = take(role.fd());
    first.acquire().unwrap();
    std::mem::forget(second.lock().unwrap());
    // The last handle of its segment in this process.
    drop(second);
    role.say("forgotten");
    role.hear();
}

#[test]
fn a_lock_whose_guard_is_forgotten_and_an_earlier_one_in_another_segment_are_both_handed_on() {
    isolated!({
        // More than a new process's first segment has room for.
        let locks = many(10_000);
        let (first, second) = (&locks[0], &locks[9_999]);
        assert_eq!(Parcel::pack(&(first, second)).unwrap().fds().len(), 2);
        let mut forgetter = role::start(role_forgetter, &[&given(&(first, second))]);
        forgetter.expect("forgotten");
        assert!(first.is_locked() && second.is_locked());
        forgetter.kill();
        let died = Some(Poison::Died { pid: forgetter.pid() });
        assert_eq!(second.lock_timeout(BOUND).unwrap_err().poison(), died);
        assert_eq!(first.lock_timeout(BOUND).unwrap_err().poison(), died);
    });
}

#[test]
fn a_lock_that_comes_back_to_its_holder_knows_that() {
    isolated!({
        let lock = RLock::new().unwrap();
        let parcel = Parcel::pack(&lock).unwrap();
        lock.acquire().unwrap();
        lock.acquire().unwrap();
        drop(lock);
        let lock: RLock = parcel.unpack().unwrap();
        assert_eq!(lock.depth(), 2);
        lock.release().unwrap();
        lock.release().unwrap();
        assert!(!lock.is_locked());
        let segments = || Census::take().shared_mappings().values().sum::<usize>();
        assert_eq!(segments(), 1);
        // Let go, it keeps nothing.
        drop(lock);
        assert_eq!(segments(), 0);
    });
}

#[test]
fn a_thread_that_ends_with_a_lock_keeps_no_memory_for_it() {
    isolated!({
        let lock = Lock::new().unwrap();
        let parcel = Parcel::pack(&lock).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| lock.acquire().unwrap()).join().unwrap();
        });
        // A thread's number may come back, its place as a holder must not.
        assert!(lock.release().is_err());
        assert!(lock.lock().unwrap_err().poison().is_some());
        drop((lock, parcel));
        assert_eq!(Census::take().shared_mappings().len(), 0);
        let lock = through_a_parcel(&Lock::new().unwrap());
        drop(lock.lock().unwrap());
    });
}
