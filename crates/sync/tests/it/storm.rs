//! Deaths at random moments, of processes that are programs of their own. To start one takes long: so a tenth as many as
//! where they are forks (`storm_held.rs`).

use crate::support::{BOUND, given, take};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use procession_shm::{Kind, Segment};
use procession_sync::{Lock, LockError, RLock};
use procession_testkit::{
    role::{self, RoleProcess},
    storm::{Rng, kill_within, kills},
    watchdog,
};
use std::time::Duration;

const PROCESSES: usize = 4;

/// Two counters that are equal whenever nobody is between the two additions.
struct Pair {
    segment: Segment,
}

impl Pair {
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < 2);
        // SAFETY: within the payload, which is a page at least.
        let word = unsafe { self.segment.as_ptr().cast::<u64>().add(index) };
        // SAFETY: aligned, zero at the start, and every process accesses it as an atomic, while `self` lives.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    fn read(&self) -> [u64; 2] {
        [0, 1].map(|index| self.word(index).load(Relaxed))
    }

    fn add(&self) {
        // Not by read-modify-write: two at a time would lose something.
        for index in 0..2 {
            let word = self.word(index);
            word.store(word.load(Relaxed) + 1, Relaxed);
            std::hint::spin_loop();
        }
    }

    fn repair(&self) {
        let [first, second] = self.read();
        assert!(first == second || first == second + 1, "more than one was inside: {first} {second}");
        self.word(1).store(first, Relaxed);
    }
}

fn held<G>(pair: &Pair, locked: Result<G, LockError<G>>, clear: impl Fn()) -> bool {
    let (guard, poisoned) = match locked {
        Ok(guard) => (guard, false),
        Err(LockError::Poisoned(poisoned)) => {
            pair.repair();
            clear();
            (poisoned.into_inner(), true)
        }
        Err(other) => panic!("{other:?}"),
    };
    let [first, second] = pair.read();
    assert_eq!(first, second, "not poisoned, but torn");
    pair.add();
    drop(guard);
    poisoned
}

#[test]
fn role_adder() {
    let Some(mut role) = role::enter(role_adder) else { return };
    let (segment, lock): (Segment, Lock) = take(role.fd());
    let pair = Pair { segment };
    role.say("here");
    loop {
        held(&pair, lock.lock(), || lock.clear_poison());
        std::thread::yield_now();
    }
}

#[test]
fn role_nested_adder() {
    let Some(mut role) = role::enter(role_nested_adder) else { return };
    let (segment, lock): (Segment, RLock) = take(role.fd());
    let pair = Pair { segment };
    role.say("here");
    loop {
        let outer = lock.lock();
        assert!(outer.is_ok() || outer.as_ref().is_err_and(|error| error.poison().is_some()));
        held(&pair, lock.lock_timeout(BOUND), || lock.clear_poison());
        drop(outer);
        std::thread::yield_now();
    }
}

/// Kills at random one of some processes that add, again and again; `look` locks and checks from here.
fn storm(start: impl Fn() -> RoleProcess, pair: &Pair, look: impl Fn() -> bool) {
    let mut rng = Rng::from_env();
    let kills = kills(300) / 10;
    let mut processes: Vec<RoleProcess> = (0..PROCESSES).map(|_| start()).collect();
    processes.iter_mut().for_each(|process| process.expect("here"));
    let (mut poisoned, mut before) = (0, 0);
    for _ in 0..kills {
        let victim = rng.below(PROCESSES as u64) as usize;
        kill_within(&mut rng, processes[victim].pidfd(), Duration::from_millis(3)).unwrap();
        poisoned += u32::from(look());
        let status = processes[victim].wait();
        let by_the_storm = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
        assert!(by_the_storm, "{status:?}\n{}", processes[victim].output());
        processes[victim] = start();
        processes[victim].expect("here");
        let [now, _] = pair.read();
        assert!(now > before, "nobody got the lock meanwhile");
        before = now;
    }
    println!(
        "{kills} kills; the first to see a poison was this process {poisoned} times; {before} additions"
    );
    drop(processes);
    look();
    let [first, second] = pair.read();
    assert_eq!(first, second);
}

/// Locks; a lock is not fair, so on a busy machine those who add can be quicker for long. But one of them gets it.
fn patient<G>(pair: &Pair, lock: impl Fn() -> Result<G, LockError<G>>) -> Result<G, LockError<G>> {
    loop {
        let before = pair.read();
        match lock() {
            Err(LockError::TimedOut) => assert_ne!(pair.read(), before, "nobody gets the lock any more"),
            other => return other,
        }
    }
}

fn pair() -> Pair {
    Pair { segment: Segment::anonymous(Kind::new("pair", 1, 1), 4096).unwrap() }
}

#[test]
fn a_storm_over_a_lock_leaves_what_it_guards_whole() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let (pair, lock) = (pair(), Lock::new().unwrap());
    let start = || role::start(role_adder, &[&given(&(&pair.segment, &lock))]);
    storm(start, &pair, || held(&pair, patient(&pair, || lock.lock_timeout(BOUND)), || lock.clear_poison()));
}

#[test]
fn a_storm_over_a_reentrant_lock_leaves_what_it_guards_whole() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let (pair, lock) = (pair(), RLock::new().unwrap());
    let start = || role::start(role_nested_adder, &[&given(&(&pair.segment, &lock))]);
    storm(start, &pair, || held(&pair, patient(&pair, || lock.lock_timeout(BOUND)), || lock.clear_poison()));
}
