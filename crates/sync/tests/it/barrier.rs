//! A barrier, and what breaks it.

use crate::{
    support::{BOUND, given, soon, take, through_a_parcel},
    ways::{Party, Way, each_way},
};
use procession_sync::{Barrier, Broken, Event};
use procession_testkit::{role, watchdog};
use std::time::Duration;

each_way! {
    the_parties_pass_in_lockstep,
    it_is_passed_ten_times,
    every_place_is_given_once,
    the_action_runs_once,
    abort_breaks_it_for_all,
    reset_turns_the_waiting_away_and_mends_it,
    reset_after_abort_mends_it,
    a_late_party_breaks_it_for_all,
    the_default_timeout_applies,
    one_party_never_waits,
    a_thousand_passes_stay_in_order,
}

const PARTIES: usize = 5;

/// What a wait says, as something that can be sent.
fn told(result: Result<usize, procession_sync::BarrierError>) -> Result<usize, String> {
    result.map_err(|error| error.to_string())
}

fn others(way: Way, barrier: &Barrier, count: usize) -> Vec<Party<Result<usize, String>>> {
    (0..count).map(|_| way.start(|barrier: Barrier| told(barrier.wait()), barrier.clone())).collect()
}

fn joined(parties: Vec<Party<Result<usize, String>>>) -> Vec<Result<usize, String>> {
    parties.into_iter().map(Party::join).collect()
}

/// Runs `f` in all parties, this thread among them.
fn all<R>(way: Way, f: fn((Barrier, Vec<Event>)) -> R, barrier: &Barrier, events: &[Event]) -> Vec<R>
where
    R: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    let arg = || (barrier.clone(), events.to_vec());
    let parties: Vec<_> = (1..PARTIES).map(|_| way.start(f, arg())).collect();
    let mut results = vec![f(arg())];
    results.extend(parties.into_iter().map(Party::join));
    results
}

/// Passes `passes` times; in between, an event for each pass shows that nobody is ahead.
fn lockstep((barrier, events): (Barrier, Vec<Event>)) -> bool {
    events.iter().enumerate().all(|(pass, event)| {
        let nobody_ahead = events.get(pass + 1).is_none_or(|next| !next.is_set());
        barrier.wait().unwrap();
        event.set();
        nobody_ahead && barrier.wait().is_ok() && event.is_set()
    })
}

/// As `_TestBarrier.test_barrier`.
fn the_parties_pass_in_lockstep(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let events = [Event::new().unwrap()];
    assert_eq!(all(way, lockstep, &barrier, &events), [true; PARTIES]);
    assert_eq!((barrier.waiting(), barrier.is_broken()), (0, false));
}

/// As `_TestBarrier.test_barrier_10`.
fn it_is_passed_ten_times(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let events: Vec<Event> = (0..10).map(|_| Event::new().unwrap()).collect();
    assert_eq!(all(way, lockstep, &barrier, &events), [true; PARTIES]);
    assert_eq!((barrier.waiting(), barrier.is_broken()), (0, false));
}

/// As `_TestBarrier.test_wait_return`, and more: every place is given once.
fn every_place_is_given_once(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let mut places = all(way, |(barrier, _)| barrier.wait().unwrap(), &barrier, &[]);
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2, 3, 4]);
}

/// As `_TestBarrier.test_action`.
fn the_action_runs_once(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let event = [Event::new().unwrap()];
    let pass = |(barrier, events): (Barrier, Vec<Event>)| {
        let mut ran = 0;
        let place = barrier
            .wait_with(|| {
                assert!(events[0].set());
                ran += 1;
            })
            .unwrap();
        (place, ran, events[0].is_set())
    };
    let mut results = all(way, pass, &barrier, &event);
    results.sort_unstable();
    // The last one runs it, and nobody goes on before.
    let expected = [(0, 0, true), (1, 0, true), (2, 0, true), (3, 0, true), (4, 1, true)];
    assert_eq!(results, expected);
}

