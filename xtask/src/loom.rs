//! `cargo xtask loom`: the models, apart from everything else that CI runs.

use crate::leftovers::Before;
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
    let mut list = false;
    let mut only = String::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--list" => list = true,
            "--only" => only = args.next().ok_or("--only needs a pattern")?.clone(),
            other => return Err(format!("unknown option `{other}`; see `cargo xtask loom --help`")),
        }
    }
    let packages = packages()?;
    let steps = packages.iter().filter_map(ci::loom).chain(packages.iter().filter_map(ci::shuttle));
    let steps: Vec<_> = steps.filter(|step| step.name.contains(&only)).collect();
    if steps.is_empty() {
        return Err("no step has a name like that; --list prints them".into());
    }
    if list {
        steps.iter().for_each(|step| println!("{:28} {}", step.name, step.by_hand()));
        return Ok(());
    }
    let before = Before::take(false)?;
    for step in steps {
        eprintln!("xtask: {}: {}", step.name, step.by_hand());
        step.run(before.temp())?;
    }
    before.check()
}
