//! What the front makes of limits, cancelling, quarantine and budgets, over a back that is told what to do.

use crate::scripted::{Seen, cancellable, doubled, ended_by, pool, unused};
use procession_pool::{
    Cause, TaskError,
    back::{Cancel, Event},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Does all tasks at once.
fn obliging(tasks: &mut VecDeque<Seen>) -> Vec<Event> {
    tasks.drain(..).map(|task| doubled(&task, 0, task.items.len())).collect()
}

#[test]
fn an_item_over_its_limit_is_timed_out_and_what_was_behind_is_sent_again() {
    let _watchdog = procession_testkit::test_watchdog();
    let limit = Duration::from_millis(7);
    let mut first = true;
    let (pool, all) = pool(1, move |tasks| {
        let Some(task) = tasks.pop_front() else { return Vec::new() };
        if std::mem::take(&mut first) {
            return vec![doubled(&task, 0, 1), ended_by(&task, 1, 1, Cause::TimeLimit(limit))];
        }
        vec![doubled(&task, 0, task.items.len())]
    });
    let tasks = pool.tasks(unused, 0..4).chunk_size(4).retry(5).deadline(limit);
    let results = tasks.collect_results();
    let error = results[1].as_ref().unwrap_err();
    assert!(error.is_timed_out(), "{error}");
    assert_eq!((error.death().unwrap().item, error.death().unwrap().attempt), (1, 1), "{error}");
    assert_eq!(results.iter().filter_map(|result| result.as_ref().ok()).collect::<Vec<_>>(), [&0, &4, &6]);
    let sent: Vec<_> = all.lock().unwrap().iter().map(|seen| (seen.items.clone(), seen.limit)).collect();
    assert_eq!(sent, [(vec![0, 1, 2, 3], Some(limit)), (vec![2, 3], Some(limit))]);
    assert_eq!(all.lock().unwrap()[1].key.attempt, 1, "what was behind has spent an attempt");
}

#[test]
fn an_item_that_ends_three_workers_in_a_row_is_quarantined_though_it_has_retries_left() {
    let _watchdog = procession_testkit::test_watchdog();
    let deadly = |cause| {
        move |tasks: &mut VecDeque<Seen>| {
            let one = |task: Seen| match task.items[..] {
                [3] => ended_by(&task, 0, 1, cause),
                _ => doubled(&task, 0, task.items.len()),
            };
            tasks.drain(..).map(one).collect()
        }
    };
    let times = |all: &Arc<Mutex<Vec<Seen>>>| all.lock().unwrap().iter().filter(|it| it.items == [3]).count();
    let (first, all) = pool(9, deadly(Cause::Itself));
    let results = first.tasks(unused, 0..6).chunk_size(1).retry(50).collect_results();
    let Err(TaskError::Quarantined(died)) = &results[3] else { panic!("{:?}", results[3]) };
    assert_eq!((died.item, died.attempt, times(&all)), (3, 3, 3));
    assert!(results.iter().enumerate().all(|(n, result)| n == 3 || result.is_ok()));
    // Another number for the call, or none.
    let (second, all) = pool(9, deadly(Cause::Itself));
    let error = second.tasks(unused, [3]).chunk_size(1).retry(50).quarantine(7).collect().unwrap_err();
    assert!(matches!(error, TaskError::Quarantined(_)) && times(&all) == 7, "{error}");
    let error = second.tasks(unused, [3]).chunk_size(1).retry(9).quarantine(0).collect().unwrap_err();
    assert!(matches!(error, TaskError::Died(_)) && times(&all) == 7 + 10, "{error}");
    // Without retries left it has died, as without quarantine.
    let error = second.tasks(unused, [3]).chunk_size(1).retry(2).collect().unwrap_err();
    assert!(matches!(error, TaskError::Died(_)) && times(&all) == 17 + 3, "{error}");
    // Workers that somebody had killed do not speak against the item.
    let (third, all) = pool(9, deadly(Cause::Requested));
    let error = third.tasks(unused, [3]).chunk_size(1).retry(9).collect().unwrap_err();
    assert!(matches!(error, TaskError::Died(_)) && times(&all) == 10, "{error}");
}

#[test]
fn deaths_count_only_in_a_row() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut tries = 0;
    let (pool, _) = pool(1, move |tasks| {
        let Some(task) = tasks.pop_front() else { return Vec::new() };
        tries += 1;
        match tries {
            3 => {
                let error = TaskError::Panicked(panic());
                vec![Event::Failed { key: task.key, item: 0, error }]
            }
            1..=5 => vec![ended_by(&task, 0, 1, Cause::Itself)],
            _ => vec![doubled(&task, 0, 1)],
        }
    });
    assert_eq!(pool.tasks(unused, [1]).retry(9).collect().unwrap(), [2]);
}

