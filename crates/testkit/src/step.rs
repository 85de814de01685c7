//! Killing a process at every instruction.
//!
//! Shared state must be right wherever its writer dies. [`each_instruction`] forks a child for each n = 0, 1, 2, …,
//! lets it execute n instructions of the operation, kills it, and has the survivor check, until the operation ran
//! to its end. It runs in an isolated test ([`isolated!`](crate::isolated!)), since it forks.
//!
//! - A system call is one step. One that blocks needs a live partner, else the test hangs.
//! - Spinning must be off (a budget of 0), payloads small: every iteration of `rep movs` is a step.
//!   [`Options::stride`] thins out a long operation.
//! - The way through the operation is recorded once, step by step; then each child runs freely to a breakpoint near its
//!   place, where the architecture has one. After all of them it is recorded again: if it went another way, the places
//!   that are new are tried as well, and so on.
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

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use crate::ptrace::{Resume, Stop, Tracee};

mod route;

use route::Route;

/// How often a way is recorded anew before it is given up to see all of them.
const RECORDINGS: u32 = 12;

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
    /// Every instruction, and at most 2,000,000 of them.
    fn default() -> Self {
        Self { first: 0, stride: 1, limit: 2_000_000 }
    }
}

impl Options {
    /// Every instruction where `PROCESSION_EXHAUSTIVE` is set; else one of `thin` stands for its neighbours.
    pub fn one_of(thin: u64) -> Self {
        Self { stride: stride(thin), ..Self::default() }
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
    /// How many instructions the operation takes (the longest time), from the start marker to the end marker, which is
    /// the last. The calls around it are among them: a few dozen, in an unoptimised build more.
    pub instructions: u64,
    /// After how many different numbers of instructions, or at how many places of different ways, a child was killed;
    /// the end is one of them.
    pub tried: u64,
    /// How many different ways through the operation were seen.
    pub ways: u32,
    /// How many of the places were not met again, so that a child was killed after that many instructions of another
    /// way.
    pub missed: u64,
    /// How many new places the last recording had: 0, unless each run goes another way.
    pub open: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instructions, killed at {} of them", self.instructions, self.tried)?;
        if self.ways > 1 {
            write!(f, " on {} ways", self.ways)?;
        }
        if self.missed > 0 {
            write!(f, ", {} by another way", self.missed)?;
        }
        if self.open > 0 {
            write!(f, ", {} seen last were not tried", self.open)?;
        }
        Ok(())
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
/// made beside that is the child's own copy. The first two children are killed at the operation's end.
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
    let mut report = Report { instructions: 0, tried: 0, ways: 0, missed: 0, open: 0 };
    let mut known = HashSet::new();
    let mut trial = |on: &mut dyn FnMut(&mut Child)| {
        let mut world = setup();
        let death = run(&mut world, &prepare, &operation, on, &mut stopped);
        let context = Context(death);
        check(death, &mut world);
        drop(world);
        std::mem::forget(context);
    };
    // The first way is not the usual one: it fills caches and the allocator's bins. What is allocated here is kept for
    // later ones, since the children's ways through the allocator depend on what their parent has of it.
    let mut route = Route::default();
    trial(&mut |child| child.record(options.limit, &mut route));
    known.reserve(2 * route.places().count());
    let mut new = Vec::with_capacity(2 * route.places().count());
    for recording in 1..=RECORDINGS {
        trial(&mut |child| child.record(options.limit, &mut route));
        report.instructions = report.instructions.max(route.instructions());
        new.clear();
        new.extend(route.places().filter(|(_, place)| known.insert(*place)).map(|(n, _)| n));
        if new.is_empty() {
            break;
        }
        if recording == RECORDINGS {
            report.open = new.len() as u64;
            break;
        }
        report.ways += 1;
        // The end, where the recorded one was killed.
        report.tried += u64::from(recording == 1);
        new.retain(|n: &u64| *n >= options.first && (n - options.first).is_multiple_of(options.stride));
        for &n in &new {
            report.tried += 1;
            let mut met = false;
            trial(&mut |child| met = child.go(&route, n));
            if !met {
                report.missed += 1;
                trial(&mut |child| child.step_to(n));
            }
        }
        if options.stride > 1 {
            break;
        }
    }
    report
}

/// Kills a child after `instructions` of them, or at the operation's end if that comes first.
///
/// # Panics
///
/// As [`each_instruction`].
#[track_caller]
pub fn kill_after<W, P>(
    instructions: u64,
    world: &mut W,
    prepare: impl Fn(&mut W) -> P,
    operation: impl Fn(&mut W, P),
) -> Death {
    run(world, &prepare, &operation, &mut |child| child.step_to(instructions), &mut |_, _| ())
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
    let limit = Options::default().limit;
    let mut world = setup();
    let mut record = |child: &mut Child| child.record(limit, &mut Route::default());
    run(&mut world, &prepare, &operation, &mut record, &mut |_, _| ()).instructions
}

/// An operation whose way was recorded, to be killed in worlds like that again and again: each child gets to its place by a few
/// stops, where [`kill_after`] steps all the way.
#[derive(Debug)]
pub struct Recorded(Route);

impl Recorded {
    /// Records the way of one whole run.
    ///
    /// # Panics
    ///
    /// As [`each_instruction`].
    #[track_caller]
    pub fn new<W, P>(
        mut setup: impl FnMut() -> W,
        prepare: impl Fn(&mut W) -> P,
        operation: impl Fn(&mut W, P),
    ) -> Self {
        let limit = Options::default().limit;
        let mut route = Route::default();
        // The first way is not the usual one.
        for _ in 0..2 {
            let mut record = |child: &mut Child| child.record(limit, &mut route);
            run(&mut setup(), &prepare, &operation, &mut record, &mut |_, _| ());
        }
        Self(route)
    }

