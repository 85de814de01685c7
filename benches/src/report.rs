//! What was found, in three forms: `report.json`, `report.md`, `report.html`.

mod curves;
mod html;
mod markdown;
pub mod micro;
mod scale;

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
    /// Whether it is missed for sure.
    #[serde(skip)]
    pub surely_missed: bool,
    /// Whether it was asked of anything: some are measured for a curve only.
    #[serde(skip)]
    pub has_goal: bool,
    /// What one operation is.
    #[serde(skip)]
    pub what: String,
}

/// What became of a goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    NoGoal,
    Met,
    MaybeMissed,
    Missed,
    NotMeasured,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::NoGoal => "—",
            Verdict::Met => "met",
            Verdict::MaybeMissed => "perhaps missed",
            Verdict::Missed => "missed",
            Verdict::NotMeasured => "not measured",
        }
    }
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
            surely_missed: measured.surely_missed,
            has_goal: !scenario.goal.bounds.is_empty() || !scenario.goal.text.starts_with("none"),
            what: scenario.what.to_owned(),
        });
    }

    /// What it costs to wake a sleeper on another core, in nanoseconds: half a raw futex round trip to one that sleeps.
    /// Everything whose far side is asleep holds it once for each way.
    #[must_use]
    pub fn wake(&self) -> Option<f64> {
        let mut asleep = self.results.iter().filter(|entry| entry.id.ends_with(".asleep"));
        asleep.find_map(|entry| {
            entry.limit.as_ref().filter(|limit| limit.name == "futex").map(|l| l.median / 2.0)
        })
    }

    /// [`wake`](Report::wake) in a sentence, or nothing.
    fn wake_in_words(&self) -> String {
        self.wake().map_or_else(String::new, |wake| {
            format!(
                " A wake across cores takes {} here, half a raw futex round trip: it is most of what ends in `.asleep`.",
                human(wake, "ns")
            )
        })
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
        // Both folders lie in cargo's target folder.
        let micro = folder.parent().map(|target| micro::look(&target.join("criterion"))).unwrap_or_default();
        fs::write(folder.join("report.html"), html::page(self, &micro))
    }
}

impl Entry {
    fn verdict(&self) -> Verdict {
        match (self.ours, self.met) {
            (None, _) => Verdict::NotMeasured,
            _ if !self.has_goal => Verdict::NoGoal,
            (_, true) => Verdict::Met,
            _ if self.surely_missed => Verdict::Missed,
            _ => Verdict::MaybeMissed,
        }
    }

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
        "B/s" => (1e3, ["B/s", "kB/s", "MB/s", "GB/s"]),
        "instructions" => (1e3, ["instructions", "k instructions", "M instructions", "G instructions"]),
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

    use crate::scenario::{Field, Goal, Regime, Unit};
    use serde_json::{Value, json};

    fn scenario(id: &'static str) -> Scenario {
        Scenario {
            id,
            what: "one & the same, `twice`",
            unit: Unit::Nanoseconds,
            regime: Regime::FREE,
            goal: Goal { text: "fast", bounds: &[] },
            field: |_, _| Field::default(),
        }
    }

    fn figures(median: f64) -> Figures {
        Figures { median, min: median / 2.0, max: median * 2.0 }
    }

    fn report() -> Report {
        let mut report = Report { machine: Machine::look(&[], "quick"), results: Vec::new() };
        for (id, times) in [("a.roundtrip.16B", 1.0), ("a.roundtrip.1KiB", 3.0)] {
            let measured = Measured {
                ours: Some(figures(10.0 * times)),
                peers: [("cpython-3.13 <Queue>".to_owned(), figures(500.0 * times))].into(),
                limit: Some(Limit { name: "futex".into(), median: 8.0 * times }),
                met: true,
                surely_missed: false,
                absent: vec![("iceoryx2".into(), "not built".into())],
            };
            report.add(&scenario(id), measured);
        }
        report.add(&scenario("b"), Measured::failed("gone".into()));
        report
    }

