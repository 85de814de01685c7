//! Death at every instruction of locking and letting go.
//!
//! After each death the survivor gets the lock at once, clean or poisoned: poisoned exactly if the dead one may have been
//! among what the lock guards, and then with its name.

use crate::{
    steps_support::{BOUND, Partner, Words, isolated},
    support::{given, take},
};
use procession_sync::{Lock, LockError, Poison, RLock};
use procession_testkit::{
    role,
    step::{Death, Options, Report, each_instruction, each_instruction_after, each_instruction_stopped},
};

#[derive(Default)]
struct Tally {
    clean: u32,
    poisoned: u32,
}

impl Tally {
    fn count<G>(&mut self, death: Death, locked: Result<G, LockError<G>>) -> bool {
        match locked {
            Ok(_) => self.clean += 1,
            Err(LockError::Poisoned(poisoned)) => {
                assert!(matches!(poisoned.cause(), Poison::Died { pid } if pid != 0), "{poisoned:?}");
                assert!(!death.finished);
                self.poisoned += 1;
                return true;
            }
            Err(other) => panic!("{other:?}"),
        }
        false
    }

    fn print(&self, what: &str, report: Report) {
        println!("{what}: {report}; {} times clean, {} times poisoned", self.clean, self.poisoned);
        assert!(self.clean > 0 && self.poisoned > 0);
    }
}

fn locks_dies(name: &str, prepare: impl Fn(&Lock)) {
    let mut tally = Tally::default();
    let report = each_instruction(
        &Options::one_of(29),
        || {
            let lock = Lock::new().unwrap();
            prepare(&lock);
            lock
        },
        |lock| {
            let _ = lock.acquire();
            lock.release().unwrap();
        },
        |death, lock| {
            if tally.count(death, lock.lock_timeout(BOUND)) {
                // Whoever follows is told too, until the poison is cleared.
                assert!(lock.try_lock().unwrap_err().poison().is_some());
                lock.clear_poison();
            }
            drop(lock.try_lock().unwrap());
            assert!(!lock.is_locked() && lock.holder().is_none());
        },
    );
    tally.print(name, report);
}

#[test]
fn a_locker_dies_at_every_instruction() {
    isolated("steps::a_locker_dies_at_every_instruction", || locks_dies("lock and unlock", |_| ()));
}

#[test]
fn a_locker_that_waits_for_a_partner_dies_at_every_instruction() {
    isolated("steps::a_locker_that_waits_for_a_partner_dies_at_every_instruction", || {
        let mut tally = Tally::default();
        let report = each_instruction_after(
            &Options::one_of(61),
            || {
                let lock = Lock::new().unwrap();
                let held = lock.clone();
                let partner = Partner::start(move |gate| {
                    held.acquire().unwrap();
                    gate.ready();
                    gate.child_sleeps();
                    held.release().unwrap();
                });
                (lock, partner)
            },
            |(_, partner)| partner.here(),
            |(lock, _), ()| {
                lock.acquire().unwrap();
                lock.release().unwrap();
            },
            |death, (lock, partner)| {
                partner.end();
                tally.count(death, lock.lock_timeout(BOUND));
                lock.clear_poison();
                drop(lock.try_lock().unwrap());
                assert!(!lock.is_locked() && lock.holder().is_none());
            },
        );
        tally.print("lock, waiting for a partner, and unlock", report);
    });
}

#[test]
fn a_partner_that_sleeps_gets_the_lock_wherever_its_holder_dies() {
    isolated("steps::a_partner_that_sleeps_gets_the_lock_wherever_its_holder_dies", || {
        let mut tally = Tally::default();
        let report = each_instruction_after(
            &Options::one_of(29),
            || {
                let lock = Lock::new().unwrap();
                let waits = lock.clone();
                let partner = Partner::start(move |gate| {
                    gate.ready();
                    gate.child_is_here();
                    waits.lock_timeout(BOUND).map(drop).map_err(LockError::without_guard)
                });
                (lock, partner)
            },
            |(lock, partner)| {
                lock.acquire().unwrap();
                partner.here_until_it_waits();
            },
            |(lock, _), ()| lock.release().unwrap(),
            |death, (lock, partner)| {
                tally.count(death, partner.end());
                lock.clear_poison();
                drop(lock.try_lock().unwrap());
                assert!(!lock.is_locked() && lock.holder().is_none());
            },
        );
        tally.print("unlock, with a partner that sleeps", report);
    });
}

