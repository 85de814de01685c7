//! Hosted types: methods by name.

use crate::ways::{Way, each_way};
use procession_manager::{Address, ErrorKind, Hosted, Manager, Session, hosted};
use procession_process::{Process, StartMethod};
use procession_testkit::{test_watchdog, wait::eventually};
use std::{collections::BTreeMap, time::Duration};

struct Tally {
    counts: BTreeMap<String, i64>,
}

#[hosted]
impl Tally {
    /// Starts with these words, each counted once.
    pub(crate) fn new(words: Vec<String>) -> Tally {
        Tally { counts: words.into_iter().map(|word| (word, 1)).collect() }
    }

    /// Counts a word, and says how often it came.
    pub(crate) fn add(&mut self, word: String, by: i64) -> i64 {
        let count = self.counts.entry(word).or_default();
        *count += by;
        *count
    }

    pub(crate) fn total(&self) -> i64 {
        self.words().map(|word| self.counts[word]).sum()
    }

    pub(crate) fn take(&mut self, word: String) -> Result<i64, String> {
        self.counts.remove(&word).ok_or(format!("no {word}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        std::process::id()
    }

    pub(crate) fn fail(&mut self) {
        self.counts.clear();
        panic!("cannot count");
    }

    #[hosted(skip)]
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.counts.keys().map(String::as_str)
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn a_typed_proxy_counts_for_all(way: Way) {
    let manager = Manager::start().unwrap();
    let tally = manager.create::<Tally>((words(&["one"]),)).unwrap();
    let parties: Vec<_> = (0..3)
        .map(|_| {
            way.start(
                |tally: TallyProxy| {
                    for _ in 0..10 {
                        tally.add("two".to_owned(), 2).unwrap();
                    }
                },
                tally.clone(),
            )
        })
        .collect();
    parties.into_iter().for_each(|party| party.join());
    assert_eq!(tally.total().unwrap(), 61);
    assert_eq!(tally.pid().unwrap(), manager.pid());
}
each_way!(a_typed_proxy_counts_for_all);

#[test]
fn results_panics_and_the_end_of_a_hosted_object_are_those_of_any_other() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let tally = manager.create::<Tally>((words(&["one", "two"]),)).unwrap();
    assert_eq!(tally.take("one".to_owned()).unwrap(), Ok(1));
    assert_eq!(tally.take("one".to_owned()).unwrap(), Err("no one".to_owned()));
    let error = tally.fail().unwrap_err();
    assert!(error.panic().unwrap().message().contains("cannot count"), "{error}");
    assert_eq!(tally.total().unwrap(), 0);
    // A proxy lies in other objects' values, and holds its object there.
    let list = manager.list_of(std::slice::from_ref(&tally)).unwrap();
    drop(tally);
    let again = list.get(0).unwrap().unwrap();
    assert_eq!(again.add("three".to_owned(), 3).unwrap(), 3);
    assert_eq!(list.get(0).unwrap().unwrap(), again);
    drop((list, again));
    eventually("nothing is left", Duration::from_secs(10), || manager.stats().unwrap().objects == 0);
}

#[test]
fn the_methods_of_an_object_are_told() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let tally = manager.create::<Tally>((Vec::new(),)).unwrap();
    let methods = tally.methods().unwrap();
    let names: Vec<&str> = methods.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["add", "total", "take", "pid", "fail"]);
    assert_eq!(methods[0].1, "fn(alloc::string::String, i64) -> i64");
    assert_eq!(methods[4].1, "fn()");
}

/// Another build's idea of a gauge.
mod old {
    use procession_manager::hosted;

    pub(super) struct Gauge(u32);

    #[hosted(name = "old gauge")]
    impl Gauge {
        pub(super) fn new(level: u32) -> Result<Gauge, String> {
            if level > 100 { Err(format!("{level} is too much")) } else { Ok(Gauge(level)) }
        }
        pub(super) fn level(&self) -> u32 {
            self.0
        }
        pub(super) fn set(&mut self, level: u32) -> u32 {
            std::mem::replace(&mut self.0, level)
        }
    }
}

/// The client's.
mod new {
    use procession_manager::hosted;

    pub(super) struct Gauge(u32);

    #[hosted(name = "gauge")]
    impl Gauge {
        pub(super) fn new(level: u32) -> Gauge {
            Gauge(level)
        }
        pub(super) fn level(&self) -> u32 {
            self.0
        }
        pub(super) fn set(&mut self, level: f64) -> u32 {
            std::mem::replace(&mut self.0, level as u32)
        }
        pub(super) fn reset(&mut self) {
            self.0 = 0;
        }
    }
}

#[test]
fn a_method_that_the_server_lacks_or_has_with_other_types_is_named() {
    let _watchdog = test_watchdog();
    // The server has the old type under the name that the client knows.
    let manager = Manager::builder().register::<old::Gauge>("gauge").start().unwrap();
    let gauge = manager.create::<new::Gauge>((7,)).unwrap();
    assert_eq!(gauge.level().unwrap(), 7);
    let error = gauge.set(1.5).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongType);
    let text = error.to_string();
    assert!(text.contains("`old gauge::set` is `fn(u32) -> u32` at the server"), "{text}");
    assert!(text.contains("`gauge::set`, `fn(f64) -> u32`, here"), "{text}");
    let error = gauge.reset().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("has no method `reset`: it has `level`, `set`"), "{error}");
    assert_eq!(gauge.level().unwrap(), 7);
    let error = manager.create::<new::Gauge>((101,)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("101 is too much"), "{error}");
    let error = manager.create_named::<Tally>("gauge", (Vec::new(),)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongType);
    assert!(
        error.to_string().contains("`gauge::new`, `fn(alloc::vec::Vec<alloc::string::String>)`, here"),
        "{error}"
    );
    let error = manager.create_named::<Tally>("nothing", (Vec::new(),)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("`nothing`"), "{error}");
}

#[test]
fn a_remote_client_makes_what_was_registered_and_calls_what_it_found() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder()
        .address(("127.0.0.1", 0))
        .authkey("key")
        .register::<Tally>("Tally")
        .register::<old::Gauge>("level")
        .start()
        .unwrap();
    let published = manager.create::<new::Gauge>((5,)).unwrap();
    manager.publish("main gauge", &published).unwrap();
    let child = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(
            |address: Address| {
                let session = Session::connect(address, "key").unwrap();
                let tally = session.create::<Tally>((words(&["one"]),)).unwrap();
                assert_eq!(tally.add("one".to_owned(), 4).unwrap(), 5);
                let gauge = session.create_named::<old::Gauge>("level", (9,)).unwrap();
                assert_eq!((gauge.set(3).unwrap(), gauge.level().unwrap()), (9, 3));
                // It was not registered, but anybody who has a proxy may call its methods.
                let error = session.create::<new::Gauge>((1,)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotFound);
                assert!(error.to_string().contains("`gauge` for clients of a public address"), "{error}");
                let found = session.find::<new::GaugeProxy>("main gauge").unwrap();
                found.reset().unwrap();
                let wrong = session.find::<TallyProxy>("main gauge").unwrap_err();
                assert_eq!(wrong.kind(), ErrorKind::WrongType);
            },
            manager.public_address().unwrap().clone(),
        )
        .unwrap();
    child.join().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(published.level().unwrap(), 0);
}

#[test]
fn two_types_under_one_name_are_an_error_at_the_start() {
    let _watchdog = test_watchdog();
    let error = Manager::builder().register::<Tally>("x").register::<old::Gauge>("x").start().unwrap_err();
    assert!(error.to_string().contains("two types are registered as `x`"), "{error}");
}
