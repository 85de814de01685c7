//! `cargo xtask soak`: kill storms without end.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use crate::leftovers::Before;
use crate::shell::Step;
use crate::workspace::{Package, packages};
use crate::{Outcome, ci};

const HELP: &str = "\
Runs every kill storm with thousands of kills and a new seed each time, until the time is over or one fails. The line
to repeat it by hand names the seed. No round may leave anything behind: no process, no shared memory, no file.

Usage: cargo xtask soak [OPTION…]

  --minutes N     how long at least, in whole rounds (60)
  --kills N       how many kills in each storm (10000)
  --seeds N       how many simulated worlds in each storm of seeds (100000)
  --only PATTERN  only packages whose name contains PATTERN";

/// In the long form a test may take that many seconds.
const SECONDS: &str = "7200";

/// Runs the command.
///
/// # Errors
///
/// The storm that failed, and the line to run it by hand; its seed is in what it printed. Or what a round left behind.
pub fn run(args: &[String]) -> Outcome {
    let (mut minutes, mut kills, mut seeds) = (60, 10_000, 100_000);
    let mut only = String::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || {
            let text = args.next().ok_or(format!("{arg} needs a number"))?;
            text.parse().map_err(|_| format!("{arg} needs a number, not `{text}`"))
        };
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--minutes" => minutes = number()?,
            "--kills" => kills = number()?,
            "--seeds" => seeds = number()?,
            "--only" => only = args.next().ok_or("--only needs a pattern")?.clone(),
            other => return Err(format!("unknown option `{other}`; see `cargo xtask soak --help`")),
        }
    }
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut packages = packages()?;
    packages.retain(|package| package.name.contains(&only));
    loop {
        // Any number will do, as long as it is another one each time.
        let seed = RandomState::new().hash_one(0);
        eprintln!("xtask: a round of storms with seed {seed:#x}");
        let before = Before::take()?;
        for step in packages.iter().filter_map(|package| storms(package, [kills, seeds], seed)) {
            step.run(before.temp())?;
        }
        before.check()?;
        if Instant::now() >= end {
            return Ok(());
        }
    }
}

fn storms(package: &Package, [kills, seeds]: [u64; 2], seed: u64) -> Option<Step> {
    let has_some = ci::test_files(package).any(|name| name.contains("storm"));
    let line = format!("test --release -p {} --test it -- storm --nocapture --test-threads=1", package.name);
    (has_some && package.published).then(|| {
        Step::cargo(format!("{}, storms", package.name), &line)
            .env("PROCESSION_KILLS", &kills.to_string())
            .env("PROCESSION_SEEDS", &seeds.to_string())
            .env("PROCESSION_SEED", &format!("{seed:#x}"))
            .env("PROCESSION_TEST_TIMEOUT", SECONDS)
    })
}
