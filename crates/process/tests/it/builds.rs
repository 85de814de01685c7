//! Programs built in other ways than this test is: without the constructor, with other profiles, linkers and models.
//!
//! They are built offline into `target/fixtures`, so that a second run finds them built. One lock keeps the builds of
//! tests that run side by side apart.

use procession_testkit::{command, watchdog};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What a build may take on a slow machine; a run takes no more than any test.
const BUILD: Duration = Duration::from_secs(400);
const RUN: Duration = Duration::from_secs(30);

/// What the program prints, however it was built.
const REPORT: &str = "\
spawn: 36 and 43
spawn: 3 96 7
spawn: cannot do 3 at true
spawn: Ok(8)
forkserver: 36 and 43
forkserver: 3 96 7
forkserver: cannot do 3 at true
forkserver: Ok(8)
fork: 36 and 43
fork: 3 96 7
fork: cannot do 3 at true
fork: Ok(8)
";

/// A way to build a program.
#[derive(Default)]
struct Build {
    /// The source in `tests/fixtures`.
    source: &'static str,
    /// Those that share a profile share the built dependencies.
    profile: &'static str,
    /// Without the library's constructor.
    no_constructor: bool,
    /// Flags of the compiler for the program itself.
    flags: &'static [&'static str],
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fixtures")
}

impl Build {
    /// The package's name tells the builds apart: for cargo the folder is none of a package's identity.
    fn manifest(&self, name: &str) -> String {
        let features = if self.no_constructor { "" } else { "\"auto-init\"" };
        format!(
            r#"
            [package]
            name = "{name}"
            edition = "2024"
            [workspace]
            [[bin]]
            name = "{name}"
            path = "main.rs"
            [dependencies]
            aa_constructor = {{ path = "aa_constructor" }}
            procession-process = {{ path = "{library}", default-features = false, features = [{features}] }}
            zz_constructor = {{ path = "zz_constructor" }}
            [profile.dev]
            debug = false
            [profile.aborting]
            inherits = "dev"
            panic = "abort"
            [profile.fat]
            inherits = "release"
            lto = "fat"
            codegen-units = 1
            "#,
            library = env!("CARGO_MANIFEST_DIR"),
        )
    }

    /// Writes the program's folder, without touching what is as it should be.
    fn write(&self, name: &str, folder: &Path) {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let source = |name: &str| fs::read_to_string(sources.join(name)).unwrap();
        let put = |name: &str, text: String| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
                fs::write(path, text).unwrap();
            }
        };
        put("Cargo.toml", self.manifest(name));
        put("main.rs", source(self.source));
        put("late.rs", source("late.rs"));
        for name in ["aa_constructor", "zz_constructor"] {
            let manifest =
                format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n");
            put(&format!("{name}/Cargo.toml"), manifest);
            put(&format!("{name}/lib.rs"), source("late.rs"));
        }
        // The versions of the workspace, which are on this machine.
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
        if !folder.join("Cargo.lock").exists() {
            fs::copy(lock, folder.join("Cargo.lock")).unwrap();
        }
    }

    /// Builds the program; its path, or what the compiler said.
    fn build(&self, name: &str) -> Result<PathBuf, String> {
        let fixtures = fixtures();
        let folder = fixtures.join(name);
        fs::create_dir_all(&fixtures).unwrap();
        let lock = fs::File::create(fixtures.join("lock")).unwrap();
        lock.lock().unwrap();
        self.write(name, &folder);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let profile = if self.profile.is_empty() { "dev" } else { self.profile };
        let mut command = Command::new(cargo);
        command.current_dir(&folder).args([
            "rustc",
            "--offline",
            "--quiet",
            "--color=never",
            "--profile",
            profile,
        ]);
        command.arg("--target-dir").arg(fixtures.join("target")).arg("--").args(self.flags);
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        let built = command::run(command, BUILD).unwrap();
        if !built.status.success() {
            return Err(format!("{}\n{}", built.output, built.overdue.unwrap_or_default()));
        }
        let output = if profile == "dev" { "debug" } else { profile };
        Ok(fixtures.join("target").join(output).join(name))
    }

    #[track_caller]
    fn run(&self, name: &str, argument: &str) -> command::Finished {
        let program = match self.build(name) {
            Ok(program) => program,
            Err(error) => panic!("failed to build `{name}`: {error}"),
        };
        let mut command = Command::new(program);
        command.arg(argument);
        command::run(command, RUN).unwrap()
    }

    #[track_caller]
    fn assert_reports(&self, name: &str) {
        let finished = self.run(name, "report");
        assert_eq!(finished.output, REPORT, "{}\n{}", finished.status, finished.overdue.unwrap_or_default());
        assert!(finished.status.success());
    }
}

