//! What a hook of the fork server has made, its clones have; what they make themselves is their own.

use procession_process::{Process, StartMethod, current_process};
use procession_sync::{Event, Semaphore, Value};
use procession_testkit::{wait::eventually, watchdog};
use std::{sync::OnceLock, time::Duration};

static MADE: OnceLock<(Value<u64>, Semaphore)> = OnceLock::new();

fn make() {
    let (value, semaphore) = (Value::new(7_u64).unwrap(), Semaphore::new(4).unwrap());
    // The server is a member now.
    drop(semaphore.permit().unwrap());
    let _ = MADE.set((value, semaphore));
}
procession_process::fork_server_preload!(make);

fn start<A, T>(f: fn(A) -> T, argument: A) -> Process<T>
where
    A: serde::Serialize + serde::de::DeserializeOwned + 'static,
    T: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    Process::builder().start_method(StartMethod::ForkServer).spawn(f, argument).unwrap()
}

#[test]
fn two_clones_make_values_in_places_of_their_own() {
    let _watchdog = watchdog!();
    let keeps_its_value = |(mine, other): (Event, Event)| {
        let pid = u64::from(current_process().pid());
        let value = Value::new(pid).unwrap();
        mine.set();
        other.wait();
        // Both have one by now, and the hook's is there still.
        let inherited = MADE.get().unwrap().0.get().unwrap();
        value.get().unwrap() == pid && inherited == 7
    };
    let (one, other) = (Event::new().unwrap(), Event::new().unwrap());
    let first = start(keeps_its_value, (one.clone(), other.clone()));
    let second = start(keeps_its_value, (other, one));
    assert!(first.join().unwrap() && second.join().unwrap());
}

#[test]
fn a_killed_clones_permit_returns_while_its_siblings_live() {
    let _watchdog = watchdog!();
    let (taken, done) = (Event::new().unwrap(), Event::new().unwrap());
    let holder = start(
        |taken: Event| -> () {
            let _permit = MADE.get().unwrap().1.permits(3).unwrap();
            taken.set();
            std::thread::sleep(Duration::from_secs(1000));
        },
        taken.clone(),
    );
    let sibling = start(
        |(taken, done): (Event, Event)| {
            let semaphore = &MADE.get().unwrap().1;
            let _permit = semaphore.permit().unwrap();
            taken.wait();
            assert_eq!(semaphore.value(), 0);
            done.set();
            // The holder is killed meanwhile.
            eventually("its permits are back", Duration::from_secs(10), || semaphore.value() == 3);
        },
        (taken, done.clone()),
    );
    done.wait();
    holder.kill().unwrap();
    sibling.join().unwrap();
    assert!(holder.join().is_err());
}
