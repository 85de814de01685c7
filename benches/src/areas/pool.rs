//! Tasks on workers: calls that do nothing, work, data, and what a pool costs.

mod calls;
mod costs;
mod data;
mod work;

use crate::scenario::Scenario;

/// Where it is not the point how many there are.
const WORKERS: usize = 2;

pub(super) fn scenarios() -> Vec<Scenario> {
    [costs::scenarios(), calls::scenarios(), data::scenarios(), work::scenarios()]
        .into_iter()
        .flatten()
        .collect()
}

fn identity(number: u64) -> u64 {
    number
}
