//! Interleaves the entrants of a scenario and measures them.
//!
//! Everyone first runs once: who is still starting would slow down what is found out next. Then everyone finds out how many
//! operations fill a slice of time. Then come the rounds: in each, everyone runs
//! one slice, in an order that turns by one from round to round. A figure is the median of the rounds; comparisons
//! use the ratio within each round, so that what slows the machine for a while slows both sides. A scenario with many
//! entrants, or slow ones, ends when its time is used up, after fewer rounds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::scenario::{Against, Entrant, Failure, Field, Goal, Repeats, Scenario, Surroundings, Unit};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How many rounds.
    pub rounds: usize,
    /// How long each entrant runs in a round, if one operation is not longer.
    pub slice: Duration,
    /// How long the rounds may take all in all; [`Pace::LEAST`] of them are run in any case.
    pub budget: Duration,
}

impl Pace {
    /// For a figure one can quote.
    pub const FULL: Pace =
        Pace { rounds: 41, slice: Duration::from_millis(25), budget: Duration::from_secs(5) };
    /// For a quick look.
    pub const QUICK: Pace =
        Pace { rounds: 15, slice: Duration::from_millis(10), budget: Duration::from_millis(1100) };
    /// So many rounds are run whatever they take: with five, the interval is all of them.
    pub const LEAST: usize = 5;
}

/// Median and spread over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The middle round.
    pub median: f64,
    /// The lowest round.
    pub min: f64,
    /// The highest round.
    pub max: f64,
}

/// What the system allows at best.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// Who sets it.
    pub name: String,
    /// The middle round.
    pub median: f64,
}

/// One scenario's outcome.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Our figures, if ours could run.
    pub ours: Option<Figures>,
    /// The rivals' figures.
    pub peers: BTreeMap<String, Figures>,
    /// The limit, if there is one.
    pub limit: Option<Limit>,
    /// All bounds hold by the medians.
    pub met: bool,
    /// Some bound is missed even at the kind end of its interval.
    pub surely_missed: bool,
    /// Who could not run, and why.
    pub absent: Vec<(String, String)>,
}

impl Measured {
    /// Nobody could be measured, for that reason.
    #[must_use]
    pub fn failed(reason: String) -> Measured {
        let absent = vec![("all".to_owned(), reason)];
        Measured { ours: None, peers: BTreeMap::new(), limit: None, met: false, surely_missed: false, absent }
    }
}

/// One entrant with the figures of its rounds.
struct Entered {
    name: String,
    role: Role,
    who: Box<dyn Entrant>,
    n: u64,
    figures: Vec<f64>,
    failed: Option<Failure>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Ours,
    Peer,
    Limit,
}

/// Runs one scenario.
#[must_use]
pub fn measure(scenario: &Scenario, surroundings: &Surroundings, pace: Pace) -> Measured {
    let field = (scenario.field)(surroundings, scenario.regime);
    let (mut entrants, mut absent) = entered(field);
    for entrant in &mut entrants {
        entrant.attempt(Entered::warm_up);
    }
    for entrant in &mut entrants {
        entrant.attempt(|entrant| entrant.calibrate(pace.slice));
    }
    let start = Instant::now();
    for round in 0..pace.rounds {
        if round >= Pace::LEAST && start.elapsed() > pace.budget {
            break;
        }
        let count = entrants.len();
        for turn in 0..count {
            entrants[(round + turn) % count].attempt(|entrant| {
                let time = entrant.who.run(entrant.n)?;
                entrant.figures.push(scenario.unit.figure(entrant.n, time));
                entrant.adjust(time, pace.slice);
                Ok(())
            });
        }
    }
    for entrant in &mut entrants {
        if let Some(failure) = entrant.failed.take() {
            absent.push((entrant.name.clone(), failure.to_string()));
            entrant.figures.clear();
        }
    }
    entrants.retain(|entrant| !entrant.figures.is_empty());
    summary(scenario, &entrants, absent)
}

