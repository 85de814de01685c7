//! The border itself: what is submitted to real workers, and the one truth about each item that comes back.

use super::{Builder, Local};
use crate::{
    Cause, TaskError,
    back::{Arguments, Attendant, Back, Cancel, Envelope, Event, Events, FunctionId, Key, Submit},
    cancelled, records,
};
use procession_parcel::{Erased, Parcel, codec};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// What became of an item.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Truth {
    Value(u64),
    Cancelled,
    /// It was in hand.
    Killed(Cause),
    /// It was behind the one in hand.
    NotStarted,
    Other(String),
}

struct Rig {
    local: Local,
    events: Events,
    truths: HashMap<(u64, u32), Truth>,
    started: HashSet<u64>,
    tasks: u64,
}

const WORK: FunctionId = FunctionId(7);

/// An item is a command: its upper part says what to do, its lower one for how many microseconds.
const SPIN: u64 = 0;
const HANG: u64 = 1 << 32;
const OBEY: u64 = 2 << 32;
const DIE: u64 = 3 << 32;

fn work(command: u64) -> u64 {
    let time = Duration::from_micros(command & 0xffff_ffff);
    let start = Instant::now();
    match command & !0xffff_ffff {
        SPIN => {
            while start.elapsed() < time {
                std::hint::spin_loop();
            }
        }
        HANG => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        OBEY => {
            while !cancelled() {
                std::hint::spin_loop();
            }
        }
        _ => std::process::abort(),
    }
    command
}

impl Rig {
    fn new(builder: Builder) -> Rig {
        let mut local = builder.local().unwrap();
        let erased = Erased::new(work).unwrap();
        let parcel = Arc::new(Parcel::pack(&erased).unwrap());
        local.define(WORK, &Arc::new(erased), &parcel);
        Rig { local, events: Events::default(), truths: HashMap::new(), started: HashSet::new(), tasks: 0 }
    }

    /// Gives a task, as soon as there is room; its number.
    fn give(&mut self, items: &[u64], limit: Option<Duration>, cancellable: bool) -> u64 {
        self.tasks += 1;
        let key = Key { task: self.tasks, attempt: 1 };
        let mut bytes = Vec::new();
        for item in items {
            let mut record = Vec::new();
            codec::encode(item, &mut record).unwrap();
            records::append(&mut bytes, &record);
        }
        let envelope = Envelope {
            key,
            function: WORK,
            flags: 0,
            priority: 0,
            limit,
            cancellable,
            layouts: Default::default(),
            items: items.len() as u32,
            arguments: Arguments::Inline(&bytes),
        };
        loop {
            match self.local.submit(&envelope) {
                Submit::Accepted => return self.tasks,
                Submit::Full => self.poll(),
                Submit::Refused(error) => panic!("{error}"),
            }
        }
    }

    fn cancel(&mut self, task: u64, how: Cancel) {
        self.local.cancel(Key { task, attempt: 1 }, how);
    }

    fn poll(&mut self) {
        self.local.poll(&mut self.events);
        for event in self.events.take() {
            match event {
                Event::Results { key, first, count, records } => {
                    let mut rest = &records[..];
                    for item in first..first + count {
                        let (record, behind) = records::split(rest).unwrap();
                        rest = behind;
                        self.tell(key, item, Truth::Value(codec::decode(record).unwrap()));
                    }
                }
                Event::Failed { key, item, error: TaskError::Cancelled } => {
                    self.tell(key, item, Truth::Cancelled);
                }
                Event::Failed { key, item, error } => self.tell(key, item, Truth::Other(error.to_string())),
                Event::Ended { key, completed, in_hand, death } => {
                    assert!(in_hand <= 1);
                    assert!((0..completed).all(|item| self.truths.contains_key(&(key.task, item))));
                    for item in completed..completed + in_hand {
                        self.tell(key, item, Truth::Killed(death.cause));
                    }
                    // What was told before is settled.
                    for item in completed + in_hand..100 {
                        self.truths.entry((key.task, item)).or_insert(Truth::NotStarted);
                    }
                }
                Event::Started { key, item } => {
                    // Not of what was told before, and of a task once.
                    assert!(!self.truths.contains_key(&(key.task, item)), "{key:?} {item}");
                    assert!(self.started.insert(key.task), "{key:?} {item}");
                }
                other => panic!("{other:?}"),
            }
        }
        std::thread::yield_now();
    }

