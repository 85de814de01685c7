//! What was found, in three forms: `report.json`, `report.md`, `report.html`.

mod html;
mod markdown;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::machine::Machine;
use crate::runner::{Figures, Limit, Measured};
use crate::scenario::Scenario;

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// One entry for each scenario.
    pub results: Vec<Entry>,
}

/// One scenario's line.
#[derive(Debug, Serialize)]
pub struct Entry {
    /// The scenario's id.
    pub id: String,
    /// Unit of all its figures.
    pub unit: String,
    /// `lower` or `higher`.
    pub better: String,
    /// Our figures; null where ours could not run.
    pub ours: Option<Figures>,
    /// The rivals' figures.
    pub peers: BTreeMap<String, Figures>,
    /// What the system allows at best.
    pub limit: Option<Limit>,
    /// What is asked of ours.
    pub goal: String,
    /// Whether that holds, by the medians.
    pub met: bool,
    /// What one operation is.
    #[serde(skip)]
    pub what: String,
}

impl Report {
    /// Adds a scenario's outcome.
    pub fn add(&mut self, scenario: &Scenario, measured: Measured) {
        for (name, reason) in measured.absent {
            self.machine.absent.insert(format!("{}: {name}", scenario.id), reason);
        }
        self.results.push(Entry {
            id: scenario.id.to_owned(),
            unit: scenario.unit.name().to_owned(),
            better: scenario.unit.better().to_owned(),
            ours: measured.ours,
            peers: measured.peers,
            limit: measured.limit,
            goal: scenario.goal.text.to_owned(),
            met: measured.met,
            what: scenario.what.to_owned(),
        });
    }

    /// Writes the three files.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or a file not be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("report.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join("report.md"), markdown::page(self))?;
        fs::write(folder.join("report.html"), html::page(self))
    }
}

impl Entry {
    /// The rivals, the best first.
    fn ranked(&self) -> Vec<(&str, Figures)> {
        let mut peers: Vec<(&str, Figures)> =
            self.peers.iter().map(|(name, figures)| (&name[..], *figures)).collect();
        peers.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
        if self.better == "higher" {
            peers.reverse();
        }
        peers
    }
}

/// A figure with its unit, in three digits.
#[must_use]
pub fn human(value: f64, unit: &str) -> String {
    let (steps, names): (f64, [&str; 4]) = match unit {
        "ns" => (1e3, ["ns", "µs", "ms", "s"]),
        "1/s" => (1e3, ["/s", "k/s", "M/s", "G/s"]),
        _ => (1024.0, ["B", "KiB", "MiB", "GiB"]),
    };
    let mut value = value;
    let mut name = 0;
    while value >= steps && name < 3 {
        value /= steps;
        name += 1;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", names[name])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_in_three_digits() {
        assert_eq!(human(226.4, "ns"), "226 ns");
        assert_eq!(human(1_340.0, "ns"), "1.34 µs");
        assert_eq!(human(20_400_000.0, "1/s"), "20.4 M/s");
    }
}
