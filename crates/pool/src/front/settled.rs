//! Which items of a task are settled.

use std::ops::Range;

/// Which items of a task are settled: disjoint ranges in order, almost always one that starts at 0.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Items below this are settled.
    prefix: u32,
    /// Ranges above the prefix.
    rest: Vec<Range<u32>>,
}

impl Settled {
    pub(super) fn is_free(&self, range: &Range<u32>) -> bool {
        range.start >= self.prefix && self.rest.iter().all(|r| r.end <= range.start || range.end <= r.start)
    }

    pub(super) fn add(&mut self, range: Range<u32>) {
        if range.start != self.prefix {
            let at = self.rest.partition_point(|r| r.start < range.start);
            self.rest.insert(at, range);
            return;
        }
        self.prefix = range.end;
        while self.rest.first().is_some_and(|next| next.start == self.prefix) {
            self.prefix = self.rest.remove(0).end;
        }
    }

    /// Whether all items below `end` are settled.
    pub(super) fn covers(&self, end: u32) -> bool {
        self.prefix >= end
    }

    /// The unsettled ranges within `range`.
    pub(super) fn gaps(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let mut gaps = Vec::new();
        let mut at = range.start.max(self.prefix);
        for settled in &self.rest {
            if settled.start >= range.end {
                break;
            }
            if settled.start > at {
                gaps.push(at..settled.start);
            }
            at = at.max(settled.end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
}
