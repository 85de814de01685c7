//! What the statistics of a pool mean.

use super::stats::{Stats, time};
use crate::{Pool, back::Slow};
use std::{fmt, time::Duration};

/// Below this a task is not worth its way to a worker, which costs some 0.5 µs on both sides.
const WORTH_IT: Duration = Duration::from_micros(10);
/// What a task should take at least.
const GOOD: Duration = Duration::from_micros(200);
/// So many tasks should each worker have, so that uneven ones even out.
const TASKS_EACH: u64 = 16;
/// By how much the busiest worker may exceed the mean.
const UNEVEN: f64 = 1.25;
/// Of fewer tasks than this nothing is said.
const ENOUGH: u64 = 1000;

/// Where a pool's time went, and whether its chunks have the right size. Made by [`Pool::insights`].
///
/// It prints as a short report.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Insights {
    /// How long there has been a pool.
    pub age: Duration,
    /// The workers there are.
    pub workers: Vec<WorkerInsight>,
    /// The items and the tasks that were finished, by all workers there ever were.
    pub items: u64,
    /// See `items`.
    pub tasks: u64,
    /// How long an item took, and how long a task, on average; 0 if there were none.
    pub item_time: Duration,
    /// See `item_time`.
    pub task_time: Duration,
    /// The items that took longest, of pools of processes: see [`Stats::slowest`].
    pub slowest: Vec<Slow>,
    /// Whether the chunks have the right size.
    pub verdict: Verdict,
}

/// Where a worker's time went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerInsight {
    /// Its name.
    pub name: String,
    /// How long it took from its start until it was ready, where that is known.
    pub start_up: Option<Duration>,
    /// How long it has worked since.
    pub working: Duration,
    /// How long it has waited for work.
    pub waiting: Duration,
    /// How many items it has finished.
    pub items: u64,
}

/// Whether chunks have the right size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Too little was run to tell.
    TooEarly,
    /// Larger or smaller ones would not help.
    Right,
    /// Handing tasks over costs as much as running them: a chunk size of about so many items is better.
    TooSmall(usize),
    /// One worker was at it while others had nothing left: a chunk size of about so many items is better.
    TooLarge(usize),
    /// One worker was at it while others had nothing left, though chunks are as small as can be: items differ too much.
    /// It helps to begin with the long ones.
    Uneven,
}

impl Pool {
    /// Where the pool's time went so far, and whether its chunks have the right size: by all that it has run. For one call
    /// alone, ask a pool that has run only that.
    ///
    /// ```no_run
    /// let pool = procession_pool::Pool::new(2)?;
    /// pool.tasks(|n: u64| n * n, 0..100_000).chunk_size(1).run()?;
    /// println!("{}", pool.insights());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn insights(&self) -> Insights {
        Insights::of(self.stats())
    }
}

impl Insights {
    fn of(stats: Stats) -> Insights {
        let total = stats.total;
        let mean = |count: u64| Duration::from_secs_f64(total.busy.as_secs_f64() / count.max(1) as f64);
        let (item_time, task_time) = (mean(total.items), mean(total.tasks));
        let busy: Vec<f64> = stats.workers.iter().map(|worker| worker.busy.as_secs_f64()).collect();
        let verdict = judge(total.items, total.tasks, item_time, task_time, &busy);
        let insight = |worker: super::WorkerStats| WorkerInsight {
            name: worker.name,
            start_up: worker.start_up,
            working: worker.busy,
            waiting: worker.idle,
            items: worker.items,
        };
        Insights {
            age: stats.age,
            workers: stats.workers.into_iter().map(insight).collect(),
            items: total.items,
            tasks: total.tasks,
            item_time,
            task_time,
            slowest: stats.slowest,
            verdict,
        }
    }
}

fn judge(items: u64, tasks: u64, item: Duration, task: Duration, busy: &[f64]) -> Verdict {
    let workers = busy.len() as u64;
    if tasks == 0 || workers == 0 {
        return Verdict::TooEarly;
    }
    let chunk = items as f64 / tasks as f64;
    if task < WORTH_IT {
        let better = (GOOD.as_secs_f64() / item.as_secs_f64().max(1e-9)).round();
        return if tasks >= ENOUGH { Verdict::TooSmall((better as usize).max(2)) } else { Verdict::TooEarly };
    }
    let mean = busy.iter().sum::<f64>() / busy.len() as f64;
    let most = busy.iter().copied().fold(0.0, f64::max);
    let few = tasks < TASKS_EACH * workers;
    if most > mean * UNEVEN && few {
        let better = items / (TASKS_EACH * workers);
        return if chunk >= 2.0 { Verdict::TooLarge(better.max(1) as usize) } else { Verdict::Uneven };
    }
    Verdict::Right
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::TooEarly => f.write_str("too little was run to tell"),
            Verdict::Right => f.write_str("right"),
            Verdict::TooSmall(better) => write!(
                f,
                "too small: handing tasks over costs as much as running them; try about {better} items"
            ),
            Verdict::TooLarge(better) => write!(
                f,
                "too large: some workers had nothing left while others were at it; try about {better} items"
            ),
            Verdict::Uneven => f.write_str(
                "as small as can be, but items take so different times that workers wait for the last",
            ),
        }
    }
}

impl fmt::Display for Insights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunk = self.items as f64 / self.tasks.max(1) as f64;
        writeln!(
            f,
            "{} items in {} tasks, {chunk:.1} items each, in {}",
            self.items,
            self.tasks,
            time(self.age)
        )?;
        writeln!(f, "on average an item took {} and a task {}", time(self.item_time), time(self.task_time))?;
        for worker in &self.workers {
            let (working, waiting) = (worker.working.as_secs_f64(), worker.waiting.as_secs_f64());
            let share = if working + waiting > 0.0 { 100.0 * working / (working + waiting) } else { 0.0 };
            writeln!(
                f,
                "{}: {} to start, worked {} ({share:.0} %), waited {}, {} items",
                worker.name,
                worker.start_up.map_or_else(|| "?".to_owned(), time),
                time(worker.working),
                time(worker.waiting),
                worker.items
            )?;
        }
        for slow in self.slowest.iter().take(3) {
            writeln!(f, "slow: {} in `{}`", time(slow.each()), slow.function)?;
        }
        writeln!(f, "chunk size: {}", self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(items: u64, tasks: u64, busy: &[f64]) -> Verdict {
        let each = |count: u64| Duration::from_secs_f64(busy.iter().sum::<f64>() / count.max(1) as f64);
        judge(items, tasks, each(items), each(tasks), busy)
    }

    #[test]
    fn the_verdict_follows_the_time_of_tasks_and_how_even_workers_are() {
        assert_eq!(verdict(0, 0, &[0.0]), Verdict::TooEarly);
        assert_eq!(verdict(10, 10, &[1e-5]), Verdict::TooEarly);
        // A microsecond each, by ones.
        assert_eq!(verdict(1_000_000, 1_000_000, &[0.5, 0.5]), Verdict::TooSmall(200));
        assert_eq!(verdict(1_000_000, 1_000, &[0.5, 0.5]), Verdict::Right);
        assert_eq!(verdict(1_000, 4, &[3.0, 1.0]), Verdict::TooLarge(31));
        assert_eq!(verdict(8, 8, &[3.0, 1.0]), Verdict::Uneven);
        assert_eq!(verdict(8, 8, &[3.0]), Verdict::Right);
    }
}
