//! The shared heap: large blocks that change hands between two processes, and small ones within one.

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use procession_parcel::{Parcel, wire};
use procession_shm::{Heap, SharedVec};

use crate::memory::keep_what_is_freed;
use crate::peers::forked::FarSide;
use crate::peers::unix_socket;
use crate::scenario::{
    Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
};

const SIZE: usize = 64 << 20;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            id: "shared.handover.64MiB",
            what: "64 MiB to another process and back, as a SharedVec in a parcel; memcpy: copy them twice, memory warm",
            unit: Unit::Nanoseconds,
            regime: Regime::FREE,
            goal: Goal {
                text: "a twentieth of the copies at most",
                bounds: &[Bound { against: Against::Peer("memcpy"), factor: 0.05 }],
            },
            field: handover,
        },
        Scenario {
            id: "shared.alloc.64B",
            what: "allocate 64 bytes in the shared heap, write to them, and free them; malloc: a Box, in this process's memory",
            unit: Unit::Nanoseconds,
            regime: Regime::FREE,
            goal: Goal {
                text: "at most 200 ns",
                bounds: &[Bound { against: Against::Figure(200.0), factor: 1.0 }],
            },
            field: small,
        },
    ]
}

fn handover(_: &Surroundings, regime: Regime) -> Field {
    keep_what_is_freed();
    Field::default()
        .ours(shared_vec())
        .peer("memcpy", super::copies(SIZE))
        .peer("unix_socket", unix_socket::round_trip(regime, SIZE))
}

fn send(socket: &UnixStream, block: &SharedVec<u8>) -> Result<(), Failure> {
    Ok(wire::send(socket, &Parcel::pack(block)?, None)?)
}

fn receive(socket: &UnixStream) -> Result<SharedVec<u8>, Failure> {
    let parcel = wire::recv(socket, &wire::Limits::default(), None)?.ok_or("the other side is gone")?;
    Ok(parcel.unpack()?)
}

fn shared_vec() -> Entry {
    let (near, other) = UnixStream::pair()?;
    // The far side attaches the heap by what it receives: it has nothing of it from before.
    let far = FarSide::fork(&[other.as_raw_fd()], None, move || {
        while let Ok(mut block) = receive(&other) {
            block[SIZE - 1] = block[SIZE - 1].wrapping_add(1);
            if send(&other, &block.moved()).is_err() {
                return;
            }
        }
    })?;
    let heap = Heap::new()?;
    let mut block = Some(heap.vec::<u8>(SIZE)?);
    Ok(Box::new(move |n| {
        let _far = &far;
        timed(n, || {
            let there = block.take().ok_or("the block got lost")?;
            let before = there[SIZE - 1];
            let there = there.moved();
            send(&near, &there)?;
            let back = receive(&near)?;
            if back[SIZE - 1] != before.wrapping_add(1) {
                return Err("the far side did not write to it".into());
            }
            block = Some(back);
            Ok(())
        })
    }))
}

fn small(_: &Surroundings, _: Regime) -> Field {
    Field::default().ours(in_heap()).peer("malloc", in_process())
}

fn in_heap() -> Entry {
    let heap = Heap::new()?;
    let _ = heap.alloc([7_u8; 64])?;
    Ok(Box::new(move |n| {
        timed(n, || {
            drop(black_box(heap.alloc(black_box([7_u8; 64]))?));
            Ok(())
        })
    }))
}

fn in_process() -> Entry {
    Ok(Box::new(move |n| {
        timed(n, || {
            drop(black_box(Box::new(black_box([7_u8; 64]))));
            Ok(())
        })
    }))
}
