//! The report as a page with bars on a logarithmic scale. No scripts, nothing from outside.

use std::fmt::Write;

use super::{Entry, Report, human};

const WIDTH: f64 = 460.0;
const ROW: usize = 20;
const LEFT: usize = 150;

pub(super) fn page(report: &Report) -> String {
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
        "<p>{}. Medians; the thin line is the lowest to the highest round.</p>",
        escape(&facts.join(", "))
    );
    for entry in &report.results {
        section(&mut page, entry);
    }
    if !machine.absent.is_empty() {
        page += "<h2>Absent</h2><ul>";
        for (name, reason) in &machine.absent {
            let _ = write!(page, "<li>{}: {}</li>", escape(name), escape(reason));
        }
        page += "</ul>";
    }
    page + "</body></html>\n"
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Side by side</title><style>\
body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h2{font-size:1rem;margin:2rem 0 0}p{margin:.2rem 0}small{color:#666}svg text{font:12px system-ui,sans-serif}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}svg text{fill:#ddd}small{color:#999}}\
</style></head><body><h1>Side by side</h1>";

/// One bar: name, lowest, median, highest, colour.
type Bar<'a> = (&'a str, f64, f64, f64, &'a str);

fn section(page: &mut String, entry: &Entry) {
    let met = match (entry.ours, entry.met) {
        (None, _) => "not measured",
        (_, true) => "met",
        (_, false) => "missed",
    };
    let _ = write!(
        page,
        "<h2>{}</h2><p>{}; {} is better. <small>Goal: {} ({met}).</small></p>",
        escape(&entry.id),
        escape(&entry.what),
        entry.better,
        escape(&entry.goal)
    );
    let mut bars: Vec<Bar<'_>> = Vec::new();
    bars.extend(entry.ours.map(|own| ("ours", own.min, own.median, own.max, "#1a7f5a")));
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
