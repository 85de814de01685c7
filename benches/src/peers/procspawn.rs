//! The crate `procspawn`: functions in re-executed processes, over `ipc-channel`; and its pool of such processes.

use crate::scenario::Entry;

/// Lets its children run; called first thing in `main`.
pub fn init() {
    #[cfg(feature = "rivals")]
    procspawn::init();
}

#[cfg(feature = "rivals")]
mod real {
    use std::collections::VecDeque;
    use std::time::Instant;

    use procspawn::Pool;
    use serde::{Serialize, de::DeserializeOwned};

    use crate::scenario::{Entry, Failure, timed};

    /// A task costs descriptors until its result is taken: so many at a time.
    const WINDOW: usize = 64;

    pub(super) fn start() -> Entry {
        let mut number: u64 = 0;
        Ok(Box::new(move |n| {
            timed(n, || {
                number += 1;
                let answer = procspawn::spawn(number, |number| number + 1).join()?;
                if answer == number + 1 { Ok(()) } else { Err("wrong answer".into()) }
            })
        }))
    }

    fn identity(number: u64) -> u64 {
        number
    }

    pub(super) fn create(workers: usize, task: bool) -> Entry {
        Ok(Box::new(move |n| {
            timed(n, || {
                let pool = Pool::new(workers)?;
                if task && pool.spawn(7, identity).join()? != 7 {
                    return Err("wrong answer".into());
                }
                pool.kill();
                Ok(())
            })
        }))
    }

    pub(super) fn apply(workers: usize) -> Entry {
        let pool = Pool::new(workers)?;
        Ok(Box::new(move |n| {
            timed(n, || match pool.spawn(7, identity).join()? {
                7 => Ok(()),
                _ => Err("wrong answer".into()),
            })
        }))
    }

    /// All items, in order, a task each.
    fn each<A, R>(
        pool: &Pool,
        items: impl Iterator<Item = A>,
        f: fn(A) -> R,
        mut take: impl FnMut(R),
    ) -> Result<(), Failure>
    where
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let mut waiting = VecDeque::with_capacity(WINDOW);
        for item in items {
            if waiting.len() == WINDOW
                && let Some(first) = waiting.pop_front()
            {
                take(procspawn::JoinHandle::join(first)?);
            }
            waiting.push_back(pool.spawn(item, f));
        }
        for task in waiting {
            take(task.join()?);
        }
        Ok(())
    }

    pub(super) fn map(workers: usize) -> Entry {
        let pool = Pool::new(workers)?;
        Ok(Box::new(move |n: u64| {
            let start = Instant::now();
            let mut count = 0;
            each(&pool, 0..n, identity, |_| count += 1)?;
            if count == n { Ok(start.elapsed()) } else { Err("lost items".into()) }
        }))
    }

    pub(super) fn work(workers: usize, items: Vec<u64>, work: fn(u64) -> u64) -> Entry {
        let pool = Pool::new(workers)?;
        Ok(Box::new(move |n| {
            timed(n, || {
                each(&pool, items.iter().copied(), work, |result| {
                    std::hint::black_box(result);
                })
            })
        }))
    }

    pub(super) fn buffers(workers: usize, size: usize) -> Entry {
        let pool = Pool::new(workers)?;
        let data = vec![7_u8; size];
        Ok(Box::new(move |n| {
            timed(n, || {
                let back = pool.spawn(data.clone(), |data| data).join()?;
                if back.len() == size { Ok(()) } else { Err("a buffer of another length".into()) }
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

    pub(super) fn start() -> Entry {
        absent()
    }

    pub(super) fn create(_: usize, _: bool) -> Entry {
        absent()
    }

    pub(super) fn apply(_: usize) -> Entry {
        absent()
    }

    pub(super) fn map(_: usize) -> Entry {
        absent()
    }

    pub(super) fn work(_: usize, _: Vec<u64>, _: fn(u64) -> u64) -> Entry {
        absent()
    }

    pub(super) fn buffers(_: usize, _: usize) -> Entry {
        absent()
    }
}

/// Start to result to reaped.
///
/// # Errors
///
/// If built without it.
pub fn start() -> Entry {
    real::start()
}

/// Makes a pool, runs a task if asked to, and ends it.
///
/// # Errors
///
/// If built without it.
pub fn create(workers: usize, task: bool) -> Entry {
    real::create(workers, task)
}

/// One task and its result.
///
/// # Errors
///
/// If built without it, or its processes cannot be started.
pub fn apply(workers: usize) -> Entry {
    real::apply(workers)
}

/// Items, each a task of its own: it has no other kind.
///
/// # Errors
///
/// If built without it, or its processes cannot be started.
pub fn map(workers: usize) -> Entry {
    real::map(workers)
}

/// All of these items, worked on.
///
/// # Errors
///
/// If built without it, or its processes cannot be started.
pub fn work(workers: usize, items: Vec<u64>, work: fn(u64) -> u64) -> Entry {
    real::work(workers, items, work)
}

/// Bytes to a worker and back.
///
/// # Errors
///
/// If built without it, or its processes cannot be started.
pub fn buffers(workers: usize, size: usize) -> Entry {
    real::buffers(workers, size)
}
