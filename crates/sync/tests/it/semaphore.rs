//! Permits between threads and processes, and what returns when their owner dies.

use crate::support::{BOUND, given, take, through_a_parcel};
use procession_sync::{AcquireError, BoundedSemaphore, Deadline, Semaphore};
use procession_testkit::{Census, isolated, isolated_within, role, syscalls, wait::eventually, watchdog};
use std::{sync::mpsc, time::Duration};

const MOMENT: Duration = Duration::from_millis(20);

#[test]
fn role_owner() {
    let Some(mut role) = role::enter(role_owner) else { return };
    let semaphore: Semaphore = take(role.fd());
    let mut permits = Vec::new();
    loop {
        let line = role.hear();
        match line.split_once(' ').unwrap_or((&line, "1")) {
            ("permits", count) => match semaphore.permits(count.parse().unwrap()) {
                Ok(permit) => {
                    permits.push(permit);
                    role.say("taken");
                }
                Err(error) => role.say(&error.to_string()),
            },
            ("drop", _) => {
                // It is given back before that is said.
                let dropped = permits.pop().map(drop);
                role.say(&dropped.is_some().to_string());
            }
            ("forget", _) => {
                permits.pop().unwrap().forget();
                role.say("forgotten");
            }
            ("acquire", _) => role.say(&semaphore.acquire().is_ok().to_string()),
            ("release", count) => {
                role.say(&semaphore.release_many(count.parse().unwrap()).is_ok().to_string());
            }
            ("wait", count) => {
                role.say("waits");
                semaphore.permits(count.parse().unwrap()).unwrap().forget();
                role.say("woken");
            }
            _ => panic!("{line}?"),
        }
    }
}

fn ask(process: &mut role::RoleProcess, line: &str, answer: &str) {
    process.say(line);
    process.expect(answer);
}

#[test]
fn permits_are_one_number_for_all_processes() {
    let _watchdog = watchdog!();
    let semaphore = Semaphore::new(3).unwrap();
    let mut other = role::start(role_owner, &[&given(&semaphore)]);
    ask(&mut other, "permits 2", "taken");
    assert_eq!((semaphore.value(), semaphore.held()), (1, 2));
    let permit = semaphore.permit().unwrap();
    assert!(semaphore.try_permit().unwrap_err().is_timeout());
    assert!(semaphore.permit_timeout(MOMENT).unwrap_err().is_timeout());
    assert!(semaphore.acquire_deadline(Deadline::after(MOMENT)).unwrap_err().is_timeout());
    let text = format!("{semaphore:?}");
    assert!(text.starts_with("Semaphore { value: 0, held: 3, owners: ["), "{text}");
    for pid in [std::process::id(), other.pid()] {
        assert!(text.contains(&pid.to_string()), "{text}");
    }
    ask(&mut other, "drop", "true");
    assert_eq!((semaphore.value(), semaphore.held()), (2, 1));
    drop(permit);
    assert_eq!((semaphore.value(), semaphore.held()), (3, 0));
    let again = through_a_parcel(&semaphore);
    assert!(again.same(&semaphore));
    assert!(!again.same(&Semaphore::new(3).unwrap()));
}

#[test]
fn what_nobody_owns_anybody_releases() {
    let _watchdog = watchdog!();
    let semaphore = Semaphore::new(1).unwrap();
    let mut other = role::start(role_owner, &[&given(&semaphore)]);
    ask(&mut other, "acquire", "true");
    assert!(semaphore.try_acquire().is_err());
    semaphore.release().unwrap();
    semaphore.acquire().unwrap();
    ask(&mut other, "release 3", "true");
    assert_eq!((semaphore.value(), semaphore.held()), (3, 0));
    semaphore.acquire_many(2).unwrap();
    assert!(semaphore.try_acquire_many(2).is_err());
    assert!(semaphore.acquire_many_deadline(2, Deadline::after(MOMENT)).is_err());
    // What a dead process acquired without owning it stays acquired.
    ask(&mut other, "acquire", "true");
    other.kill();
    assert!(semaphore.acquire_timeout(Duration::from_millis(600)).is_err());
}

