//! The report as a page: a table of the goals, curves, bars on a logarithmic scale. No scripts, nothing from outside.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::micro::Micro;
use super::scale::{Scale, label};
use super::{Entry, Report, Verdict, curves, human};

const STYLE: &str = include_str!("page.css");

/// What the colours mean.
const KEY: &str = "<ul class=\"key\"><li><i class=\"ours\"></i>ours</li><li><i class=\"limit\"></i>what the system allows at \
    best</li><li><i class=\"peer\"></i>rivals</li><li><i class=\"spread\"></i>from the lowest round to the highest</li></ul>\
    <p>A bar ends at the median. All scales are logarithmic: each starts below its lowest figure, so compare by the lines, \
    not by the lengths.</p>";

pub(super) fn page(report: &Report, micro: &Micro) -> String {
    let machine = &report.machine;
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Side by side: {} measurements</title><style>{STYLE}</style></head><body>\
         <h1>Side by side</h1>",
        report.results.len()
    );
    let pythons = match machine.python.join(", ") {
        none if none.is_empty() => "no CPython".to_owned(),
        some => format!("CPython {some}"),
    };
    let facts = [
        machine.cpu.clone(),
        match machine.cores {
            1 => "1 core".to_owned(),
            cores => format!("{cores} cores"),
        },
        human(machine.memory as f64, "B"),
        format!("Linux {}", machine.kernel),
        machine.rustc.clone(),
        pythons,
        machine.commit.as_ref().map_or("no commit".to_owned(), |commit| format!("commit {commit}")),
        format!("{} run", machine.mode),
    ];
    let _ = write!(page, "<p>{}.{}</p>", escape(&facts.join(", ")), marked(&report.wake_in_words()));
    goals(&mut page, &report.results);
    curves::section(&mut page, &report.results);
    let _ = write!(page, "<h2>Ours and the rivals</h2>{KEY}");
    for entry in &report.results {
        section(&mut page, entry);
    }
    micro_benchmarks(&mut page, micro);
    absent(&mut page, &machine.absent);
    page + "</body></html>\n"
}

/// Who could not run, by reason.
fn absent(page: &mut String, absent: &BTreeMap<String, String>) {
    if absent.is_empty() {
        return;
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, reason) in absent {
        reasons.entry(reason).or_default().push(name);
    }
    *page += "<h2>Absent</h2><ul>";
    for (reason, names) in reasons {
        let _ = write!(page, "<li>{}: {}</li>", escape(reason), escape(&names.join("; ")));
    }
    *page += "</ul>";
}

/// Each measurement with its goal, in a line.
fn goals(page: &mut String, results: &[Entry]) {
    let count = |verdict: Verdict| results.iter().filter(|entry| entry.verdict() == verdict).count();
    let _ = write!(
        page,
        "<h2>Goals</h2><p>{} met, {} missed for sure, {} perhaps missed, {} not measured, {} without a goal.</p>\
         <table class=\"goals\"><thead><tr><th>measurement</th><th class=\"figure\">ours</th><th>goal</th><th></th></tr>\
         </thead><tbody>",
        count(Verdict::Met),
        count(Verdict::Missed),
        count(Verdict::MaybeMissed),
        count(Verdict::NotMeasured),
        count(Verdict::NoGoal)
    );
    for entry in results {
        let ours = entry.ours.map_or("—".to_owned(), |own| human(own.median, &entry.unit));
        let id = escape(&entry.id);
        let _ = write!(
            page,
            "<tr><td><a href=\"#{id}\">{id}</a></td><td class=\"figure\">{ours}</td><td>{}</td><td>{}</td></tr>",
            escape(&entry.goal),
            verdict(entry)
        );
    }
    *page += "</tbody></table>";
}

fn verdict(entry: &Entry) -> String {
    let word = entry.verdict().word();
    match entry.verdict() {
        Verdict::Met | Verdict::NoGoal => word.to_owned(),
        Verdict::Missed | Verdict::MaybeMissed | Verdict::NotMeasured => {
            format!("<span class=\"missed\">{word}</span>")
        }
    }
}

