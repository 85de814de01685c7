//! What criterion measured last, if it did: its figures lie beside ours in `target/criterion`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::runner::Figures;

/// Names of micro-benchmarks by group, with the median, in nanoseconds, and its interval of confidence.
#[derive(Debug, Default)]
pub struct Micro(pub Vec<(String, Figures)>);

/// Looks for estimates below this folder.
#[must_use]
pub fn look(folder: &Path) -> Micro {
    let mut found = Vec::new();
    collect(folder, &mut found, 4);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Micro(found)
}

fn collect(folder: &Path, found: &mut Vec<(String, Figures)>, depth: usize) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name() == "new" {
            found.extend(estimate(&path));
        } else if path.is_dir() {
            collect(&path, found, depth - 1);
        }
    }
}

/// What is in the folder of one benchmark, if it is what criterion writes.
fn estimate(folder: &Path) -> Option<(String, Figures)> {
    let read = |name: &str| -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(folder.join(name)).ok()?).ok()
    };
    let name = read("benchmark.json")?.get("full_id")?.as_str()?.to_owned();
    let estimates = read("estimates.json")?;
    let median = estimates.get("median")?;
    let interval = median.get("confidence_interval")?;
    let figures = Figures {
        median: median.get("point_estimate")?.as_f64()?,
        min: interval.get("lower_bound")?.as_f64()?,
        max: interval.get("upper_bound")?.as_f64()?,
    };
    Some((name, figures))
}
