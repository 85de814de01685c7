//! `cargo xtask crash`: the tests that die everywhere, in their long form.

use crate::shell::Step;
use crate::workspace::{Package, packages};
use crate::{Outcome, ci};

const HELP: &str = "\
Kills a process after every single instruction of each operation, and at each crash point, and checks what is left. Each
test prints how many instructions there are. `cargo test` runs the same tests with strides, and `cargo xtask ci` those of
the lock in full. Nothing may be left behind: no process, no shared memory, no file.

Usage: cargo xtask crash [OPTION…]

  --only PATTERN  only steps whose name contains PATTERN
  --list          print the steps and their commands, run nothing";

/// In the long form a test may take that many seconds.
const SECONDS: &str = "7200";

/// Runs the command.
///
/// # Errors
///
/// The first step that failed, and the line to run it by hand; or what the run left behind.
pub fn run(args: &[String]) -> Outcome {
    let packages = packages()?;
    let steps =
        packages.iter().filter_map(each_instruction).chain(packages.iter().filter_map(ci::crash_points));
    ci::run_some("crash", HELP, args, steps.collect())
}

/// The tests in modules named after steps, optimised, so that the instructions are those that users run.
fn each_instruction(package: &Package) -> Option<Step> {
    let has_some = ci::test_files(package).any(|name| name.contains("steps"));
    (has_some && package.published).then(|| steps(package, "each instruction", "steps"))
}

/// The tests whose names contain `filter`, exhaustive.
pub(crate) fn steps(package: &Package, what: &str, filter: &str) -> Step {
    let name = &package.name;
    let line = format!("test --release -p {name} --test it -- {filter} --nocapture --test-threads=1");
    Step::cargo(format!("{name}, {what}"), &line)
        .env("PROCESSION_EXHAUSTIVE", "1")
        .env("PROCESSION_TEST_TIMEOUT", SECONDS)
}