#[test]
fn a_dead_owners_permits_return_to_one_that_sleeps() {
    let _watchdog = watchdog!();
    let semaphore = Semaphore::new(3).unwrap();
    let mut owner = role::start(role_owner, &[&given(&semaphore)]);
    ask(&mut owner, "permits 2", "taken");
    ask(&mut owner, "permits 1", "taken");
    let mut sleeper = role::start(role_owner, &[&given(&semaphore)]);
    ask(&mut sleeper, "wait 2", "waits");
    std::thread::scope(|scope| {
        let here = scope.spawn(|| semaphore.permit().unwrap().into_owned());
        owner.kill();
        sleeper.expect("woken");
        drop(here.join().unwrap());
    });
    // The sleeper's were forgotten: nobody owns them.
    assert_eq!((semaphore.value(), semaphore.held()), (1, 0));
}

#[test]
fn a_look_at_the_value_finds_a_death_too() {
    let _watchdog = watchdog!();
    let semaphore = BoundedSemaphore::new(2).unwrap();
    let plain: Semaphore = through_a_parcel_as(&semaphore);
    let mut owner = role::start(role_owner, &[&given(&plain)]);
    ask(&mut owner, "permits 2", "taken");
    ask(&mut owner, "forget", "forgotten");
    semaphore.release().unwrap();
    ask(&mut owner, "permits 1", "taken");
    let text = format!("BoundedSemaphore {{ value: 0, bound: 2, held: 1, owners: [{}] }}", owner.pid());
    assert_eq!(format!("{semaphore:?}"), text);
    owner.kill();
    eventually("the permit is back", BOUND, || semaphore.value() == 1);
    assert_eq!(semaphore.held(), 0);
}

fn through_a_parcel_as<T: serde::de::DeserializeOwned + 'static>(value: &impl serde::Serialize) -> T {
    procession_parcel::Parcel::pack(value).unwrap().unpack().unwrap()
}

#[test]
fn a_guard_moves_between_threads_and_can_be_kept() {
    let _watchdog = watchdog!();
    let semaphore = Semaphore::new(2).unwrap();
    let permit = semaphore.permits(2).unwrap().into_owned();
    assert_eq!((permit.count(), semaphore.value(), semaphore.held()), (2, 0, 2));
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || drop(receiver.recv()));
    sender.send(permit).unwrap();
    thread.join().unwrap();
    assert_eq!((semaphore.value(), semaphore.held()), (2, 0));
    semaphore.permit().unwrap().forget();
    assert_eq!((semaphore.value(), semaphore.held()), (1, 0));
    drop(semaphore.permits(0).unwrap());
    assert_eq!(semaphore.value(), 1);
}

#[test]
fn a_bound_is_kept_and_an_overflow_is_an_error() {
    let _watchdog = watchdog!();
    let semaphore = BoundedSemaphore::new(2).unwrap();
    let error = semaphore.release().unwrap_err();
    assert_eq!(error.bound(), 2);
    assert_eq!(error.to_string(), "released more often than acquired: a semaphore of 2 permits at most");
    semaphore.acquire().unwrap();
    assert!(semaphore.release_many(2).is_err());
    assert_eq!(semaphore.value(), 1);
    semaphore.release().unwrap();
    assert!(matches!(semaphore.permits(3), Err(AcquireError::MoreThanBound { bound: 2 })));
    assert!(matches!(semaphore.acquire_many(3), Err(AcquireError::MoreThanBound { bound: 2 })));
    // Somebody releases in the guard's stead: the guard gives back what fits.
    let permit = semaphore.permit().unwrap();
    semaphore.release().unwrap();
    drop(permit);
    assert_eq!((semaphore.value(), semaphore.held(), semaphore.bound()), (2, 0, 2));

    let plain = Semaphore::new(u32::MAX - 1).unwrap();
    plain.release().unwrap();
    assert_eq!(plain.release().unwrap_err().bound(), u32::MAX);
    assert_eq!(plain.value(), u32::MAX);
}

