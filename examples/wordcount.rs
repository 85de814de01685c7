//! Counts the words of all text files under some folders, in parallel processes.
//!
//! Python: `for counts in pool.imap_unordered(count, batches): total.update(counts)`, with a `Counter`.
//!
//!     cargo run --release --example wordcount -- [OPTIONS] [PATH…]
//!
//! Without a path it counts the Rust documentation (or sources) that came with the toolchain. `--help` lists the options.

use procession::{
    Pool, cpu_count,
    process::{Interrupts, interrupted},
};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::HashMap,
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

const HELP: &str = "\
usage: wordcount [--workers N] [--compare] [--kill-one] [PATH…]
  --workers N   how many processes count (default: one per processor)
  --compare     count again in this process alone, and compare times and results
  --kill-one    kill a worker in mid-run: its work is done again, and the counts stay right";

/// Files are counted in batches of about so many bytes: large enough that a batch is worth its way to a worker,
/// small enough that all workers end at the same time.
const BATCH_BYTES: u64 = 4 << 20;

/// What counting some files comes to. It is what a worker sends back, so it must be serialisable.
#[derive(Serialize, Deserialize, Default, PartialEq)]
struct Counts {
    words: HashMap<String, u64>,
    files: u64,
    /// Of all files that were read.
    bytes: u64,
    /// Files that are not text.
    others: u64,
    /// Files that could not be read, and why.
    failed: Vec<(PathBuf, String)>,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        for (word, count) in other.words {
            *self.words.entry(word).or_default() += count;
        }
        self.files += other.files;
        self.bytes += other.bytes;
        self.others += other.others;
        self.failed.extend(other.failed);
    }
}

/// The work of a worker: an ordinary function. It runs in another process, so it gets all it needs as an argument.
fn count(paths: Vec<PathBuf>) -> Counts {
    let mut counts = Counts::default();
    for path in paths {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                counts.failed.push((path, error.to_string()));
                continue;
            }
        };
        counts.bytes += bytes.len() as u64;
        let html = path.extension().is_some_and(|ending| ending == "html");
        match str::from_utf8(&bytes) {
            Ok(text) if html => {
                counts.files += 1;
                visible(text).for_each(|part| count_words(part, &mut counts.words));
            }
            Ok(text) if has_lines(text) => {
                counts.files += 1;
                count_words(text, &mut counts.words);
            }
            _ => counts.others += 1,
        }
    }
    counts
}

/// People write lines; what has none, or zero bytes, was made by a program for programs.
fn has_lines(text: &str) -> bool {
    text.len() < 500 * (text.lines().count() + 1) && !text.contains('\0')
}

/// What a reader of a page sees: neither its tags, nor scripts and styles, nor how characters are spelt in HTML.
fn visible(html: &str) -> impl Iterator<Item = &str> {
    let texts = html.split('<').filter_map(|part| {
        let (tag, text) = part.split_once('>').unwrap_or(("", part));
        (!tag.starts_with("script") && !tag.starts_with("style")).then_some(text)
    });
    texts.flat_map(|text| {
        let parts = text.split('&').enumerate();
        parts.map(|(index, part)| match part.split_once(';') {
            Some((name, rest)) if index > 0 && name.len() < 8 => rest,
            _ => part,
        })
    })
}

fn count_words(text: &str, words: &mut HashMap<String, u64>) {
    for word in
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| word.starts_with(char::is_alphabetic))
    {
        let lower = word.to_lowercase();
        *words.entry(lower).or_default() += 1;
    }
}

struct Options {
    workers: usize,
    compare: bool,
    kill_one: bool,
    paths: Vec<PathBuf>,
}

fn options() -> Result<Option<Options>, Box<dyn Error>> {
    let mut options = Options { workers: cpu_count(), compare: false, kill_one: false, paths: Vec::new() };
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--compare") => options.compare = true,
            Some("--kill-one") => options.kill_one = true,
            Some("--workers") => {
                let number = arguments.next().and_then(|number| number.to_str()?.parse().ok());
                options.workers = number.filter(|n| *n > 0).ok_or("--workers needs a number above 0")?;
            }
            Some(unknown) if unknown.starts_with("--") => {
                return Err(format!("unknown option {unknown}\n{HELP}").into());
            }
            _ => options.paths.push(argument.into()),
        }
    }
    Ok(Some(options))
}

/// A folder of real text that a machine with a Rust toolchain has: the documentation, or else sources.
fn text_of_this_machine() -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let home = std::env::home_dir().unwrap_or_default();
    let cargo = std::env::var_os("CARGO_HOME").map_or(home.join(".cargo"), PathBuf::from);
    let mut candidates =
        [sysroot.join("share/doc/rust/html"), sysroot.join("lib/rustlib/src"), cargo.join("registry/src")]
            .into_iter();
    Ok(candidates
        .find(|folder| folder.is_dir())
        .ok_or("no Rust documentation or sources found: name a folder")?)
}