/// As `_TestBarrier.test_abort`.
fn abort_breaks_it_for_all(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let parties = others(way, &barrier, PARTIES - 1);
    soon("they wait", || barrier.waiting() == PARTIES - 1);
    barrier.abort().unwrap();
    let reason = Broken::Aborted { pid: std::process::id() };
    for result in joined(parties) {
        assert!(result.unwrap_err().contains(&reason.to_string()));
    }
    assert_eq!(barrier.broken(), Some(reason));
    assert_eq!(barrier.wait().unwrap_err().broken(), Some(reason));
}

/// As `_TestBarrier.test_reset`.
fn reset_turns_the_waiting_away_and_mends_it(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let parties = others(way, &barrier, PARTIES - 1);
    soon("they wait", || barrier.waiting() == PARTIES - 1);
    barrier.reset().unwrap();
    for result in joined(parties) {
        assert!(result.unwrap_err().contains("reset"));
    }
    assert!(!barrier.is_broken());
    assert_eq!(all(way, lockstep, &barrier, &[Event::new().unwrap()]), [true; PARTIES]);
}

/// As `_TestBarrier.test_abort_and_reset`.
fn reset_after_abort_mends_it(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let parties = others(way, &barrier, PARTIES - 1);
    soon("they wait", || barrier.waiting() == PARTIES - 1);
    barrier.abort().unwrap();
    assert!(joined(parties).iter().all(Result::is_err));
    assert!(barrier.is_broken());
    barrier.reset().unwrap();
    assert!(!barrier.is_broken());
    assert_eq!(all(way, lockstep, &barrier, &[Event::new().unwrap()]), [true; PARTIES]);
}

/// As `_TestBarrier.test_timeout`.
fn a_late_party_breaks_it_for_all(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let parties = others(way, &barrier, PARTIES - 2);
    soon("they wait", || barrier.waiting() == PARTIES - 2);
    let reason = Some(Broken::TimedOut { pid: std::process::id() });
    assert_eq!(barrier.wait_timeout(Duration::from_millis(30)).unwrap_err().broken(), reason);
    for result in joined(parties) {
        assert!(result.unwrap_err().contains("waited no longer"));
    }
    assert_eq!(barrier.broken(), reason);
}

/// As `_TestBarrier.test_default_timeout`.
fn the_default_timeout_applies(way: Way) {
    let barrier = Barrier::builder(PARTIES).timeout(Duration::from_millis(50)).build().unwrap();
    assert_eq!(barrier.timeout(), Some(Duration::from_millis(50)));
    let parties = others(way, &barrier, 1);
    assert!(joined(parties).remove(0).unwrap_err().contains("waited no longer"));
    assert!(barrier.is_broken());
}

/// As `_TestBarrier.test_single_thread`.
fn one_party_never_waits(way: Way) {
    let pass = |barrier: Barrier| (told(barrier.wait()), told(barrier.wait()));
    let barrier = Barrier::builder(1).action(|()| ()).build().unwrap();
    assert_eq!(pass(barrier.clone()), (Ok(0), Ok(0)));
    assert_eq!(way.start(pass, barrier).join(), (Ok(0), Ok(0)));
}

/// As `_TestBarrier.test_thousand`: between two passes everybody sees the same turn of the event.
fn a_thousand_passes_stay_in_order(way: Way) {
    let barrier = Barrier::new(PARTIES).unwrap();
    let event = [Event::new().unwrap()];
    let pass = |(barrier, events): (Barrier, Vec<Event>)| {
        (0..500).all(|turn| {
            if barrier.wait().unwrap() == 0 {
                if turn % 2 == 0 {
                    events[0].set()
                } else {
                    events[0].clear()
                };
            }
            barrier.wait().unwrap();
            events[0].is_set() == (turn % 2 == 0)
        })
    };
    assert_eq!(all(way, pass, &barrier, &event), [true; PARTIES]);
}

