//! Randomness that can be repeated, and kills at random instants.
//!
//! ```
//! use procession_testkit::storm::Rng;
//!
//! let mut rng = Rng::from_env(); // prints PROCESSION_SEED=…; set it to repeat a run
//! let round = rng.below(10);
//! assert!(round < 10);
//! ```

mod herd;

pub use herd::Herd;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A small, fast, seeded generator (xoshiro256**). Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator that `seed` stands for.
    pub fn from_seed(seed: u64) -> Self {
        // splitmix64, which never gives the all-zero state.
        let mut word = seed;
        let state = std::array::from_fn(|_| {
            word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = word;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        });
        Self { state }
    }

    /// The seed in `PROCESSION_SEED` (decimal, or hexadecimal after `0x`), else a fresh one. Prints it, so that a
    /// failure can be repeated.
    pub fn from_env() -> Self {
        Self::from_env_or(entropy())
    }

    /// As [`from_env`](Self::from_env), with a seed to use where the variable is not set.
    pub fn from_env_or(default: u64) -> Self {
        let given = std::env::var("PROCESSION_SEED").ok().and_then(|text| parse_seed(&text));
        let seed = given.unwrap_or(default);
        println!("PROCESSION_SEED={seed:#x}");
        Self::from_seed(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`.
    ///
    /// # Panics
    ///
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        // The bias of at most bound / 2^64 does not matter here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `range`.
    ///
    /// # Panics
    ///
    /// If `range` is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "the range {range:?} is empty");
        range.start + self.below(range.end - range.start)
    }

    /// True `times` out of `of`.
    ///
    /// # Panics
    ///
    /// If `of` is 0.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// A duration below `bound`, to the nanosecond; zero if that is zero.
    pub fn duration(&mut self, bound: Duration) -> Duration {
        match u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX) {
            0 => Duration::ZERO,
            nanoseconds => Duration::from_nanos(self.below(nanoseconds)),
        }
    }

    /// One of `items`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        assert!(!items.is_empty(), "there is nothing to pick from");
        &items[self.below(items.len() as u64) as usize]
    }

    /// Puts `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// A generator for another thread or process, independent of what this one gives later.
    pub fn split(&mut self) -> Self {
        Self::from_seed(self.next_u64())
    }
}

fn parse_seed(text: &str) -> Option<u64> {
    match text.trim().strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.trim().parse().ok(),
    }
}

fn entropy() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => u64::from(std::process::id()),
    }
}

/// How many kills a storm deals out: `PROCESSION_KILLS` (`cargo xtask soak` sets it), else `short`, which is what fits into
/// a test run.
pub fn kills(short: u32) -> u32 {
    std::env::var("PROCESSION_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// Lets `duration` pass, to within a microsecond or so: sleeps through the long part and spins through the rest.
pub fn delay(duration: Duration) {
    const SPIN: Duration = Duration::from_micros(150);
    let end = Instant::now() + duration;
    if let Some(sleep) = duration.checked_sub(SPIN) {
        thread::sleep(sleep);
    }
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Opens a pidfd of `pid`.
///
/// # Errors
///
/// If there is no such process.
pub fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills the process behind `pidfd` at a random instant within `window` from now, and tells which that was. That it
/// has ended by itself meanwhile is no error.
///
/// # Errors
///
/// If the signal may not be sent.
pub fn kill_within(rng: &mut Rng, pidfd: impl AsFd, window: Duration) -> io::Result<Duration> {
    let instant = rng.duration(window);
    delay(instant);
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(instant),
        Err(error) => Err(error.into()),
    }
}