    #[test]
    fn the_json_has_the_promised_form() {
        let written = serde_json::to_value(report()).unwrap();
        let keys: Vec<&String> = written.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["machine", "results"]);
        assert_eq!(
            written["results"][0],
            json!({
                "id": "a.roundtrip.16B",
                "unit": "ns",
                "better": "lower",
                "ours": { "median": 10.0, "min": 5.0, "max": 20.0 },
                "peers": { "cpython-3.13 <Queue>": { "median": 500.0, "min": 250.0, "max": 1000.0 } },
                "limit": { "name": "futex", "median": 8.0 },
                "goal": "fast",
                "met": true,
            })
        );
        // What could not be measured has no figures, and its goal is not met.
        let failed = &written["results"][2];
        assert_eq!(
            (&failed["ours"], &failed["limit"], &failed["met"]),
            (&Value::Null, &Value::Null, &json!(false))
        );
        let absent = written["machine"]["absent"].as_object().unwrap();
        assert_eq!(absent["a.roundtrip.16B: iceoryx2"], "not built");
        assert_eq!(absent["b: all"], "gone");
        for fact in ["cpu", "cores", "memory", "kernel", "rustc", "python", "time", "mode"] {
            assert!(written["machine"].get(fact).is_some(), "{fact}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_outside_and_escapes_what_it_shows() {
        let micro = micro::Micro(vec![("lane/16B".into(), figures(30.0))]);
        let page = html::page(&report(), &micro);
        assert!(!page.contains("http") && !page.contains("<script") && !page.contains("src="), "{page}");
        assert!(page.contains("one &amp; the same, <code>twice</code>") && page.contains("&lt;Queue&gt;"));
        // Bars for the two that were measured and for criterion's; the third has none.
        assert_eq!(page.matches("<div class=\"bars\"").count(), 3);
        assert_eq!(page.matches("<div").count(), page.matches("</div>").count());
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(page.contains("a.roundtrip by message size") && page.contains("<polyline"));
        assert!(page.contains("Micro-benchmarks"));
    }

    #[test]
    fn the_page_tells_what_is_missed_for_sure_from_the_rest() {
        let mut report = report();
        let mut words = |goal, met, surely_missed, ours| {
            let scenario = Scenario { goal, ..scenario("c") };
            report.add(&scenario, Measured { ours, met, surely_missed, ..Measured::failed(String::new()) });
            report.results.last().unwrap().verdict().word()
        };
        let (some, none) =
            (Goal { text: "fast", bounds: &[] }, Goal { text: "none: for the curve", bounds: &[] });
        let one = Some(figures(1.0));
        assert_eq!(words(some, true, false, one), "met");
        assert_eq!(words(some, false, false, one), "perhaps missed");
        assert_eq!(words(some, false, true, one), "missed");
        assert_eq!(words(none, true, false, one), "—");
        assert_eq!(words(some, false, false, None), "not measured");
        let page = html::page(&report, &micro::Micro::default());
        assert!(
            page.contains("3 met, 1 missed for sure, 1 perhaps missed, 2 not measured, 1 without a goal")
        );
    }

    #[test]
    fn the_report_says_what_a_wake_costs() {
        let mut report = report();
        assert_eq!(report.wake(), None);
        let measured = Measured {
            limit: Some(Limit { name: "futex".into(), median: 60e3 }),
            ..Measured::failed(String::new())
        };
        report.add(&scenario("event.pingpong.asleep"), measured);
        assert_eq!(report.wake(), Some(30e3));
        assert!(markdown::page(&report).contains("A wake across cores takes 30.0 µs"));
        let page = html::page(&report, &micro::Micro::default());
        assert!(page.contains("A wake across cores takes 30.0 µs") && page.contains("<code>.asleep</code>"));
    }

    #[test]
    fn the_table_has_a_row_for_each_measurement() {
        let table = markdown::page(&report());
        assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), 3);
    }

    #[test]
    fn figures_read_in_three_digits() {
        assert_eq!(human(226.4, "ns"), "226 ns");
        assert_eq!(human(1_340.0, "ns"), "1.34 µs");
        assert_eq!(human(20_400_000.0, "1/s"), "20.4 M/s");
    }
}
