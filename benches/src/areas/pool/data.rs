//! Large data: buffers that go out and come back, and arrays that stay where they are.
#![expect(unsafe_code, reason = "fresh memory to touch")]

use std::hint::black_box;

use procession_pool::Pool;
use procession_shm::{Heap, SharedVec};
use procession_sync::{Array, ArrayChunk};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::WORKERS;
use crate::memory::keep_what_is_freed;
use crate::peers::{procspawn, rayon};
use crate::scenario::{
    Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
};

const SIZE: usize = 8 << 20;
/// Both ways.
const CROSSING: u64 = 2 * SIZE as u64;
/// So many buffers are on their way at a time.
const BUFFERS: usize = 4;
/// Parts of an array.
const PARTS: usize = 64;

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario =
        |id, what, unit, goal, field| Scenario { id, what, unit, regime: Regime::FREE, goal, field };
    vec![
        scenario(
            "pool.map.8MiB",
            "bytes that cross, out and back, in buffers of 8 MiB as Vec<u8>, the memory of both sides recycled; memcpy: \
             copies, memory warm",
            Unit::BytesPerSecond(CROSSING),
            Goal {
                text: "at least 3 GB/s each way",
                bounds: &[Bound { against: Against::Figure(3e9), factor: 1.0 }],
            },
            recycled,
        ),
        scenario(
            "pool.map.8MiB.shared",
            "the same as blocks of a shared heap, which go by reference: a byte of each page is written by the worker and \
             looked at by the parent; `Vec`: the bytes cross, as above",
            Unit::BytesPerSecond(CROSSING),
            Goal {
                text: "at least 3 GB/s each way",
                bounds: &[Bound { against: Against::Figure(3e9), factor: 1.0 }],
            },
            shared,
        ),
        scenario(
            "pool.map.8MiB.fresh",
            "the same into fresh memory on both sides; `first_touch`: copies into memory that was just mapped",
            Unit::BytesPerSecond(CROSSING),
            Goal {
                text: "within 1.3 times the first-touch bandwidth",
                bounds: &[Bound { against: Against::Peer("first_touch"), factor: 1.0 / 1.3 }],
            },
            fresh,
        ),
        scenario(
            "pool.shared_array",
            "one element written in each of the 64 parts of an array of 64 MiB, a task each; `64 KiB`: of an array of that size",
            Unit::Nanoseconds,
            Goal {
                text: "the cost does not grow with the size: at most 1.25 times that of 64 KiB",
                bounds: &[Bound { against: Against::Peer("64 KiB"), factor: 1.25 }],
            },
            |surroundings, regime| {
                Field::default().ours(touched(64 << 20)).peer("64 KiB", touched(64 << 10)).cpython(
                    surroundings,
                    regime,
                    "pool.shared_array",
                )
            },
        ),
        scenario(
            "pool.shared_array.sum",
            "the sums of 64 parts of 64 MiB of f64 in a shared array; rayon: in a vector, on threads",
            Unit::Nanoseconds,
            Goal { text: "none of its own", bounds: &[] },
            |_, _| {
                Field::default().ours(summed()).peer("rayon", rayon::sum(WORKERS, numbers(), COUNT / PARTS))
            },
        ),
    ]
}

fn back(data: Vec<u8>) -> Vec<u8> {
    data
}

const PAGE: usize = 4096;

fn blocks_back(mut data: SharedVec<u8>) -> SharedVec<u8> {
    data.chunks_mut(PAGE).for_each(|page| page[0] = page[0].wrapping_add(1));
    data.moved()
}

/// Buffers that go round and round, `BUFFERS` at a time.
fn round<T: Send + 'static>(
    pool: Pool,
    mut buffers: Vec<T>,
    run: impl Fn(&Pool, Vec<T>) -> Result<Vec<T>, Failure> + 'static,
) -> Entry {
    Ok(Box::new(move |n: u64| {
        let mut left = n as usize;
        let start = std::time::Instant::now();
        while left > 0 {
            let many = left.min(buffers.len());
            let kept = buffers.split_off(many);
            buffers = run(&pool, std::mem::take(&mut buffers))?;
            if buffers.len() != many {
                return Err("lost buffers".into());
            }
            buffers.extend(kept);
            left -= many;
        }
        Ok(start.elapsed())
    }))
}

