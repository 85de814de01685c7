//! What is measured, area by area.

mod channel;
mod parcel;
mod pool;
mod process;
mod waiting;

use crate::scenario::Scenario;

/// Every scenario, in the report's order.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [process::scenarios(), parcel::scenarios(), channel::scenarios(), pool::scenarios(), waiting::scenarios()]
        .into_iter()
        .flatten()
        .collect()
}
