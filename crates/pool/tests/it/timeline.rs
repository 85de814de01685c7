//! A timeline is a file of JSON that tells what each worker did, however the pool ends.

use crate::support::{Gate, Notebook, gate, note};
use procession_pool::{Pool, threads};
use serde_json::Value;
use std::{fs, path::PathBuf, time::Duration};

/// A path for a file that goes with this.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        Place(std::env::temp_dir().join(format!("procession-timeline-{}-{name}", std::process::id())))
    }

    /// The file's events.
    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.0).unwrap();
        serde_json::from_str::<Vec<Value>>(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["cat"] == kind).collect()
}

fn same(n: u64) -> u64 {
    n
}

fn pools(place: &Place) -> [Pool; 2] {
    let threads: threads::Builder = Pool::threads_builder().workers(2);
    [
        Pool::builder().workers(2).timeline(&place.0).build().unwrap(),
        threads.timeline(place.0.with_extension("threads")).build().unwrap(),
    ]
}

#[test]
fn each_task_is_a_span_on_the_track_of_its_worker_however_the_pool_ends() {
    let _watchdog = procession_testkit::test_watchdog();
    for (end, way) in
        [(Pool::join as fn(Pool), "join"), (|pool| pool.terminate(), "terminate"), (drop, "drop")]
    {
        let place = Place::new(way);
        for (pool, path) in
            pools(&place).into_iter().zip([place.0.clone(), place.0.with_extension("threads")])
        {
            let place = Place(path);
            let names: Vec<String> = pool.worker_infos().into_iter().map(|info| info.name).collect();
            pool.tasks(same, 0..100).chunk_size(10).run().unwrap();
            pool.tasks(same, 0..6).chunk_size(3).deadline(Duration::from_secs(60)).run().unwrap();
            end(pool);
            let events = place.events();
            let tasks = of_kind(&events, "task");
            assert_eq!(tasks.len(), 12, "{way} {events:#?}");
            let items: u64 = tasks.iter().map(|task| task["args"]["items"].as_u64().unwrap()).sum();
            assert_eq!(items, 106);
            let tracks: Vec<&Value> = events.iter().filter(|event| event["name"] == "thread_name").collect();
            assert!(tracks.iter().map(|track| track["args"]["name"].as_str().unwrap()).eq(names.iter()));
            for task in tasks {
                let name = if cfg!(feature = "stacks") { "it::timeline::same" } else { "fn(u64) -> u64" };
                assert_eq!(task["name"], name, "{task}");
                assert!(task["ts"].as_f64().unwrap() >= 0.0 && task["dur"].as_f64().unwrap() >= 0.0);
                assert!(
                    tracks.iter().any(|track| track["tid"] == task["tid"] && track["pid"] == task["pid"])
                );
            }
            let starts = of_kind(&events, "life");
            assert!(starts.iter().filter(|event| event["name"] == "start").count() <= 2);
        }
    }
}

fn die_at(item: (u64, String)) {
    note(&item.1, item.0);
    if item.0 == 3 {
        std::process::abort();
    }
}

#[test]
fn what_a_worker_had_in_hand_when_it_died_and_its_death_are_told_and_what_came_in_its_place() {
    let _watchdog = procession_testkit::test_watchdog();
    let place = Place::new("death");
    let notes = Notebook::new();
    let pool = Pool::builder().workers(1).timeline(&place.0).build().unwrap();
    let results = pool.tasks(die_at, (0..6).map(|n| (n, notes.path()))).chunk_size(6).collect_results();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    pool.join();
    let events = place.events();
    let lost: Vec<&Value> =
        of_kind(&events, "task").into_iter().filter(|task| task["args"]["end"].is_string()).collect();
    assert_eq!(lost.len(), 1, "{events:#?}");
    assert_eq!((&lost[0]["args"]["first item"], &lost[0]["args"]["items"]), (&3.into(), &3.into()));
    assert!(lost[0]["args"]["end"].as_str().unwrap().contains("SIGABRT"), "{}", lost[0]);
    let deaths = events.iter().filter(|event| event["ph"] == "i" && event["tid"] == lost[0]["tid"]).count();
    assert_eq!(deaths, 1);
    assert_eq!(events.iter().filter(|event| event["name"] == "thread_name").count(), 2);
    assert!(of_kind(&events, "task").iter().any(|task| task["tid"] != lost[0]["tid"]));
}

fn note_and_wait(paths: (String, String)) -> u64 {
    note(paths.0, 1);
    gate(paths.1)
}

#[test]
fn what_runs_when_a_pool_is_terminated_is_told_and_so_are_waits() {
    let _watchdog = procession_testkit::test_watchdog();
    let place = Place::new("cut");
    let pool = Pool::builder().workers(1).timeline(&place.0).build().unwrap();
    pool.apply(same, 1).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let door = Gate::new();
    let notes = Notebook::new();
    let task = pool.submit(note_and_wait, (notes.path(), door.path())).unwrap();
    notes.wait_for(1);
    pool.terminate();
    let events = place.events();
    assert!(task.get().is_err());
    assert!(of_kind(&events, "task").iter().any(|task| task["args"]["end"] == "terminated"), "{events:#?}");
    assert!(
        of_kind(&events, "wait").iter().any(|wait| wait["dur"].as_f64().unwrap() >= 4_000.0),
        "{events:#?}"
    );
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_of_the_start() {
    let _watchdog = procession_testkit::test_watchdog();
    let error = Pool::builder().workers(1).timeline("/nowhere/at/all").build().unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    assert!(Pool::threads_builder().workers(1).timeline("/nowhere/at/all").build().is_err());
}
