//! Measurements that differ in one number only, as curves: the cost by message size, the speed by workers or processes.
//!
//! They are found by their ids: `STEM.16B`, `STEM.1KiB`; `STEM.workers.4`; `STEM.processes.4`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::html::{OURS, escape};
use super::{Entry, human};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const BOTTOM: f64 = 24.0;
/// Between the names of two curves.
const APART: f64 = 15.0;
const COLOURS: [&str; 10] = [
    "#4a78b8", "#c0504d", "#8064a2", "#e08a2c", "#2a9aa8", "#b0609a", "#7a8b2a", "#8a6a4a", "#5a6ad0",
    "#d05a8a",
];

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Axis {
    Size,
    Workers,
    Processes,
}

/// The part of an id that is common to a curve's points, what differs, and by how much.
fn place(id: &str) -> Option<(&str, Axis, f64)> {
    let (stem, last) = id.rsplit_once('.')?;
    if let Ok(number) = last.parse::<u32>() {
        let (stem, what) = stem.rsplit_once('.')?;
        let axis = match what {
            "workers" => Axis::Workers,
            "processes" => Axis::Processes,
            _ => return None,
        };
        return Some((stem, axis, f64::from(number)));
    }
    let digits = last.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = last.split_at(digits);
    let times = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        _ => return None,
    };
    Some((stem, Axis::Size, number.parse::<f64>().ok()? * times))
}

/// All plots of curves, with their headings.
pub(super) fn section(page: &mut String, results: &[Entry]) {
    let mut families: BTreeMap<(Axis, &str), Vec<(f64, &Entry)>> = BTreeMap::new();
    for entry in results {
        if let Some((stem, axis, at)) = place(&entry.id) {
            families.entry((axis, stem)).or_default().push((at, entry));
        }
    }
    families.retain(|_, points| points.len() > 1);
    if families.is_empty() {
        return;
    }
    *page += "<h2 class=\"part\">Curves</h2>";
    for ((axis, stem), mut points) in families {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let by = match axis {
            Axis::Size => "by message size",
            Axis::Workers => "by workers",
            Axis::Processes => "by processes",
        };
        let better = points[0].1.better.as_str();
        let _ = write!(page, "<h2>{} {by}</h2><p>{better} is better</p>", escape(stem));
        plot(page, &points);
    }
}

/// Names with their points, from left to right; ours first.
fn curves<'a>(points: &[(f64, &'a Entry)]) -> Vec<(&'a str, Vec<(f64, f64)>)> {
    let mut all: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    let mut ours = Vec::new();
    for (at, entry) in points {
        ours.extend(entry.ours.map(|figures| (*at, figures.median)));
        for (name, figures) in &entry.peers {
            all.entry(name).or_default().push((*at, figures.median));
        }
        if let Some(limit) = &entry.limit {
            all.entry(&limit.name).or_default().push((*at, limit.median));
        }
    }
    all.retain(|_, points| points.len() > 1);
    std::iter::once(("ours", ours)).chain(all).filter(|(_, points)| !points.is_empty()).collect()
}

fn plot(page: &mut String, points: &[(f64, &Entry)]) {
    let unit = points[0].1.unit.as_str();
    let curves = curves(points);
    let values = || curves.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let (lowest, highest) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    if !(lowest > 0.0 && highest.is_finite()) {
        return;
    }
    let (first, last) = (lowest.log10().floor(), highest.log10().ceil().max(lowest.log10().floor() + 1.0));
    let (from, to) = (points[0].0.log2(), points[points.len() - 1].0.log2());
    let x = |at: f64| LEFT + (at.log2() - from) / (to - from).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| 8.0 + (last - value.log10()) / (last - first) * (HEIGHT - BOTTOM - 8.0);
    let _ = write!(page, "<svg width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">");
    for power in first as i32..=last as i32 {
        let value = 10_f64.powi(power);
        let at = y(value);
        let _ = write!(
            page,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#8884\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\" opacity=\".6\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            human(value, unit)
        );
    }
    for (at, entry) in points {
        let name = entry.id.rsplit('.').next().unwrap_or_default();
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" opacity=\".6\">{name}</text>",
            x(*at),
            HEIGHT - 6.0
        );
    }
    for (index, (name, points)) in curves.iter().enumerate() {
        let colour = if *name == "ours" { OURS } else { COLOURS[index % COLOURS.len()] };
        let width = if *name == "ours" { 3 } else { 1 };
        let line: Vec<String> =
            points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = write!(
            page,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            line.join(" ")
        );
        for (at, value) in points {
            let _ = write!(
                page,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*at),
                y(*value)
            );
        }
    }
    names(page, &curves, y);
    *page += "</svg>";
}

/// The curves' names at the right, by the height of their ends, one below the other.
fn names(page: &mut String, curves: &[(&str, Vec<(f64, f64)>)], y: impl Fn(f64) -> f64) {
    let mut ends: Vec<(f64, usize)> = curves
        .iter()
        .enumerate()
        .filter_map(|(index, (_, points))| Some((y(points.last()?.1), index)))
        .collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = 0.0_f64;
    for (left, (end, index)) in ends.iter().enumerate() {
        // Those that follow need room as well.
        let latest = HEIGHT - APART * (ends.len() - 1 - left) as f64 - 4.0;
        let at = end.max(free + APART).min(latest);
        free = at;
        let (name, colour) = match curves[*index].0 {
            "ours" => ("ours", OURS),
            name => (name, COLOURS[index % COLOURS.len()]),
        };
        let _ = write!(
            page,
            "<text x=\"{}\" y=\"{:.1}\" style=\"fill:{colour}\">{}</text>",
            WIDTH - RIGHT + 10.0,
            at + 4.0,
            escape(name)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_where_a_measurement_lies_on_its_curve() {
        assert_eq!(place("channel.roundtrip.16B"), Some(("channel.roundtrip", Axis::Size, 16.0)));
        assert_eq!(place("channel.roundtrip.64KiB"), Some(("channel.roundtrip", Axis::Size, 65536.0)));
        assert_eq!(place("channel.roundtrip.1MiB"), Some(("channel.roundtrip", Axis::Size, 1048576.0)));
        assert_eq!(place("pool.scaling.workers.8"), Some(("pool.scaling", Axis::Workers, 8.0)));
        assert_eq!(place("queue.scaling.processes.2"), Some(("queue.scaling", Axis::Processes, 2.0)));
        assert_eq!(place("manager.clients.8"), None);
        assert_eq!(place("pool.create"), None);
        assert_eq!(place("channel.roundtrip.16B.asleep"), None);
    }
}