/// Criterion's, a plot for each of its groups.
fn micro_benchmarks(page: &mut String, micro: &Micro) {
    if micro.0.is_empty() {
        return;
    }
    *page += "<h2>Micro-benchmarks</h2><p>By criterion, when it ran last (<code>cargo bench -p procession-benches</code>): \
              the median, and the interval of its confidence.</p>";
    let group = |name: &str| name.rsplit_once('/').map_or(name, |(group, _)| group).to_owned();
    for chunk in micro.0.chunk_by(|a, b| group(&a.0) == group(&b.0)) {
        let _ = write!(page, "<h3>{}</h3>", escape(&group(&chunk[0].0)));
        let bars: Vec<Bar<'_>> = chunk
            .iter()
            .map(|(name, figures)| {
                let name = name.rsplit('/').next().unwrap_or(name);
                (name, figures.min, figures.median, figures.max, "peer")
            })
            .collect();
        plot(page, &bars, "ns");
    }
}

/// One bar: name, lowest, median, highest, kind.
type Bar<'a> = (&'a str, f64, f64, f64, &'a str);

fn section(page: &mut String, entry: &Entry) {
    let goal = match entry.verdict() {
        Verdict::NoGoal => format!("Goal: {}.", escape(&entry.goal)),
        _ => format!("Goal: {}: {}.", escape(&entry.goal), verdict(entry)),
    };
    let _ = write!(
        page,
        "<h3 id=\"{0}\">{0}</h3><p>{1}; {2} is better. <span class=\"goal\">{goal}</span></p>",
        escape(&entry.id),
        marked(&entry.what),
        entry.better,
    );
    let mut bars: Vec<Bar<'_>> = Vec::new();
    bars.extend(entry.ours.map(|own| ("ours", own.min, own.median, own.max, "ours")));
    bars.extend(
        entry
            .limit
            .as_ref()
            .map(|limit| (&limit.name[..], limit.median, limit.median, limit.median, "limit")),
    );
    bars.extend(
        entry.ranked().into_iter().map(|(name, peer)| (name, peer.min, peer.median, peer.max, "peer")),
    );
    plot(page, &bars, &entry.unit);
}

/// A row for each bar, and the scale below them.
fn plot(page: &mut String, bars: &[Bar<'_>], unit: &str) {
    if bars.is_empty() {
        return;
    }
    let scale = Scale::of(bars.iter().flat_map(|bar| [bar.1, bar.2, bar.3]), unit, true);
    let place = |figure| 100.0 * scale.place(figure);
    let _ = write!(
        page,
        "<div class=\"bars\" style=\"--rows:{}\"><div class=\"grid\" aria-hidden=\"true\">",
        bars.len()
    );
    for tick in &scale.ticks {
        let _ = write!(page, "<i style=\"left:{:.2}%\"></i>", place(*tick));
    }
    *page += "</div>";
    for (index, (name, min, median, max, kind)) in bars.iter().enumerate() {
        let row = index + 1;
        let _ = write!(
            page,
            "<div class=\"row {kind}\"><span class=\"name\" style=\"grid-row:{row}\">{}</span><span class=\"track\" \
             style=\"grid-row:{row}\"><i class=\"bar\" style=\"width:{:.2}%\"></i>",
            escape(name),
            place(*median)
        );
        if max > min {
            let (from, to) = (place(*min), place(*max));
            let _ =
                write!(page, "<i class=\"spread\" style=\"left:{from:.2}%;width:{:.2}%\"></i>", to - from);
        }
        let _ = write!(
            page,
            "</span><span class=\"figure\" style=\"grid-row:{row}\">{}</span></div>",
            human(*median, unit)
        );
    }
    let many = if scale.ticks.len() > 4 { " many" } else { "" };
    let _ = write!(page, "<div class=\"ticks{many}\" aria-hidden=\"true\">");
    for tick in &scale.ticks {
        let _ = write!(page, "<span style=\"left:{:.2}%\">{}</span>", place(*tick), label(*tick, unit));
    }
    *page += "</div></div>";
}

/// Escaped, and what stands between backticks as code.
fn marked(text: &str) -> String {
    let escaped = escape(text);
    let parts = escaped.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
