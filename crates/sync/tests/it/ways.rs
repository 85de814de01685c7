//! The same test with threads, and with processes under each start method. The tests of `channel` use this file too.

use procession_process::{Process, StartMethod};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{thread::JoinHandle, time::Duration};

/// Who the parties of a test are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Way {
    Threads,
    Processes(StartMethod),
}

/// Makes four tests of each function that takes a [`Way`]: `threads::NAME`, `forkserver::NAME`, `spawn::NAME`,
/// `fork::NAME`. Fork is refused where there are threads, so there the function runs in a process of its own.
macro_rules! each_way {
    ($($name:ident),* $(,)?) => {
        $crate::ways::each_way!(@module threads $crate::ways::Way::Threads, [$($name)*]);
        $crate::ways::each_way!(@module forkserver $crate::ways::Way::Processes(procession_process::StartMethod::ForkServer), [$($name)*]);
        $crate::ways::each_way!(@module spawn $crate::ways::Way::Processes(procession_process::StartMethod::Spawn), [$($name)*]);
        $crate::ways::each_way!(@module fork $crate::ways::Way::Processes(procession_process::StartMethod::Fork), [$($name)*]);
    };
    (@module $module:ident $way:expr, [$($name:ident)*]) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    $crate::ways::under(procession_testkit::test_name!(), $way, super::$name);
                }
            )*
        }
    };
}
pub(crate) use each_way;

pub(crate) fn under(test: &str, way: Way, body: fn(Way)) {
    let _watchdog = procession_testkit::watchdog(test, Duration::from_secs(100));
    if way == Way::Processes(StartMethod::Fork) {
        let host = Process::builder().name("host").start_method(StartMethod::Spawn).spawn(body, way).unwrap();
        host.join().unwrap_or_else(|error| panic!("{error}"));
    } else {
        body(way);
    }
}

/// A thread or a process of a test.
pub(crate) enum Party<R> {
    Thread(JoinHandle<R>),
    Process(Process<R>),
}

impl Way {
    pub(crate) fn start<A, R>(self, f: fn(A) -> R, arg: A) -> Party<R>
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        match self {
            Way::Threads => Party::Thread(std::thread::spawn(move || f(arg))),
            Way::Processes(method) => {
                Party::Process(Process::builder().start_method(method).spawn(f, arg).unwrap())
            }
        }
    }
}

impl<R: Serialize + DeserializeOwned + Send + 'static> Party<R> {
    #[track_caller]
    pub(crate) fn join(self) -> R {
        match self {
            Party::Thread(thread) => thread.join().unwrap(),
            Party::Process(process) => process.join().unwrap_or_else(|error| panic!("{error}")),
        }
    }
}
