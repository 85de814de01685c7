//! The front over a back that is told what to do: what it relies on, and what it must put up with.

use procession_parcel::{Erased, Parcel};
use procession_pool::{
    Cause, Death, Pool, TaskError,
    back::{
        Back, Cancel, Capabilities, Envelope, Event, Events, FunctionId, Key, Layouts, NoSleep, Submit,
        Waiter,
    },
};
use procession_process::ExitStatus;
use procession_sys::Deadline;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A task as the back got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) items: Vec<u32>,
    pub(crate) limit: Option<Duration>,
    pub(crate) cancellable: bool,
    pub(crate) layouts: Layouts,
}

/// Shares what a script is told beside its tasks.
pub(crate) type Cancels = Arc<Mutex<Vec<(Key, Cancel)>>>;

/// What to do about each task: it is called once per poll with the tasks that were not reported on.
pub(crate) type Script = Box<dyn FnMut(&mut VecDeque<Seen>) -> Vec<Event> + Send>;

struct Scripted {
    script: Script,
    tasks: VecDeque<Seen>,
    all: Arc<Mutex<Vec<Seen>>>,
    cancels: Cancels,
    room: usize,
    /// Whether its waiter sleeps, as that of a back whose time passes by itself.
    sleeps: bool,
    /// Whether it takes plain numbers.
    plain: bool,
}

#[derive(Debug)]
struct ShortSleep;

