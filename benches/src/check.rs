//! Whether a run was as it should be: what `--check` fails for, and what every run fails for.

use crate::runner::Measured;

/// What went wrong in a run, by measurement.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Ours could not be measured.
    failed: Vec<String>,
    /// The goal is missed by the medians, but not for sure.
    missed: Vec<String>,
    /// The goal is missed, and the interval excludes it.
    surely_missed: Vec<String>,
}

impl Verdict {
    /// Takes a measurement into account.
    pub fn add(&mut self, id: &str, measured: &Measured) {
        let list = match measured {
            Measured { ours: None, .. } => &mut self.failed,
            Measured { surely_missed: true, .. } => &mut self.surely_missed,
            Measured { met: false, .. } => &mut self.missed,
            _ => return,
        };
        list.push(id.to_owned());
    }

    /// What is to be told at the end.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let lists = [
            ("not measured, see the report for why", &self.failed),
            ("missed, but not for sure", &self.missed),
            ("missed for sure", &self.surely_missed),
        ];
        let told = lists.into_iter().filter(|(_, ids)| !ids.is_empty());
        told.map(|(what, ids)| format!("{what}: {}", ids.join(", "))).collect()
    }

    /// Whether the run is good: everything of ours was measured and, if that is asked for, no goal is missed for sure.
    #[must_use]
    pub fn is_good(&self, check: bool) -> bool {
        self.failed.is_empty() && (!check || self.surely_missed.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Figures;
    use std::collections::BTreeMap;

    fn measured(met: bool, surely_missed: bool) -> Measured {
        let ours = Some(Figures { median: 1.0, min: 1.0, max: 1.0 });
        Measured { ours, peers: BTreeMap::new(), limit: None, met, surely_missed, absent: Vec::new() }
    }

    fn verdict(of: &Measured) -> (bool, bool) {
        let mut verdict = Verdict::default();
        verdict.add("good", &measured(true, false));
        verdict.add("id", of);
        (verdict.is_good(false), verdict.is_good(true))
    }

    #[test]
    fn a_check_fails_only_for_what_is_missed_for_sure() {
        assert_eq!(verdict(&measured(true, false)), (true, true));
        assert_eq!(verdict(&measured(false, false)), (true, true));
        assert_eq!(verdict(&measured(false, true)), (true, false));
    }

    #[test]
    fn what_could_not_be_measured_fails_every_run() {
        assert_eq!(verdict(&Measured::failed("gone".into())), (false, false));
    }

    #[test]
    fn each_list_names_its_measurements() {
        let mut verdict = Verdict::default();
        verdict.add("a", &measured(false, true));
        verdict.add("b", &measured(false, true));
        verdict.add("c", &measured(false, false));
        assert_eq!(verdict.lines(), ["missed, but not for sure: c", "missed for sure: a, b"]);
    }
}