fn entered(field: Field) -> (Vec<Entered>, Vec<(String, String)>) {
    let ours = field.ours.map(|entrant| ("ours".to_owned(), Role::Ours, entrant));
    let limit = field.limit.map(|(name, entrant)| (name, Role::Limit, entrant));
    let peers = field.peers.into_iter().map(|(name, entrant)| (name, Role::Peer, entrant));
    let entrants = ours
        .into_iter()
        .chain(limit)
        .chain(peers)
        .map(|(name, role, who)| Entered { name, role, who, n: 1, figures: Vec::new(), failed: None })
        .collect();
    (entrants, field.absent)
}

impl Entered {
    /// Runs a step unless an earlier one failed.
    fn attempt(&mut self, step: impl FnOnce(&mut Entered) -> Result<(), Failure>) {
        if self.failed.is_none()
            && let Err(failure) = step(self)
        {
            self.failed = Some(failure);
        }
    }

    /// Runs for the first time, which takes until it has started.
    fn warm_up(&mut self) -> Result<(), Failure> {
        if let Some(least) = self.least() {
            self.n = least;
            self.who.run(least)?;
        }
        Ok(())
    }

    /// The fewest operations of a run, if there may be more.
    fn least(&self) -> Option<u64> {
        match self.who.repeats() {
            Repeats::Once => None,
            Repeats::AtLeast(least) => Some(least),
            Repeats::AsTimeAllows => Some(1),
        }
    }

    /// Finds how many operations fill a slice.
    fn calibrate(&mut self, slice: Duration) -> Result<(), Failure> {
        let Some(least) = self.least() else { return Ok(()) };
        loop {
            let time = self.who.run(self.n)?;
            if time >= slice / 2 {
                let fit = self.n as f64 * slice.as_secs_f64() / time.as_secs_f64();
                self.n = (fit as u64).max(least);
                return Ok(());
            }
            self.n *= 2;
        }
    }

    /// A round took so long: if that was not half a slice, or many, the calibration met some delay, as somebody else's turn of some
    /// milliseconds, or a state that has passed. A start and an end would be all that such short rounds measure.
    fn adjust(&mut self, time: Duration, slice: Duration) {
        let Some(least) = self.least() else { return };
        let fits = slice.as_secs_f64() / time.as_secs_f64().max(1e-9);
        if !(0.25..=2.0).contains(&fits) {
            // One round may be far off as well.
            self.n = ((self.n as f64 * fits.clamp(0.25, 16.0)) as u64).max(least);
        }
    }
}

fn summary(scenario: &Scenario, entrants: &[Entered], absent: Vec<(String, String)>) -> Measured {
    let of_role = |role| entrants.iter().filter(move |entrant| entrant.role == role);
    let ours = of_role(Role::Ours).next();
    let limit = of_role(Role::Limit).next();
    let (met, surely_missed) = match ours {
        None => (false, false),
        Some(ours) => judge(scenario.goal, scenario.unit, ours, entrants),
    };
    Measured {
        ours: ours.map(|entrant| figures(&entrant.figures)),
        peers: of_role(Role::Peer).map(|entrant| (entrant.name.clone(), figures(&entrant.figures))).collect(),
        limit: limit
            .map(|entrant| Limit { name: entrant.name.clone(), median: figures(&entrant.figures).median }),
        met,
        surely_missed,
        absent,
    }
}