/// A panic as it comes from a worker.
fn panic() -> procession_parcel::Panic {
    let erased = procession_parcel::Erased::new(|(): ()| -> u8 { panic!("by design") }).unwrap();
    match erased.call(procession_parcel::Parcel::pack(&()).unwrap()) {
        procession_parcel::Outcome::Panicked(panic) => panic,
        _ => unreachable!(),
    }
}

#[test]
fn a_budget_bounds_the_retries_of_all_items_together() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, all) =
        pool(1, |tasks| tasks.drain(..).map(|task| ended_by(&task, 0, 1, Cause::Itself)).collect());
    let tasks = pool.tasks(unused, 0..4).chunk_size(1).retry(9).quarantine(0).retry_budget(6);
    let results = tasks.collect_results();
    assert!(results.iter().all(|result| matches!(result, Err(TaskError::Died(_)))), "{results:?}");
    assert_eq!(all.lock().unwrap().len(), 4 + 6);
    // The next call has one of its own.
    assert!(pool.tasks(unused, [1]).retry(9).retry_budget(0).collect().is_err());
    assert_eq!(all.lock().unwrap().len(), 11);
}

#[test]
fn a_budget_that_is_too_small_for_all_that_was_in_hand_goes_to_the_first() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut dead = false;
    let (pool, all) = pool(1, move |tasks| {
        let Some(task) = tasks.pop_front() else { return Vec::new() };
        if std::mem::replace(&mut dead, true) {
            return vec![doubled(&task, 0, task.items.len())];
        }
        vec![ended_by(&task, 1, 4, Cause::Damaged), doubled(&task, 0, 1)]
    });
    let results = pool.tasks(unused, 0..6).chunk_size(6).retry(1).retry_budget(3).collect_results();
    let failed: Vec<usize> = (0..6).filter(|n| results[*n].is_err()).collect();
    assert_eq!(failed, [4]);
    let sent: Vec<_> = all.lock().unwrap().iter().map(|seen| seen.items.clone()).collect();
    assert_eq!(sent, [vec![0, 1, 2, 3, 4, 5], vec![1, 2, 3], vec![5]]);
}

#[test]
fn a_cancelled_task_is_told_to_the_back_only_if_it_has_it() {
    let _watchdog = procession_testkit::test_watchdog();
    let go = Arc::new(AtomicBool::new(false));
    let going = go.clone();
    let (pool, all, cancels) =
        cancellable(
            2,
            false,
            move |tasks| {
                if going.load(Ordering::Relaxed) { obliging(tasks) } else { Vec::new() }
            },
        );
    let mut tasks: Vec<_> = (0..4).map(|n| pool.submit(unused, n).unwrap()).collect();
    assert!(all.lock().unwrap().iter().all(|seen| seen.cancellable));
    // Two are with the back, which does not say at once what becomes of the cancelling.
    assert!(!tasks[0].cancel() && !tasks[0].ready());
    // Two are not.
    assert!(tasks[3].cancel() && tasks[3].cancelled() && tasks[3].ready());
    assert!(tasks[3].error().unwrap().is_cancelled());
    let key = all.lock().unwrap()[0].key;
    assert_eq!(*cancels.lock().unwrap(), [(key, Cancel::Queued)]);
    drop(tasks.remove(2));
    go.store(true, Ordering::Relaxed);
    let results: Vec<_> = tasks.into_iter().map(procession_pool::Task::get).collect();
    assert!(matches!(&results[..], [Ok(0), Ok(2), Err(TaskError::Cancelled)]), "{results:?}");
    assert_eq!(all.lock().unwrap().len(), 2, "a cancelled call was run");
}

