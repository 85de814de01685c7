//! What a measurement is: who enters, under which regime, and what is asked of ours.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::peers::cpython::Python;

/// Why an entrant could not be set up or failed while it ran.
pub type Failure = Box<dyn Error + Send + Sync>;

/// One who does the work that a scenario describes.
pub trait Entrant {
    /// Does it `n` times and tells how long that took.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; the entrant is then left out of the report, with this reason.
    fn run(&mut self, n: u64) -> Result<Duration, Failure>;

    /// How often it is asked to do it at a time.
    fn repeats(&self) -> Repeats {
        Repeats::AsTimeAllows
    }
}

/// How often an entrant is asked to do it at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// As often as fits into a slice of time.
    AsTimeAllows,
    /// The same, but so often at least: what is done a few times is another thing.
    AtLeast(u64),
    /// Once, and not to warm up: it looks at something that is as it is (memory, processor time).
    Once,
}

/// An entrant that does it so often at least.
#[derive(Debug)]
pub struct AtLeast<F>(pub u64, pub F);

impl<F: FnMut(u64) -> Result<Duration, Failure>> Entrant for AtLeast<F> {
    fn run(&mut self, n: u64) -> Result<Duration, Failure> {
        (self.1)(n)
    }

    fn repeats(&self) -> Repeats {
        Repeats::AtLeast(self.0)
    }
}

/// An entrant that looks at something and tells a figure, in the scenario's unit, which is not one of those that are counted
/// in a second.
#[derive(Debug)]
pub struct Observation<F>(pub F);

impl<F: FnMut() -> Result<f64, Failure>> Entrant for Observation<F> {
    fn run(&mut self, n: u64) -> Result<Duration, Failure> {
        // As if each had taken so many nanoseconds.
        Ok(Duration::from_secs_f64((self.0)()?.max(0.0) * 1e-9 * n as f64))
    }

    fn repeats(&self) -> Repeats {
        Repeats::Once
    }
}

/// An observation that is dear and does not change: made once.
pub fn once(mut look: impl FnMut() -> Result<f64, Failure> + 'static) -> Box<dyn Entrant> {
    let mut seen = None;
    Box::new(Observation(move || match seen {
        Some(figure) => Ok(figure),
        None => Ok(*seen.insert(look()?)),
    }))
}

impl<F: FnMut(u64) -> Result<Duration, Failure>> Entrant for F {
    fn run(&mut self, n: u64) -> Result<Duration, Failure> {
        self(n)
    }
}

/// Does something `n` times under the clock.
///
/// # Errors
///
/// The first failure.
pub fn timed(n: u64, mut once: impl FnMut() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let start = Instant::now();
    for _ in 0..n {
        once()?;
    }
    Ok(start.elapsed())
}

/// The 99th of a hundred times, in nanoseconds, of `count` operations, each timed by itself.
///
/// # Errors
///
/// The first failure.
pub fn percentile_99(count: usize, mut once: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        once()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = times.get(count * 99 / 100).ok_or("nothing was timed")?;
    Ok(at.as_nanos() as f64)
}

/// Unit of a scenario's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Time of one operation; lower is better.
    Nanoseconds,
    /// Operations in a second; higher is better.
    PerSecond,
    /// Bytes of memory; lower is better.
    Bytes,
    /// Bytes in a second, where an operation is as many bytes as are given; higher is better.
    BytesPerSecond(u64),
    /// Instructions of one operation; lower is better.
    Instructions,
}

impl Unit {
    /// As it stands in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Unit::Nanoseconds => "ns",
            Unit::PerSecond => "1/s",
            Unit::Bytes => "B",
            Unit::BytesPerSecond(_) => "B/s",
            Unit::Instructions => "instructions",
        }
    }

    /// `lower` or `higher`.
    #[must_use]
    pub fn better(self) -> &'static str {
        match self {
            Unit::Nanoseconds | Unit::Bytes | Unit::Instructions => "lower",
            Unit::PerSecond | Unit::BytesPerSecond(_) => "higher",
        }
    }

    /// Whether the lower of two figures is the better one.
    #[must_use]
    pub fn lower_is_better(self) -> bool {
        self.better() == "lower"
    }

    /// The figure for `n` operations in that time.
    #[must_use]
    pub fn figure(self, n: u64, time: Duration) -> f64 {
        match self {
            Unit::Nanoseconds | Unit::Bytes | Unit::Instructions => time.as_nanos() as f64 / n as f64,
            Unit::PerSecond => n as f64 / time.as_secs_f64(),
            Unit::BytesPerSecond(each) => (n * each) as f64 / time.as_secs_f64(),
        }
    }
}

/// Where the two sides of a hand-off run, and whether the far side sleeps when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regime {
    /// The cores of the two sides.
    pub cores: Cores,
    /// The asker waits before each operation until the far side has surely fallen asleep.
    pub asleep: bool,
}

/// Cores of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// As the scheduler likes.
    Free,
    /// Both pinned to the same one.
    One,
    /// Each pinned to its own.
    Two,
}