#[test]
fn a_reentrant_locker_dies_at_every_instruction() {
    isolated("steps::a_reentrant_locker_dies_at_every_instruction", || {
        let mut tally = Tally::default();
        let report = each_instruction(
            &Options::one_of(29),
            || RLock::new().unwrap(),
            |lock| {
                lock.acquire().unwrap();
                lock.acquire().unwrap();
                lock.release().unwrap();
                lock.release().unwrap();
            },
            |death, lock| {
                tally.count(death, lock.lock_timeout(BOUND));
                lock.clear_poison();
                drop(lock.try_lock().unwrap());
                assert!(!lock.is_locked() && lock.depth() == 0);
            },
        );
        tally.print("lock twice and unlock twice", report);
    });
}

#[test]
fn who_finds_out_about_a_death_dies_at_every_instruction() {
    isolated("steps::who_finds_out_about_a_death_dies_at_every_instruction", || {
        let mut told = 0;
        let report = each_instruction(
            &Options::one_of(61),
            || {
                let lock = Lock::new().unwrap();
                // A thread that ends with a lock is dead as well.
                std::thread::scope(|scope| scope.spawn(|| lock.acquire().unwrap()).join().unwrap());
                lock
            },
            |lock| {
                assert!(lock.acquire().is_err());
                lock.release().unwrap();
            },
            |_, lock| {
                // The first death is never lost: nobody has cleared the poison.
                let error = lock.lock_timeout(BOUND).unwrap_err();
                assert!(matches!(error.poison(), Some(Poison::Died { pid }) if pid != 0), "{error}");
                told += 1;
            },
        );
        println!("finding out about a death: {report}; told {told} times");
    });
}

#[test]
fn role_third() {
    let Some(mut role) = role::enter(role_third) else { return };
    let lock: Lock = take(role.fd());
    loop {
        role.hear();
        let locked = lock.lock_timeout(BOUND);
        role.say(match &locked {
            Ok(_) => "clean",
            Err(LockError::Poisoned(_)) => "poisoned",
            Err(_) => "neither",
        });
        // Locked still: dropping it lets it go.
        drop(locked);
        role.say("let go");
    }
}

#[test]
fn a_third_process_takes_the_lock_of_one_that_died_at_any_instruction() {
    isolated("steps::a_third_process_takes_the_lock_of_one_that_died_at_any_instruction", || {
        let lock = Lock::new().unwrap();
        let third = std::cell::RefCell::new(role::start(role_third, &[&given(&lock)]));
        let (mut clean, mut poisoned) = (0, 0);
        let report = each_instruction(
            &Options::one_of(29),
            || lock.clone(),
            |lock| {
                lock.acquire().unwrap();
                lock.release().unwrap();
            },
            |death, lock| {
                let mut third = third.borrow_mut();
                third.say("take it");
                // Both at once: whoever comes first recovers.
                let mine = lock.lock_timeout(BOUND);
                let told = matches!(mine, Err(LockError::Poisoned(_)));
                assert!(told || mine.is_ok(), "{mine:?}");
                drop(mine);
                let theirs = third.hear();
                third.expect("let go");
                assert_eq!(theirs == "poisoned", told, "{theirs}, {death:?}");
                if told {
                    poisoned += 1
                } else {
                    clean += 1
                }
                lock.clear_poison();
                assert!(!lock.is_locked());
            },
        );
        println!("with a third process: {report}; {clean} times clean, {poisoned} times poisoned");
        assert!(clean > 0 && poisoned > 0);
    });
}

#[test]
fn memory_stays_mapped_while_a_lock_in_it_is_being_let_go() {
    let name = "steps::memory_stays_mapped_while_a_lock_in_it_is_being_let_go";
    isolated(name, || {
        let report = each_instruction_stopped(
            &Options::one_of(23),
            || (Some(Lock::new().unwrap()), Words::new()),
            |(lock, words)| {
                // Another thread has the other one of the two handles of this process, and drops it when told.
                let lock = lock.take().unwrap();
                let (other, words) = (lock.clone(), words.clone());
                std::thread::spawn(move || {
                    words.wait(0);
                    drop(other);
                    words.set(1);
                    loop {
                        std::thread::park();
                    }
                });
                // The child's copy of its parent's list of segments goes as well.
                drop(Lock::new().unwrap());
                lock.acquire().unwrap();
                lock
            },
            |_, lock| {
                lock.release().unwrap();
                // Its drop is another thing.
                std::mem::forget(lock);
            },
            |pid, (_, words)| {
                words.set(0);
                words.wait(1);
                let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
                // The child's own arena, and the one of its parent's with the lock.
                let segments = maps.lines().filter(|line| line.contains("memfd:procession:sync")).count();
                assert_eq!(segments, 2, "{maps}");
            },
            |_, (lock, _)| {
                let lock = lock.as_ref().unwrap();
                let locked = lock.lock_timeout(BOUND);
                assert!(locked.is_ok() || locked.as_ref().is_err_and(|error| error.poison().is_some()));
                drop(locked);
                drop(lock.try_lock());
                assert!(!lock.is_locked());
            },
        );
        println!("{report}");
    });
}
