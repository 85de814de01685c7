//! Death at every instruction of reading and writing, alone and beside a living reader or writer.

use crate::steps_support::{BOUND, Gate, Partner, isolated};
use procession_sync::{LockError, RwLock};
use procession_testkit::{
    step::{Options, each_instruction_after},
    test_name,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Read,
    Write,
}

impl Access {
    /// Gets it, does that, and lets it go; tells whether there was no poison.
    fn hold(self, lock: &RwLock, then: impl FnOnce()) -> bool {
        fn is_clean<G>(locked: Result<G, LockError<G>>, then: impl FnOnce()) -> bool {
            let clean = locked.is_ok();
            assert!(clean || locked.as_ref().is_err_and(|error| error.poison().is_some()));
            then();
            drop(locked);
            clean
        }
        match self {
            Access::Read => is_clean(lock.read_timeout(BOUND), then),
            Access::Write => is_clean(lock.write_timeout(BOUND), then),
        }
    }
}

#[derive(Default)]
struct Tally {
    clean: u32,
    poisoned: u32,
}

impl Tally {
    /// After a death: nobody has it or waits for it, and it can be had.
    fn count(&mut self, lock: &RwLock) {
        match lock.try_write() {
            Ok(_) => self.clean += 1,
            Err(LockError::Poisoned(_)) => self.poisoned += 1,
            Err(error) => panic!("{error}: {lock:?}"),
        }
        lock.clear_poison();
        drop(lock.try_read().unwrap());
        drop(lock.try_write().unwrap());
        assert_eq!((lock.readers(), lock.writer(), lock.waiting()), (0, None, 0));
    }
}

fn alone(access: Access) {
    let mut tally = Tally::default();
    let report = each_instruction_after(
        &Options::one_of(211),
        || RwLock::new().unwrap(),
        // Becomes a member.
        |lock| drop(lock.read().unwrap()),
        |lock, ()| match access {
            Access::Read => drop(lock.read().unwrap()),
            Access::Write => drop(lock.write().unwrap()),
        },
        |_, lock| tally.count(lock),
    );
    println!("{access:?}: {report}; {} times clean, {} times poisoned", tally.clean, tally.poisoned);
    assert!(tally.clean > 0 && tally.poisoned > 0);
}

#[test]
fn it_comes_back_wherever_a_reader_dies() {
    isolated(test_name!(), || alone(Access::Read));
}

#[test]
fn it_comes_back_wherever_a_writer_dies() {
    isolated(test_name!(), || alone(Access::Write));
}

/// The child asks for it while a partner has it, who lets it go when the child sleeps.
fn behind(theirs: Access, ours: Access) {
    let mut tally = Tally::default();
    let report = each_instruction_after(
        &Options::one_of(307),
        || {
            let lock = RwLock::new().unwrap();
            let held = lock.clone();
            let partner = Partner::start(move |gate: Gate| {
                theirs.hold(&held, || {
                    gate.ready();
                    gate.child_sleeps();
                })
            });
            (lock, partner)
        },
        |(lock, partner)| {
            // Becomes a member.
            let _ = lock.try_read();
            partner.here();
        },
        |(lock, _), ()| _ = ours.hold(lock, || ()),
        |_, (lock, partner)| {
            assert!(partner.end());
            tally.count(lock);
        },
    );
    println!("{ours:?}, behind {theirs:?}: {report}; {} clean, {} poisoned", tally.clean, tally.poisoned);
    assert!(tally.clean > 0 && tally.poisoned > 0);
}

#[test]
fn it_comes_back_wherever_a_writer_dies_that_waited_for_a_reader() {
    isolated(test_name!(), || behind(Access::Read, Access::Write));
}

#[test]
fn it_comes_back_wherever_a_reader_dies_that_waited_for_a_writer() {
    isolated(test_name!(), || behind(Access::Write, Access::Read));
}

/// The child lets it go while a partner sleeps who waits for it.
fn before(ours: Access, theirs: Access) {
    let (mut told, mut spared) = (0, 0);
    let report = each_instruction_after(
        &Options::one_of(307),
        || {
            let lock = RwLock::new().unwrap();
            let waits = lock.clone();
            let partner = Partner::start(move |gate: Gate| {
                gate.ready();
                gate.child_is_here();
                theirs.hold(&waits, || ())
            });
            (lock, partner)
        },
        |(lock, partner)| {
            // A guard borrows its lock: this one lives as long as the process.
            let lock: &'static RwLock = Box::leak(Box::new(lock.clone()));
            let guards = match ours {
                Access::Read => (Some(lock.read().unwrap()), None),
                Access::Write => (None, Some(lock.write().unwrap())),
            };
            partner.here_until_it_waits();
            guards
        },
        |_, guards| drop(guards),
        |death, (lock, partner)| {
            let clean = partner.end();
            assert!(clean || !death.finished);
            if clean {
                spared += 1
            } else {
                told += 1
            }
            lock.clear_poison();
            Tally::default().count(lock);
        },
    );
    println!(
        "{ours:?} let go, before {theirs:?}: {report}; the partner was told {told} times, spared {spared}"
    );
    assert!(told > 0 && spared > 0);
}

#[test]
fn a_reader_that_sleeps_gets_it_wherever_the_writer_dies() {
    isolated(test_name!(), || before(Access::Write, Access::Read));
}

#[test]
fn a_writer_that_sleeps_gets_it_wherever_the_reader_dies() {
    isolated(test_name!(), || before(Access::Read, Access::Write));
}
