//! `cargo xtask ci`: exactly what CI runs, step by step.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::leftovers::Before;
use crate::shell::Step;
use crate::workspace::{Example, Package, packages};
use crate::{Outcome, crash, root, workspace};

const HELP: &str = "\
Runs everything that CI runs, and stops at the first step that fails.

Usage: cargo xtask ci [OPTION…]

  --before FILE       write down in FILE what is there now, and run nothing
  --after-tests FILE  leave out the README's test command: it ran since FILE was written; what it left behind counts
  --quiet             what the steps print goes to target/ci/steps, and here only the last of it where one fails
  --only PATTERN      only steps whose name contains PATTERN
  --list              print the steps and their commands, run nothing

After the steps: no process of the run may be left, nothing in /dev/shm, no temporary file.
An example tells in its source how to run it and what it prints: `// ci: ARGUMENTS => FRAGMENT`.";

const TESTS: &str = "tests";
/// An example that takes longer, its compilation included, hangs.
const EXAMPLE_SECONDS: u32 = 300;
/// The same for the README's other command, in release.
const README_SECONDS: u32 = 900;

/// Runs the command.
///
/// # Errors
///
/// The first step that failed, and the line to run it by hand; or what the run left behind.
pub fn run(args: &[String]) -> Outcome {
    let mut after_tests = None;
    let mut quiet = false;
    let mut list = false;
    let mut only = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--before" => return Before::write(args.next().ok_or("--before needs a file")?),
            "--after-tests" => after_tests = Some(args.next().ok_or("--after-tests needs a file")?),
            "--quiet" => quiet = true,
            "--list" => list = true,
            "--only" => only = Some(args.next().ok_or("--only needs a pattern")?.clone()),
            other => return Err(format!("unknown option `{other}`; see `cargo xtask ci --help`")),
        }
    }
    let mut steps = steps()?;
    steps.retain(|step| !(after_tests.is_some() && step.name == TESTS));
    steps.retain(|step| only.as_ref().is_none_or(|pattern| step.name.contains(pattern.as_str())));
    if list {
        for step in &steps {
            println!("{:32} {}", step.name, step.by_hand());
        }
        return Ok(());
    }
    let started = Instant::now();
    let before = after_tests.map_or_else(Before::take, |file| Before::since(file))?;
    let logs = workspace::target().join("ci/steps");
    if quiet {
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs)
            .map_err(|error| format!("failed to make folder `{}`: {error}", logs.display()))?;
    }
    for (index, step) in steps.iter().enumerate() {
        if quiet {
            step.run_quietly(before.temp(), &logs.join(format!("{:03}.log", index + 1)))?;
        } else {
            eprintln!("xtask: [{}/{}] {}: {}", index + 1, steps.len(), step.name, step.by_hand());
            step.run(before.temp())?;
        }
    }
    before.check()?;
    eprintln!(
        "xtask: ci passed, {} steps in {:.0} s, nothing left behind",
        steps.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A command that runs a part of this: `--only PATTERN`, `--list` and `--help`.
///
/// # Errors
///
/// The first step that failed, and the line to run it by hand; or what the run left behind; or that no step has such a name.
pub(crate) fn run_some(command: &str, help: &str, args: &[String], mut steps: Vec<Step>) -> Outcome {
    let mut list = false;
    let mut only = String::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{help}");
                return Ok(());
            }
            "--list" => list = true,
            "--only" => only = args.next().ok_or("--only needs a pattern")?.clone(),
            other => return Err(format!("unknown option `{other}`; see `cargo xtask {command} --help`")),
        }
    }
    steps.retain(|step| step.name.contains(&only));
    if steps.is_empty() {
        return Err("no step has a name like that; --list prints them".into());
    }
    if list {
        steps.iter().for_each(|step| println!("{:40} {}", step.name, step.by_hand()));
        return Ok(());
    }
    let before = Before::take()?;
    for step in &steps {
        eprintln!("xtask: {}: {}", step.name, step.by_hand());
        step.run(before.temp())?;
    }
    before.check()
}

