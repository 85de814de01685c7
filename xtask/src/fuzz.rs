//! `cargo xtask fuzz`: the fuzz targets, with coverage and the address sanitizer.

use std::fs;
use std::process::Command;

use crate::shell::Step;
use crate::{Outcome, root, workspace};

const HELP: &str = "\
Fuzzes what comes from sockets and shared memory, one target after the other, and stops at the first finding: its input is
then in target/fuzz/findings. What was learnt stays in target/fuzz/corpus, for the next time.

Usage: cargo xtask fuzz [OPTION…]

  --minutes N     how long each target runs (10)
  --only PATTERN  only targets whose name contains PATTERN
  --keep          put what the corpus gained, cut to what covers anything new, into fuzz/corpus

The sanitizer needs a nightly toolchain (rustup toolchain install nightly), and the fuzzer a C++ compiler. Without a nightly
this says so and does nothing; `cargo test` replays the corpus on any toolchain.";

/// What cargo-fuzz sets: counters at each edge and comparison, and the address sanitizer.
const FLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs the command.
///
/// # Errors
///
/// A finding, and the line to run it by hand; or a build that failed.
pub fn run(args: &[String]) -> Outcome {
    let mut minutes: u64 = 10;
    let mut only = String::new();
    let mut keep = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--minutes" => {
                let text = args.next().ok_or("--minutes needs a number")?;
                minutes = text.parse().map_err(|_| format!("--minutes needs a number, not `{text}`"))?;
            }
            "--only" => only = args.next().ok_or("--only needs a pattern")?.clone(),
            "--keep" => keep = true,
            other => return Err(format!("unknown option `{other}`; see `cargo xtask fuzz --help`")),
        }
    }
    let Some(host) = nightly() else {
        eprintln!(
            "xtask: no nightly toolchain is installed, so nothing was fuzzed: rustup toolchain install nightly"
        );
        return Ok(());
    };
    let work = workspace::target().join("fuzz");
    let build = Step::cargo(
        "fuzz, build",
        &format!("+nightly build --release --manifest-path fuzz/Cargo.toml --target {host}"),
    );
    // Without a target of its own the flags would reach the build scripts.
    build
        .env("RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", &work.display().to_string())
        .run(&std::env::temp_dir())?;
    for name in targets()?.into_iter().filter(|name| name.contains(&only)) {
        let binary = work.join(&host).join("release").join(&name);
        let learnt = work.join("corpus").join(&name);
        let findings = work.join("findings");
        for folder in [&learnt, &findings] {
            fs::create_dir_all(folder)
                .map_err(|error| format!("failed to create `{}`: {error}", folder.display()))?;
        }
        let kept = root().join("fuzz/corpus").join(&name);
        let step = Step::program(format!("fuzz {name}"), &binary)
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .arg(format!("-max_total_time={}", minutes * 60))
            .arg("-max_len=4096")
            .arg("-timeout=20")
            .arg("-rss_limit_mb=2048")
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/{name}-", findings.display()))
            .arg(learnt.display().to_string())
            .arg(kept.display().to_string());
        eprintln!("xtask: {}: {}", step.name, step.by_hand());
        step.run(&std::env::temp_dir())?;
        if keep {
            Step::program(format!("fuzz {name}, merge"), &binary)
                .env("ASAN_OPTIONS", "detect_leaks=0")
                .arg("-merge=1")
                .arg("-max_len=4096")
                .arg(kept.display().to_string())
                .arg(learnt.display().to_string())
                .run(&std::env::temp_dir())?;
        }
    }
    Ok(())
}

/// The host's triple, as a nightly toolchain tells it, if there is one.
fn nightly() -> Option<String> {
    let output = Command::new("rustc").args(["+nightly", "-vV"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "))?;
    output.status.success().then(|| host.to_owned())
}

fn targets() -> Result<Vec<String>, String> {
    let files = workspace::files(&root().join("fuzz/fuzz_targets"), &[".rs"]);
    let mut names: Vec<String> =
        files.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    match names.is_empty() {
        true => Err("no targets in fuzz/fuzz_targets".to_owned()),
        false => Ok(names),
    }
}
