//! A queue with several producers and several consumers, each a process.

use std::time::Instant;

use procession_channel::Queue;
use procession_sync::RawValue;

use crate::peers::forked::FarSide;
use crate::scenario::{Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit};

/// How many items go at a time, where they do.
const BATCH: usize = 64;

type Item = [u64; 2];

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, goal, field| Scenario {
        id,
        what,
        unit: Unit::PerSecond,
        regime: Regime::FREE,
        goal,
        field,
    };
    let curve = Goal { text: "none: for the curve", bounds: &[] };
    vec![
        scenario(
            "queue.throughput.16B.mpmc",
            "16-byte items from two producers to two consumers, four processes on all cores, one item a call; \
             `batches`: 64 a call; CPython's likewise, one item a call",
            Goal {
                text: "at least 5 million/s",
                bounds: &[Bound { against: Against::Figure(5e6), factor: 1.0 }],
            },
            |surroundings, regime| {
                field(
                    2,
                    surroundings,
                    regime,
                    &[("Queue", "queue.many.4"), ("SimpleQueue", "simplequeue.many.4")],
                )
            },
        ),
        scenario(
            "queue.scaling.processes.2",
            "16-byte items from one producer to one consumer, on all cores; `batches`: 64 a call",
            curve,
            |surroundings, regime| field(1, surroundings, regime, &[("Queue", "queue.many.2")]),
        ),
        scenario(
            "queue.scaling.processes.4",
            "16-byte items from two producers to two consumers, on all cores; `batches`: 64 a call",
            curve,
            |surroundings, regime| field(2, surroundings, regime, &[("Queue", "queue.many.4")]),
        ),
        scenario(
            "queue.scaling.processes.8",
            "16-byte items from four producers to four consumers, on all cores; `batches`: 64 a call",
            curve,
            |surroundings, regime| field(4, surroundings, regime, &[("Queue", "queue.many.8")]),
        ),
    ]
}

/// So many producers, and as many consumers.
fn field(
    each: usize,
    surroundings: &Surroundings,
    regime: Regime,
    cpython: &[(&str, &'static str)],
) -> Field {
    Field::default().ours(many(1, each)).peer("batches", many(BATCH, each)).newest_cpython(
        surroundings,
        regime,
        cpython,
    )
}

/// What all of them share.
#[derive(Clone)]
struct Work {
    items: Queue<Item>,
    /// How many items a producer is to put.
    orders: Queue<u64>,
    taken: RawValue<u64>,
    /// How many are to be taken before `done` is told.
    target: RawValue<u64>,
    done: Queue<()>,
}

impl Work {
    fn produce(&self, batch: usize) -> Result<(), Failure> {
        loop {
            let count = self.orders.get()?;
            if batch == 1 {
                for n in 0..count {
                    self.items.put([n, n]).map_err(|error| error.to_string())?;
                }
                continue;
            }
            let mut put = 0;
            while put < count {
                let many = (count - put).min(batch as u64);
                let items = (put..put + many).map(|n| [n, n]).collect();
                self.items.put_many(items).map_err(|error| error.cause.to_string())?;
                put += many;
            }
        }
    }

    fn consume(&self, batch: usize) -> Result<(), Failure> {
        loop {
            let count = if batch == 1 {
                self.items.get()?;
                1
            } else {
                self.items.get_many(batch)?.len() as u64
            };
            let before = self.taken.fetch_add(count);
            let target = self.target.load();
            if before < target && before + count >= target {
                self.done.put(()).map_err(|error| error.to_string())?;
            }
        }
    }
}

fn many(batch: usize, each: usize) -> Entry {
    let work = Work {
        items: Queue::bounded(4096)?,
        orders: Queue::unbounded()?,
        taken: RawValue::new(0)?,
        target: RawValue::new(0)?,
        done: Queue::unbounded()?,
    };
    let keep: Vec<i32> = (3..256).collect();
    let mut far = Vec::new();
    for number in 0..2 * each {
        let work = work.clone();
        far.push(FarSide::fork(&keep, None, move || {
            // It ends with the measurement, which kills it.
            let _: Result<(), Failure> =
                if number < each { work.produce(batch) } else { work.consume(batch) };
        })?);
    }
    Ok(Box::new(move |n| {
        let _kept = &far;
        work.target.store(work.taken.load() + n);
        let start = Instant::now();
        let parts = each as u64;
        for part in 0..parts {
            let count = n * (part + 1) / parts - n * part / parts;
            work.orders.put(count).map_err(|error| error.to_string())?;
        }
        work.done.get()?;
        Ok(start.elapsed())
    }))
}