fn steps() -> Result<Vec<Step>, String> {
    let packages = packages()?;
    let mut steps = vec![
        Step::cargo("fmt", "fmt --all --check"),
        Step::cargo("tidy", "xtask tidy"),
        Step::cargo("clippy", "clippy --workspace --all-targets --all-features -- -D warnings"),
        Step::cargo(TESTS, "test --workspace"),
        Step::cargo("tests, all features", "test --workspace --all-features"),
        Step::cargo("docs", "doc --workspace --no-deps --all-features").env("RUSTDOCFLAGS", "-Dwarnings"),
    ];
    steps.extend(packages.iter().filter(|package| package.published && package.has_lib).flat_map(alone));
    steps.push(Step::cargo("readme", "run --release --example wordcount").at_most(README_SECONDS));
    for package in &packages {
        for example in &package.examples {
            steps.extend(example_steps(package, example)?);
        }
    }
    steps.extend(packages.iter().filter_map(loom));
    steps.extend(packages.iter().filter_map(shuttle));
    steps.extend(packages.iter().filter_map(crash_points));
    steps.extend(packages.iter().filter_map(lock_steps));
    steps.push(Step::cargo("package", "package --workspace --no-verify --offline --allow-dirty --quiet"));
    steps.extend(least_version()?);
    if answers("cargo", &["deny", "--version"]) {
        steps.push(Step::cargo("deny", "deny --offline check bans licenses sources"));
    }
    steps.extend(breaking_changes());
    steps.push(Step::cargo("newcomer", "xtask newcomer"));
    steps.push(Step::cargo("bench", "xtask bench --quick"));
    Ok(steps)
}

/// The least Rust version that the manifests state, where it is not the one that everything else here is built with, and
/// rustup has it.
fn least_version() -> Result<Option<Step>, String> {
    let least = workspace::rust_version()?;
    let current =
        Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    if String::from_utf8_lossy(&current).starts_with(&format!("rustc {least}.")) {
        return Ok(None);
    }
    if !answers("cargo", &[&format!("+{least}"), "--version"]) {
        eprintln!("xtask: Rust {least}, the least that the manifests take, is not installed: not checked");
        return Ok(None);
    }
    let line = format!("+{least} check --workspace --all-targets --all-features");
    Ok(Some(Step::cargo("least Rust version", &line).env("CARGO_TARGET_DIR", &folder("least"))))
}

/// What breaks users of the last published version, which has a tag; where the tool for that is installed.
fn breaking_changes() -> Option<Step> {
    if !answers("cargo", &["semver-checks", "--version"]) {
        return None;
    }
    let tag =
        Command::new("git").args(["describe", "--tags", "--abbrev=0", "--match", "v*"]).output().ok()?;
    let tag = String::from_utf8(tag.stdout).ok().filter(|_| tag.status.success())?;
    let line = format!("semver-checks --workspace --baseline-rev {}", tag.trim());
    Some(Step::cargo("breaking changes", &line).env("CARGO_TARGET_DIR", &folder("semver")))
}

/// Whether a program is there and knows that.
fn answers(program: &str, args: &[&str]) -> bool {
    let command = Command::new(program).args(args).stdin(Stdio::null()).output();
    command.is_ok_and(|output| output.status.success())
}

/// A crate by itself: without default features, and with each feature alone. Clippy, since it keeps warnings to the
/// crate itself and shares what `check` compiled.
fn alone(package: &Package) -> Vec<Step> {
    let name = &package.name;
    let bare = format!("clippy -p {name} --lib --no-default-features");
    let mut steps = vec![Step::cargo(format!("{name}, no features"), &format!("{bare} -- -D warnings"))];
    for feature in &package.features {
        let line = format!("{bare} --features {feature} -- -D warnings");
        steps.push(Step::cargo(format!("{name}, feature {feature}"), &line));
    }
    steps
}

