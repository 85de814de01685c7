//! `cargo xtask loom`: the models, apart from everything else that CI runs.

use crate::workspace::packages;
use crate::{Outcome, ci};

const HELP: &str = "\
Runs the models: every interleaving of the lock-free parts, within bounds, by loom, and random schedules of what is too large
for that, by shuttle. `cargo xtask ci` runs the same.

Usage: cargo xtask loom [OPTION…]

  --only PATTERN  only steps whose name contains PATTERN
  --list          print the steps and their commands, run nothing

LOOM_MAX_PREEMPTIONS sets loom's bound where a model does not set its own.";

/// Runs the command.
///
/// # Errors
///
/// The first step that failed, and the line to run it by hand; or what the run left behind.
pub fn run(args: &[String]) -> Outcome {
    let packages = packages()?;
    let steps = packages.iter().filter_map(ci::loom).chain(packages.iter().filter_map(ci::shuttle));
    ci::run_some("loom", HELP, args, steps.collect())
}