    fn tell(&mut self, key: Key, item: u32, truth: Truth) {
        let before = self.truths.insert((key.task, item), truth.clone());
        assert_eq!(before, None, "{key:?} item {item} was told of twice, then as {truth:?}");
    }

    /// The truths about a task's items, once there is one about each.
    fn truths(&mut self, task: u64, items: u32) -> Vec<Truth> {
        while !(0..items).all(|item| self.truths.contains_key(&(task, item))) {
            self.poll();
        }
        (0..items).map(|item| self.truths[&(task, item)].clone()).collect()
    }

    /// As if items of the function had been short so far: what is given now is queued behind each other.
    fn assume_short(&mut self) {
        if let Some(function) = self.local.functions.get_mut(&WORK) {
            function.item = Some(1_000);
        }
    }
}

fn one() -> Rig {
    Rig::new(Builder::default().workers(1))
}

const LIMIT: Duration = Duration::from_millis(50);

#[test]
fn an_item_that_overruns_is_killed_and_the_others_of_its_task_are_not_concerned() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    let task = rig.give(&[SPIN, HANG, SPIN + 1], Some(LIMIT), false);
    let killed = Truth::Killed(Cause::TimeLimit(LIMIT));
    assert_eq!(rig.truths(task, 3), [Truth::Value(0), killed, Truth::NotStarted]);
    let next = rig.give(&[5], Some(LIMIT), false);
    assert_eq!(rig.truths(next, 1), [Truth::Value(5)], "the next worker is as good");
}

#[test]
fn what_is_queued_behind_an_item_that_overruns_is_told_as_not_started() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    rig.assume_short();
    let slow = rig.give(&[HANG], Some(LIMIT), false);
    // The function was short so far, so these are queued behind.
    let behind = rig.give(&[SPIN], None, false);
    assert_eq!(rig.truths(slow, 1), [Truth::Killed(Cause::TimeLimit(LIMIT))]);
    assert_eq!(rig.truths(behind, 1), [Truth::NotStarted]);
}

#[test]
fn limits_and_graces_are_kept_though_nobody_waits() {
    let _watchdog = procession_testkit::test_watchdog();
    let rig = Arc::new(Mutex::new(one()));
    let attended = Arc::downgrade(&rig);
    rig.lock().unwrap().local.set_attendant(Attendant::new(move || {
        if let Some(rig) = attended.upgrade() {
            rig.lock().unwrap().poll();
        }
    }));
    rig.lock().unwrap().give(&[HANG], Some(LIMIT), false);
    let until = |truth: Truth, task| {
        // This looks, and moves nothing on.
        while rig.lock().unwrap().truths.get(&(task, 0)) != Some(&truth) {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until(Truth::Killed(Cause::TimeLimit(LIMIT)), 1);
    let mut locked = rig.lock().unwrap();
    let task = locked.give(&[HANG], None, true);
    while locked.local.slots[0].as_ref().is_none_or(|slot| slot.item_in_hand().is_none()) {
        locked.poll();
    }
    locked.cancel(task, Cancel::Kill { grace: LIMIT });
    drop(locked);
    until(Truth::Killed(Cause::Cancelled), 2);
}

#[test]
fn a_limit_is_for_one_item_and_not_for_the_sum() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    let task = rig.give(&[SPIN + 30_000; 6], Some(Duration::from_millis(2_000)), false);
    assert_eq!(rig.truths(task, 6), vec![Truth::Value(30_000); 6]);
}

#[test]
fn at_the_edge_of_its_limit_an_item_is_committed_or_killed_and_no_other_is_hit() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = Rig::new(Builder::default().workers(2));
    let limit = Duration::from_millis(2);
    for round in 0..40 {
        // Each alone would be far within the limit, but for the one in the middle.
        let edge = 1_900 + round * 10;
        let task = rig.give(&[10, edge, 10, 10], Some(limit), false);
        let truths = rig.truths(task, 4);
        // The machine may stop a worker at any time, so any item may be the one that was killed; but then it is one, and
        // what is behind it was not started.
        let at = truths.iter().position(|truth| !matches!(truth, Truth::Value(_))).unwrap_or(4);
        if at < 4 {
            assert_eq!(truths[at], Truth::Killed(Cause::TimeLimit(limit)));
            assert!(truths[at + 1..].iter().all(|truth| *truth == Truth::NotStarted));
        }
    }
}