#[test]
fn what_a_back_says_of_a_cancelled_task_is_the_truth() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, _, cancels) = cancellable(9, false, |_| Vec::new());
    drop(pool.submit(unused, 1).unwrap());
    assert_eq!(cancels.lock().unwrap().len(), 1, "a call that was let go of is cancelled");
    let grace = Duration::from_secs(3);
    let [ask, kill] = [0, 1].map(|n| pool.submit(unused, n).unwrap());
    assert!(!ask.ask_to_end() && !kill.cancel_running(grace));
    let hows: Vec<_> = cancels.lock().unwrap()[1..].iter().map(|(_, how)| *how).collect();
    assert_eq!(hows, [Cancel::Ask, Cancel::Kill { grace }]);
    // Never started; killed; died by itself, which is not tried again any more.
    let answers: Vec<fn(&Seen) -> Event> = vec![
        |task| Event::Failed { key: task.key, item: 0, error: TaskError::Cancelled },
        |task| ended_by(task, 0, 1, Cause::Cancelled),
        |task| ended_by(task, 0, 0, Cause::Itself),
        |task| doubled(task, 0, 1),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let open = Arc::new(AtomicBool::new(false));
        let opened = open.clone();
        let (pool, all, _) = cancellable(9, false, move |tasks| {
            if opened.load(Ordering::Relaxed) {
                tasks.drain(..).map(|task| answer(&task)).collect()
            } else {
                Vec::new()
            }
        });
        let task = pool.submit(unused, 4).unwrap();
        assert!(!task.kill());
        open.store(true, Ordering::Relaxed);
        let result = task.get();
        if number == 3 {
            assert_eq!(result.unwrap(), 8);
        } else {
            assert!(matches!(result, Err(TaskError::Cancelled)), "{number}: {result:?}");
        }
        assert_eq!(all.lock().unwrap().len(), 1, "{number}: it was sent again");
    }
}

#[test]
fn a_call_runs_once_its_back_says_that_it_has_started() {
    let _watchdog = procession_testkit::test_watchdog();
    let stage = Arc::new(Mutex::new(0));
    let seen = stage.clone();
    let mut told = false;
    let (pool, _, _) = cancellable(1, false, move |tasks| match *seen.lock().unwrap() {
        1 if !std::mem::replace(&mut told, true) => {
            tasks.iter().map(|task| Event::Started { key: task.key, item: 0 }).collect()
        }
        2 => obliging(tasks),
        _ => Vec::new(),
    });
    let task = pool.submit(unused, 1).unwrap();
    assert!(!task.running() && !task.ready());
    *stage.lock().unwrap() = 1;
    assert!(!task.ready() && task.running());
    *stage.lock().unwrap() = 2;
    assert!(task.ready() && !task.running());
}

#[test]
fn many_cancelled_calls_leave_the_queue_short_and_the_others_in_order() {
    let _watchdog = procession_testkit::test_watchdog();
    let go = Arc::new(AtomicBool::new(false));
    let going = go.clone();
    let (pool, all, _) =
        cancellable(
            1,
            false,
            move |tasks| {
                if going.load(Ordering::Relaxed) { obliging(tasks) } else { Vec::new() }
            },
        );
    let tasks: Vec<_> = (0..1000).map(|n| pool.submit(unused, n % 100).unwrap()).collect();
    let mut kept = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        if n % 100 == 0 {
            kept.push(task);
        } else {
            assert!(task.cancel(), "{n}");
        }
    }
    go.store(true, Ordering::Relaxed);
    assert!(kept.into_iter().all(|task| task.get().is_ok_and(|value| value == 0)));
    assert_eq!(all.lock().unwrap().len(), 10);
}

