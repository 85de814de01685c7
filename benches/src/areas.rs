//! What is measured, area by area.

mod channel;
mod lock;
mod parcel;
mod pool;
mod process;
mod semaphore;
mod shared;
mod value;
mod waiting;

use crate::scenario::Scenario;

/// Every scenario, in the report's order.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        process::scenarios(),
        parcel::scenarios(),
        shared::scenarios(),
        lock::scenarios(),
        semaphore::scenarios(),
        waiting::scenarios(),
        value::scenarios(),
        channel::scenarios(),
        pool::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