/// Adds the files under `path`, with their sizes. What cannot be listed goes to `failed`.
fn find_files(path: &Path, files: &mut Vec<(PathBuf, u64)>, failed: &mut Vec<(PathBuf, String)>) {
    let mut walk = || -> std::io::Result<()> {
        let kind = fs::symlink_metadata(path)?;
        if kind.is_dir() {
            for entry in fs::read_dir(path)? {
                find_files(&entry?.path(), files, failed);
            }
        } else if kind.is_file() {
            files.push((path.to_owned(), kind.len()));
        }
        Ok(())
    };
    if let Err(error) = walk() {
        failed.push((path.to_owned(), error.to_string()));
    }
}

/// Cuts the files into batches of about [`BATCH_BYTES`].
fn batches(files: &[(PathBuf, u64)]) -> Vec<Vec<PathBuf>> {
    let (mut batches, mut bytes) = (vec![Vec::new()], 0);
    for (path, size) in files {
        if bytes + size > BATCH_BYTES && bytes > 0 {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        batches.last_mut().expect("there is always one").push(path.clone());
    }
    batches
}

/// Counts in parallel; `None` if Ctrl-C came.
fn count_in_parallel(batches: &[Vec<PathBuf>], options: &Options) -> Result<Option<Counts>, Box<dyn Error>> {
    let pool = Pool::new(options.workers)?;
    // A batch whose worker died is tried up to three times more. The progress is a bar on a terminal, elsewhere a line now
    // and then. Results come as they are ready.
    let tasks = pool.tasks(count, batches.iter().cloned()).chunk_size(1).retry(3);
    let mut results = tasks.progress("batches of 4 MB").unordered();
    let mut counts = Counts::default();
    let mut kill = options.kill_one;
    // Dropping the pool, at Ctrl-C for example, ends its workers, also in the middle of work.
    while !interrupted() {
        // The timeout only serves to look at Ctrl-C now and then.
        match results.next_timeout(Duration::from_millis(50)) {
            Err(_timed_out) => {}
            Ok(None) => return Ok(Some(counts)),
            Ok(Some(result)) => {
                counts.add(result?);
                if std::mem::take(&mut kill) && pool.kill_worker(0) {
                    eprintln!("killed a worker");
                }
            }
        }
    }
    Ok(None)
}

fn report(mut out: impl Write, counts: &Counts, time: Duration, workers: usize) -> io::Result<()> {
    let mut top: Vec<_> = counts.words.iter().collect();
    top.sort_by_key(|(word, count)| (Reverse(**count), *word));
    for (word, count) in top.iter().take(20) {
        writeln!(out, "{count:>12} {word}")?;
    }
    for (path, why) in &counts.failed {
        writeln!(out, "not counted: {}: {why}", path.display())?;
    }
    let (words, megabytes) = (counts.words.values().sum::<u64>(), counts.bytes as f64 / 1e6);
    writeln!(out, "{words} words, {} different", counts.words.len())?;
    writeln!(out, "{} files of text, {} others; {megabytes:.1} MB read", counts.files, counts.others)?;
    writeln!(out, "{time:.2?} with {workers} workers, {:.0} MB/s", megabytes / time.as_secs_f64())
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let Some(mut options) = options()? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    // Ctrl-C does not end the program but is a question that it asks: see `interrupted()`. A program that does not end
    // within the patience is ended, and so is one whose user presses Ctrl-C once more. Workers ignore Ctrl-C.
    Interrupts::new().quiet().patience(Duration::from_secs(10)).install()?;
    if options.paths.is_empty() {
        options.paths.push(text_of_this_machine()?);
        eprintln!("counting {}", options.paths[0].display());
    }
    let (mut files, mut unlisted) = (Vec::new(), Vec::new());
    for path in &options.paths {
        fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        // A link that was named is followed, others are not.
        find_files(&fs::canonicalize(path).unwrap_or(path.clone()), &mut files, &mut unlisted);
    }
    let batches = batches(&files);
    if options.compare {
        // So that both find the files in memory, and neither pays for the disk.
        files.iter().for_each(|(path, _)| drop(fs::read(path)));
    }

    let start = Instant::now();
    let parallel = count_in_parallel(&batches, &options)?;
    let time = start.elapsed();
    let Some(mut counts) = parallel else {
        eprintln!("interrupted");
        return Ok(ExitCode::from(130));
    };
    counts.failed.extend(unlisted.iter().cloned());
    counts.failed.sort();
    report(io::stdout().lock(), &counts, time, options.workers)?;

    if options.compare {
        let start = Instant::now();
        let mut alone = Counts::default();
        batches.into_iter().take_while(|_| !interrupted()).for_each(|batch| alone.add(count(batch)));
        if interrupted() {
            return Ok(ExitCode::from(130));
        }
        let sequential = start.elapsed();
        alone.failed.extend(unlisted);
        alone.failed.sort();
        let speed_up = sequential.as_secs_f64() / time.as_secs_f64();
        let verdict = if alone == counts { "agree" } else { "DIFFER" };
        writeln!(
            io::stdout(),
            "{sequential:.2?} in one process: a speed-up of {speed_up:.2}\nthe results {verdict}"
        )?;
        if alone != counts {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        // Whoever read our output has seen enough.
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("wordcount: {error}");
        ExitCode::FAILURE
    })
}
