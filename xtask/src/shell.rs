//! Steps: commands with a name, an environment and a clock.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
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
        let mut command = self.command(temp);
        let started = Instant::now();
        let (status, output) = match &self.expected {
            None => command.status().map(|status| (status, String::new())),
            Some(_) => command
                .stderr(Stdio::inherit())
                .output()
                .map(|output| (output.status, String::from_utf8_lossy(&output.stdout).into_owned())),
        }
        .map_err(|error| format!("failed to run `{}`: {error}", self.by_hand()))?;
        self.judge(status, &output, started).inspect_err(|_| eprint!("{output}"))
    }

    /// The same, but what it prints goes to the file `log`, and the user sees only the last of it, and only if it fails.
    pub(crate) fn run_quietly(&self, temp: &Path, log: &Path) -> Outcome {
        // Of what is expected on standard output nothing may come from the other one.
        let stderr_log = log.with_extension("stderr.log");
        let make = || -> std::io::Result<(File, File)> {
            let stdout = File::create(log)?;
            let stderr =
                if self.expected.is_some() { File::create(&stderr_log)? } else { stdout.try_clone()? };
            Ok((stdout, stderr))
        };
        let (stdout, stderr) =
            make().map_err(|error| format!("failed to make `{}`: {error}", log.display()))?;
        eprintln!("xtask: {} …", self.name);
        let started = Instant::now();
        let status = self.command(temp).stdout(stdout).stderr(stderr).status();
        let status = status.map_err(|error| format!("failed to run `{}`: {error}", self.by_hand()))?;
        let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let output = read(log).map_err(|error| format!("failed to read `{}`: {error}", log.display()))?;
        self.judge(status, &output, started).inspect_err(|_| {
            let stderr = self.expected.as_ref().and_then(|_| read(&stderr_log).ok());
            eprint!("{}{}", last_of(&stderr.unwrap_or_default()), last_of(&output));
        })
    }

    fn command(&self, temp: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).current_dir(root()).stdin(Stdio::null()).env("TMPDIR", temp);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn judge(&self, status: ExitStatus, output: &str, started: Instant) -> Outcome {
        let seconds = started.elapsed().as_secs_f64();
        if !status.success() {
            return Err(format!(
                "step `{}` failed after {seconds:.0} s ({status}); by hand: {}",
                self.name,
                self.by_hand()
            ));
        }
        if let Some(expected) = &self.expected
            && !output.contains(expected.as_str())
        {
            return Err(format!(
                "step `{}` did not print `{expected}`; by hand: {}",
                self.name,
                self.by_hand()
            ));
        }
        eprintln!("xtask: {} took {seconds:.1} s", self.name);
        Ok(())
    }
}

/// The last lines of a long output, which say why it failed; and before them those further up that may.
fn last_of(output: &str) -> String {
    const LINES: usize = 80;
    const MARKS: [&str; 5] = ["panicked at", "watchdog: ", "FAILED", "error: ", "error["];
    let lines: Vec<&str> = output.lines().collect();
    let (above, last) = lines.split_at(lines.len().saturating_sub(LINES));
    let marked = above.iter().filter(|line| MARKS.iter().any(|mark| line.contains(mark)));
    let mut shown: Vec<&str> = marked.copied().collect();
    shown.drain(..shown.len().saturating_sub(LINES / 4));
    if !above.is_empty() {
        shown.push("[…]");
    }
    shown.extend(last);
    shown.iter().map(|line| format!("{line}\n")).collect()
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{text}'") }
}

#[cfg(test)]
mod tests {
    use super::last_of;

    #[test]
    fn of_a_long_output_the_end_is_shown_and_what_looks_like_the_cause() {
        let long: String = (0..200).map(|n| format!("line {n}\n")).collect();
        assert_eq!(last_of("one\ntwo"), "one\ntwo\n");
        let shown = last_of(&format!("thread 'x' panicked at y\n{long}"));
        assert!(
            shown.starts_with("thread 'x' panicked at y\n[…]\nline 120\n") && shown.ends_with("line 199\n")
        );
    }
}