/// Threads of two processes against each other: no permit is lost or made up.
#[test]
fn contenders_never_exceed_the_permits() {
    let _watchdog = watchdog!();
    let semaphore = Semaphore::new(2).unwrap();
    let inside = std::sync::atomic::AtomicU32::new(0);
    let mut other = role::start(role_contender, &[&given(&semaphore)]);
    other.expect("runs");
    std::thread::scope(|scope| {
        for round in 0..3 {
            let (semaphore, inside) = (&semaphore, &inside);
            scope.spawn(move || {
                for _ in 0..3000 {
                    let permit = semaphore.permits(1 + round % 2).unwrap();
                    let now = inside.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    assert!(now < 2);
                    inside.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
                    drop(permit);
                }
            });
        }
    });
    other.kill();
    eventually("all is back", BOUND, || semaphore.value() == 2);
}

#[test]
fn role_contender() {
    let Some(mut role) = role::enter(role_contender) else { return };
    let semaphore: Semaphore = take(role.fd());
    role.say("runs");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    drop(semaphore.permit().unwrap());
                }
            });
        }
    });
}

#[test]
fn where_permits_are_free_nobody_asks_the_kernel() {
    isolated!({
        let semaphore = Semaphore::new(4).unwrap();
        let calls = syscalls::trace(
            || drop(semaphore.permit().unwrap()),
            |()| {
                drop(semaphore.permit().unwrap());
                drop(semaphore.try_permits(2).unwrap());
                semaphore.acquire().unwrap();
                semaphore.release().unwrap();
            },
        );
        assert_eq!(calls, []);
    });
}

/// Forks; the child runs `body` and ends at once.
fn fork(body: impl FnOnce()) -> i32 {
    // SAFETY: called where this is the only thread at work, so the child may do what this one may.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err();
        // SAFETY: no preconditions.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    pid
}

fn ends_well(pid: i32) {
    let mut status = 0;
    // SAFETY: a child of this process, and a place for its status.
    let ended = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((ended, status), (pid, 0));
}

#[test]
fn a_forked_child_owns_nothing_of_its_parents() {
    isolated!({
        let semaphore = Semaphore::new(3).unwrap();
        let mut guard = Some(semaphore.permit().unwrap());
        ends_well(fork(|| {
            drop(guard.take());
            assert_eq!((semaphore.value(), semaphore.held()), (2, 1));
            let own = semaphore.permit().unwrap();
            assert_eq!((semaphore.value(), semaphore.held()), (1, 2));
            drop(own);
            std::mem::forget(semaphore.permits(2).unwrap());
        }));
        eventually("the child's are back", BOUND, || (semaphore.value(), semaphore.held()) == (2, 1));
        drop(guard);
        assert_eq!((semaphore.value(), semaphore.held()), (3, 0));
    });
}

/// More processes than there are numbers for members: those of the dead are used again.
#[test]
fn processes_come_and_go_and_each_ones_permits_return() {
    isolated_within(
        "semaphore::processes_come_and_go_and_each_ones_permits_return",
        Duration::from_secs(240),
        || {
            let semaphore = Semaphore::new(2000).unwrap();
            let bystander = Semaphore::new(2000).unwrap();
            for _ in 0..1100 {
                ends_well(fork(|| {
                    std::mem::forget(semaphore.permit().unwrap());
                    std::mem::forget(bystander.permit().unwrap());
                    drop(semaphore.permit().unwrap());
                }));
            }
            // Nobody has looked at this one since: what the first hundred held was recovered for their numbers.
            eventually("all are back", BOUND, || bystander.value() == 2000 && semaphore.value() == 2000);
            assert_eq!(semaphore.held() + bystander.held(), 0);
        },
    );
}

#[test]
fn many_semaphores_cost_few_descriptors() {
    isolated!({
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        drop(Semaphore::new(1).unwrap().permit().unwrap());
        let before = open();
        let census = Census::take();
        let many: Vec<Semaphore> = (0..3000).map(|_| Semaphore::new(1).unwrap()).collect();
        let permits: Vec<_> = many.iter().map(|semaphore| semaphore.permit().unwrap()).collect();
        let more = open() - before;
        assert!(more <= 16, "{more} descriptors for 3000 semaphores");
        drop(permits);
        drop(many);
        drop(census);
    });
}