#[test]
fn a_call_that_stops_at_its_first_error_cancels_the_rest() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, all, cancels) = cancellable(3, false, |tasks| {
        // The second task fails; the others are not answered.
        let Some(at) = tasks.iter().position(|task| task.items == [1]) else { return Vec::new() };
        let task = tasks.remove(at).unwrap();
        let error = TaskError::BadResult("no".to_owned());
        vec![Event::Failed { key: task.key, item: 0, error }]
    });
    let error = pool.tasks(unused, 0..50).chunk_size(1).try_collect().unwrap_err();
    assert!(matches!(error, TaskError::BadResult(_)), "{error}");
    let sent: Vec<_> = all.lock().unwrap().iter().map(|seen| seen.key).collect();
    let cancelled: Vec<_> = cancels.lock().unwrap().iter().map(|(key, _)| *key).collect();
    assert!(sent.len() <= 4, "{} were sent", sent.len());
    assert!(
        cancelled.iter().all(|key| sent.contains(key)) && cancelled.len() == sent.len() - 1,
        "{cancelled:?}"
    );
}

#[test]
fn a_total_timeout_is_told_once_and_cancels_the_rest() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, all, cancels) = cancellable(3, false, |tasks| match tasks.front() {
        Some(task) if task.items[0] < 2 => tasks.drain(..1).map(|task| doubled(&task, 0, 1)).collect(),
        _ => Vec::new(),
    });
    let total = Duration::from_millis(50);
    let mut results = pool.map_timeout(unused, 0.., total);
    assert_eq!([results.next(), results.next()].map(|it| it.unwrap().unwrap()), [0, 2]);
    assert!(matches!(results.next(), Some(Err(TaskError::OutOfTime(time))) if time == total));
    assert!(results.next().is_none() && results.next().is_none());
    assert_eq!(cancels.lock().unwrap().len(), all.lock().unwrap().len() - 2);
}

#[test]
fn without_a_waiter_a_call_begins_is_retried_and_is_told_if_its_back_keeps_time_by_itself() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut deaths = 0;
    let (pool, all, _) = cancellable(1, true, move |tasks| {
        let Some(task) = tasks.pop_front() else { return Vec::new() };
        if task.items == [7] && deaths < 2 {
            deaths += 1;
            return vec![ended_by(&task, 0, 1, Cause::Itself)];
        }
        vec![doubled(&task, 0, 1)]
    });
    let tasks = pool.tasks(unused, [5, 6, 7]).retry(2).spawn_each().unwrap();
    crate::support::wait_until(|| all.lock().unwrap().len() == 5);
    assert_eq!(tasks.into_iter().map(|task| task.get().unwrap()).collect::<Vec<_>>(), [10, 12, 14]);
    let (send, receive) = std::sync::mpsc::channel();
    let task = pool.submit(unused, 7).unwrap();
    task.on_done(move |result| send.send(result.as_ref().copied().unwrap()).unwrap());
    assert_eq!(receive.recv().unwrap(), 14);
}

#[test]
fn what_keeps_time_by_being_polled_is_polled_for_waiters_only() {
    let _watchdog = procession_testkit::test_watchdog();
    let polls = Arc::new(Mutex::new(0));
    let counted = polls.clone();
    let (pool, _, _) = cancellable(1, false, move |_| {
        *counted.lock().unwrap() += 1;
        Vec::new()
    });
    let tasks = pool.tasks(unused, 0..3).retry(2).deadline(Duration::from_secs(1)).spawn_each().unwrap();
    let before = *polls.lock().unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(*polls.lock().unwrap(), before);
    drop(tasks);
}