/// Whether all bounds hold, and whether one is missed for sure.
fn judge(goal: Goal, unit: Unit, ours: &Entered, entrants: &[Entered]) -> (bool, bool) {
    let mut met = true;
    let mut surely_missed = false;
    for bound in goal.bounds {
        let lower_is_better = unit.lower_is_better();
        let ratios: Vec<f64> = match bound.against {
            Against::Figure(figure) => ours.figures.iter().map(|own| own / figure).collect(),
            Against::Limit => ratios(ours, entrants.iter().find(|entrant| entrant.role == Role::Limit)),
            Against::Beyond(name, more) => {
                let theirs = entrants.iter().find(|entrant| entrant.name == name);
                let theirs = theirs.map_or(&[][..], |entrant| &entrant.figures);
                ours.figures.iter().zip(theirs).map(|(own, their)| own / (their + more)).collect()
            }
            Against::Peer(name) => ratios(ours, entrants.iter().find(|entrant| entrant.name == name)),
            // They enter oldest first.
            Against::CPython => {
                ratios(ours, entrants.iter().rfind(|entrant| entrant.name.starts_with("cpython")))
            }
        };
        if ratios.is_empty() {
            continue;
        }
        let (low, high) = interval(&ratios);
        let middle = figures(&ratios).median;
        let holds = |ratio: f64| if lower_is_better { ratio <= bound.factor } else { ratio >= bound.factor };
        met &= holds(middle);
        surely_missed |= !holds(if lower_is_better { low } else { high });
    }
    (met, surely_missed)
}

