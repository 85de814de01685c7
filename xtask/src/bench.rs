//! `cargo xtask bench`: builds the side-by-side runner in release and runs it.

use std::process::{Command, Stdio};

use crate::workspace::target;
use crate::{Outcome, root};

const HELP: &str = "\
Runs everything side by side on this machine: ours, the rivals, CPython, and the limit of the system; interleaved,
medians with their spread. Writes target/bench/report.json, report.md and report.html, the last with plots; needs no
network. In full under 15 minutes after compiling.

Usage: cargo xtask bench [OPTION…]

  --quick         fewer and shorter rounds, only the newest CPython: under 3 minutes after compiling
  --check         fail where a goal is missed and its interval excludes the goal
  --only PATTERN  only measurements whose id contains PATTERN
  --list          print the ids and goals, run nothing

The micro-benchmarks with criterion's statistics: cargo bench -p procession-benches; the page shows what they gave last.
How all of it is measured: docs/performance.md";

/// Runs the command.
///
/// # Errors
///
/// If the build fails, or the runner does.
pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let build = "build --quiet --profile bench -p procession-benches --features rivals --bin side_by_side";
    eprintln!("xtask: compiling (cargo {build})");
    let built = cargo(build).status();
    if !built.map_err(|error| format!("failed to run cargo: {error}"))?.success() {
        return Err(format!("failed to build the benchmarks; by hand: cargo {build}"));
    }
    let mut runner = Command::new(target().join("release/side_by_side"));
    runner
        .args(args)
        .arg("--output")
        .arg(target().join("bench"))
        .arg("--scripts")
        .arg(root().join("xtask/peers"));
    let status = runner.current_dir(root()).stdin(Stdio::null()).status();
    match status.map_err(|error| format!("failed to run {runner:?}: {error}"))?.success() {
        true => Ok(()),
        false => Err(format!("the benchmarks failed; by hand: {runner:?}")),
    }
}

fn cargo(line: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(line.split_whitespace()).current_dir(root()).stdin(Stdio::null());
    command
}
