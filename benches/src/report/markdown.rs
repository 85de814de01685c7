//! The report as a Markdown table.

use std::fmt::Write;

use super::{Entry, Report, human};

pub(super) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let mut page = format!(
        "# Side by side\n\n{}, {} cores, Linux {}, {}, CPython {}; {} run. Medians, with the lowest and highest round \
         in brackets.{}\n\n| measurement | ours | limit | peers | goal | met |\n|---|---|---|---|---|---|\n",
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.rustc,
        machine.python.join(", "),
        machine.mode,
        report.wake_in_words()
    );
    for entry in &report.results {
        row(&mut page, entry);
    }
    page += "\nWhat one operation is:\n\n";
    for entry in &report.results {
        let _ = writeln!(page, "- `{}`: {}", entry.id, entry.what);
    }
    if !machine.absent.is_empty() {
        page += "\nAbsent:\n\n";
        for (name, reason) in &machine.absent {
            let _ = writeln!(page, "- {name}: {reason}");
        }
    }
    page
}

fn row(page: &mut String, entry: &Entry) {
    let human = |value| human(value, &entry.unit);
    let ours = entry.ours.map_or("—".to_owned(), |own| {
        format!("**{}** ({} to {})", human(own.median), human(own.min), human(own.max))
    });
    let limit = entry
        .limit
        .as_ref()
        .map_or("—".to_owned(), |limit| format!("{} {}", limit.name, human(limit.median)));
    let peers: Vec<String> =
        entry.ranked().iter().map(|(name, figures)| format!("{name} {}", human(figures.median))).collect();
    let met = match (entry.ours, entry.met) {
        (None, _) => "—",
        (_, true) => "yes",
        (_, false) => "**no**",
    };
    let _ = writeln!(
        page,
        "| `{}` | {ours} | {limit} | {} | {} | {met} |",
        entry.id,
        peers.join("; "),
        entry.goal
    );
}
