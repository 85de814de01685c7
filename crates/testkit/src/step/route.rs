//! The way of one whole run, and how a later run gets quickly to each place on it.
//!
//! To step from the start to each of n places takes n² / 2 stops. So a run is recorded once, and a later one runs freely
//! to a breakpoint at an address that the recorded one passed a known number of times, and steps only the rest. For each
//! place the address is chosen that takes the fewest stops: most are passed once, and then it takes one.

use std::collections::{HashMap, HashSet};

/// An instruction, and which time this is that it is next.
pub(super) type Place = (u64, u32);

/// Where a run stops at a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    /// After how many instructions.
    pub(super) instructions: u64,
    pub(super) address: u64,
    /// How many times the breakpoint is met: the last of them is the place.
    pub(super) hits: u32,
}

#[derive(Debug, Default)]
pub(super) struct Route {
    /// Where the run stood after 0, 1, 2, … instructions, the last of them before the end marker.
    addresses: Vec<u64>,
    /// The best anchor for each; `None`: steps from the start.
    anchors: Vec<Option<Anchor>>,
}

impl Route {
    pub(super) fn clear(&mut self) {
        self.addresses.clear();
        self.anchors.clear();
    }

    pub(super) fn push(&mut self, address: u64) {
        self.addresses.push(address);
    }

    /// Chooses the anchors, once all is recorded.
    pub(super) fn plan(&mut self) {
        // The iterations of one string instruction, which a breakpoint stops before the first of.
        let repeated: HashSet<u64> =
            self.addresses.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        let start = self.addresses.first().copied();
        let mut hits = HashMap::<u64, u32>::new();
        let (mut best, mut stops) = (None, 0);
        for (instructions, &address) in (0..).zip(&self.addresses) {
            let hits = hits.entry(address).or_default();
            *hits += 1;
            // Whether a breakpoint where the run starts is met at once, nobody promises.
            if Some(address) != start && !repeated.contains(&address) && *hits <= stops {
                best = Some(Anchor { instructions, address, hits: *hits });
                stops = *hits;
            }
            self.anchors.push(best);
            stops += 1;
        }
    }

    /// How many instructions the whole run took, the end marker included.
    pub(super) fn instructions(&self) -> u64 {
        self.addresses.len() as u64
    }

    /// Where the run stood after `instructions` of them.
    pub(super) fn address(&self, instructions: u64) -> Option<u64> {
        self.addresses.get(usize::try_from(instructions).ok()?).copied()
    }

    pub(super) fn anchor(&self, instructions: u64) -> Option<Anchor> {
        self.anchors.get(usize::try_from(instructions).ok()?).copied().flatten()
    }

    /// The places after 0, 1, 2, … instructions, without the end.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, Place)> {
        let mut times = HashMap::<u64, u32>::new();
        (0..).zip(&self.addresses).map(move |(instructions, &address)| {
            let times = times.entry(address).or_default();
            *times += 1;
            (instructions, (address, *times))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(addresses: &[u64]) -> Route {
        let mut route = Route { addresses: addresses.to_vec(), anchors: Vec::new() };
        route.plan();
        route
    }

    #[test]
    fn a_place_that_is_passed_once_is_its_own_anchor() {
        let route = route(&[1, 2, 3]);
        assert_eq!(route.anchor(0), None);
        assert_eq!(route.anchor(2), Some(Anchor { instructions: 2, address: 3, hits: 1 }));
    }

    #[test]
    fn within_a_loop_the_way_is_counted_from_where_it_takes_the_fewest_stops() {
        let route = route(&[1, 2, 3, 4, 2, 3, 4, 5, 2, 3, 4]);
        assert_eq!(route.anchor(4), Some(Anchor { instructions: 4, address: 2, hits: 2 }));
        // One hit and one step against three hits.
        assert_eq!(route.anchor(8), Some(Anchor { instructions: 7, address: 5, hits: 1 }));
        assert_eq!(route.places().filter(|(_, (address, _))| *address == 2).last(), Some((8, (2, 3))));
    }

    #[test]
    fn iterations_of_one_instruction_are_stepped() {
        let route = route(&[1, 2, 3, 3, 3, 4]);
        let before = Some(Anchor { instructions: 1, address: 2, hits: 1 });
        assert_eq!([2, 3, 4].map(|instructions| route.anchor(instructions)), [before; 3]);
        assert_eq!(route.anchor(5), Some(Anchor { instructions: 5, address: 4, hits: 1 }));
    }
}