fn vectors(pool: Pool) -> Entry {
    round(pool, vec![vec![7_u8; SIZE]; BUFFERS], |pool, buffers| {
        let back: Vec<Vec<u8>> = pool.tasks(back, buffers).chunk_size(1).collect()?;
        if back.iter().all(|buffer| buffer.len() == SIZE) { Ok(back) } else { Err("another length".into()) }
    })
}

fn recycled(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(warm_vectors())
        .peer("memcpy", crate::areas::copies(SIZE))
        .peer("procspawn", procspawn::buffers(WORKERS, SIZE))
        .cpython(surroundings, regime, "pool.map.8MiB")
}

fn warm_vectors() -> Entry {
    keep_what_is_freed();
    vectors(Pool::builder().workers(WORKERS).initializer(|()| keep_what_is_freed(), ()).build()?)
}

fn shared(_: &Surroundings, _: Regime) -> Field {
    Field::default().ours(blocks()).peer("Vec", warm_vectors())
}

fn blocks() -> Entry {
    let heap = Heap::new()?;
    let blocks = (0..BUFFERS).map(|_| heap.vec::<u8>(SIZE)).collect::<Result<Vec<_>, _>>()?;
    let pool = Pool::builder().workers(WORKERS).heap(&heap).build()?;
    round(pool, blocks, |pool, blocks| {
        let moved: Vec<SharedVec<u8>> = blocks.into_iter().map(SharedVec::moved).collect();
        let back: Vec<SharedVec<u8>> = pool.tasks(blocks_back, moved).chunk_size(1).collect()?;
        // All pages of a block were written as often as its first.
        let written = |block: &SharedVec<u8>| block.chunks(PAGE).all(|page| page[0] == block[0]);
        let whole = back.iter().all(|block| block.len() == SIZE && written(block));
        if whole { Ok(back) } else { Err("another content".into()) }
    })
}

fn fresh(_: &Surroundings, _: Regime) -> Field {
    let ours = || vectors(Pool::new(WORKERS)?);
    Field::default().ours(ours()).peer("first_touch", first_touch())
}

/// Copies into memory that was just mapped, there and back.
fn first_touch() -> Entry {
    let data = vec![7_u8; SIZE];
    Ok(Box::new(move |n| {
        timed(2 * n, || {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a null hint lets the kernel choose unused addresses.
            let place = unsafe { mmap_anonymous(std::ptr::null_mut(), SIZE, access, MapFlags::PRIVATE) }?;
            // SAFETY: fresh memory of that size, which nobody else knows of.
            let memory = unsafe { std::slice::from_raw_parts_mut(place.cast::<u8>(), SIZE) };
            memory.copy_from_slice(black_box(&data));
            black_box(&memory[SIZE - 1]);
            // SAFETY: mapped above with this size; `memory` is not used again.
            unsafe { munmap(place, SIZE) }?;
            Ok(())
        })
    }))
}

fn touch(mut chunk: ArrayChunk<u8>) {
    chunk[0] = chunk[0].wrapping_add(1);
}

fn touched(size: usize) -> Entry {
    let (pool, array) = (Pool::new(WORKERS)?, Array::<u8>::new(size)?);
    Ok(Box::new(move |n| timed(n, || Ok(pool.for_each_chunk(&array, size / PARTS, touch)?))))
}

const COUNT: usize = (64 << 20) / 8;

fn numbers() -> Vec<f64> {
    (0..COUNT).map(|number| number as f64).collect()
}

fn sum(chunk: ArrayChunk<f64>) -> f64 {
    chunk.iter().sum()
}

fn summed() -> Entry {
    let (pool, array) = (Pool::new(WORKERS)?, Array::from_slice(&numbers())?);
    Ok(Box::new(move |n| {
        timed(n, || {
            black_box(pool.map_slices(&array, COUNT / PARTS, sum)?);
            Ok(())
        })
    }))
}
