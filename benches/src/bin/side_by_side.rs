//! The runner behind `cargo xtask bench`.

use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use procession_benches::areas;
use procession_benches::check::Verdict;
use procession_benches::machine::Machine;
use procession_benches::peers::cpython::{self, Python};
use procession_benches::peers::procspawn;
use procession_benches::report::{Report, human};
use procession_benches::runner::{Measured, Pace, measure};
use procession_benches::scenario::{Scenario, Surroundings};

/// A scenario that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    procspawn::init();
    match Options::read(std::env::args().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    quick: bool,
    check: bool,
    list: bool,
    only: Option<String>,
    output: PathBuf,
    scripts: PathBuf,
    /// Measure this one scenario in this process and print the outcome, with these CPythons.
    one: Option<(String, String)>,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
        let mut options =
            Options { output: "target/bench".into(), scripts: "xtask/peers".into(), ..Options::default() };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--check" => options.check = true,
                "--list" => options.list = true,
                "--only" => options.only = Some(value()?),
                "--output" => options.output = value()?.into(),
                "--scripts" => options.scripts = value()?.into(),
                "--one" => options.one = Some((value()?, value()?)),
                other => {
                    return Err(format!("unknown option `{other}`; see `cargo xtask bench --help`").into());
                }
            }
        }
        Ok(options)
    }
}

/// Whether all is well.
fn run(options: Options) -> Result<bool, Box<dyn Error>> {
    let mut scenarios = areas::all();
    if let Some((id, pythons)) = options.one {
        let scenario = scenarios.iter().find(|scenario| scenario.id == id).ok_or("no such scenario")?;
        let pace = if options.quick { Pace::QUICK } else { Pace::FULL };
        let pythons = serde_json::from_str(&pythons)?;
        let surroundings = Surroundings { pythons, scripts: options.scripts, quick: options.quick };
        println!("{}", serde_json::to_string(&measure(scenario, &surroundings, pace))?);
        return Ok(true);
    }
    scenarios.retain(|scenario| {
        options.only.as_ref().is_none_or(|pattern| scenario.id.contains(pattern.as_str()))
    });
    if options.list {
        for scenario in &scenarios {
            println!("{:34} {}", scenario.id, scenario.goal.text);
        }
        return Ok(true);
    }
    if scenarios.is_empty() {
        return Err("no measurement has an id like that; --list prints them".into());
    }
    let mut pythons = cpython::find();
    if options.quick {
        pythons.drain(..pythons.len().saturating_sub(1));
    }
    let mode = if options.quick { "quick" } else { "full" };
    let mut report = Report { machine: Machine::look(&pythons, mode), results: Vec::new() };
    let (mut verdict, start) = (Verdict::default(), Instant::now());
    for (index, scenario) in scenarios.iter().enumerate() {
        eprint!("bench: [{}/{}] {} …", index + 1, scenarios.len(), scenario.id);
        let measured = in_own_process(scenario, options.quick, &pythons, &options.scripts)
            .unwrap_or_else(|error| Measured::failed(error.to_string()));
        let ours = measured.ours.map_or("—".to_owned(), |own| human(own.median, scenario.unit.name()));
        let missed = if measured.ours.is_some() && !measured.met { " (goal missed)" } else { "" };
        eprintln!(" {ours}{missed}; {} s so far", start.elapsed().as_secs());
        verdict.add(scenario.id, &measured);
        report.add(scenario, measured);
    }
    report.write(&options.output)?;
    eprintln!("bench: wrote {}/report.{{json,md,html}}", options.output.display());
    for line in verdict.lines() {
        eprintln!("bench: {line}");
    }
    Ok(verdict.is_good(options.check))
}

/// A process for each scenario: its threads, heap, affinity and helpers end with it.
fn in_own_process(
    scenario: &Scenario,
    quick: bool,
    pythons: &[Python],
    scripts: &Path,
) -> Result<Measured, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--one").arg(scenario.id).arg(serde_json::to_string(pythons)?).arg("--scripts").arg(scripts);
    if quick {
        command.arg("--quick");
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                return Err(format!("took more than {} s", PATIENCE.as_secs()).into());
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if !status.success() {
        return Err(format!("its process ended with {status}").into());
    }
    // One line, far below what a pipe holds.
    let mut line = String::new();
    child.stdout.take().ok_or("no pipe")?.read_to_string(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