impl Regime {
    /// As the scheduler likes, no pauses.
    pub const FREE: Regime = Regime { cores: Cores::Free, asleep: false };
    /// Two cores, both sides awake.
    pub const AWAKE: Regime = Regime { cores: Cores::Two, asleep: false };
    /// Two cores, the far side asleep.
    pub const ASLEEP: Regime = Regime { cores: Cores::Two, asleep: true };
    /// Both sides on one core, where they can only take turns.
    pub const ONE_CORE: Regime = Regime { cores: Cores::One, asleep: false };
    /// As the scheduler likes, the far side asleep.
    pub const FREE_ASLEEP: Regime = Regime { cores: Cores::Free, asleep: true };

    /// How long the asker waits before each operation: longer than any spin.
    pub const PAUSE: Duration = Duration::from_micros(150);

    /// Does something `n` times, with this regime's pauses, which are not counted. The pause is spent awake.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub fn timed(self, n: u64, mut once: impl FnMut() -> Result<(), Failure>) -> Result<Duration, Failure> {
        if !self.asleep {
            return timed(n, once);
        }
        let mut total = Duration::ZERO;
        for _ in 0..n {
            let paused = Instant::now();
            while paused.elapsed() < Regime::PAUSE {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            once()?;
            total += start.elapsed();
        }
        Ok(total)
    }
}

/// What a bound compares ours with.
#[derive(Clone, Copy, Debug)]
pub enum Against {
    /// The scenario's limit.
    Limit,
    /// The peer of that name.
    Peer(&'static str),
    /// The peer of that name, and so much more.
    Beyond(&'static str, f64),
    /// The newest CPython found.
    CPython,
    /// A fixed figure, in the scenario's unit.
    Figure(f64),
}

/// Ours is at most (where lower is better) or at least (where higher is) `factor` times that.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// What ours is compared with.
    pub against: Against,
    /// How many times that ours may, or must, be.
    pub factor: f64,
}

/// What is asked of ours. A bound against someone absent is not counted.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// In words.
    pub text: &'static str,
    /// All must hold.
    pub bounds: &'static [Bound],
}

/// What an area can use to set up its entrants.
#[derive(Debug)]
pub struct Surroundings {
    /// The CPythons to run against.
    pub pythons: Vec<Python>,
    /// The folder that holds their script.
    pub scripts: PathBuf,
    /// Whether this is a quick look: where the amount of work is fixed, there is less of it.
    pub quick: bool,
}

/// One measurement.
#[derive(Debug)]
pub struct Scenario {
    /// The report's id.
    pub id: &'static str,
    /// What one operation is.
    pub what: &'static str,
    /// The figures' unit.
    pub unit: Unit,
    /// Pinning and pauses.
    pub regime: Regime,
    /// What is asked of ours.
    pub goal: Goal,
    /// Sets up everyone who enters.
    pub field: fn(&Surroundings, Regime) -> Field,
}

/// Everyone who enters a scenario.
#[derive(Default)]
pub struct Field {
    /// Our entrant.
    pub ours: Option<Box<dyn Entrant>>,
    /// The rivals by name.
    pub peers: Vec<(String, Box<dyn Entrant>)>,
    /// What the system allows at best.
    pub limit: Option<(String, Box<dyn Entrant>)>,
    /// Who could not come, and why.
    pub absent: Vec<(String, String)>,
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let peers: Vec<&String> = self.peers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Field").field("peers", &peers).field("absent", &self.absent).finish_non_exhaustive()
    }
}

/// An entrant, or why there is none.
pub type Entry = Result<Box<dyn Entrant>, Failure>;

impl Field {
    /// Ours enters.
    #[must_use]
    pub fn ours(mut self, entry: Entry) -> Field {
        match entry {
            Ok(entrant) => self.ours = Some(entrant),
            Err(reason) => self.absent.push(("ours".into(), reason.to_string())),
        }
        self
    }

    /// A rival enters.
    #[must_use]
    pub fn peer(mut self, name: impl Into<String>, entry: Entry) -> Field {
        match entry {
            Ok(entrant) => self.peers.push((name.into(), entrant)),
            Err(reason) => self.absent.push((name.into(), reason.to_string())),
        }
        self
    }

    /// What the system allows at best.
    #[must_use]
    pub fn limit(mut self, name: impl Into<String>, entry: Entry) -> Field {
        match entry {
            Ok(entrant) => self.limit = Some((name.into(), entrant)),
            Err(reason) => self.absent.push((name.into(), reason.to_string())),
        }
        self
    }

    /// The newest CPython found enters with another function of its script, under a name that says which.
    #[must_use]
    pub fn newest_cpython(
        mut self,
        surroundings: &Surroundings,
        regime: Regime,
        functions: &[(&str, &'static str)],
    ) -> Field {
        if let Some(python) = surroundings.pythons.last() {
            for (what, function) in functions {
                let name = format!("{} {what}", python.peer_name());
                self = self.peer(name, python.entrant(&surroundings.scripts, regime, function));
            }
        }
        self
    }

    /// Every CPython found enters with a function of its script.
    #[must_use]
    pub fn cpython(mut self, surroundings: &Surroundings, regime: Regime, function: &'static str) -> Field {
        if surroundings.pythons.is_empty() {
            self.absent.push(("cpython".into(), "no python3 found".into()));
        }
        for python in &surroundings.pythons {
            self = self.peer(python.peer_name(), python.entrant(&surroundings.scripts, regime, function));
        }
        self
    }
}
