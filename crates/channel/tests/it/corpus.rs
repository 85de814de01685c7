//! The fuzz targets' inputs, replayed without a fuzzer, and changed a little.

use procession_testkit::{storm::Rng, watchdog};
use std::{path::Path, thread, time::Duration};

#[path = "../../../../fuzz/targets.rs"]
mod targets;

/// How often each input is changed.
const CHANGES: u64 = 40;

/// Tells the input that was at work when something panicked.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("input: b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn replay(target: &str, run: fn(&[u8])) {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs: Vec<(std::path::PathBuf, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    // So that a seed means the same changes everywhere.
    inputs.sort();
    assert!(inputs.len() >= 5, "a corpus for `{target}`");
    for (_, input) in &inputs {
        let _shown = Shown(input);
        run(input);
    }
    let mut rng = Rng::from_env_or(1);
    for (_, input) in &inputs {
        for _ in 0..CHANGES {
            let changed = change(input, &inputs[rng.below(inputs.len() as u64) as usize].1, &mut rng);
            let _shown = Shown(&changed);
            run(&changed);
        }
    }
}

/// One to four small changes: a bit, a byte, a piece gone, doubled, or taken from another input.
fn change(input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut changed = input.to_vec();
    for _ in 0..=rng.below(4) {
        let at = rng.below(changed.len() as u64 + 1) as usize;
        match rng.below(5) {
            0 if at < changed.len() => changed[at] ^= 1 << rng.below(8),
            1 if at < changed.len() => changed[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
            2 => changed.truncate(at),
            3 => {
                let end = (at + rng.below(16) as usize).min(changed.len());
                let piece = changed[at..end].to_vec();
                changed.splice(at..at, piece);
            }
            _ => {
                let from = rng.below(other.len() as u64 + 1) as usize;
                changed.splice(at.., other[from..].iter().copied());
            }
        }
    }
    changed
}

#[test]
fn frames_of_the_corpus_are_read_or_refused() {
    replay("frame", targets::frame);
}

#[cfg(feature = "net")]
#[test]
fn handshakes_of_the_corpus_come_to_an_end() {
    replay("handshake", targets::handshake);
}

#[test]
fn parcels_of_the_corpus_are_values_or_refused() {
    replay("parcel", targets::parcel);
}

#[cfg(feature = "pickle")]
#[test]
fn pickles_of_the_corpus_are_values_or_refused() {
    replay("pickle", targets::pickle);
}

#[test]
fn lanes_of_the_corpus_are_read_or_refused() {
    replay("ring", targets::ring);
}