/// One step per `// ci: ARGUMENTS => FRAGMENT` line of the example; without one it must end well.
fn example_steps(package: &Package, example: &Example) -> Result<Vec<Step>, String> {
    let source = fs::read_to_string(&example.source)
        .map_err(|error| format!("failed to read `{}`: {error}", example.source.display()))?;
    let base = format!("run --quiet -p {} --all-features --example {}", package.name, example.name);
    let name = format!("example {}", example.name);
    let mut steps: Vec<Step> = source
        .lines()
        .filter_map(|line| line.strip_prefix("// ci:"))
        .map(|line| {
            let (arguments, fragment) = line.split_once("=>").unwrap_or((line, ""));
            Step::cargo(&name, &format!("{base} -- {arguments}"))
                .at_most(EXAMPLE_SECONDS)
                .expecting(fragment.trim())
        })
        .collect();
    if steps.is_empty() {
        steps.push(Step::cargo(name, &base).at_most(EXAMPLE_SECONDS));
    }
    Ok(steps)
}

/// The models of a crate that has some: in tests whose names start so, or among its unit tests.
pub(crate) fn loom(package: &Package) -> Option<Step> {
    let mut places: Vec<String> = test_files(package)
        .filter(|name| name.starts_with("loom"))
        .map(|name| format!("--test {name}"))
        .collect();
    if places.is_empty() {
        if !contains(package, "loom::model") {
            return None;
        }
        places.push("--lib".to_owned());
    }
    let step = Step::cargo(
        format!("{}, loom", package.name),
        &format!("test --release -p {} {}", package.name, places.join(" ")),
    );
    package.published.then(|| step.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", &folder("loom")))
}

/// What runs under random schedules: in tests whose names start so.
pub(crate) fn shuttle(package: &Package) -> Option<Step> {
    let places: Vec<String> = test_files(package)
        .filter(|name| name.starts_with("shuttle"))
        .map(|name| format!("--test {name}"))
        .collect();
    let line = format!("test --release -p {} {}", package.name, places.join(" "));
    (package.published && !places.is_empty()).then(|| {
        Step::cargo(format!("{}, shuttle", package.name), &line)
            .env("RUSTFLAGS", "--cfg shuttle")
            .env("CARGO_TARGET_DIR", &folder("shuttle"))
    })
}

/// The tests that die at crash points, of a crate that has some, with the points switched on. They are in modules named
/// after that; all others run without.
pub(crate) fn crash_points(package: &Package) -> Option<Step> {
    // `sys` only defines the macro.
    let has_points = package.published
        && package.folder != root().join("crates/sys")
        && contains(package, concat!("crash_", "point!("));
    has_points.then(|| {
        Step::cargo(
            format!("{}, crash points", package.name),
            &format!("test -p {} --test it -- crash", package.name),
        )
        .env("RUSTFLAGS", "--cfg crash_points")
        .env("CARGO_TARGET_DIR", &folder("crash"))
    })
}

/// The lock, killed after each of its instructions; `cargo xtask crash` has the others.
fn lock_steps(package: &Package) -> Option<Step> {
    let is_its = package.folder == root().join("crates/sync");
    is_its.then(|| crash::steps(package, "the lock's instructions", "steps::"))
}

/// The names of the test files of a package, without their ending.
pub(crate) fn test_files(package: &Package) -> impl Iterator<Item = String> {
    let files = workspace::files(&package.folder.join("tests"), &[".rs"]);
    files.into_iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
}

/// A folder for builds with other flags. In full: a test that compiles runs in its package's folder, and would make one
/// there.
fn folder(name: &str) -> String {
    root().join("target").join(name).display().to_string()
}

/// Whether a source file of the package contains that.
pub(crate) fn contains(package: &Package, text: &str) -> bool {
    let sources = workspace::files(&package.folder.join("src"), &[".rs"]);
    sources.iter().filter_map(|path| fs::read_to_string(path).ok()).any(|source| source.contains(text))
}