#[test]
fn what_is_cancelled_before_it_starts_is_not_run() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    rig.assume_short();
    let first = rig.give(&[OBEY], None, true);
    let second = rig.give(&[DIE, DIE], None, true);
    let third = rig.give(&[SPIN], None, true);
    rig.cancel(second, Cancel::Queued);
    rig.cancel(first, Cancel::Ask);
    assert_eq!(rig.truths(second, 2), [Truth::Cancelled, Truth::Cancelled]);
    assert_eq!(rig.truths(third, 1), [Truth::Value(SPIN)]);
    // It may have been kept from starting.
    assert!(matches!(rig.truths(first, 1)[..], [Truth::Value(OBEY) | Truth::Cancelled]));
}

#[test]
fn an_item_that_is_asked_to_end_learns_it_and_gives_a_result() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    let task = rig.give(&[SPIN, OBEY, SPIN], None, true);
    rig.truths(task, 1);
    // A revocation that does not ask leaves a running item alone, and what comes later is stronger.
    rig.cancel(task, Cancel::Queued);
    rig.cancel(task, Cancel::Ask);
    rig.cancel(task, Cancel::Queued);
    let truths = rig.truths(task, 3);
    assert!(matches!(truths[1], Truth::Value(OBEY) | Truth::Cancelled), "{truths:?}");
    assert_eq!(truths[2], Truth::Cancelled);
}

#[test]
fn an_item_that_does_not_end_in_its_grace_is_killed_and_what_is_behind_it_cancelled() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    for grace in [Duration::ZERO, Duration::from_millis(20)] {
        let task = rig.give(&[SPIN, HANG, SPIN], None, true);
        rig.truths(task, 1);
        while rig.local.slots[0].as_ref().is_none_or(|slot| slot.item_in_hand() != Some((task, 1))) {
            rig.poll();
        }
        rig.cancel(task, Cancel::Kill { grace });
        let killed = Truth::Killed(Cause::Cancelled);
        assert_eq!(rig.truths(task, 3), [Truth::Value(0), killed, Truth::Cancelled]);
    }
    // One that ends by itself within its grace keeps its worker.
    let task = rig.give(&[OBEY], None, true);
    rig.cancel(task, Cancel::Kill { grace: Duration::from_secs(3600) });
    assert!(matches!(rig.truths(task, 1)[..], [Truth::Value(OBEY) | Truth::Cancelled]));
}

#[test]
fn a_task_that_was_not_submitted_as_cancellable_is_left_alone() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    let task = rig.give(&[SPIN + 1000, SPIN + 1000], None, false);
    rig.cancel(task, Cancel::Kill { grace: Duration::ZERO });
    assert_eq!(rig.truths(task, 2), [Truth::Value(1000), Truth::Value(1000)]);
}

#[test]
fn an_item_that_dies_by_itself_under_a_limit_is_not_said_to_have_overrun() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = one();
    let task = rig.give(&[SPIN, DIE, SPIN], Some(Duration::from_secs(3600)), true);
    assert_eq!(rig.truths(task, 3), [Truth::Value(0), Truth::Killed(Cause::Itself), Truth::NotStarted]);
}

#[test]
fn whatever_is_cancelled_limited_and_killed_at_random_each_item_has_one_truth() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut rig = Rig::new(Builder::default().workers(2));
    let mut random = procession_testkit::storm::Rng::from_env_or(11);
    let mut tasks = Vec::new();
    for round in 0..400_u64 {
        let limit = (random.below(2) == 0).then(|| Duration::from_micros(500 + random.below(3_000)));
        let items: Vec<u64> = (0..1 + random.below(4)).map(|_| random.below(900)).collect();
        let task = rig.give(&items, limit, random.below(3) > 0);
        tasks.push((task, items));
        for _ in 0..random.below(3) {
            let victim = tasks[random.below(tasks.len() as u64) as usize].0.max(task.saturating_sub(4));
            rig.cancel(
                victim,
                match random.below(3) {
                    0 => Cancel::Queued,
                    1 => Cancel::Ask,
                    _ => Cancel::Kill { grace: Duration::from_micros(random.below(300)) },
                },
            );
        }
        if round % 20 == 0 {
            rig.local.kill_worker(random.below(2) as usize);
        }
    }
    for (task, items) in tasks {
        let truths = rig.truths(task, items.len() as u32);
        for (truth, item) in truths.iter().zip(&items) {
            match truth {
                Truth::Value(value) => assert_eq!(value, item),
                Truth::Other(error) => panic!("{error}"),
                _ => {}
            }
        }
    }
}
