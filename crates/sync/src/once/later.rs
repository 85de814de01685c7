//! Doing it as a future. One that is dropped while it is at it lets the next one do it.

use super::{DONE, NOT_DONE, Once, OnceError, OnceValue, OnceWords, POISONED, RUNNING};
use crate::{
    arena::{Handle, Shared, join},
    later::{Inside, Later, Try},
    robust::Robust,
    who::generation,
};
use bytemuck::Pod;
use procession_sys::{sync::AtomicU32, waker::Word};
use std::sync::Arc;

/// The words of a `Once`, wherever they lie.
trait HasOnce: Shared {
    fn once(&self) -> &OnceWords;
}

impl HasOnce for OnceWords {
    fn once(&self) -> &OnceWords {
        self
    }
}

impl HasOnce for super::OnceValueWords {
    fn once(&self) -> &OnceWords {
        super::OnceValueWords::once(self)
    }
}

/// A wait until nobody runs it; or, if that is asked for, until it is done.
struct Over<'a, W> {
    handle: &'a Handle<W>,
    done: bool,
}

impl<W: HasOnce> Try for Over<'_, W> {
    type Output = ();

    fn attempt(&self, waited: bool) -> Option<()> {
        let words = self.handle.words().once();
        let over = match words.state.state() {
            DONE => true,
            RUNNING if !self.done => {
                let segment = self.handle.place().segment();
                waited && words.runner().is_none_or(|runner| segment.is_dead(runner))
            }
            _ => !self.done,
        };
        over.then_some(())
    }

    fn flag(&self) -> Option<u32> {
        let done = self.done;
        self.handle.words().once().state.flag(|state| state == DONE || !done && state != RUNNING)
    }

    fn word(&self) -> Arc<dyn Word> {
        Arc::new(State(self.handle.clone()))
    }
}

struct State<W>(Handle<W>);

impl<W: HasOnce> Word for State<W> {
    fn word(&self) -> &AtomicU32 {
        self.0.words().once().state.word()
    }
}

/// A future runs it.
struct Running<'a> {
    words: &'a OnceWords,
    generation: u32,
    panicking: bool,
    done: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A forked child has a copy, and runs nothing.
        if self.generation != generation() {
            return;
        }
        self.words.end(match self.done {
            true => DONE,
            false if !self.panicking && std::thread::panicking() => POISONED,
            false => NOT_DONE,
        });
    }
}

/// Runs the future that `f` makes, if it is not done, and then `last` with what it gave.
async fn run<W: HasOnce, T>(
    handle: &Handle<W>,
    force: bool,
    f: impl AsyncFnOnce() -> T,
    last: impl FnOnce(T),
) -> Result<bool, OnceError> {
    let (words, segment) = (handle.words().once(), handle.place().segment());
    if words.is_done() {
        return Ok(false);
    }
    let member = join(segment, None).map_err(|error| OnceError::Member(Box::new(error)))?;
    let mutex: fn(&W) -> &Robust = |words| &words.once().mutex;
    loop {
        let locked = Inside::of(handle, mutex).await?;
        match words.try_begin(words.with(locked), segment, member, force, 0)? {
            Some(true) => break,
            Some(false) => return Ok(false),
            None => Later::new(Over { handle, done: false }).await,
        }
    }
    let panicking = std::thread::panicking();
    let mut running = Running { words, generation: generation(), panicking, done: false };
    let value = f().await;
    if running.generation != generation() {
        return Err(OnceError::Recursive);
    }
    last(value);
    running.done = true;
    Ok(true)
}

impl Once {
    /// As [`call_once`](Once::call_once), as a future for any executor (feature `async`), with a function that is one too.
    ///
    /// It can be dropped at any time: if it was the one that ran `f`, it is not done then, and the next caller runs its own,
    /// also one that waits already.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let once = procession_sync::Once::new()?;
    /// # let _ = async {
    /// once.call_once_async(async || println!("once")).await?;
    /// # Ok::<(), procession_sync::OnceError>(()) };
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`call_once`](Once::call_once). Who asks for it in the function that it runs waits for itself: that is not found
    /// out here.
    pub async fn call_once_async(&self, f: impl AsyncFnOnce()) -> Result<bool, OnceError> {
        run(&self.handle, false, f, |()| ()).await
    }

    /// As [`call_once_async`](Once::call_once_async), also if a function panicked.
    ///
    /// # Errors
    ///
    /// As [`call_once_async`](Once::call_once_async), but never [`OnceError::Poisoned`].
    pub async fn call_once_force_async(&self, f: impl AsyncFnOnce()) -> Result<bool, OnceError> {
        run(&self.handle, true, f, |()| ()).await
    }

    /// As [`wait`](Once::wait), as a future for any executor (feature `async`). It can be dropped at any time.
    pub async fn wait_async(&self) {
        Later::new(Over { handle: &self.handle, done: true }).await;
    }
}

impl<T: Pod> OnceValue<T> {
    /// As [`get_or_init`](OnceValue::get_or_init), as a future for any executor (feature `async`), with a function that is
    /// one too.
    ///
    /// It can be dropped at any time: if it was the one that computed the value, the next caller does, also one that waits
    /// already.
    ///
    /// # Errors
    ///
    /// As [`Once::call_once_async`].
    pub async fn get_or_init_async(&self, f: impl AsyncFnOnce() -> T) -> Result<T, OnceError> {
        run(self.handle(), false, f, |value| self.write(&value)).await?;
        Ok(self.read())
    }

    /// As [`wait`](OnceValue::wait), as a future for any executor (feature `async`). It can be dropped at any time.
    pub async fn wait_async(&self) -> T {
        Later::new(Over { handle: self.handle(), done: true }).await;
        self.read()
    }
}
