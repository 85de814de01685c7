//! The subclass style: a type that is a job.

use crate::{Builder, Process, Result};
use serde::{Serialize, de::DeserializeOwned};

/// A job as a type, where Python subclasses `Process` and overrides `run`.
///
/// ```no_run
/// use procession_process::{Process, Run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greeter {
///     name: String,
/// }
///
/// impl Run for Greeter {
///     type Output = String;
///
///     fn run(self) -> String {
///         format!("hello, {}", self.name)
///     }
/// }
///
/// let child = Process::run(Greeter { name: "world".to_owned() })?;
/// assert_eq!(child.name(), "Greeter-1");
/// assert_eq!(child.join()?, "hello, world");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Run: Serialize + DeserializeOwned + 'static {
    /// What the job gives.
    type Output: Serialize + DeserializeOwned + 'static;

    /// Does the job, in the child.
    fn run(self) -> Self::Output;
}

impl<R: Serialize + DeserializeOwned + 'static> Process<R> {
    /// Starts a process that runs a job. Its default name is the type's, with the number.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn run<J: Run<Output = R>>(job: J) -> Result<Process<R>> {
        Builder::new().run(job)
    }
}

impl Builder {
    /// Starts a process that runs a job.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn run<J: Run>(self, job: J) -> Result<Process<J::Output>> {
        let path = std::any::type_name::<J>();
        let path = path.split('<').next().unwrap_or(path);
        let class = path.rsplit("::").next().unwrap_or(path);
        let builder = if self.class.is_none() { self.class(class) } else { self };
        builder.spawn(J::run, job)
    }
}
