//! The report as a page: a table of the goals, bars on a logarithmic scale, curves. No scripts, nothing from outside.

use std::fmt::Write;

use super::micro::Micro;
use super::{Entry, Report, curves, human};

const WIDTH: f64 = 460.0;
const ROW: usize = 20;
const LEFT: usize = 150;

/// The colour of what is ours.
pub(super) const OURS: &str = "#1a7f5a";

pub(super) fn page(report: &Report, micro: &Micro) -> String {
    let machine = &report.machine;
    let mut page = String::from(HEAD);
    let facts = [
        machine.cpu.clone(),
        format!("{} cores", machine.cores),
        format!("Linux {}", machine.kernel),
        machine.rustc.clone(),
        format!("CPython {}", machine.python.join(", ")),
        format!("{} run", machine.mode),
    ];
    let _ = write!(
        page,
        "<p>{}. Medians; the thin line is the lowest to the highest round.{}</p>",
        escape(&facts.join(", ")),
        escape(&report.wake_in_words())
    );
    goals(&mut page, &report.results);
    curves::section(&mut page, &report.results);
    page += "<h2 class=\"part\">Side by side</h2>";
    for entry in &report.results {
        section(&mut page, entry);
    }
    micro_benchmarks(&mut page, micro);
    if !machine.absent.is_empty() {
        page += "<h2 class=\"part\">Absent</h2><ul>";
        for (name, reason) in &machine.absent {
            let _ = write!(page, "<li>{}: {}</li>", escape(name), escape(reason));
        }
        page += "</ul>";
    }
    page + "</body></html>\n"
}

/// Each measurement with its goal, in a line.
fn goals(page: &mut String, results: &[Entry]) {
    *page += "<h2 class=\"part\">Goals</h2><table><tr><th>measurement</th><th>ours</th><th>goal</th><th></th></tr>";
    for entry in results {
        let ours = entry.ours.map_or("—".to_owned(), |own| human(own.median, &entry.unit));
        let id = escape(&entry.id);
        let _ = write!(
            page,
            "<tr><td><a href=\"#{id}\">{id}</a></td><td>{ours}</td><td>{}</td><td>{}</td></tr>",
            escape(&entry.goal),
            verdict(entry)
        );
    }
    *page += "</table>";
}

fn verdict(entry: &Entry) -> &'static str {
    match (entry.ours, entry.met) {
        (None, _) => "not measured",
        (_, true) => "met",
        (_, false) => "<b>missed</b>",
    }
}

/// Criterion's, a plot for each of its groups.
fn micro_benchmarks(page: &mut String, micro: &Micro) {
    if micro.0.is_empty() {
        return;
    }
    *page += "<h2 class=\"part\">Micro-benchmarks</h2><p>By criterion, when it ran last (<code>cargo bench -p \
              procession-benches</code>); the thin line is the interval of confidence of the median.</p>";
    let group = |name: &str| name.rsplit_once('/').map_or(name, |(group, _)| group).to_owned();
    for chunk in micro.0.chunk_by(|a, b| group(&a.0) == group(&b.0)) {
        let _ = write!(page, "<h2>{}</h2>", escape(&group(&chunk[0].0)));
        let bars: Vec<Bar<'_>> = chunk
            .iter()
            .map(|(name, figures)| {
                let name = name.rsplit('/').next().unwrap_or(name);
                (name, figures.min, figures.median, figures.max, "#4a78b8")
            })
            .collect();
        plot(page, &bars, "ns");
    }
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Side by side</title><style>\
body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h2{font-size:1rem;margin:2rem 0 0}p{margin:.2rem 0}small{color:#666}svg text{font:12px system-ui,sans-serif}\
.part{font-size:1.3rem;margin-top:3rem}table{border-collapse:collapse}td,th{text-align:left;padding:.1rem .8rem .1rem 0;\
vertical-align:top}a{color:inherit}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}svg text{fill:#ddd}small{color:#999}}\
</style></head><body><h1>Side by side</h1>";

/// One bar: name, lowest, median, highest, colour.
type Bar<'a> = (&'a str, f64, f64, f64, &'a str);

fn section(page: &mut String, entry: &Entry) {
    let _ = write!(
        page,
        "<h2 id=\"{0}\">{0}</h2><p>{1}; {2} is better. <small>Goal: {3} ({4}).</small></p>",
        escape(&entry.id),
        escape(&entry.what),
        entry.better,
        escape(&entry.goal),
        verdict(entry)
    );
    let mut bars: Vec<Bar<'_>> = Vec::new();
    bars.extend(entry.ours.map(|own| ("ours", own.min, own.median, own.max, OURS)));
    bars.extend(
        entry.limit.as_ref().map(|limit| (&limit.name[..], limit.median, limit.median, limit.median, "#888")),
    );
    bars.extend(
        entry.ranked().into_iter().map(|(name, peer)| (name, peer.min, peer.median, peer.max, "#4a78b8")),
    );
    plot(page, &bars, &entry.unit);
}

fn plot(page: &mut String, bars: &[Bar<'_>], unit: &str) {
    let lowest = bars.iter().map(|bar| bar.1).fold(f64::INFINITY, f64::min).max(1e-3);
    let highest = bars.iter().map(|bar| bar.3).fold(0.0, f64::max);
    // From the power of ten below to the one above, so that no bar has no length.
    let first = (lowest.log10() - 0.3).floor();
    let last = highest.max(lowest * 1.01).log10().ceil();
    let place = |value: f64| ((value.max(lowest).log10() - first) / (last - first) * WIDTH).max(1.0);
    let height = bars.len() * ROW + ROW;
    let _ = write!(page, "<svg width=\"720\" height=\"{height}\" role=\"img\">");
    for step in first as i32..=last as i32 {
        let x = LEFT as f64 + (f64::from(step) - first) / (last - first) * WIDTH;
        let bottom = bars.len() * ROW;
        let _ = write!(page, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom}\" stroke=\"#8884\"/>");
        let _ = write!(
            page,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" opacity=\".6\">{}</text>",
            bottom + 14,
            human(10f64.powi(step), unit)
        );
    }
    for (index, (name, min, median, max, colour)) in bars.iter().enumerate() {
        let top = index * ROW;
        let (text, middle) = (top + 14, top + 10);
        let end = LEFT as f64 + place(*median);
        let _ = write!(
            page,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text><rect x=\"{LEFT}\" y=\"{}\" width=\"{:.1}\" \
             height=\"14\" fill=\"{colour}\"/><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" \
             stroke=\"#e0a030\" stroke-width=\"2\"/><text x=\"{:.1}\" y=\"{text}\">{}</text>",
            LEFT - 6,
            escape(name),
            top + 3,
            place(*median),
            LEFT as f64 + place(*min),
            LEFT as f64 + place(*max),
            end.max(LEFT as f64 + place(*max)) + 6.0,
            human(*median, unit)
        );
    }
    *page += "</svg>";
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