impl Waiter for ShortSleep {
    fn wait_while(&self, deadline: Option<Deadline>, pending: &mut dyn FnMut() -> bool) {
        while pending() && !deadline.is_some_and(Deadline::passed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scripted").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

impl Back for Scripted {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.started = true;
        capabilities.plain = self.plain;
        capabilities
    }
    fn workers(&self) -> usize {
        1
    }
    fn define(&mut self, _: FunctionId, _: &Arc<Erased>, _: &Arc<Parcel>) {}
    fn undefine(&mut self, _: FunctionId) {}
    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        if self.tasks.len() >= self.room {
            return Submit::Full;
        }
        // An item's encoding is one byte for small numbers, after a length of four.
        let records = task.arguments.inline().unwrap();
        let items: Vec<u32> = match task.layouts.items.size() {
            None => records.chunks(5).map(|record| u32::from(record[4])).collect(),
            Some(size) => records.chunks(size).map(|n| u32::from_le_bytes(n.try_into().unwrap())).collect(),
        };
        assert_eq!(
            (task.layouts.items.size(), task.layouts.values.size()),
            (self.plain.then_some(4), self.plain.then_some(4))
        );
        assert_eq!(items.len(), task.items as usize);
        if items == [99] {
            return Submit::Refused(TaskError::BadArguments("99 has descriptors".to_owned()));
        }
        let Envelope { key, limit, cancellable, layouts, .. } = *task;
        let seen = Seen { key, items, limit, cancellable, layouts };
        self.all.lock().unwrap().push(seen.clone());
        self.tasks.push_back(seen);
        Submit::Accepted
    }
    fn poll(&mut self, events: &mut Events) {
        for event in (self.script)(&mut self.tasks) {
            events.push(event);
        }
    }
    fn waiter(&self) -> Arc<dyn Waiter> {
        if self.sleeps { Arc::new(ShortSleep) } else { Arc::new(NoSleep) }
    }
    fn cancel(&mut self, key: Key, how: Cancel) {
        self.cancels.lock().unwrap().push((key, how));
    }
    fn close(&mut self) {}
    fn terminate(&mut self) {}
    fn has_ended(&mut self) -> bool {
        true
    }
}

pub(crate) fn pool(
    room: usize,
    script: impl FnMut(&mut VecDeque<Seen>) -> Vec<Event> + Send + 'static,
) -> (Pool, Arc<Mutex<Vec<Seen>>>) {
    let (pool, all, _) = cancellable(room, false, script);
    (pool, all)
}

/// A pool over a back that takes plain numbers, or does not.
fn plain_pool(
    plain: bool,
    room: usize,
    script: impl FnMut(&mut VecDeque<Seen>) -> Vec<Event> + Send + 'static,
) -> (Pool, Arc<Mutex<Vec<Seen>>>) {
    let (back, all, _) = scripted(room, false, script);
    (Pool::with_back(Scripted { plain, ..back }), all)
}

pub(crate) fn cancellable(
    room: usize,
    sleeps: bool,
    script: impl FnMut(&mut VecDeque<Seen>) -> Vec<Event> + Send + 'static,
) -> (Pool, Arc<Mutex<Vec<Seen>>>, Cancels) {
    let (back, all, cancels) = scripted(room, sleeps, script);
    (Pool::with_back(back), all, cancels)
}

fn scripted(
    room: usize,
    sleeps: bool,
    script: impl FnMut(&mut VecDeque<Seen>) -> Vec<Event> + Send + 'static,
) -> (Scripted, Arc<Mutex<Vec<Seen>>>, Cancels) {
    let (all, cancels) = (Arc::new(Mutex::new(Vec::new())), Cancels::default());
    let tasks = VecDeque::new();
    let script = Box::new(script);
    let back =
        Scripted { script, tasks, all: all.clone(), cancels: cancels.clone(), room, sleeps, plain: false };
    (back, all, cancels)
}

/// Results of the items from `first` on, each twice its argument.
pub(crate) fn doubled(task: &Seen, first: usize, count: usize) -> Event {
    let value = |n: &u32| match task.layouts.values.size() {
        None => vec![1, 0, 0, 0, 2 * *n as u8],
        Some(_) => (2 * *n).to_le_bytes().to_vec(),
    };
    let records = task.items[first..first + count].iter().flat_map(value).collect();
    Event::Results { key: task.key, first: first as u32, count: count as u32, records }
}

fn ended(task: &Seen, completed: u32, in_hand: u32) -> Event {
    ended_by(task, completed, in_hand, Cause::Itself)
}

pub(crate) fn ended_by(task: &Seen, completed: u32, in_hand: u32, cause: Cause) -> Event {
    let exit = ExitStatus::Signal { signal: 9, core_dumped: false };
    let worker = "Scripted-1".to_owned();
    let death = Arc::new(Death { worker, pid: 1, exit, cause, peak_memory: None });
    Event::Ended { key: task.key, completed, in_hand, death }
}

pub(crate) fn unused(n: u32) -> u32 {
    n
}

#[test]
fn results_in_any_order_and_more_than_once_are_handed_out_once_and_in_order() {
    let _watchdog = procession_testkit::test_watchdog();
    for plain in [false, true] {
        let (pool, _) = plain_pool(plain, 10, |tasks| {
            let tasks: Vec<Seen> = tasks.drain(..).collect();
            let late = tasks.iter().rev().flat_map(|task| {
                let count = task.items.len();
                let mut events = vec![doubled(task, count / 2, count - count / 2), doubled(task, 0, count)];
                events.extend([doubled(task, 0, count), doubled(task, count - 1, 1)]);
                events
            });
            late.collect()
        });
        let values = pool.tasks(unused, 0..30).chunk_size(4).collect().unwrap();
        assert!(values.into_iter().eq((0..30).map(|n| 2 * n)));
        let mut values =
            pool.tasks(unused, 0..30).chunk_size(4).unordered().map(Result::unwrap).collect::<Vec<_>>();
        values.sort_unstable();
        assert!(values.into_iter().eq((0..30).map(|n| 2 * n)));
    }
}

#[test]
fn fewer_plain_values_than_a_back_says_are_errors_of_those_that_are_missing() {
    let _watchdog = procession_testkit::test_watchdog();
    // Two and a bit, a bit, nothing.
    for (iterated, bytes, whole) in
        [(false, 9, 2), (true, 9, 2), (false, 3, 0), (true, 3, 0), (false, 0, 0), (true, 0, 0)]
    {
        let (pool, _) = plain_pool(true, 1, move |tasks| {
            let cut = |task: Seen| match doubled(&task, 0, task.items.len()) {
                Event::Results { key, first, count, mut records } => {
                    records.truncate(bytes);
                    Event::Results { key, first, count, records }
                }
                other => other,
            };
            tasks.drain(..).map(cut).collect()
        });
        let tasks = pool.tasks(unused, 0..5).chunk_size(5);
        let results: Vec<_> = if iterated { tasks.ordered().collect() } else { tasks.collect_results() };
        assert_eq!(results.len(), 5);
        assert!(
            results[..whole].iter().zip([0, 2]).all(|(result, n)| matches!(result, Ok(value) if *value == n))
        );
        assert!(results[whole..].iter().all(|result| matches!(result, Err(TaskError::BadResult(_)))));
    }
}

#[test]
fn results_that_come_again_after_nobody_wants_them_any_more_end_their_task() {
    let _watchdog = procession_testkit::test_watchdog();
    for plain in [false, true] {
        let mut first = true;
        let (pool, _) = plain_pool(plain, 1, move |tasks| {
            if std::mem::take(&mut first) {
                return tasks.iter().map(|task| doubled(task, 0, 2)).collect();
            }
            tasks.drain(..).map(|task| doubled(&task, 0, task.items.len())).collect()
        });
        let mut results = pool.tasks(unused, 0..4).chunk_size(4).ordered();
        assert!(matches!(results.next(), Some(Ok(0))));
        drop(results);
        pool.close();
        pool.join();
    }
}

#[test]
fn a_death_costs_the_item_in_hand_and_what_was_behind_is_sent_again() {
    let _watchdog = procession_testkit::test_watchdog();
    [false, true].into_iter().for_each(a_death_costs_one);
}

fn a_death_costs_one(plain: bool) {
    let mut deaths = 0;
    let (pool, all) = plain_pool(plain, 1, move |tasks| {
        let Some(task) = tasks.pop_front() else { return Vec::new() };
        deaths += 1;
        match deaths {
            // Two are done, though the second one's result comes after the news of the death, and twice.
            1 => {
                vec![doubled(&task, 0, 1), ended(&task, 2, 1), ended(&task, 2, 1), doubled(&task, 1, 1)]
            }
            // Died before it began.
            2 => vec![ended(&task, 0, 0)],
            _ => vec![doubled(&task, 0, task.items.len())],
        }
    });
    let results = pool.tasks(unused, 0..6).chunk_size(6).collect_results();
    let died = results[2].as_ref().unwrap_err().death().unwrap().clone();
    assert_eq!((died.item, died.attempt), (2, 1));
    let values: Vec<u32> = results.into_iter().filter_map(Result::ok).collect();
    assert_eq!(values, [0, 2, 6, 8, 10]);
    let sent: Vec<_> =
        all.lock().unwrap().iter().map(|seen| (seen.items.clone(), seen.key.attempt)).collect();
    let rest = vec![3, 4, 5];
    assert_eq!(
        sent,
        [(vec![0, 1, 2, 3, 4, 5], 1), (rest.clone(), 1), (rest, 1)],
        "no attempt was spent behind it"
    );
    let keys: std::collections::BTreeSet<Key> = all.lock().unwrap().iter().map(|seen| seen.key).collect();
    assert_eq!(keys.len(), 3, "each dispatch has a key of its own");
}

#[test]
fn a_retried_item_gets_its_next_attempt_and_old_news_of_it_is_ignored() {
    let _watchdog = procession_testkit::test_watchdog();
    [false, true].into_iter().for_each(old_news_is_ignored);
}

fn old_news_is_ignored(plain: bool) {
    let mut first: Option<Seen> = None;
    let (pool, all) = plain_pool(plain, 4, move |tasks| {
        let mut events = Vec::new();
        while let Some(task) = tasks.pop_front() {
            match &first {
                None => {
                    events.push(ended(&task, 1, 1));
                    first = Some(task);
                }
                Some(old) => {
                    // A ghost of the first attempt claims nonsense.
                    let records = vec![1, 0, 0, 0, 77];
                    events.push(Event::Results { key: old.key, first: 1, count: 1, records });
                    events.push(Event::Failed {
                        key: old.key,
                        item: 2,
                        error: TaskError::BadResult("nonsense".to_owned()),
                    });
                    events.push(doubled(&task, 0, task.items.len()));
                    events.push(doubled(old, 0, 1));
                }
            }
        }
        events
    });
    let values = pool.tasks(unused, 0..3).chunk_size(3).retry(1).collect().unwrap();
    assert_eq!(values, [0, 2, 4]);
    let sent: Vec<_> =
        all.lock().unwrap().iter().map(|seen| (seen.items.clone(), seen.key.attempt)).collect();
    assert_eq!(sent, [(vec![0, 1, 2], 1), (vec![1], 2), (vec![2], 1)]);
}

#[test]
fn of_several_items_in_hand_none_is_run_again_unless_its_attempts_allow_it() {
    let _watchdog = procession_testkit::test_watchdog();
    for retries in [0, 1] {
        let mut dead = false;
        let (pool, all) = pool(1, move |tasks| {
            let Some(task) = tasks.pop_front() else { return Vec::new() };
            if std::mem::replace(&mut dead, true) {
                return vec![doubled(&task, 0, task.items.len())];
            }
            vec![doubled(&task, 0, 1), ended(&task, 1, 3)]
        });
        let results = pool.tasks(unused, 0..6).chunk_size(6).retry(retries).collect_results();
        let died: Vec<u64> =
            results.iter().filter_map(|r| r.as_ref().err()?.death()).map(|died| died.item).collect();
        let sent: Vec<_> =
            all.lock().unwrap().iter().map(|seen| (seen.items.clone(), seen.key.attempt)).collect();
        let first = (vec![0, 1, 2, 3, 4, 5], 1);
        if retries == 0 {
            assert_eq!((died, sent), (vec![1, 2, 3], vec![first, (vec![4, 5], 1)]));
        } else {
            assert_eq!((died, sent), (vec![], vec![first, (vec![1, 2, 3], 2), (vec![4, 5], 1)]));
        }
    }
}

#[test]
fn impossible_events_change_nothing() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, _) = pool(4, |tasks| {
        let Some(task) = tasks.pop_front() else { return Vec::new() };
        let key = task.key;
        let stranger = Key { task: key.task + 12345, attempt: 1 };
        let other = Key { attempt: 9, ..key };
        vec![
            Event::Results { key, first: 3, count: u32::MAX, records: Vec::new() },
            Event::Results { key, first: 0, count: 0, records: Vec::new() },
            Event::Results { key: stranger, first: 0, count: 1, records: vec![1, 0, 0, 0, 1] },
            Event::Failed { key, item: 88, error: TaskError::BadResult(String::new()) },
            Event::Failed { key: other, item: 0, error: TaskError::BadResult(String::new()) },
            Event::Unknown { key: stranger },
            Event::Started { key: stranger, item: 4 },
            doubled(&task, 0, task.items.len()),
        ]
    });
    assert_eq!(pool.tasks(unused, 0..2).chunk_size(2).collect().unwrap(), [0, 2]);
}

