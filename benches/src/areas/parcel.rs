//! What crosses to another process: packing and unpacking, in warm memory.

use std::hint::black_box;

use procession_parcel::Parcel;

use crate::memory::keep_what_is_freed;
use crate::scenario::{Against, Bound, Entry, Field, Goal, Regime, Scenario, Surroundings, Unit, timed};

const SIZE: usize = 8 << 20;

const GOAL: Goal = Goal {
    text: "at most 1.5 times a memcpy each way",
    bounds: &[Bound { against: Against::Peer("memcpy"), factor: 1.5 }],
};

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime: Regime::FREE,
        goal: GOAL,
        field,
    };
    vec![
        scenario(
            "parcel.bytes.8MiB",
            "pack a Vec<u8> of 8 MiB and unpack it, memory warm; memcpy: clone it twice",
            bytes,
        ),
        scenario(
            "parcel.f64.8MiB",
            "pack a Vec<f64> of 8 MiB and unpack it, memory warm; memcpy: clone it twice",
            floats,
        ),
    ]
}

fn bytes(surroundings: &Surroundings, regime: Regime) -> Field {
    keep_what_is_freed();
    let data = vec![7u8; SIZE];
    Field::default()
        .ours(pack_and_unpack(data.clone()))
        .peer("memcpy", clones(data.clone()))
        .peer("postcard", postcard(data))
        .cpython(surroundings, regime, "bytes.8MiB")
}

fn floats(_: &Surroundings, _: Regime) -> Field {
    keep_what_is_freed();
    let data = vec![0.7f64; SIZE / 8];
    Field::default()
        .ours(pack_and_unpack(data.clone()))
        .peer("memcpy", clones(data.clone()))
        .peer("postcard", postcard(data))
}

fn pack_and_unpack<T: serde::Serialize + serde::de::DeserializeOwned + 'static>(data: Vec<T>) -> Entry {
    Ok(Box::new(move |n| {
        timed(n, || {
            let parcel = Parcel::pack(black_box(&data))?;
            let back: Vec<T> = black_box(parcel).unpack()?;
            black_box(back);
            Ok(())
        })
    }))
}

fn clones<T: Clone + 'static>(data: Vec<T>) -> Entry {
    Ok(Box::new(move |n| {
        timed(n, || {
            let there = black_box(&data).clone();
            black_box(black_box(&there).clone());
            Ok(())
        })
    }))
}

/// The codec by itself, element by element through serde.
fn postcard<T: serde::Serialize + serde::de::DeserializeOwned + 'static>(data: Vec<T>) -> Entry {
    Ok(Box::new(move |n| {
        timed(n, || {
            let bytes = postcard::to_stdvec(black_box(&data))?;
            let back: Vec<T> = postcard::from_bytes(black_box(&bytes))?;
            black_box(back);
            Ok(())
        })
    }))
}
