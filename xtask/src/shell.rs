//! Steps: commands with a name, an environment and a clock.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::{Outcome, root};

/// One command of a run.
pub(crate) struct Step {
    pub(crate) name: String,
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    expected: Option<String>,
}

impl Step {
    /// A `cargo` command; `line` is split at spaces.
    pub(crate) fn cargo(name: impl Into<String>, line: &str) -> Step {
        Step {
            name: name.into(),
            program: "cargo".to_owned(),
            args: line.split_whitespace().map(str::to_owned).collect(),
            env: Vec::new(),
            expected: None,
        }
    }

    /// A program by its path.
    pub(crate) fn program(name: impl Into<String>, program: &Path) -> Step {
        let program = program.display().to_string();
        Step { name: name.into(), program, args: Vec::new(), env: Vec::new(), expected: None }
    }

    /// One more argument, as it is.
    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Step {
        self.args.push(arg.into());
        self
    }

    /// Sets a variable for this command.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Step {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Kills the command and all that it started after so many seconds, through coreutils' `timeout`.
    pub(crate) fn at_most(mut self, seconds: u32) -> Step {
        let program = std::mem::replace(&mut self.program, "timeout".to_owned());
        self.args.splice(0..0, ["--kill-after=5".to_owned(), seconds.to_string(), program]);
        self
    }

    /// Asks that the command's standard output contains `fragment`.
    pub(crate) fn expecting(mut self, fragment: &str) -> Step {
        self.expected = Some(fragment.to_owned());
        self
    }

    /// The line to type to run this step by hand.
    pub(crate) fn by_hand(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.env {
            line += &format!("{name}={} ", quoted(value));
        }
        line += &self.program;
        for arg in &self.args {
            line += " ";
            line += &quoted(arg);
        }
        line
    }

    /// Runs it with `temp` as its folder for temporary files; its output goes to the user, its input is empty.
    pub(crate) fn run(&self, temp: &Path) -> Outcome {
        let started = Instant::now();
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(root()).stdin(Stdio::null()).env("TMPDIR", temp);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let result = match &self.expected {
            None => command.status().map(|status| (status, None)),
            Some(_) => command
                .stderr(Stdio::inherit())
                .output()
                .map(|output| (output.status, Some(String::from_utf8_lossy(&output.stdout).into_owned()))),
        };
        let seconds = started.elapsed().as_secs_f64();
        let (status, output) =
            result.map_err(|error| format!("failed to run `{}`: {error}", self.by_hand()))?;
        if !status.success() {
            return Err(format!(
                "step `{}` failed after {seconds:.0} s ({status}); by hand: {}",
                self.name,
                self.by_hand()
            ));
        }
        if let (Some(expected), Some(output)) = (&self.expected, &output)
            && !output.contains(expected.as_str())
        {
            return Err(format!(
                "step `{}` did not print `{expected}` but:\n{output}by hand: {}",
                self.name,
                self.by_hand()
            ));
        }
        eprintln!("xtask: {} took {seconds:.1} s", self.name);
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{text}'") }
}