#[test]
fn a_panic_in_the_action_breaks_it() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(2).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait());
        soon("it waits", || barrier.waiting() == 1);
        let acts = scope.spawn(|| barrier.wait_with(|| panic!("in the action")));
        assert!(acts.join().is_err());
        let reason = Some(Broken::Panicked { pid: std::process::id() });
        assert_eq!(other.join().unwrap().unwrap_err().broken(), reason);
    });
    barrier.reset().unwrap();
    assert_eq!(barrier.waiting(), 0);
}

#[test]
fn whoever_comes_while_an_action_runs_is_of_the_next_round() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(2).unwrap();
    let (runs, ends) = (Event::new().unwrap(), Event::new().unwrap());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| barrier.wait());
        soon("it waits", || barrier.waiting() == 1);
        let acts = scope.spawn(|| {
            barrier.wait_with(|| {
                runs.set();
                ends.wait();
            })
        });
        runs.wait();
        let next = scope.spawn(|| barrier.wait());
        let after = scope.spawn(|| barrier.wait());
        ends.set();
        assert_eq!((first.join().unwrap().unwrap(), acts.join().unwrap().unwrap()), (0, 1));
        let (next, after) = (next.join().unwrap().unwrap(), after.join().unwrap().unwrap());
        assert_eq!(next + after, 1);
    });
}

#[test]
fn numbers_of_parties_that_make_no_sense_are_refused() {
    assert!(Barrier::new(0).unwrap_err().to_string().contains("0 parties"));
    assert!(Barrier::new(513).unwrap_err().to_string().contains("513 parties"));
    let barrier = Barrier::new(512).unwrap();
    assert_eq!(barrier.parties(), 512);
    assert!(through_a_parcel(&barrier).same(&barrier));
}

#[test]
fn role_party() {
    let Some(mut role) = role::enter(role_party) else { return };
    let (barrier, acts): (Barrier, Event) = take(role.fd());
    loop {
        let result = match role.hear().as_str() {
            "wait" => barrier.wait(),
            "act" => barrier.wait_with(|| {
                acts.set();
                Event::new().unwrap().wait();
            }),
            word => panic!("{word}?"),
        };
        role.say(&result.map_or_else(|error| error.to_string(), |place| place.to_string()));
    }
}

#[test]
fn a_party_that_dies_while_it_waits_breaks_it_with_its_pid() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(3).unwrap();
    let acts = Event::new().unwrap();
    let mut victim = role::start(role_party, &[&given(&(&barrier, &acts))]);
    let mut other = role::start(role_party, &[&given(&(&barrier, &acts))]);
    victim.say("wait");
    other.say("wait");
    soon("both wait", || barrier.waiting() == 2);
    let pid = victim.pid();
    victim.kill();
    assert_eq!(other.hear(), format!("the barrier is broken: process {pid} died in it; reset() mends it"));
    assert_eq!(barrier.broken(), Some(Broken::Died { pid }));
    barrier.reset().unwrap();
    passes_after_reset(&barrier, &mut other);
}

/// Three parties pass: the role, and two threads here.
fn passes_after_reset(barrier: &Barrier, other: &mut role::RoleProcess) {
    other.say("wait");
    std::thread::scope(|scope| {
        let one = scope.spawn(|| barrier.wait_timeout(BOUND).unwrap());
        let two = barrier.wait_timeout(BOUND).unwrap();
        let three: usize = other.hear().parse().unwrap();
        assert_eq!(one.join().unwrap() + two + three, 3);
    });
}

#[test]
fn a_party_that_dies_in_the_action_breaks_it_with_its_pid() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(2).unwrap();
    let acts = Event::new().unwrap();
    let mut victim = role::start(role_party, &[&given(&(&barrier, &acts))]);
    let pid = victim.pid();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| barrier.wait());
        soon("one waits", || barrier.waiting() == 1);
        victim.say("act");
        assert!(acts.wait_timeout(BOUND));
        victim.kill();
        assert_eq!(waits.join().unwrap().unwrap_err().broken(), Some(Broken::Died { pid }));
    });
    barrier.reset().unwrap();
    let text = format!("{barrier:?}");
    assert_eq!(text, "Barrier { parties: 2, waiting: [], acting: [], broken: None }");
}
