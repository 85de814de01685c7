//! Measurements that differ in one number only, as curves: the cost by message size, the speed by workers or processes.
//!
//! They are found by their ids: `STEM.16B`, `STEM.1KiB`; `STEM.workers.4`; `STEM.processes.4`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Entry;
use super::html::escape;
use super::scale::{Scale, label};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const BOTTOM: f64 = 24.0;
/// Between the names of two curves.
const APART: f64 = 15.0;
/// Of the page's style.
const COLOURS: usize = 10;

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
    *page += "<h2>Curves</h2><p>Medians; the scales are logarithmic.<span class=\"narrow\"> The names stand at the right \
              ends: scroll.</span></p>";
    for ((axis, stem), mut points) in families {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let by = match axis {
            Axis::Size => "by message size",
            Axis::Workers => "by workers",
            Axis::Processes => "by processes",
        };
        let better = points[0].1.better.as_str();
        let _ = write!(page, "<h3>{} {by}</h3><p>{better} is better</p>", escape(stem));
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
    if curves.is_empty() {
        return;
    }
    let medians = curves.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let scale = Scale::of(medians, unit, false);
    let (from, to) = (points[0].0.log2(), points[points.len() - 1].0.log2());
    let x = |at: f64| LEFT + (at.log2() - from) / (to - from).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| 8.0 + (1.0 - scale.place(value)) * (HEIGHT - BOTTOM - 8.0);
    let _ = write!(page, "<div class=\"curves\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for tick in &scale.ticks {
        let at = y(*tick);
        let _ = write!(
            page,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            label(*tick, unit)
        );
    }
    for (at, entry) in points {
        let name = entry.id.rsplit('.').next().unwrap_or_default();
        let _ = write!(
            page,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(*at),
            HEIGHT - 6.0,
            escape(&apart(name))
        );
    }
    for (index, (name, points)) in curves.iter().enumerate() {
        let (class, colour) = look(name, index);
        let line: Vec<String> =
            points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = write!(
            page,
            "<polyline class=\"{class}\" points=\"{}\" style=\"stroke:{colour}\"/>",
            line.join(" ")
        );
        for (at, value) in points {
            let _ = write!(
                page,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" style=\"fill:{colour}\"/>",
                x(*at),
                y(*value)
            );
        }
    }
    names(page, &curves, y);
    *page += "</svg></div>";
}

/// A curve's class and colour.
fn look(name: &str, index: usize) -> (&'static str, String) {
    match name {
        "ours" => ("ours", "var(--ours)".to_owned()),
        _ => ("", format!("var(--c{})", (index + COLOURS - 1) % COLOURS + 1)),
    }
}

/// A number and its unit, if it has one, with a space between them.
fn apart(size: &str) -> String {
    let digits = size.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(size.len());
    let (number, unit) = size.split_at(digits);
    format!("{number} {unit}").trim_end().to_owned()
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
        let name = curves[*index].0;
        let (_, colour) = look(name, *index);
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
