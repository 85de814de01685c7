//! Progress of a call on stderr (feature `progress`): a bar on a terminal, otherwise a line now and then.

use super::stats::time;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use procession_sys::Deadline;
use std::{
    fmt,
    io::{IsTerminal, Write},
    time::Duration,
};

/// How long it is at least between two lines.
const INTERVAL: Duration = Duration::from_secs(5);

/// Shows how far a call is. It says goodbye when it is dropped.
pub(crate) struct Progress {
    shown: Shown,
    done: u64,
    failed: u64,
}

enum Shown {
    Bar(ProgressBar),
    Lines(Lines),
}

struct Lines {
    label: String,
    total: Option<u64>,
    began: Deadline,
    next: Deadline,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Progress({})", self.done)
    }
}

impl Progress {
    pub(crate) fn new(label: String, total: Option<u64>) -> Progress {
        let shown = if std::io::stderr().is_terminal() {
            let template = match total {
                Some(_) => "{prefix} {wide_bar} {human_pos}/{human_len} {per_sec} eta {eta} {msg}",
                None => "{prefix} {spinner} {human_pos} {per_sec} {elapsed} {msg}",
            };
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style);
            bar.set_prefix(label);
            Shown::Bar(bar)
        } else {
            Shown::Lines(Lines::new(label, total, Deadline::now()))
        };
        Progress { shown, done: 0, failed: 0 }
    }

    /// So many more items have come, or have failed.
    pub(crate) fn advance(&mut self, items: u64, failed: bool) {
        self.done += items;
        self.failed += if failed { items } else { 0 };
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_position(self.done);
                if failed {
                    bar.set_message(format!("{} failed", self.failed));
                }
            }
            Shown::Lines(lines) => {
                if let Some(line) = lines.due(Deadline::now(), self.done, self.failed) {
                    say(&line);
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.abandon(),
            Shown::Lines(lines) => say(&lines.text(Deadline::now(), self.done, self.failed)),
        }
    }
}

/// Nobody reads it: that harms nobody.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

impl Lines {
    fn new(label: String, total: Option<u64>, now: Deadline) -> Lines {
        Lines { label, total, began: now, next: now.plus(INTERVAL) }
    }

    /// A line, if it is time for one.
    fn due(&mut self, now: Deadline, done: u64, failed: u64) -> Option<String> {
        if now < self.next {
            return None;
        }
        self.next = now.plus(INTERVAL);
        Some(self.text(now, done, failed))
    }

    fn text(&self, now: Deadline, done: u64, failed: u64) -> String {
        let elapsed = Duration::from_nanos(now.as_nanos().saturating_sub(self.began.as_nanos()));
        let mut line = format!("{}: {done}", self.label);
        if let Some(total) = self.total {
            line += &format!("/{total} ({} %)", (done * 100).checked_div(total).unwrap_or(100));
        }
        if failed > 0 {
            line += &format!(", {failed} failed");
        }
        line + &format!(", {}, {:.0}/s", time(elapsed), done as f64 / elapsed.as_secs_f64().max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_at_intervals_and_say_how_far_it_is() {
        let start = Deadline::from_nanos(1);
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        let mut lines = Lines::new("words".to_owned(), Some(40), start);
        assert_eq!(lines.due(at(4), 1, 0), None);
        assert_eq!(lines.due(at(5), 10, 0).unwrap(), "words: 10/40 (25 %), 5.0 s, 2/s");
        assert_eq!(lines.due(at(6), 20, 0), None);
        assert_eq!(lines.due(at(10), 20, 2).unwrap(), "words: 20/40 (50 %), 2 failed, 10.0 s, 2/s");
        let endless = Lines::new("n".to_owned(), None, start);
        assert_eq!(endless.text(at(2), 8, 0), "n: 8, 2.0 s, 4/s");
        assert!(Lines::new(String::new(), Some(0), start).text(at(1), 0, 0).contains("100 %"));
    }
}
