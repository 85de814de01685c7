//! Processes that are joined where they were started.

use crate::{Builder, Process, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::{Arc, Mutex, PoisonError};

/// Where processes of one [`scope`] start.
#[derive(Debug, Default)]
pub struct Scope {
    started: Mutex<Vec<Arc<dyn Joined>>>,
}

trait Joined: std::fmt::Debug + Send + Sync {
    fn join(&self);
}

impl<T: Send> Joined for Process<T> {
    fn join(&self) {
        // Whoever wants the value or the error has the handle.
        let _ = self.wait();
    }
}

impl Scope {
    /// Starts a process that is joined at the end of the scope at the latest.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<Arc<Process<R>>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        self.spawn_with(Builder::new(), f, arg)
    }

    /// As [`spawn`](Scope::spawn), with the settings of a builder.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_with<A, R>(&self, builder: Builder, f: fn(A) -> R, arg: A) -> Result<Arc<Process<R>>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        let process = Arc::new(builder.spawn(f, arg)?);
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(process.clone());
        Ok(process)
    }
}

/// Runs `f`, and then joins every process that it started in the scope.
///
/// If `f` panics the processes are stopped instead, as their handles are dropped.
///
/// ```no_run
/// let total = procession_process::scope(|scope| {
///     let half = scope.spawn(|n: u64| n / 2, 10)?;
///     let double = scope.spawn(|n: u64| n * 2, 10)?;
///     Ok::<u64, Box<dyn std::error::Error>>(half.join()? + double.join()?)
/// })?;
/// assert_eq!(total, 25);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn scope<R>(f: impl FnOnce(&Scope) -> R) -> R {
    let scope = Scope::default();
    let result = f(&scope);
    for process in scope.started.into_inner().unwrap_or_else(PoisonError::into_inner) {
        process.join();
    }
    result
}
