//! Data processing: many real files by many processes, with its progress on the terminal, and the outcome as JSON.
//!
//! Python: `for result in pool.imap_unordered(count, files):`, with `tqdm` around it for the progress.
//!
//! The files are the sources of the crates that cargo has downloaded for this build, which every machine has that can build
//! it. What is counted: how much of each crate is code, comment and nothing.
//!
//! ```sh
//! cargo run --release --example sources                         # target/sources.json
//! cargo run --release --example sources -- /tmp/sources.json
//! ```
// ci: target/sources-ci.json => wrote target/sources-ci.json

use procession::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    ops::AddAssign,
    path::{Path, PathBuf},
};

/// Enough to see it work.
const MOST_FILES: usize = 1500;

/// What crosses the process border and what becomes JSON is the same type: both go by serde.
#[derive(Serialize, Deserialize, Default, Clone, Copy, PartialEq, Debug)]
struct Lines {
    files: u64,
    code: u64,
    comment: u64,
    empty: u64,
}

impl AddAssign for Lines {
    fn add_assign(&mut self, other: Lines) {
        self.files += other.files;
        self.code += other.code;
        self.comment += other.comment;
        self.empty += other.empty;
    }
}

/// Runs in a worker: one file.
fn count(path: PathBuf) -> std::io::Result<(String, Lines)> {
    let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    let mut lines = Lines { files: 1, ..Lines::default() };
    for line in text.lines().map(str::trim) {
        match line {
            "" => lines.empty += 1,
            line if line.starts_with("//") => lines.comment += 1,
            _ => lines.code += 1,
        }
    }
    // The folder below `registry/src/INDEX/` is the crate with its version.
    let mut parts = path.iter().skip_while(|part| *part != "registry").skip(3);
    Ok((parts.next().unwrap_or_default().to_string_lossy().into_owned(), lines))
}

/// The Rust sources below a folder, until there are enough.
fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if found.len() >= MOST_FILES {
            return;
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let report = std::env::args_os().nth(1).map_or("target/sources.json".into(), PathBuf::from);
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or(std::env::home_dir().map(|home| home.join(".cargo")));
    let mut files = Vec::new();
    find(&home.ok_or("there is no home")?.join("registry/src"), &mut files);
    let total = files.len();

    let pool = Pool::new(cpu_count())?;
    let mut crates: BTreeMap<String, Lines> = BTreeMap::new();
    // As results come, in whatever order. On a terminal the progress is a bar, elsewhere a line now and then.
    let count = |path| count(path).map_err(|error| error.to_string());
    for result in pool.tasks(count, files).progress("files").unordered() {
        // The task's error, and the function's.
        let (name, lines) = result??;
        *crates.entry(name).or_default() += lines;
    }
    pool.join();

    if let Some(folder) = report.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&report, serde_json::to_string_pretty(&crates)?)?;
    let read: BTreeMap<String, Lines> = serde_json::from_str(&fs::read_to_string(&report)?)?;
    assert_eq!(read, crates);
    assert_eq!(read.values().map(|lines| lines.files).sum::<u64>(), total as u64);
    println!("wrote {}: {total} files of {} crates", report.display(), read.len());
    Ok(())
}
