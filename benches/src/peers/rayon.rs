//! The crate `rayon`: tasks on threads of this process. Nothing crosses, and no thread can be lost, so this is what a pool of
//! processes can reach at best.

use crate::scenario::Entry;

#[cfg(feature = "rivals")]
mod real {
    use std::time::Instant;

    use rayon::prelude::*;
    use rayon::{ThreadPool, ThreadPoolBuilder};

    use crate::scenario::{Entry, Failure, timed};

    fn pool(threads: usize) -> Result<ThreadPool, Failure> {
        Ok(ThreadPoolBuilder::new().num_threads(threads).build()?)
    }

    pub(super) fn create(threads: usize, task: bool) -> Entry {
        Ok(Box::new(move |n| {
            timed(n, || {
                let pool = pool(threads)?;
                match !task || pool.install(|| std::hint::black_box(7)) == 7 {
                    true => Ok(()),
                    false => Err("wrong answer".into()),
                }
            })
        }))
    }

    pub(super) fn apply(threads: usize) -> Entry {
        let pool = pool(threads)?;
        Ok(Box::new(move |n| {
            timed(n, || match pool.install(|| std::hint::black_box(7)) {
                7 => Ok(()),
                _ => Err("wrong answer".into()),
            })
        }))
    }

    pub(super) fn map(threads: usize, single: bool) -> Entry {
        let pool = pool(threads)?;
        Ok(Box::new(move |n: u64| {
            let start = Instant::now();
            let most = if single { 1 } else { usize::MAX };
            let results: Vec<usize> = pool.install(|| {
                (0..n as usize).into_par_iter().with_max_len(most).map(std::hint::black_box).collect()
            });
            let time = start.elapsed();
            if results.len() as u64 == n { Ok(time) } else { Err("lost items".into()) }
        }))
    }

    pub(super) fn work(threads: usize, items: Vec<u64>, work: fn(u64) -> u64) -> Entry {
        let pool = pool(threads)?;
        Ok(Box::new(move |n| {
            timed(n, || {
                let results: Vec<u64> = pool.install(|| items.par_iter().map(|item| work(*item)).collect());
                std::hint::black_box(results);
                Ok(())
            })
        }))
    }

    pub(super) fn sum(threads: usize, data: Vec<f64>, chunk: usize) -> Entry {
        let pool = pool(threads)?;
        Ok(Box::new(move |n| {
            timed(n, || {
                let sums: Vec<f64> =
                    pool.install(|| data.par_chunks(chunk).map(|chunk| chunk.iter().sum()).collect());
                std::hint::black_box(sums);
                Ok(())
            })
        }))
    }
}

#[cfg(not(feature = "rivals"))]
mod real {
    use crate::scenario::Entry;

    fn absent() -> Entry {
        Err("built without the feature `rivals`".into())
    }

    pub(super) fn create(_: usize, _: bool) -> Entry {
        absent()
    }

    pub(super) fn apply(_: usize) -> Entry {
        absent()
    }

    pub(super) fn map(_: usize, _: bool) -> Entry {
        absent()
    }

    pub(super) fn work(_: usize, _: Vec<u64>, _: fn(u64) -> u64) -> Entry {
        absent()
    }

    pub(super) fn sum(_: usize, _: Vec<f64>, _: usize) -> Entry {
        absent()
    }
}

/// Makes a pool, runs a task if asked to, and drops it.
///
/// # Errors
///
/// If built without it.
pub fn create(threads: usize, task: bool) -> Entry {
    real::create(threads, task)
}

/// One task and its result.
///
/// # Errors
///
/// If built without it, or the threads cannot be started.
pub fn apply(threads: usize) -> Entry {
    real::apply(threads)
}

/// Items of a map that returns its argument; `single`: each a task of its own.
///
/// # Errors
///
/// If built without it, or the threads cannot be started.
pub fn map(threads: usize, single: bool) -> Entry {
    real::map(threads, single)
}

/// All of these items, worked on.
///
/// # Errors
///
/// If built without it, or the threads cannot be started.
pub fn work(threads: usize, items: Vec<u64>, work: fn(u64) -> u64) -> Entry {
    real::work(threads, items, work)
}

/// The sums of the chunks of a vector.
///
/// # Errors
///
/// If built without it, or the threads cannot be started.
pub fn sum(threads: usize, data: Vec<f64>, chunk: usize) -> Entry {
    real::sum(threads, data, chunk)
}
