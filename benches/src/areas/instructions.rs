//! Instructions of the fast paths: gates against regressions that noise would hide from a clock. Nobody else wants the lock,
//! the ring has room and something in it, nothing sleeps.
//!
//! They are counted by stepping a child through so many operations, and through more of them; the difference is what they
//! take, without what stands around them. The bounds are some 15 % above what this code took when they were written, in this
//! profile on x86-64; elsewhere there are none. Whoever makes a path longer on purpose raises its bound.

use std::hint::black_box;

use procession_channel::lane::{Config, pair};
use procession_channel::{Queue, channel};
use procession_parcel::codec;
use procession_sync::{Lock, Semaphore};
use procession_testkit::step;
use serde::{Deserialize, Serialize};

use crate::peers::mutexes;
use crate::scenario::{Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Unit, once};

/// So many operations are run before any is counted.
const WARM: u64 = 200;
/// Counted with few, and with many.
const FEW: u64 = 2;
const MANY: u64 = 18;

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, text, bounds: &'static [Bound], field| Scenario {
        id,
        what,
        unit: Unit::Instructions,
        regime: Regime::FREE,
        goal: Goal { text, bounds: if cfg!(target_arch = "x86_64") { bounds } else { &[] } },
        field,
    };
    const fn most(instructions: f64) -> Bound {
        Bound { against: Against::Figure(instructions), factor: 1.0 }
    }
    vec![
        scenario(
            "instructions.lock",
            "lock and unlock a Lock that nobody else wants",
            "at most 215",
            &[const { most(215.0) }],
            |_, _| {
                Field::default()
                    .ours(lock())
                    .peer("pthread_robust", mutexes::pthread_instructions(count))
                    .peer("std", std_mutex())
            },
        ),
        scenario(
            "instructions.semaphore",
            "take an owned permit that is free, and give it back",
            "at most 280",
            &[const { most(280.0) }],
            |_, _| Field::default().ours(semaphore()),
        ),
        scenario(
            "instructions.encode",
            "encode a struct of a number, a short text, eight floats and two texts into memory that is there; postcard: by itself",
            "at most 300",
            &[const { most(300.0) }],
            |_, _| Field::default().ours(encode()).peer("postcard", postcard_encode()),
        ),
        scenario(
            "instructions.decode",
            "decode that struct; postcard: by itself",
            "at most 1370",
            &[const { most(1370.0) }],
            |_, _| Field::default().ours(decode()).peer("postcard", postcard_decode()),
        ),
        scenario(
            "instructions.lane.16B",
            "send 16 bytes over a lane and receive them",
            "at most 360",
            &[const { most(360.0) }],
            |_, _| Field::default().ours(lane()),
        ),
        scenario(
            "instructions.channel.16B",
            "send 16 bytes over a channel and receive them",
            "at most 840",
            &[const { most(840.0) }],
            |_, _| Field::default().ours(typed()),
        ),
        scenario(
            "instructions.queue.16B",
            "put 16 bytes into a queue and get them",
            "at most 2250",
            &[const { most(2250.0) }],
            |_, _| Field::default().ours(queue()),
        ),
    ]
}

/// The instructions of one operation.
fn count(mut operation: impl FnMut() -> Result<(), Failure> + 'static) -> Entry {
    // It is called in forked copies of this process only, so each starts from the same state.
    let operation = std::cell::RefCell::new(move || operation().is_ok());
    Ok(once(move || {
        let counted = |times: u64| {
            let run = |times: u64| {
                let mut operation = operation.borrow_mut();
                // A failure shows as a count that is far too low; it is asserted where the child can still tell.
                (0..times).all(|_| operation())
            };
            step::count(
                || (),
                |()| assert!(run(WARM), "the operation fails"),
                |(), ()| {
                    black_box(run(times));
                },
            )
        };
        let counts = std::panic::AssertUnwindSafe(|| (counted(FEW), counted(MANY)));
        let (few, many) = std::panic::catch_unwind(counts).map_err(|_| "stepping is not possible here")?;
        Ok(many.saturating_sub(few) as f64 / (MANY - FEW) as f64)
    }))
}

fn lock() -> Entry {
    let lock = Lock::new()?;
    count(move || {
        drop(lock.lock().map_err(|error| error.without_guard())?);
        Ok(())
    })
}

fn std_mutex() -> Entry {
    let mutex = std::sync::Mutex::new(());
    count(move || {
        drop(black_box(&mutex).lock().map_err(|_| "poisoned")?);
        Ok(())
    })
}

fn semaphore() -> Entry {
    let semaphore = Semaphore::new(1)?;
    count(move || {
        drop(semaphore.permit()?);
        Ok(())
    })
}

#[derive(Clone, Serialize, Deserialize)]
struct Job {
    id: u64,
    name: String,
    weights: [f32; 8],
    tags: Vec<String>,
}

fn job() -> Job {
    Job { id: 7, name: "resize".into(), weights: [0.5; 8], tags: vec!["a".into(), "of two".into()] }
}

fn encode() -> Entry {
    let (job, mut into) = (job(), Vec::with_capacity(256));
    count(move || {
        into.clear();
        codec::encode(black_box(&job), &mut into)?;
        Ok(())
    })
}

fn postcard_encode() -> Entry {
    let (job, mut into) = (job(), [0; 256]);
    count(move || {
        black_box(postcard::to_slice(black_box(&job), &mut into)?);
        Ok(())
    })
}

fn decode() -> Entry {
    let mut encoded = Vec::new();
    codec::encode(&job(), &mut encoded)?;
    count(move || {
        black_box(codec::decode::<Job>(black_box(&encoded))?);
        Ok(())
    })
}

fn postcard_decode() -> Entry {
    let encoded = postcard::to_stdvec(&job())?;
    count(move || {
        black_box(postcard::from_bytes::<Job>(black_box(&encoded))?);
        Ok(())
    })
}

fn lane() -> Entry {
    let (mut sender, mut receiver) = pair(&Config::default())?;
    let mut into = Vec::new();
    count(move || {
        sender.send(&[black_box(&[7; 16])], None)?;
        receiver.recv(&mut into, None)?;
        Ok(())
    })
}

fn typed() -> Entry {
    let (mut sender, mut receiver) = channel::<[u8; 16]>()?;
    count(move || {
        sender.send(black_box([7; 16])).map_err(|error| error.to_string())?;
        black_box(receiver.recv()?);
        Ok(())
    })
}

fn queue() -> Entry {
    let queue = Queue::<[u8; 16]>::bounded(64)?;
    count(move || {
        queue.put(black_box([7; 16])).map_err(|error| error.to_string())?;
        black_box(queue.get()?);
        Ok(())
    })
}
