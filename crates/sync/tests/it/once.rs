//! What is done once.

use crate::{
    support::{BOUND, given, take, through_a_parcel},
    ways::{Way, each_way},
};
use procession_parcel::Parcel;
use procession_sync::{Event, Once, OnceError, OnceValue};
use procession_testkit::{role, watchdog};
use std::{panic::AssertUnwindSafe, time::Duration};

each_way! {
    one_of_many_runs_it,
    all_get_the_value_of_one,
}

fn one_of_many_runs_it(way: Way) {
    let (once, start) = (Once::new().unwrap(), Event::new().unwrap());
    let run = |(once, start): (Once, Event)| {
        start.wait();
        let ran = once.call_once(|| std::thread::sleep(Duration::from_millis(5))).unwrap();
        assert!(once.is_completed());
        ran
    };
    let parties: Vec<_> = (0..4).map(|_| way.start(run, (once.clone(), start.clone()))).collect();
    start.set();
    assert_eq!(parties.into_iter().map(|party| party.join()).filter(|ran| *ran).count(), 1);
    once.wait();
    assert!(!once.call_once(|| unreachable!()).unwrap());
}

fn all_get_the_value_of_one(way: Way) {
    let value = OnceValue::<[u8; 1024]>::new().unwrap();
    assert_eq!((value.get(), value.wait_timeout(Duration::from_millis(5))), (None, None));
    let init = |value: OnceValue<[u8; 1024]>| {
        let pid = std::process::id() as u8;
        let got = value.get_or_init(|| [pid; 1024]).unwrap();
        assert!(got.iter().all(|byte| *byte == got[0]));
        got[0]
    };
    let parties: Vec<_> = (0..4).map(|_| way.start(init, value.clone())).collect();
    let expected = value.wait();
    for party in parties {
        assert_eq!(party.join(), expected[0]);
    }
    assert_eq!(value.get(), Some(expected));
}

#[test]
fn a_panic_poisons_it_until_it_is_forced() {
    let once = Once::new().unwrap();
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| once.call_once(|| panic!("half of it"))));
    assert!(ran.is_err());
    let pid = std::process::id();
    assert!(matches!(once.call_once(|| ()), Err(OnceError::Poisoned { pid: by }) if by == pid));
    assert_eq!(format!("{once:?}"), format!("Once {{ state: \"poisoned\", panicked: {pid} }}"));
    assert!(once.call_once_force(|| ()).unwrap());
    assert!(!once.call_once(|| ()).unwrap());
}

#[test]
fn a_function_that_asks_for_itself_is_told_so() {
    let once = Once::new().unwrap();
    let inner = through_a_parcel(&once);
    assert!(once.call_once(|| assert!(matches!(inner.call_once(|| ()), Err(OnceError::Recursive)))).unwrap());
}

#[test]
fn role_runner() {
    let Some(mut role) = role::enter(role_runner) else { return };
    let once: Once = take(role.fd());
    once.call_once(|| {
        role.say("runs");
        role.hear();
    })
    .unwrap();
}

#[test]
fn a_dead_runners_turn_goes_to_one_that_waits() {
    let _watchdog = watchdog!();
    let once = Once::new().unwrap();
    let mut victim = role::start(role_runner, &[&given(&once)]);
    victim.expect("runs");
    let late = once.call_once_timeout(Duration::from_millis(20), || ());
    assert!(matches!(late, Err(OnceError::TimedOut)));
    assert!(!once.wait_timeout(Duration::from_millis(20)));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| once.call_once_timeout(BOUND, || ()).unwrap());
        victim.kill();
        assert!(waits.join().unwrap());
    });
    assert!(once.is_completed());
}

#[test]
fn a_value_of_another_size_is_refused() {
    let value = OnceValue::<u64>::new().unwrap();
    let error = Parcel::pack(&value).unwrap().unpack::<OnceValue<u32>>().unwrap_err();
    assert!(error.to_string().contains("8 bytes, not the 4"), "{error}");
    assert!(OnceValue::<[[u64; 1024]; 2048]>::new().is_err());
}
