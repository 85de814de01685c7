//! Deaths at each step of events, conditions, barriers, read-write locks and what is done once: built with
//! `--cfg crash_points`.

use crate::support::{BOUND, given, soon, take};
use procession_sync::{Barrier, Condition, Event, Once, OnceValue, RwLock};
use procession_testkit::{role, wait::eventually, watchdog};
use serde::{Deserialize, Serialize};
use std::{os::unix::process::ExitStatusExt, time::Duration};

/// Everything that the roles work on.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct World {
    pub(crate) condition: Condition,
    pub(crate) state: Event,
    pub(crate) event: Event,
    pub(crate) barrier: Barrier,
    pub(crate) three: Barrier,
    pub(crate) rwlock: RwLock,
    pub(crate) once: Once,
    pub(crate) value: OnceValue<[u64; 4]>,
}

pub(crate) fn world() -> World {
    World {
        condition: Condition::new().unwrap(),
        state: Event::new().unwrap(),
        event: Event::new().unwrap(),
        barrier: Barrier::new(2).unwrap(),
        three: Barrier::new(3).unwrap(),
        rwlock: RwLock::new().unwrap(),
        once: Once::new().unwrap(),
        value: OnceValue::new().unwrap(),
    }
}

/// From now on this process dies at `point`.
pub(crate) fn arm(point: &str) {
    // SAFETY: no other thread of the role reads or writes the environment at this moment: the harness's waits for this
    // one, and the role's own are started later.
    unsafe { std::env::set_var(procession_sys::crash::VARIABLE, point) };
}

#[test]
fn role_dies() {
    let Some(mut role) = role::enter(role_dies) else { return };
    let (point, does, world): (String, String, World) = take(role.fd());
    // What makes a death in a repair: the first one dies without the point.
    arm(&point);
    match does.as_str() {
        "set" => drop(world.event.set()),
        "wait" => world.event.wait(),
        "condition wait" => {
            let mut guard = world.condition.lock().unwrap();
            let _ = world.condition.wait(&mut guard);
        }
        "condition notify" => {
            let _guard = world.condition.lock().unwrap();
            world.condition.notify_all().unwrap();
        }
        "condition sweep" => {
            let mut guard = world.condition.lock().unwrap();
            let _ = world.condition.wait_timeout(&mut guard, BOUND);
        }
        "barrier" => drop(world.barrier.wait_timeout(BOUND)),
        "barrier abort" => drop(world.barrier.abort()),
        "three" => {
            let result = world.three.wait_timeout(BOUND).map_err(|error| error.to_string());
            role.say(&format!("{result:?}"));
        }
        "three, give up late" => drop(world.three.wait_timeout(Duration::from_millis(1000))),
        "three, give up" => drop(world.three.wait_timeout(Duration::from_millis(20))),
        "read" => drop(world.rwlock.read_timeout(BOUND)),
        "write" => drop(world.rwlock.write_timeout(BOUND)),
        "write, go on when told" => {
            let guard = world.rwlock.write().unwrap();
            role.say("has it");
            role.hear();
            drop(guard);
        }
        "write, give up" => drop(world.rwlock.write_timeout(Duration::from_millis(20))),
        "once" => drop(world.once.call_once(|| ())),
        "value" => drop(world.value.get_or_init(|| [7; 4])),
        what => panic!("{what}?"),
    }
    role.say("over");
}

pub(crate) fn start(point: &str, does: &str, world: &World) -> role::RoleProcess {
    role::start(role_dies, &[&given(&(point, does, world))])
}

#[track_caller]
pub(crate) fn died(process: &mut role::RoleProcess, point: &str) {
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "at {point}: {status:?}\n{}", process.output());
}

/// Without the points the roles would not die.
pub(crate) fn armed() -> bool {
    let armed = cfg!(crash_points);
    if !armed {
        println!("skipped: not built with --cfg crash_points");
    }
    armed
}

#[test]
fn an_event_outlives_its_setters_and_waiters() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    if !armed() {
        return;
    }
    for point in ["event.set.committed", "event.set.woken"] {
        let world = world();
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let event = &world.event;
            let waits = scope.spawn(move || {
                tell.send(procession_sync::Holder::current().tid).unwrap();
                event.wait_timeout(BOUND)
            });
            // Without a sleeper the second point is not reached.
            let call = format!("/proc/self/task/{}/syscall", told.recv().unwrap());
            eventually("it sleeps on a futex", BOUND, || {
                std::fs::read_to_string(&call).unwrap().starts_with("202 ")
            });
            let mut process = start(point, "set", &world);
            died(&mut process, point);
            assert!(waits.join().unwrap(), "at {point}");
        });
    }
    for point in ["event.wait.flagged", "event.wait.woken"] {
        let world = world();
        let mut process = start(point, "wait", &world);
        // The second one at the end of a slice.
        died(&mut process, point);
        assert!(world.event.set());
        assert!(world.event.wait_timeout(BOUND));
    }
}

