//! Forked processes that work until they are killed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};

use super::{Rng, delay};
use crate::fork;
use crate::watchdog::say;

/// Processes that do the same until they are killed, each in a fork of this one, so that a kill costs less than a
/// millisecond. In an isolated test ([`isolated!`](crate::isolated!)), since it forks. Dropping it kills them.
#[derive(Debug)]
pub struct Herd<F> {
    work: F,
    living: Vec<Option<Pid>>,
    /// How many were killed so far.
    kills: u32,
}

impl<F: Fn(usize, Rng)> Herd<F> {
    /// Starts `count` processes that call `work`, with their number and a seeded generator, and never come back from it.
    ///
    /// # Panics
    ///
    /// If there can be no more processes.
    pub fn start(rng: &mut Rng, count: usize, work: F) -> Self {
        let mut herd = Self { work, living: vec![None; count], kills: 0 };
        herd.start_all(rng);
        herd
    }

    /// How many were killed so far.
    pub fn kills(&self) -> u32 {
        self.kills
    }

    /// Starts those that are dead.
    ///
    /// # Panics
    ///
    /// If there can be no more processes.
    pub fn start_all(&mut self, rng: &mut Rng) {
        for number in 0..self.living.len() {
            if self.living[number].is_none() {
                let rng = rng.split();
                self.living[number] = Some(self.fork(number, rng));
            }
        }
    }

    /// Kills one of them at a random instant within `window` from now, waits for its end, and tells which it was.
    ///
    /// # Panics
    ///
    /// If it had ended by itself, by a panic for example, or there is none.
    pub fn kill_one(&mut self, rng: &mut Rng, window: Duration) -> usize {
        let number = rng.below(self.living.len() as u64) as usize;
        delay(rng.duration(window));
        self.kill(number);
        number
    }

    /// Kills all that live, at once.
    ///
    /// # Panics
    ///
    /// If one of them had ended by itself.
    pub fn kill_all(&mut self) {
        for pid in self.living.iter().flatten() {
            let _ = kill_process(*pid, Signal::KILL);
        }
        (0..self.living.len()).for_each(|number| self.kill(number));
    }

    fn fork(&self, number: usize, rng: Rng) -> Pid {
        let parent = rustix::process::getpid();
        let forked = fork::child(|| {
            let result: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| {
                std::panic::set_hook(Box::new(|panic| say(&format!("in a process of a storm: {panic}\n"))));
                // It is that of the thread that forks, which drops the herd before it ends, unless it is killed.
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                if rustix::process::getppid() == Some(parent) {
                    (self.work)(number, rng);
                }
            }));
            fork::leave(if result.is_ok() { 0 } else { 101 })
        });
        forked.unwrap_or_else(|error| panic!("failed to fork: {error}"))
    }

    #[track_caller]
    fn kill(&mut self, number: usize) {
        let Some(pid) = self.living[number].take() else { return };
        // It is not waited for yet, so the number is still its own.
        let _ = kill_process(pid, Signal::KILL);
        self.kills += 1;
        match wait(pid) {
            Some(status) if status.terminating_signal() == Some(Signal::KILL.as_raw()) => {}
            status => panic!("a process of the storm ended by itself: {status:?}"),
        }
    }
}

impl<F> Drop for Herd<F> {
    fn drop(&mut self) {
        for pid in self.living.iter().flatten() {
            let _ = kill_process(*pid, Signal::KILL);
        }
        self.living.iter().flatten().for_each(|pid| _ = wait(*pid));
    }
}

fn wait(pid: Pid) -> Option<rustix::process::WaitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(ended) => return ended.map(|(_, status)| status),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}