    /// How many instructions the operation takes.
    pub fn instructions(&self) -> u64 {
        self.0.instructions()
    }

    /// Kills a child after `instructions` of them in a world like that of the record, which `setup` makes, and gives the world.
    ///
    /// # Panics
    ///
    /// As [`each_instruction`].
    #[track_caller]
    pub fn kill_after<W, P>(
        &self,
        instructions: u64,
        mut setup: impl FnMut() -> W,
        prepare: impl Fn(&mut W) -> P,
        operation: impl Fn(&mut W, P),
    ) -> W {
        let mut world = setup();
        let mut met = false;
        let mut go = |child: &mut Child| met = child.go(&self.0, instructions);
        run(&mut world, &prepare, &operation, &mut go, &mut |_, _| ());
        if !met {
            // It took another way, to another place.
            world = setup();
            kill_after(instructions, &mut world, &prepare, &operation);
        }
        world
    }
}

/// Runs one child to where `on` brings it, and kills it.
#[track_caller]
fn run<W, P>(
    world: &mut W,
    prepare: &impl Fn(&mut W) -> P,
    operation: &impl Fn(&mut W, P),
    on: &mut dyn FnMut(&mut Child),
    stopped: &mut impl FnMut(u32, &mut W),
) -> Death {
    // The child has a copy of this memory, so both closures may borrow the world there.
    let world = RefCell::new(world);
    let started = Tracee::start(
        || prepare(&mut world.borrow_mut()),
        |prepared| operation(&mut world.borrow_mut(), prepared),
    );
    let tracee = started.unwrap_or_else(|error| panic!("failed to trace a forked child: {error}"));
    let mut child = Child { tracee, signal: 0, death: Death { instructions: 0, finished: false } };
    on(&mut child);
    let Child { tracee, death, .. } = child;
    stopped(tracee.pid(), &mut world.borrow_mut());
    tracee.kill().unwrap_or_else(|error| panic!("failed to kill a child: {error}"));
    death
}

/// A child that stands within the operation, or at its end.
struct Child {
    tracee: Tracee,
    /// The signal to deliver next, or 0.
    signal: i32,
    /// What its death would be here.
    death: Death,
}

impl Child {
    /// Steps to the end, and records the way.
    fn record(&mut self, limit: u64, route: &mut Route) {
        route.clear();
        while !self.death.finished {
            let instructions = self.death.instructions;
            assert!(instructions < limit, "the operation takes more than {limit} instructions");
            route.push(self.here());
            self.step();
        }
        route.plan();
    }

    /// Steps until so many instructions are executed, or to the end.
    fn step_to(&mut self, instructions: u64) {
        while self.death.instructions < instructions && !self.death.finished {
            self.step();
        }
    }

    /// Goes to the place of the route after so many instructions. False if the way was another one: then it stands
    /// anywhere.
    fn go(&mut self, route: &Route, instructions: u64) -> bool {
        if let Some(anchor) = route.anchor(instructions)
            && self.tracee.set_breakpoint(Some(anchor.address)).is_ok()
        {
            self.death.instructions = anchor.instructions;
            for _ in 0..anchor.hits {
                self.resume(Resume::Continue);
                if self.death.finished || self.here() != anchor.address {
                    return false;
                }
            }
            let removed = self.tracee.set_breakpoint(None);
            removed.unwrap_or_else(|error| panic!("failed to remove a breakpoint: {error}"));
        }
        self.step_to(instructions);
        !self.death.finished && Some(self.here()) == route.address(instructions)
    }

    fn here(&self) -> u64 {
        self.tracee.instruction().unwrap_or_else(|error| panic!("failed to ask where a child is: {error}"))
    }

    fn step(&mut self) {
        self.resume(Resume::Step);
        self.death.instructions += 1;
    }

    /// Resumes it until it traps or is at the end.
    fn resume(&mut self, how: Resume) {
        loop {
            let stop = self.tracee.resume(how, std::mem::take(&mut self.signal));
            match stop.unwrap_or_else(|error| panic!("failed to resume a child: {error}")) {
                Stop::Trap => return,
                Stop::Marker => {
                    self.death.finished = true;
                    return;
                }
                Stop::Signal(number) if fatal(number) => panic!(
                    "the operation was hit by signal {number} after {} instructions",
                    self.death.instructions
                ),
                Stop::Signal(number) => self.signal = number,
                Stop::Ended(status) => panic!(
                    "the operation ended its process after {} instructions: {status:?}",
                    self.death.instructions
                ),
            }
        }
    }
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
