//! Children that are killed at any moment: `join` tells the truth, and nothing is left.

use crate::support::{BOUND, census, host};
use procession_process::{ExitStatus, JoinError, Process, StartMethod, active_children, fork_server_pid};
use procession_testkit::{
    storm::{Rng, delay, kills},
    watchdog,
};
use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

/// How many children are killed per start method.
/// How many children are killed, unless `PROCESSION_KILLS` tells another number.
const KILLS: u32 = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killer {
    /// The parent, after the start has returned.
    Parent,
    /// The child's own timer.
    Timer,
    /// Another thread of the parent, as soon as it sees the child: before it is executed, or told its job.
    Early,
}

/// A value that shows if a byte of it is missing.
fn value(number: u32) -> (u32, Vec<u8>) {
    (number, number.to_le_bytes().repeat(number as usize % 60))
}

fn child((number, work, timer): (u32, Duration, Option<Duration>)) -> (u32, Vec<u8>) {
    if let Some(timer) = timer {
        kill_myself_in(timer);
    }
    delay(work);
    value(number)
}

/// Arms a timer of the kernel's, which is as exact as its signal is deadly.
fn kill_myself_in(time: Duration) {
    // SAFETY: zero is a value of the record.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer = std::ptr::null_mut();
    // SAFETY: both places are valid for the call.
    assert_eq!(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) }, 0);
    let once = libc::timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()).max(1) };
    let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let setting = libc::itimerspec { it_interval: never, it_value: once };
    // SAFETY: the timer was made above.
    assert_eq!(unsafe { libc::timer_settime(timer, 0, &raw const setting, std::ptr::null_mut()) }, 0);
}

/// What came of the children.
#[derive(Default, Debug)]
struct Tally {
    whole: u32,
    killed: u32,
    killed_after_the_return: u32,
}

impl Tally {
    fn count(&mut self, process: &Process<(u32, Vec<u8>)>, number: u32) {
        let joined = process.join();
        let status = process.exit_status().unwrap();
        match joined {
            Ok(found) => {
                assert_eq!((found, status), (value(number), ExitStatus::Code(0)));
                self.whole += 1;
            }
            Err(JoinError::Signaled { signal, core_dumped, leftover, .. }) => {
                assert_eq!(
                    (signal, core_dumped, status.signal()),
                    (libc::SIGKILL, false, Some(libc::SIGKILL))
                );
                self.killed += 1;
                if let Some(found) = leftover.value::<(u32, Vec<u8>)>() {
                    assert_eq!(found, value(number));
                    self.killed_after_the_return += 1;
                }
            }
            Err(other) => panic!("child {number}: {other}"),
        }
    }
}

/// Whether the early killer strikes, and what it has struck.
static STRIKE: AtomicBool = AtomicBool::new(false);
static SPARED: AtomicU32 = AtomicU32::new(0);

/// Kills each child of this process that is not spared, as soon as it is seen.
fn strike_early(mut rng: Rng) {
    loop {
        while !STRIKE.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
        let children =
            tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let spared = SPARED.load(Ordering::Acquire);
        let mut pids = children.flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).collect::<Vec<_>>()
        });
        if let Some(pid) = pids.find(|&pid| pid != spared) {
            delay(rng.duration(Duration::from_micros(400)));
            // Its parent waits with the reaping until it is told that this is over.
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            STRIKE.store(false, Ordering::Release);
        }
    }
}

fn storm(method: StartMethod) {
    let mut rng = Rng::from_env_or(0x5eed);
    // What stays: the fork server.
    Process::builder().start_method(method).spawn(value, 1).unwrap().join().unwrap();
    let before = census();
    let early_is_possible =
        method != StartMethod::Fork && std::path::Path::new("/proc/thread-self/children").exists();
    if early_is_possible {
        SPARED.store(fork_server_pid().unwrap_or(0), Ordering::Release);
        let rng = rng.split();
        std::thread::spawn(move || strike_early(rng));
    }
    let mut tallies: Vec<(Killer, Tally)> = Vec::new();
    let kills = kills(KILLS);
    for number in 0..kills {
        let killer = match number % 4 {
            0 => Killer::Timer,
            1 if early_is_possible => Killer::Early,
            _ => Killer::Parent,
        };
        if killer == Killer::Early {
            STRIKE.store(true, Ordering::Release);
        }
        let work = rng.duration(Duration::from_micros(600));
        // Around the return.
        let timer = (killer == Killer::Timer).then(|| rng.duration(work + Duration::from_micros(400)));
        let process = Process::builder().start_method(method).spawn(child, (number, work, timer)).unwrap();
        match killer {
            Killer::Parent => {
                delay(rng.duration(Duration::from_millis(2)));
                process.kill().unwrap();
            }
            Killer::Timer => {}
            Killer::Early => {
                while STRIKE.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
            }
        }
        if !tallies.iter().any(|(known, _)| *known == killer) {
            tallies.push((killer, Tally::default()));
        }
        let (_, tally) = tallies.iter_mut().find(|(known, _)| *known == killer).unwrap();
        tally.count(&process, number);
    }
    println!("{method}: {tallies:?}");
    assert_eq!(tallies.iter().map(|(_, tally)| tally.whole + tally.killed).sum::<u32>(), kills);
    // Each outcome was seen, or the moments are not what they are meant to be.
    let sum = |of: fn(&Tally) -> u32| tallies.iter().map(|(_, tally)| of(tally)).sum::<u32>();
    assert!(sum(|tally| tally.killed) > kills / 10);
    assert!(sum(|tally| tally.whole) > 0);
    assert!(active_children().is_empty());
    if early_is_possible {
        // The striking thread is there; all else is as it was.
        let difference = before.difference(&census());
        let difference = difference.unwrap_or_default();
        assert!(
            difference.lines().all(|line| line.trim_start().starts_with("threads named")),
            "{difference}"
        );
    } else {
        before.assert_settles(BOUND);
    }
}

#[test]
fn a_killed_child_is_told_from_a_whole_one_under_spawn() {
    let _watchdog = watchdog!();
    host(storm, StartMethod::Spawn);
}

#[test]
fn a_killed_child_is_told_from_a_whole_one_under_the_fork_server() {
    let _watchdog = watchdog!();
    host(storm, StartMethod::ForkServer);
}

#[test]
fn a_killed_child_is_told_from_a_whole_one_under_fork() {
    let _watchdog = watchdog!();
    host(storm, StartMethod::Fork);
}