/// A waiter here is notified, whatever became of the other one.
pub(crate) fn notified_here(world: &World, point: &str) {
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let mut guard = world.condition.lock().unwrap_or_else(|error| match error {
                procession_sync::LockError::Poisoned(poisoned) => {
                    world.condition.clear_poison();
                    poisoned.into_inner()
                }
                error => panic!("{error}"),
            });
            world.condition.wait_timeout_while(&mut guard, BOUND, || !world.state.is_set())
        });
        loop {
            let guard = match world.condition.lock() {
                Ok(guard) => guard,
                Err(procession_sync::LockError::Poisoned(poisoned)) => {
                    world.condition.clear_poison();
                    poisoned.into_inner()
                }
                Err(error) => panic!("{error}"),
            };
            if world.condition.waiting() > 0 {
                world.state.set();
                // One, which may go to a dead one first.
                world.condition.notify_one().unwrap();
                break;
            }
            drop(guard);
            std::thread::yield_now();
        }
        assert!(waits.join().unwrap().unwrap(), "at {point}");
    });
}

#[test]
fn a_condition_outlives_its_waiters_and_notifiers() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    if !armed() {
        return;
    }
    let waiting = [
        "table.enter.filled",
        "table.enter.entered",
        "table.unlocked",
        "condition.wait.entered",
        "condition.wait.let_go",
        "table.wait.flagged",
        "table.wait.woken",
    ];
    for point in waiting {
        let world = world();
        let mut process = start(point, "condition wait", &world);
        died(&mut process, point);
        notified_here(&world, point);
    }
    for point in ["condition.wait.taken", "condition.wait.left"] {
        let world = world();
        let mut process = start(point, "condition wait", &world);
        soon("it waits", || world.condition.waiting() == 1);
        let guard = world.condition.lock().unwrap();
        world.condition.notify_one().unwrap();
        drop(guard);
        died(&mut process, point);
        notified_here(&world, point);
    }
    for point in ["condition.notify.noted", "condition.notify.notified"] {
        let world = world();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut guard = world.condition.lock().unwrap();
                world.condition.wait_timeout(&mut guard, BOUND)
            });
            soon("one waits", || world.condition.waiting() == 1);
            let mut process = start(point, "condition notify", &world);
            died(&mut process, point);
            // The notifier's death is the lock's.
            assert!(waits.join().unwrap().unwrap_err().to_string().contains("died"), "at {point}");
        });
        notified_here(&world, point);
    }
}

#[test]
fn a_notification_outlives_two_deaths() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    if !armed() {
        return;
    }
    for point in ["condition.bury.passed", "table.died.found", "table.died.repaired"] {
        let world = world();
        let mut victim = start("none", "condition wait", &world);
        soon("it waits", || world.condition.waiting() == 1);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut guard = world.condition.lock().unwrap();
                world.condition.wait_timeout(&mut guard, BOUND)
            });
            soon("two wait", || world.condition.waiting() == 2);
            victim.kill();
            if point == "condition.bury.passed" {
                let mut second = start(point, "condition sweep", &world);
                soon("three wait", || world.condition.waiting() == 3);
                let guard = world.condition.lock().unwrap();
                assert_eq!(world.condition.notify_one().unwrap(), 1);
                drop(guard);
                // Whoever of the two that wait sweeps: the one here, or the second, which dies at it.
                assert!(waits.join().unwrap().unwrap());
                second.kill();
            } else {
                // One dies under the mutex, the next one in the repair.
                let mut first = start("table.enter.filled", "condition wait", &world);
                died(&mut first, "table.enter.filled");
                drop(world.condition.lock().unwrap_err());
                world.condition.clear_poison();
                let mut second = start(point, "condition wait", &world);
                soon("a death, or another's repair", || {
                    procession_testkit::wait::ended(second.pidfd(), Duration::ZERO).unwrap()
                        || world.condition.waiting() == 3
                });
                second.kill();
                // It is notified, or told of a death under the lock: it does not wait on.
                if let Ok(guard) = world.condition.lock() {
                    world.condition.notify_all().unwrap();
                    drop(guard);
                }
                let _ = waits.join().unwrap();
            }
        });
        notified_here(&world, point);
    }
}

