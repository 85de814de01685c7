//! `cargo xtask COMMAND`: see [`HELP`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

const HELP: &str = "\
The project's own commands.

Usage: cargo xtask COMMAND [OPTION…]

  ci        everything that CI runs: tests, lints, docs, features, examples, models, crash points, tidy, benches
  tidy      the house rules that a program can check; also run by `cargo test`
  bench     everything side by side on this machine: ours, the rivals, CPython; writes target/bench/
  loom      the models: every interleaving of the lock-free parts, within bounds, and random schedules
  crash     death at every instruction and at every crash point, for every structure: longer than CI allows
  fuzz      what comes from sockets and shared memory, with a nightly toolchain where one is installed
  soak      kill storms, each with thousands of kills and a new seed, over and over
  newcomer  the programs of the guide and the README, built and run outside of the workspace
  help      this text

`cargo xtask COMMAND --help` tells more.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_else(|| "help".to_owned());
    let rest: Vec<String> = args.collect();
    let outcome = match command.as_str() {
        "ci" => xtask::ci::run(&rest),
        "tidy" => xtask::tidy::run(&rest),
        "bench" => xtask::bench::run(&rest),
        "loom" => xtask::loom::run(&rest),
        "crash" => xtask::crash::run(&rest),
        "fuzz" => xtask::fuzz::run(&rest),
        "newcomer" => xtask::newcomer::run(&rest),
        "soak" => xtask::soak::run(&rest),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(format!("unknown command `{other}`; `cargo xtask help` lists them")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
