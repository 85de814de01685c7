//! What is measured, area by area.

mod channel;
mod instructions;
mod lock;
mod manager;
mod parcel;
mod pool;
mod process;
mod semaphore;
mod shared;
mod value;
mod waiting;

use std::hint::black_box;

use crate::scenario::{Entry, Scenario, timed};

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
        manager::scenarios(),
        instructions::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Two copies of so many bytes, there and back, memory warm.
fn copies(size: usize) -> Entry {
    let data = vec![7_u8; size];
    let mut there = vec![1_u8; size];
    let mut back = vec![2_u8; size];
    Ok(Box::new(move |n| {
        timed(n, || {
            there.copy_from_slice(black_box(&data));
            back.copy_from_slice(black_box(&there));
            black_box(&back);
            Ok(())
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What a report holds at least, where the capability exists.
    const NAMED: [&str; 31] = [
        "lock.uncontended",
        "lock.contended",
        "semaphore.uncontended",
        "event.pingpong",
        "value.add",
        "channel.roundtrip.16B",
        "channel.throughput.16B",
        "queue.roundtrip.16B",
        "queue.throughput.16B.spsc",
        "queue.throughput.16B.mpmc",
        "queue.throughput.64KiB",
        "pipe.roundtrip.16B",
        "pipe.roundtrip.1MiB",
        "shared.handover.64MiB",
        "parcel.bytes.8MiB",
        "process.start.fork",
        "process.start.forkserver",
        "process.start.spawn",
        "pool.create",
        "pool.apply",
        "pool.map.chunk1",
        "pool.map.default",
        "pool.imap_unordered",
        "pool.map.8MiB",
        "pool.cpu",
        "pool.uneven",
        "pool.shared_array",
        "manager.dict.set",
        "manager.dict.get",
        "manager.clients.8",
        "memory.worker",
    ];

    #[test]
    fn every_named_measurement_is_there_once() {
        let all = all();
        let ids: BTreeSet<&str> = all.iter().map(|scenario| scenario.id).collect();
        assert_eq!(ids.len(), all.len(), "an id comes twice");
        for id in NAMED {
            assert!(ids.contains(id), "{id} is missing");
        }
    }

    #[test]
    fn every_measurement_says_what_it_is_and_what_is_asked() {
        for scenario in all() {
            assert!(!scenario.what.is_empty() && !scenario.goal.text.is_empty(), "{}", scenario.id);
        }
    }
}