#[test]
fn a_barrier_is_passed_or_breaks_wherever_a_party_dies() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    if !armed() {
        return;
    }
    let points = [
        ("barrier.inside", "barrier"),
        ("barrier.entered", "barrier"),
        ("barrier.leaves", "barrier"),
        ("barrier.decided", "barrier abort"),
        ("barrier.noted", "barrier abort"),
        ("barrier.carried_out", "barrier abort"),
        ("barrier.decided", "barrier"),
        ("barrier.released", "barrier"),
        ("barrier.carried_out", "barrier"),
        ("barrier.leaves", "barrier"),
        ("barrier.leaves.answered", "barrier"),
        ("barrier.buried", "barrier"),
    ];
    for (number, (point, does)) in points.into_iter().enumerate() {
        let world = world();
        let first = number < 3 || matches!(point, "barrier.leaves.answered" | "barrier.buried");
        std::thread::scope(|scope| {
            if first {
                // It comes first; the one here finds its death, or is turned away, or passes with it.
                let mut process = start(point, does, &world);
                if matches!(point, "barrier.leaves.answered" | "barrier.buried") {
                    if point == "barrier.leaves.answered" {
                        soon("it waits", || world.barrier.waiting() == 1);
                        let _ = world.barrier.wait_timeout(BOUND);
                    }
                    died(&mut process, point);
                } else {
                    died(&mut process, point);
                    assert!(world.barrier.wait_timeout(BOUND).is_err(), "at {point}");
                }
            } else {
                let waits = scope.spawn(|| world.barrier.wait_timeout(BOUND));
                soon("one waits", || world.barrier.waiting() == 1);
                let mut process = start(point, does, &world);
                died(&mut process, point);
                let result = waits.join().unwrap();
                assert_eq!(result.is_ok(), does == "barrier", "at {point}: {result:?}");
            }
        });
        // Reset mends it, whatever was left.
        world.barrier.reset().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| world.barrier.wait_timeout(BOUND).unwrap());
            assert_eq!(world.barrier.wait_timeout(BOUND).unwrap() + other.join().unwrap(), 1, "at {point}");
        });
    }
}

#[test]
fn a_read_write_lock_comes_back_wherever_a_holder_dies() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    if !armed() {
        return;
    }
    let alone = [("rwlock.taken", "read"), ("rwlock.taken", "write"), ("rwlock.freed", "write")];
    // The same while somebody here has it.
    let behind = [("rwlock.gave_up", "write, give up"), ("rwlock.taken.after", "write")];
    for (point, does) in alone.into_iter().chain(behind) {
        let world = world();
        let guard =
            (point != "rwlock.taken" && point != "rwlock.freed").then(|| world.rwlock.read().unwrap());
        let mut process = start(point, does, &world);
        match point {
            "rwlock.taken.after" => {
                soon("it waits", || world.rwlock.waiting() == 1);
                drop(guard);
                died(&mut process, point);
            }
            _ => {
                died(&mut process, point);
                drop(guard);
            }
        }
        let taken = world.rwlock.write_timeout(BOUND);
        let poisoned = matches!(point, "rwlock.taken" | "rwlock.taken.after");
        assert_eq!(taken.is_err(), poisoned, "at {point}: {taken:?}");
    }
    // One that dies while it gives the lock to one here.
    let world = self::world();
    let mut process = start("rwlock.granted", "write, go on when told", &world);
    process.expect("has it");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| world.rwlock.write_timeout(BOUND).is_ok());
        soon("one waits", || world.rwlock.waiting() == 1);
        process.say("go on");
        died(&mut process, "rwlock.granted");
        assert!(waits.join().unwrap());
    });
    // One that dies while it takes the lock back from another dead one.
    let world = self::world();
    let mut victim = start("rwlock.taken", "write", &world);
    died(&mut victim, "rwlock.taken");
    let mut second = start("rwlock.bury.poisoned", "read", &world);
    died(&mut second, "rwlock.bury.poisoned");
    let error = world.rwlock.write_timeout(BOUND).unwrap_err();
    assert_eq!(error.poison(), Some(procession_sync::Poison::Died { pid: victim.pid() }));
}

#[test]
fn one_that_dies_on_its_way_to_sleep_keeps_nobody_from_doing_it() {
    let _watchdog = watchdog!(Duration::from_secs(60));
    if !armed() {
        return;
    }
    let (world, point) = (world(), "once.wait.flagged");
    let run = || died(&mut start(point, "once", &world), point);
    assert!(world.once.call_once(run).unwrap());
    assert!(!world.once.call_once(|| unreachable!()).unwrap());
}

#[test]
fn what_is_done_once_is_done_wherever_a_runner_dies() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    if !armed() {
        return;
    }
    let points = [
        ("once.begin.named", "once", false),
        ("once.begin.numbered", "once", false),
        ("once.begin.running", "once", false),
        ("once.end.ready", "once", false),
        ("once.end.done", "once", true),
        ("once.value.written", "value", false),
        ("once.value.written:4", "value", false),
    ];
    for (point, does, done) in points {
        let world = world();
        let mut process = start(point, does, &world);
        died(&mut process, point);
        if does == "once" {
            assert_eq!(world.once.call_once_timeout(BOUND, || ()).unwrap(), !done, "at {point}");
        } else {
            assert_eq!(world.value.get_or_init_timeout(BOUND, || [8; 4]).unwrap(), [8; 4], "at {point}");
        }
    }
}
