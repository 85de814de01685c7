//! Statistics of a pool and its workers.

use crate::{
    Pool,
    back::{Gone, Slow, WorkerInfo, WorkerState},
    driver::Shared,
};
use procession_sys::Deadline;
use serde::{Deserialize, Serialize};
use std::{fmt, fs, sync::Arc, time::Duration};

/// What a pool has done and does, at one moment. Made by [`Pool::stats`].
///
/// It prints as a table, and can be sent elsewhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// The process that owns the pool.
    pub pid: u32,
    /// How long there has been a pool.
    pub age: Duration,
    /// How many tasks wait in the pool until a worker has room. What was not taken from a lazy input yet does not count.
    pub waiting: usize,
    /// The workers there are, by index.
    pub workers: Vec<WorkerStats>,
    /// All workers together, those that are gone included.
    pub total: Totals,
    /// The items that took longest, by the time per item, the longest first: some of them, of pools of processes only.
    pub slowest: Vec<Slow>,
}

/// What one worker has done and does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Which of the pool's workers it is, the same for its replacements.
    pub index: usize,
    /// Its name. A replacement has another one.
    pub name: String,
    /// Its pid, where workers are processes.
    pub pid: Option<u32>,
    /// What it does now.
    pub state: WorkerState,
    /// How many workers came before it at this index.
    pub restarts: u64,
    /// The tasks that it has finished, and their items, and those of tasks that it has not finished.
    pub tasks: u64,
    /// See `tasks`.
    pub items: u64,
    /// How many tasks it has begun and not finished.
    pub in_hand: usize,
    /// How many tasks it has behind those.
    pub behind: usize,
    /// How long it has been there.
    pub age: Duration,
    /// How long it took from its start until it was ready, once it is.
    pub start_up: Option<Duration>,
    /// How long it has worked, an item that runs included.
    pub busy: Duration,
    /// How long it has waited for work since it was ready.
    pub idle: Duration,
    /// Its resident memory now, in bytes. What it shares with others counts in full. Of processes only.
    pub memory: Option<u64>,
    /// The most that it ever was.
    pub peak_memory: Option<u64>,
    /// The bytes that were sent to it.
    pub bytes_sent: u64,
    /// The bytes that came from it.
    pub bytes_received: u64,
}

/// What all workers of a pool have done, those that are gone included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Totals {
    /// How many workers were started.
    pub started: u64,
    /// How many of them took the place of another.
    pub restarts: u64,
    /// See [`WorkerStats`].
    pub tasks: u64,
    /// See [`WorkerStats`].
    pub items: u64,
    /// See [`WorkerStats`].
    pub in_hand: usize,
    /// See [`WorkerStats`].
    pub behind: usize,
    /// See [`WorkerStats`]. It grows by several seconds a second where several workers work.
    pub busy: Duration,
    /// How long those workers that are there have waited for work.
    pub idle: Duration,
    /// The memory of those that are there, in bytes. What they share is counted for each of them.
    pub memory: u64,
    /// See [`WorkerStats`].
    pub bytes_sent: u64,
    /// See [`WorkerStats`].
    pub bytes_received: u64,
}

impl Pool {
    /// What the pool and its workers have done and do.
    ///
    /// It takes in first what workers have told. It costs some system calls per worker, for their memory; the work of the
    /// pool costs nothing for the sake of this. Counts of a pool of threads are as of the ends of tasks. In a forked copy of
    /// the pool's process everything is 0.
    ///
    /// ```no_run
    /// let pool = procession_pool::Pool::new(2)?;
    /// pool.map(|n: u64| n, 0..1000)?;
    /// assert_eq!(pool.stats().total.items, 1000);
    /// println!("{}", pool.stats());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.shared)
    }
}

impl Stats {
    pub(crate) fn of(shared: &Arc<Shared>) -> Stats {
        let mut stats = Stats {
            pid: std::process::id(),
            age: Duration::ZERO,
            waiting: 0,
            workers: Vec::new(),
            total: Totals::default(),
            slowest: Vec::new(),
        };
        if !shared.is_ours() {
            return stats;
        }
        let mut state = shared.lock();
        if shared.polls_itself() {
            shared.pump(&mut state);
        }
        let (infos, history) = (state.back.worker_infos(), state.back.history());
        stats.waiting = state.front.waiting() + history.queued;
        shared.leave(&mut state);
        drop(state);
        stats.age = Duration::from_nanos(Deadline::now().as_nanos().saturating_sub(shared.born.as_nanos()));
        stats.slowest = history.slowest;
        stats.slowest.iter_mut().for_each(Slow::look_up);
        stats.workers = infos.into_iter().map(WorkerStats::of).collect();
        // A pid may have been used anew since.
        let alive = shared.lock().back.pids();
        for worker in &mut stats.workers {
            if worker.pid.is_some_and(|pid| !alive.contains(&pid)) {
                (worker.memory, worker.peak_memory) = (None, None);
            }
        }
        stats.total = Totals::of(&stats.workers, history.gone);
        stats
    }
}