#[test]
fn a_refused_task_is_that_items_error() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, _) = pool(4, |tasks| tasks.drain(..).map(|task| doubled(&task, 0, 1)).collect());
    let results = pool.tasks(unused, [1, 99, 3]).chunk_size(1).collect_results();
    assert!(matches!(&results[1], Err(TaskError::BadArguments(why)) if why.contains("descriptors")));
    assert!(results[0].is_ok() && results[2].is_ok());
}

#[test]
fn a_broken_pool_ends_every_call_with_the_cause() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut polls = 0;
    let (pool, _) = pool(4, move |_| {
        polls += 1;
        let error = TaskError::Broken("no workers".into());
        if polls == 5 { vec![Event::Broken { error }] } else { Vec::new() }
    });
    let error = pool.tasks(unused, 0..100).chunk_size(1).collect().unwrap_err();
    assert!(matches!(error, TaskError::Broken(_)), "{error}");
    // An endless input ends, too.
    let results: Vec<_> = pool.imap(unused, 0..).collect();
    assert!(!results.is_empty() && results.iter().all(Result::is_err));
    assert!(matches!(pool.apply(unused, 1), Err(TaskError::Broken(_))));
}

#[test]
fn a_call_of_higher_priority_has_its_next_tasks_ready_when_several_workers_have_room_at_once() {
    let _watchdog = procession_testkit::test_watchdog();
    // Nothing is done before the third of them was taken from the input; or, if that never is, after some time.
    let third = Arc::new(AtomicBool::new(false));
    let (taken, mut polls) = (third.clone(), 0);
    let (pool, all) = pool(2, move |tasks| {
        polls += 1;
        // Every other poll finds nothing, so that the callers get their turn.
        let works = polls % 2 == 0 && (taken.load(Ordering::Relaxed) || polls > 100);
        let done = if works { tasks.len() } else { 0 };
        tasks.drain(..done).map(|task| doubled(&task, 0, 1)).collect()
    });
    let low = pool.tasks(unused, 0..20).chunk_size(1).spawn().unwrap();
    let input = (40..50).inspect(|n| third.store(*n >= 42, Ordering::Relaxed));
    let high = pool.tasks(unused, input).priority(1).chunk_size(1).collect().unwrap();
    assert!(high.into_iter().eq((40..50).map(|n| 2 * n)));
    assert_eq!(low.get().unwrap().len(), 20);
    let order: Vec<u32> = all.lock().unwrap().iter().map(|seen| seen.items[0]).collect();
    assert!(order.iter().copied().eq((0..2).chain(40..50).chain(2..20)), "{order:?}");
}
