//! Shared numbers: one process adds to one that no other one wants just then.
#![expect(unsafe_code, reason = "an atomic in a raw mapping")]

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use procession_sync::{RawValue, Value};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::scenario::{Against, Bound, Entry, Field, Goal, Regime, Scenario, Surroundings, Unit, timed};

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, goal, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime: Regime::FREE,
        goal,
        field,
    };
    vec![
        scenario(
            "value.add",
            "add 1 to a shared number without a lock: RawValue::fetch_add",
            Goal {
                text: "at most 1.1 times an atomic in a raw mapping",
                bounds: &[Bound { against: Against::Limit, factor: 1.1 }],
            },
            raw,
        ),
        scenario(
            "value.update",
            "add 1 to a shared number under its lock: Value::update",
            Goal {
                text: "at most 2 times std's Mutex, which does not survive its holder, and under CPython",
                bounds: &[
                    Bound { against: Against::Peer("std"), factor: 2.0 },
                    Bound { against: Against::CPython, factor: 1.0 },
                ],
            },
            locked,
        ),
    ]
}

fn raw(_: &Surroundings, _: Regime) -> Field {
    Field::default()
        .ours(ours_raw())
        .limit("atomic in a raw mapping", in_a_raw_mapping())
        .peer("local AtomicU64", local_atomic())
}

fn locked(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours_locked())
        .limit("atomic in a raw mapping", in_a_raw_mapping())
        .peer("std", std_mutex())
        .cpython(surroundings, regime, "value.update")
}

fn ours_raw() -> Entry {
    let number = RawValue::new(0_u64)?;
    Ok(Box::new(move |n| {
        timed(n, || {
            black_box(&number).fetch_add(1);
            Ok(())
        })
    }))
}

fn ours_locked() -> Entry {
    let number = Value::new(0_u64)?;
    Ok(Box::new(move |n| timed(n, || Ok(black_box(&number).update(|number| *number += 1)?))))
}

fn local_atomic() -> Entry {
    let number = AtomicU64::new(0);
    Ok(Box::new(move |n| {
        timed(n, || {
            black_box(&number).fetch_add(1, Ordering::AcqRel);
            Ok(())
        })
    }))
}

fn std_mutex() -> Entry {
    let number = Mutex::new(0_u64);
    Ok(Box::new(move |n| {
        timed(n, || {
            *black_box(&number).lock().map_err(|error| error.to_string())? += 1;
            Ok(())
        })
    }))
}

fn in_a_raw_mapping() -> Entry {
    // SAFETY: a null hint lets the kernel choose unused addresses.
    let page = unsafe {
        mmap_anonymous(std::ptr::null_mut(), 4096, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)?
    };
    // SAFETY: a zeroed page that is never unmapped, and accessed as this atomic only.
    let number = unsafe { AtomicU64::from_ptr(page.cast()) };
    Ok(Box::new(move |n| {
        timed(n, || {
            black_box(number).fetch_add(1, Ordering::AcqRel);
            Ok(())
        })
    }))
}
