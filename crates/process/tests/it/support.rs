//! What the tests share: bodies that run under each start method, hosts of their own, and lines between processes.

use procession_parcel::Fd;
use procession_process::{Process, StartMethod};
use procession_testkit::census::{Census, Options};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    time::Duration,
};

/// What a test may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// How long something may take that is promised within one second: ten times that.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// What a script starts in the background inherits that SIGINT is ignored, and so do its children.
pub(crate) fn heed_interrupts() {
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
}

/// Makes one test per start method of each function that takes one: `forkserver::NAME`, `spawn::NAME`, `fork::NAME`.
///
/// Fork is refused in a process with threads, such as a test harness, so there the function runs in a process of its
/// own that was executed anew. With `alone:` it does so under each method: that process has one thread, nobody else's
/// descriptors or children, and settings that may be changed.
macro_rules! each_method {
    ($($name:ident),* $(,)? $(; alone: $($alone:ident),+ $(,)?)?) => {
        $crate::support::each_method!(@module forkserver ForkServer [$($name)*] [$($($alone)+)?]);
        $crate::support::each_method!(@module spawn Spawn [$($name)*] [$($($alone)+)?]);
        $crate::support::each_method!(@module fork Fork [$($name)*] [$($($alone)+)?]);
    };
    (@module $module:ident $method:ident [$($name:ident)*] [$($alone:ident)*]) => {
        mod $module {
            $($crate::support::each_method!(@test under $method $name);)*
            $($crate::support::each_method!(@test alone_under $method $alone);)*
        }
    };
    (@test $run:ident $method:ident $name:ident) => {
        #[test]
        fn $name() {
            let method = procession_process::StartMethod::$method;
            $crate::support::$run(procession_testkit::test_name!(), method, super::$name);
        }
    };
}
pub(crate) use each_method;

/// Runs a body under a start method, on this thread where that is possible.
#[track_caller]
pub(crate) fn under(test: &str, method: StartMethod, body: fn(StartMethod)) {
    let _watchdog = procession_testkit::watchdog(test, LIMIT);
    if method == StartMethod::Fork { host(body, method) } else { body(method) }
}

/// Runs a body under a start method, in a process of its own.
#[track_caller]
pub(crate) fn alone_under(test: &str, method: StartMethod, body: fn(StartMethod)) {
    let _watchdog = procession_testkit::watchdog(test, LIMIT);
    host(body, method);
}

/// Runs a body in a fresh process with one thread, and fails if it panics.
#[track_caller]
pub(crate) fn host<A, R>(body: fn(A) -> R, argument: A) -> R
where
    A: Serialize + serde::de::DeserializeOwned + 'static,
    R: Serialize + serde::de::DeserializeOwned + 'static,
{
    let host =
        Process::builder().name("host").start_method(StartMethod::Spawn).spawn(body, argument).unwrap();
    match host.join() {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// One end of a line between two processes, which may travel as an argument.
///
/// A forked child holds both ends of its parent's lines, so the end of a line says nothing under that method.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Line(Fd);

impl Line {
    pub(crate) fn pair() -> (Line, Line) {
        let (one, other) = UnixStream::pair().unwrap();
        for end in [&one, &other] {
            end.set_read_timeout(Some(procession_testkit::test_timeout())).unwrap();
        }
        (Line(one.into()), Line(other.into()))
    }

    /// Sends a word. That nobody listens any more is no failure.
    pub(crate) fn say(&self, word: impl ToString) {
        let mut text = word.to_string();
        text.push('\n');
        let _ = Descriptor(self.0.0.as_fd()).write_all(text.as_bytes());
    }

    /// The next word, or `None` at the end of the line.
    pub(crate) fn try_hear(&self) -> Option<String> {
        let mut word = Vec::new();
        loop {
            let mut byte = [0];
            match Descriptor(self.0.0.as_fd()).read(&mut byte) {
                Ok(0) => return None,
                Ok(_) if byte[0] == b'\n' => return Some(String::from_utf8(word).unwrap()),
                Ok(_) => word.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing was said: {error}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn hear(&self) -> String {
        self.try_hear().expect("the other end says something before it closes")
    }

    #[track_caller]
    pub(crate) fn expect(&self, word: &str) {
        assert_eq!(self.hear(), word);
    }

    #[track_caller]
    pub(crate) fn hear_number<N: std::str::FromStr<Err: std::fmt::Debug>>(&self) -> N {
        self.hear().parse().unwrap()
    }

    /// A pidfd of the process whose pid the other end says. It must be alive then.
    #[track_caller]
    pub(crate) fn hear_process(&self) -> OwnedFd {
        procession_testkit::storm::pidfd(self.hear_number()).unwrap()
    }

    /// Whether something was said that is not heard yet.
    pub(crate) fn has_word(&self) -> bool {
        rustix::io::ioctl_fionread(&self.0.0).unwrap() > 0
    }

    /// Another handle of this end.
    pub(crate) fn again(&self) -> Line {
        Line(self.0.0.try_clone().unwrap().into())
    }
}

struct Descriptor<'a>(BorrowedFd<'a>);

impl Read for Descriptor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

impl Write for Descriptor<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, rustix::net::SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says this process's pid, and then waits until it is told to go on, or killed.
pub(crate) fn say_pid_and_wait(line: Line) {
    line.say(std::process::id());
    line.try_hear();
}

/// What this process holds. Names in the temporary folder are left out: other tests make some at the same time, and a
/// process makes none.
pub(crate) fn census() -> Census {
    Census::with(&Options { temp_prefixes: Vec::new(), ..Options::default() })
}

/// The open descriptors of this process, by number, with what they refer to.
pub(crate) fn descriptors() -> Vec<(i32, String)> {
    procession_testkit::Census::take()
        .descriptors()
        .iter()
        .map(|(fd, target)| (*fd, target.clone()))
        .collect()
}

/// Asserts that a process ends.
#[track_caller]
pub(crate) fn assert_ends(what: &str, process: impl AsFd) {
    assert!(
        procession_testkit::wait::ended(process, BOUND).unwrap(),
        "{what} is still there after {BOUND:?}"
    );
}