impl WorkerStats {
    fn of(info: WorkerInfo) -> WorkerStats {
        let (memory, peak_memory) = info.pid.map_or((None, None), memory_of);
        WorkerStats {
            index: info.index,
            state: info.state,
            restarts: info.restarts,
            tasks: info.tasks,
            items: info.items,
            in_hand: info.in_hand,
            behind: info.queued.saturating_sub(info.in_hand),
            age: info.age,
            start_up: info.start_up,
            busy: info.busy,
            idle: info.age.saturating_sub(info.busy).saturating_sub(info.start_up.unwrap_or_default()),
            memory,
            peak_memory,
            bytes_sent: info.bytes_in,
            bytes_received: info.bytes_out,
            pid: info.pid,
            name: info.name,
        }
    }

    /// How much of its time since it was ready it has worked, from 0 to 1.
    #[must_use]
    pub fn load(&self) -> f64 {
        let (busy, idle) = (self.busy.as_secs_f64(), self.idle.as_secs_f64());
        if busy + idle > 0.0 { busy / (busy + idle) } else { 0.0 }
    }
}

impl Totals {
    fn of(workers: &[WorkerStats], gone: Gone) -> Totals {
        let mut total = Totals {
            started: gone.workers,
            tasks: gone.tasks,
            items: gone.items,
            busy: gone.busy,
            bytes_sent: gone.bytes_in,
            bytes_received: gone.bytes_out,
            ..Totals::default()
        };
        for worker in workers {
            total.started += u64::from(worker.state != WorkerState::Absent);
            total.restarts += worker.restarts;
            total.tasks += worker.tasks;
            total.items += worker.items;
            total.in_hand += worker.in_hand;
            total.behind += worker.behind;
            total.busy += worker.busy;
            total.idle += worker.idle;
            total.memory += worker.memory.unwrap_or(0);
            total.bytes_sent += worker.bytes_sent;
            total.bytes_received += worker.bytes_received;
        }
        total
    }
}

/// The resident memory of a process, and its peak, in bytes (`proc_pid_status(5)`).
fn memory_of(pid: u32) -> (Option<u64>, Option<u64>) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A time for people.
pub(super) fn time(span: Duration) -> String {
    let nanos = span.as_nanos();
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanos as f64 / 1e6),
        _ => format!("{:.1} s", span.as_secs_f64()),
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = &self.total;
        writeln!(
            f,
            "pool of process {}: {} workers, {} items in {} tasks done, {} tasks with workers, {} waiting, {} old",
            self.pid,
            self.workers.len(),
            total.items,
            total.tasks,
            total.in_hand + total.behind,
            self.waiting,
            time(self.age)
        )?;
        writeln!(
            f,
            "{:<18} {:>8} {:<9} {:>5} {:>11} {:>10} {:>4} {:>6} {:>10} {:>10} {:>10} {:>10} {:>8}",
            "WORKER",
            "PID",
            "STATE",
            "LOAD",
            "ITEMS",
            "TASKS",
            "HAND",
            "BEHIND",
            "MEMORY",
            "PEAK",
            "SENT",
            "RECEIVED",
            "RESTARTS"
        )?;
        let optional = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), bytes);
        for worker in &self.workers {
            writeln!(
                f,
                "{:<18} {:>8} {:<9} {:>4.0}% {:>11} {:>10} {:>4} {:>6} {:>10} {:>10} {:>10} {:>10} {:>8}",
                worker.name,
                worker.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                format!("{:?}", worker.state).to_lowercase(),
                worker.load() * 100.0,
                worker.items,
                worker.tasks,
                worker.in_hand,
                worker.behind,
                optional(worker.memory),
                optional(worker.peak_memory),
                bytes(worker.bytes_sent),
                bytes(worker.bytes_received),
                worker.restarts
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            (bytes(7), bytes(1536), bytes(5 << 30)),
            ("7 B".into(), "1.5 KiB".into(), "5.0 GiB".into())
        );
        assert_eq!(time(Duration::from_nanos(12_345)), "12.3 µs");
        assert_eq!(time(Duration::from_millis(90_000)), "90.0 s");
    }

    #[test]
    fn a_process_knows_its_memory() {
        let (memory, peak) = memory_of(std::process::id());
        assert!(memory.unwrap() > 0 && peak >= memory, "{memory:?} {peak:?}");
        assert_eq!(memory_of(u32::MAX), (None, None));
    }
}
