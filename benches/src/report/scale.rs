//! A logarithmic scale from a round figure to a round figure.

use super::human;

/// Powers on a scale, at most.
const MOST: f64 = 6.0;

/// From where to where, and what is written at its lines.
#[derive(Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    /// Where lines are.
    pub(super) ticks: Vec<f64>,
}

impl Scale {
    /// A scale on which all figures above 0 have a place, with room at the low end if there is to be some, so that no bar
    /// has no length. Bytes go by powers of two, everything else by tens.
    pub(super) fn of(figures: impl Iterator<Item = f64>, unit: &str, room: bool) -> Scale {
        let above = figures.filter(|figure| figure.is_finite() && *figure > 0.0);
        let ends = above.fold(None, |ends: Option<(f64, f64)>, figure| {
            Some(ends.map_or((figure, figure), |(low, high)| (low.min(figure), high.max(figure))))
        });
        let (lowest, highest) = ends.unwrap_or((1.0, 1.0));
        let lowest = if room { lowest / 1.5 } else { lowest };
        // Lines at all of 1, 2, 5 where there are few, otherwise at powers, and at every n-th of those if they are many.
        let (base, within): (f64, &[f64]) = match (highest / lowest).log10() {
            _ if unit == "B" => (2.0, &[1.0]),
            ..=1.0 => (10.0, &[1.0, 2.0, 5.0]),
            ..=2.0 => (10.0, &[1.0, 3.0]),
            _ => (10.0, &[1.0]),
        };
        let each = ((highest / lowest).log(base) / MOST).ceil().max(1.0);
        let first = lowest.log(base).floor();
        let count = ((highest.log(base) - first) / each).ceil().max(1.0) as u32;
        let powers = (0..=count).map(|step| base.powf(first + f64::from(step) * each));
        let steps: Vec<f64> =
            powers.flat_map(|power| within.iter().map(move |times| times * power)).collect();
        // From the last line that is not above everything to the first that is not below anything.
        let from = steps.iter().rposition(|step| *step <= lowest).unwrap_or(0);
        let to =
            steps.iter().position(|step| *step >= highest * 0.999).unwrap_or(steps.len() - 1).max(from + 1);
        let ticks: Vec<f64> = steps.iter().skip(from).take(to + 1 - from).copied().collect();
        let low = ticks.first().copied().unwrap_or(1.0);
        Scale { low, high: ticks.last().copied().filter(|high| *high > low).unwrap_or(low * 10.0), ticks }
    }

    /// Where a figure lies, from 0 to 1.
    pub(super) fn place(&self, figure: f64) -> f64 {
        ((figure.max(self.low) / self.low).ln() / (self.high / self.low).ln()).min(1.0)
    }
}

/// What is written at a line: the figure without empty digits.
pub(super) fn label(figure: f64, unit: &str) -> String {
    // The figures beside it have the word; here it would run into its neighbours.
    let text = human(figure, unit).replace("instructions", "");
    let text = text.trim_end();
    match text.split_once(' ') {
        Some((number, name)) if number.contains('.') => {
            format!("{} {name}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(figures: &[f64], unit: &str) -> Vec<String> {
        Scale::of(figures.iter().copied(), unit, true).ticks.iter().map(|tick| label(*tick, unit)).collect()
    }

    #[test]
    fn lines_are_at_round_figures_and_enclose_everything() {
        assert_eq!(labels(&[16.0, 19.0], "ns"), ["10 ns", "20 ns"]);
        assert_eq!(labels(&[360e3, 2.15e6, 157e3], "ns"), ["100 µs", "300 µs", "1 ms", "3 ms"]);
        assert_eq!(labels(&[250.0, 60e3], "ns"), ["100 ns", "1 µs", "10 µs", "100 µs"]);
        assert_eq!(labels(&[1500.0, 3000.0, 0.0], "B"), ["512 B", "1 KiB", "2 KiB", "4 KiB"]);
        assert_eq!(labels(&[200.0, 230.0], "instructions"), ["100", "200", "500"]);
        assert_eq!(labels(&[2.0, 4e7], "1/s").len(), 5); // not a line at each of so many powers
    }

    #[test]
    fn every_figure_above_nothing_has_a_bar_that_fits() {
        for figures in [&[1.0][..], &[0.0, 0.0], &[0.0, 5.0], &[1e-2, 1e12], &[1000.0, 1000.0], &[1e6, 1e7]] {
            for unit in ["ns", "B"] {
                let scale = Scale::of(figures.iter().copied(), unit, true);
                assert!(scale.ticks.len() <= 8, "{figures:?}: {:?}", scale.ticks);
                for figure in figures {
                    let place = scale.place(*figure);
                    assert!(
                        (0.0..=1.0).contains(&place) && (*figure == 0.0) == (place == 0.0),
                        "{figures:?}: {place}"
                    );
                }
            }
        }
    }
}
