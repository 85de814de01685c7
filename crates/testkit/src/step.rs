//! Killing a process at every instruction.
//!
//! Shared state must be right wherever its writer dies. [`each_instruction`] forks a child for each n = 0, 1, 2, …,
//! lets it execute n instructions of the operation, kills it, and has the survivor check, until the operation ran
//! to its end. It runs in an isolated test ([`isolated!`](crate::isolated!)), since it forks.
//!
//! - A system call is one step. One that blocks needs a live partner, else the test hangs.
//! - Spinning must be off (a budget of 0), payloads small: every iteration of `rep movs` is a step, and the work
//!   grows with the square of the number of steps. [`Options::stride`] thins out a long operation.
//! - Each n should be tried with and without a third process that operates between death and recovery, and the
//!   recovery itself stepped too.
//!
//! ```no_run
//! use procession_testkit::step::{Options, each_instruction};
//! # struct Lock; impl Lock { fn new() -> Self { Lock } fn lock(&self) {} }
//!
//! let report = each_instruction(
//!     &Options::default(),
//!     || Lock::new(),                        // in this process, anew for each n
//!     |lock| { lock.lock(); },               // in the child, killed after n instructions
//!     |_death, lock| { lock.lock(); },       // in this process, after the child's death
//! );
//! println!("{report}");
//! ```

use std::fmt;

use crate::ptrace::{Resume, Stop, Tracee};

/// Which instructions to kill at.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The first n.
    pub first: u64,
    /// The distance from one n to the next; 1 tries all.
    pub stride: u64,
    /// The most instructions the operation may take, against one that never ends.
    pub limit: u64,
}

impl Default for Options {
    /// Every instruction, and at most 20,000 of them.
    fn default() -> Self {
        Self { first: 0, stride: 1, limit: 20_000 }
    }
}

/// One death of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// How many instructions of the operation it had executed.
    pub instructions: u64,
    /// Whether it had reached the operation's end.
    pub finished: bool,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How many instructions the operation takes, from the start marker to the end marker, which is the last. The
    /// calls around it are among them: a few dozen, in an unoptimised build more.
    pub instructions: u64,
    /// How many children were killed, the finished one included.
    pub tried: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instructions, killed at {} of them", self.instructions, self.tried)
    }
}

/// The stride for a long operation: 1, every instruction, where `PROCESSION_EXHAUSTIVE` is set (`cargo xtask crash` sets
/// it), else `short`, which is what fits into a test run.
pub fn stride(short: u64) -> u64 {
    if std::env::var_os("PROCESSION_EXHAUSTIVE").is_some() { 1 } else { short }
}

/// Kills a child after every number of instructions of `operation`, and calls `check` after each death.
///
/// `setup` makes the world anew for each child; what is to be seen by both sides lies in shared memory. Whatever it
/// made beside that is the child's own copy.
///
/// # Panics
///
/// If a child cannot be forked or traced, if the operation panics or dies of a signal of its own, or takes more
/// instructions than the limit; and as `check` does, after printing n.
#[track_caller]
pub fn each_instruction<W>(
    options: &Options,
    setup: impl FnMut() -> W,
    operation: impl Fn(&mut W),
    check: impl FnMut(Death, &mut W),
) -> Report {
    each_instruction_after(options, setup, |_| (), |world, ()| operation(world), check)
}

/// As [`each_instruction`], where the child first runs `prepare` natively: stepping starts after it. What it returns,
/// such as a guard, goes to the operation.
///
/// # Panics
///
/// As [`each_instruction`].
#[track_caller]
pub fn each_instruction_after<W, P>(
    options: &Options,
    setup: impl FnMut() -> W,
    prepare: impl Fn(&mut W) -> P,
    operation: impl Fn(&mut W, P),
    check: impl FnMut(Death, &mut W),
) -> Report {
    each_instruction_stopped(options, setup, prepare, operation, |_, _| (), check)
}

/// As [`each_instruction_after`], where `stopped` looks at the child, whose pid it gets, before it is killed: the thread
/// that runs the operation stands still then, and threads that `prepare` started run.
///
/// # Panics
///
/// As [`each_instruction`].
#[track_caller]
pub fn each_instruction_stopped<W, P>(
    options: &Options,
    mut setup: impl FnMut() -> W,
    prepare: impl Fn(&mut W) -> P,
    operation: impl Fn(&mut W, P),
    mut stopped: impl FnMut(u32, &mut W),
    mut check: impl FnMut(Death, &mut W),
) -> Report {
    assert!(options.stride > 0, "the stride must be positive");
    let mut report = Report { instructions: 0, tried: 0 };
    let mut target = options.first;
    loop {
        let mut world = setup();
        let death = run(target, options.limit, &mut world, &prepare, &operation, &mut stopped);
        report.tried += 1;
        report.instructions = death.instructions;
        let context = Context(death);
        check(death, &mut world);
        drop(world);
        std::mem::forget(context);
        if death.finished {
            return report;
        }
        target += options.stride;
    }
}

/// Counts the instructions of `operation` in one whole run.
///
/// # Panics
///
/// As [`each_instruction`].
#[track_caller]
pub fn count<W, P>(
    setup: impl FnOnce() -> W,
    prepare: impl Fn(&mut W) -> P,
    operation: impl Fn(&mut W, P),
) -> u64 {
    let mut world = setup();
    run(u64::MAX, Options::default().limit, &mut world, &prepare, &operation, &mut |_, _| ()).instructions
}

/// Runs one child for `target` instructions and kills it.
#[track_caller]
fn run<W, P>(
    target: u64,
    limit: u64,
    world: &mut W,
    prepare: &impl Fn(&mut W) -> P,
    operation: &impl Fn(&mut W, P),
    stopped: &mut impl FnMut(u32, &mut W),
) -> Death {
    // The child has a copy of this memory, so both closures may borrow the world there.
    let world = std::cell::RefCell::new(world);
    let started = Tracee::start(
        || prepare(&mut world.borrow_mut()),
        |prepared| operation(&mut world.borrow_mut(), prepared),
    );
    let mut tracee = started.unwrap_or_else(|error| panic!("failed to trace a forked child: {error}"));
    let mut death = Death { instructions: 0, finished: false };
    let mut signal = 0;
    while death.instructions < target {
        assert!(death.instructions < limit, "the operation takes more than {limit} instructions");
        let stop = tracee.resume(Resume::Step, signal);
        signal = 0;
        match stop.unwrap_or_else(|error| panic!("failed to step a child: {error}")) {
            Stop::Trap => death.instructions += 1,
            Stop::Marker => {
                death.instructions += 1;
                death.finished = true;
                break;
            }
            Stop::Signal(number) if fatal(number) => {
                panic!("the operation was hit by signal {number} after {} instructions", death.instructions)
            }
            Stop::Signal(number) => signal = number,
            Stop::Ended(status) => {
                panic!(
                    "the operation ended its process after {} instructions: {status:?}",
                    death.instructions
                )
            }
        }
    }
    stopped(tracee.pid(), &mut world.borrow_mut());
    tracee.kill().unwrap_or_else(|error| panic!("failed to kill a child: {error}"));
    death
}

/// Signals that tell of a bug in the operation.
fn fatal(signal: i32) -> bool {
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGSYS].contains(&signal)
}

/// Names the death when a check panics.
struct Context(Death);

impl Drop for Context {
    fn drop(&mut self) {
        eprintln!("the check failed after {:?}", self.0);
    }
}