const PROGRAM: Build = Build { source: "program.rs", profile: "", no_constructor: false, flags: &[] };

#[test]
fn without_the_constructor_a_call_of_init_does_its_work() {
    let _watchdog = watchdog!(BUILD);
    Build { no_constructor: true, ..PROGRAM }.assert_reports("fixture-no-constructor");
}

#[test]
fn a_child_that_was_not_initialised_starts_no_child_in_turn() {
    let _watchdog = watchdog!(BUILD);
    let finished = Build { no_constructor: true, ..PROGRAM }.run("fixture-no-constructor", "late-init");
    let (told, started) = finished.output.split_once('\n').unwrap();
    assert!(told.starts_with("refused: failed to start a process: this process is itself a child"), "{told}");
    assert!(told.contains("call `procession::init()` first in `main`"), "{told}");
    assert!(started.starts_with("started: process `Process-1` (pid "), "{started}");
    assert!(started.ends_with("exited with status 3 before its function had returned\n"), "{started}");
}

#[test]
fn a_program_that_never_looked_whether_it_is_a_child_starts_none() {
    let _watchdog = watchdog!(BUILD);
    let finished = Build { no_constructor: true, ..PROGRAM }.run("fixture-no-constructor", "no-init");
    assert!(
        finished.output.starts_with("refused: failed to start a process: its child could not be caught"),
        "{}",
        finished.output
    );
    assert_eq!(finished.output.lines().count(), 1, "{}", finished.output);
}

#[test]
fn a_panic_that_aborts_arrives_with_message_and_location() {
    let _watchdog = watchdog!(BUILD);
    Build { profile: "aborting", ..PROGRAM }.assert_reports("fixture-aborting");
}

#[test]
fn fat_link_time_optimisation_and_stripping_change_nothing() {
    let _watchdog = watchdog!(BUILD);
    Build { profile: "fat", flags: &["-Cstrip=symbols"], ..PROGRAM }.assert_reports("fixture-fat");
}

#[test]
fn a_program_at_a_fixed_address_works() {
    let _watchdog = watchdog!(BUILD);
    Build { flags: &["-Crelocation-model=static"], ..PROGRAM }.assert_reports("fixture-static");
}

#[test]
fn functions_folded_by_the_linker_work() {
    let _watchdog = watchdog!(BUILD);
    let folded = Build { flags: &["-Copt-level=1", "-Clink-arg=-Wl,--icf=all"], ..PROGRAM };
    match folded.build("fixture-folded") {
        Err(error) if error.contains("icf") => println!("skipped: the linker cannot fold functions: {error}"),
        _ => folded.assert_reports("fixture-folded"),
    }
}

#[test]
fn constructors_of_other_crates_run_once_in_every_process() {
    let _watchdog = watchdog!(BUILD);
    let finished = Build { source: "constructors.rs", ..PROGRAM }.run("fixture-constructors", "");
    assert!(finished.status.success(), "{}", finished.output);
    let mut lines = finished.output.lines();
    assert_eq!(lines.next().unwrap(), "main: [[1, 0], [1, 0], [1, 0]]");
    // Those that have seen the marker ran before the library's constructor, the others after it.
    let spawned = lines.next().unwrap();
    assert_eq!(spawned.matches("[1, ").count(), 3, "{spawned}");
    assert!(spawned.contains("[1, 0]"), "no constructor is linked after the library's: {spawned}");
    for method in ["forkserver", "fork"] {
        let line = lines.next().unwrap();
        assert!(line.starts_with(method), "{line}");
        assert_eq!(line.matches("[1, ").count(), 3, "{line}");
    }
}

#[test]
fn a_closure_that_captures_does_not_compile() {
    let _watchdog = watchdog!(BUILD);
    let error = Build { source: "captures.rs", ..PROGRAM }.build("fixture-captures").unwrap_err();
    assert!(error.contains("error[E0308]: mismatched types"), "{error}");
    assert!(error.contains("`factor` captured here"), "{error}");
}
