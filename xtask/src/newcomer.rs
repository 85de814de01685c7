//! `cargo xtask newcomer`: what a reader of the guide does, outside of the workspace.
//!
//! The guide's text decides: each of its manifests is a package, the programs that follow belong to it, and the block of
//! text after a program is what it prints.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::workspace::target;
use crate::{Outcome, root};

const HELP: &str = "\
Builds and runs the programs of docs/guide.md and README.md in a temporary folder, as a reader would, and compares
what they print with what the guide says.

Usage: cargo xtask newcomer [OPTION…]

  --keep  leave the folder, and tell where it is

The guide's manifests name this repository as `../procession`. Nothing is downloaded.";

/// How the guide's manifests name this repository.
const HERE: &str = "../procession/";
/// A program that takes longer hangs.
const PROGRAM_SECONDS: &str = "60";

/// A package of the guide: a manifest, and the programs that follow it.
struct Tour {
    manifest: String,
    programs: Vec<Program>,
}

/// A program, named after its section, and what it prints as far as the text tells.
struct Program {
    name: String,
    source: String,
    prints: Option<String>,
}

/// Runs the command.
///
/// # Errors
///
/// A package that cannot be built, a program that fails or prints something else.
pub fn run(args: &[String]) -> Outcome {
    let mut keep = false;
    for arg in args {
        match arg.as_str() {
            "--help" | "-h" => {
                println!("{HELP}");
                return Ok(());
            }
            "--keep" => keep = true,
            other => return Err(format!("unknown option `{other}`; see `cargo xtask newcomer --help`")),
        }
    }
    let mut tours = tours("", &read("docs/guide.md")?);
    let first = tours.first_mut().ok_or("docs/guide.md has no manifest")?;
    let readme = read("README.md")?;
    first.programs.extend(programs("readme", &readme));
    let folder = std::env::temp_dir().join(format!("procession-newcomer-{}", std::process::id()));
    let outcome = tours.iter().enumerate().try_for_each(|(index, tour)| {
        tour.try_out(&folder.join(format!("package-{}", index + 1)))
            .map_err(|error| format!("newcomer: {error}"))
    });
    match keep {
        true => eprintln!("xtask: the packages are in {}", folder.display()),
        false => drop(fs::remove_dir_all(&folder)),
    }
    outcome
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("failed to read `{path}`: {error}"))
}

/// The packages of a page.
fn tours(prefix: &str, page: &str) -> Vec<Tour> {
    let mut tours = Vec::new();
    for part in page.split("```toml\n").skip(1) {
        let Some((manifest, rest)) = part.split_once("```") else { continue };
        tours.push(Tour { manifest: manifest.to_owned(), programs: programs(prefix, rest) });
    }
    tours
}

/// The programs of a text, each with the block of text that follows it before the next program.
fn programs(prefix: &str, page: &str) -> Vec<Program> {
    let mut programs: Vec<Program> = Vec::new();
    let mut section = prefix.to_owned();
    let mut block: Option<(&str, String)> = None;
    for line in page.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(kind)) => block = Some((kind, String::new())),
            (None, None) => {
                if let Some(heading) = line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")) {
                    section = heading.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "_");
                }
            }
            (Some((_, text)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (Some((kind, text)), Some(_)) => {
                let text = std::mem::take(text);
                if *kind == "rust" && text.contains("fn main()") {
                    let number = programs.len() + 1;
                    let name = format!("p{number:02}_{section}").trim_end_matches('_').to_owned();
                    programs.push(Program { name, source: text, prints: None });
                } else if let ("text", Some(last)) = (*kind, programs.last_mut()) {
                    last.prints.get_or_insert(text);
                }
                block = None;
            }
        }
    }
    programs
}

impl Tour {
    fn try_out(&self, folder: &Path) -> Outcome {
        let failed = |error: std::io::Error| format!("failed to write `{}`: {error}", folder.display());
        fs::create_dir_all(folder.join("src/bin")).map_err(failed)?;
        let package = "[package]\nname = \"tour\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n";
        let package = if self.manifest.contains("[package]") { "" } else { package };
        let manifest = package.to_owned() + &self.manifest.replace(HERE, &format!("{}/", root().display()));
        fs::write(folder.join("Cargo.toml"), manifest).map_err(failed)?;
        // The versions that were tested, so that nothing has to be asked for.
        fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).map_err(failed)?;
        for program in &self.programs {
            fs::write(folder.join(format!("src/bin/{}.rs", program.name)), &program.source)
                .map_err(failed)?;
        }
        let target = target().join("newcomer");
        eprintln!("xtask: {} programs in {}", self.programs.len(), folder.display());
        let build = Command::new("cargo")
            .args(["build", "--offline", "--quiet"])
            .env("CARGO_TARGET_DIR", &target)
            .current_dir(folder)
            .status();
        match build {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("its programs do not compile ({status})")),
            Err(error) => return Err(format!("failed to run cargo: {error}")),
        }
        self.programs.iter().try_for_each(|program| program.run(target.join("debug").join(&program.name)))
    }
}

impl Program {
    fn run(&self, file: PathBuf) -> Outcome {
        let output = Command::new("timeout")
            .env_remove("RUST_BACKTRACE")
            .args(["--kill-after=5", PROGRAM_SECONDS])
            .arg(file)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("failed to run `{}`: {error}", self.name))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("`{}` ended with {}, after:\n{printed}", self.name, output.status));
        }
        match &self.prints {
            Some(said) if *said != printed => {
                Err(format!("`{}` prints:\n{printed}but the text says:\n{said}", self.name))
            }
            said => {
                let prints = if said.is_some() { "prints what the text says" } else { "runs" };
                eprintln!("xtask: {} {prints}", self.name);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_packages_with_programs_and_what_they_print() {
        let page = "```rust\nfn main() {}\n```\n## One, two\n```toml\n[dependencies]\n```\n### The first\n\
                    ```rust\nfn main() { println!(\"1\") }\n```\nIt prints:\n```text\n1\n```\n```text\n2\n```\n\
                    ```rust\nlet fragment = 1;\n```\n```toml\n[package]\n```\n```rust\nfn main() {}\n```\n";
        let tours = tours("", page);
        assert_eq!(tours.len(), 2);
        let [program] = &tours[0].programs[..] else { panic!("one program") };
        assert_eq!((program.name.as_str(), program.prints.as_deref()), ("p01_the_first", Some("1\n")));
        assert_eq!(tours[1].programs.len(), 1);
        assert!(tours[1].programs[0].prints.is_none());
    }
}