fn ratios(ours: &Entered, theirs: Option<&Entered>) -> Vec<f64> {
    let theirs = theirs.map_or(&[][..], |entrant| &entrant.figures);
    ours.figures.iter().zip(theirs).map(|(own, their)| own / their).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn figures(values: &[f64]) -> Figures {
    let sorted = sorted(values);
    let last = sorted.len() - 1;
    let median = (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0;
    Figures { median, min: sorted[0], max: sorted[last] }
}

/// The interval that holds the true median with 95 % confidence, by order statistics.
fn interval(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let count = sorted.len();
    let half_width = 0.98 * (count as f64).sqrt();
    let low = (count as f64 / 2.0 - half_width).floor().max(0.0) as usize;
    (sorted[low], sorted[count - 1 - low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Bound, Observation, Regime};

    fn field(_: &Surroundings, _: Regime) -> Field {
        let fixed =
            |ns: u64| -> crate::scenario::Entry { Ok(Box::new(move |n| Ok(Duration::from_nanos(ns * n)))) };
        let broken: crate::scenario::Entry =
            Ok(Box::new(|n| if n > 4 { Err("gone".into()) } else { Ok(Duration::ZERO) }));
        Field::default()
            .ours(fixed(30))
            .limit("limit", fixed(20))
            .peer("cpython-3.x", fixed(900))
            .peer("broken", broken)
    }

    fn outcome(bounds: &'static [Bound]) -> Measured {
        let goal = Goal { text: "", bounds };
        let scenario =
            Scenario { id: "x", what: "", unit: Unit::Nanoseconds, regime: Regime::FREE, goal, field };
        let surroundings = Surroundings { pythons: Vec::new(), scripts: ".".into(), quick: true };
        let pace = Pace { rounds: 9, slice: Duration::from_micros(10), budget: Duration::from_secs(60) };
        measure(&scenario, &surroundings, pace)
    }

    #[test]
    fn bounds_are_judged_by_the_ratio() {
        assert!(outcome(&[Bound { against: Against::Limit, factor: 1.6 }]).met);
        let missed = outcome(&[Bound { against: Against::Limit, factor: 1.4 }]);
        assert!(!missed.met && missed.surely_missed);
        assert!(outcome(&[Bound { against: Against::CPython, factor: 1.0 / 20.0 }]).met);
        assert!(!outcome(&[Bound { against: Against::Figure(10.0), factor: 1.0 }]).met);
        assert!(outcome(&[Bound { against: Against::Peer("absent"), factor: 0.1 }]).met);
        let beyond = |more| Bound { against: Against::Beyond("cpython-3.x", more), factor: 0.1 };
        assert!(!outcome(Box::leak(Box::new([beyond(-700.0)]))).met);
        assert!(outcome(Box::leak(Box::new([beyond(-600.0)]))).met);
    }

    #[test]
    fn who_fails_is_absent_with_the_reason() {
        let measured = outcome(&[]);
        assert_eq!(measured.absent, [("broken".to_owned(), "gone".to_owned())]);
        assert_eq!(measured.ours.map(|figures| figures.median), Some(30.0));
        assert!(!measured.peers.contains_key("broken") && measured.peers.contains_key("cpython-3.x"));
    }

    #[test]
    fn a_miss_within_the_interval_is_not_sure() {
        // Two of the nine rounds meet the bound, so the interval, which leaves out none but the outermost, holds it.
        fn wavering(_: &Surroundings, _: Regime) -> Field {
            let mut round = 0;
            let ours: crate::scenario::Entry = Ok(Box::new(Observation(move || {
                round += 1;
                Ok(if round % 4 == 0 { 5.0 } else { 30.0 })
            })));
            Field::default().ours(ours)
        }
        let goal = Goal { text: "", bounds: &[Bound { against: Against::Figure(10.0), factor: 1.0 }] };
        let scenario =
            Scenario { id: "x", what: "", unit: Unit::Bytes, regime: Regime::FREE, goal, field: wavering };
        let surroundings = Surroundings { pythons: Vec::new(), scripts: ".".into(), quick: true };
        let pace = Pace { rounds: 9, slice: Duration::from_micros(10), budget: Duration::from_secs(60) };
        let measured = measure(&scenario, &surroundings, pace);
        assert!(!measured.met && !measured.surely_missed, "{measured:?}");
    }

    /// Each run has a start and an end of 100 ns; those from the one to the other meet a delay.
    fn delayed<const FIRST: u32, const LAST: u32>(_: &Surroundings, _: Regime) -> Field {
        let mut runs = 0;
        let ours: crate::scenario::Entry = Ok(Box::new(move |n| {
            runs += 1;
            let delay = if (FIRST..=LAST).contains(&runs) { 20_000 } else { 0 };
            Ok(Duration::from_nanos(100 + 10 * n + delay))
        }));
        Field::default().ours(ours)
    }

    /// Whether the starts and ends, and the delays, are a small part of what is measured.
    fn is_met(field: fn(&Surroundings, Regime) -> Field) -> bool {
        let goal = Goal { text: "", bounds: &[Bound { against: Against::Figure(11.0), factor: 1.0 }] };
        let scenario =
            Scenario { id: "x", what: "", unit: Unit::Nanoseconds, regime: Regime::FREE, goal, field };
        let surroundings = Surroundings { pythons: Vec::new(), scripts: ".".into(), quick: true };
        let pace = Pace { rounds: 9, slice: Duration::from_micros(10), budget: Duration::from_secs(60) };
        measure(&scenario, &surroundings, pace).met
    }

    #[test]
    fn a_delay_at_the_start_does_not_make_every_round_short() {
        assert!(is_met(delayed::<2, 2>));
    }

    #[test]
    fn nor_does_one_that_lasts_as_long_as_the_calibration() {
        assert!(is_met(delayed::<1, 3>));
    }

    #[test]
    fn what_takes_too_long_gets_fewer_rounds_but_some() {
        fn counted(_: &Surroundings, _: Regime) -> Field {
            let mut round = 0.0;
            let ours: crate::scenario::Entry = Ok(Box::new(Observation(move || {
                round += 1.0;
                Ok(round)
            })));
            Field::default().ours(ours)
        }
        let goal = Goal { text: "", bounds: &[] };
        let scenario =
            Scenario { id: "x", what: "", unit: Unit::Bytes, regime: Regime::FREE, goal, field: counted };
        let surroundings = Surroundings { pythons: Vec::new(), scripts: ".".into(), quick: true };
        let pace = Pace { rounds: 100, slice: Duration::from_micros(10), budget: Duration::ZERO };
        let rounds = measure(&scenario, &surroundings, pace).ours.map(|figures| figures.max);
        assert_eq!(rounds, Some(Pace::LEAST as f64));
    }

    #[test]
    fn the_median_of_an_even_count_is_the_middle_of_two() {
        assert_eq!(figures(&[4.0, 1.0, 2.0, 3.0]), Figures { median: 2.5, min: 1.0, max: 4.0 });
    }
}
