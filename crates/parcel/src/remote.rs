//! An error of another process, as far as text can carry it.

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;

/// An error that happened in another process: its type's name, its message, and those of its sources.
///
/// It stands in for errors that are not serialisable, as most are not.
#[derive(Clone, Serialize, Deserialize)]
pub struct RemoteError(Box<Details>);

#[derive(Clone, Serialize, Deserialize)]
struct Details {
    type_name: String,
    message: String,
    source: Option<Source>,
    backtrace: Option<String>,
}

/// One of the causes, in order; each owns the next so that `Error::source` can lend it.
#[derive(Clone, Serialize, Deserialize)]
struct Source {
    message: String,
    next: Option<Box<Source>>,
}

/// How many sources are kept: an error that names itself as its source has no end.
const MAX_SOURCES: usize = 64;

impl RemoteError {
    /// Writes down an error whose type is known here.
    #[must_use]
    pub fn of<E: Error>(error: &E) -> RemoteError {
        RemoteError::named(std::any::type_name::<E>(), error)
    }

    /// Writes down an error whose type is not known.
    #[must_use]
    pub fn new(error: &dyn Error) -> RemoteError {
        RemoteError::named("dyn Error", error)
    }

    /// Writes down an error under the given type name.
    #[must_use]
    pub fn named(type_name: &str, error: &dyn Error) -> RemoteError {
        let mut messages = Vec::new();
        let mut next = error.source();
        while let Some(source) = next
            && messages.len() < MAX_SOURCES
        {
            messages.push(source.to_string());
            next = source.source();
        }
        let source = messages
            .into_iter()
            .rev()
            .fold(None, |next, message| Some(Source { message, next: next.map(Box::new) }));
        let message = error.to_string();
        RemoteError(Box::new(Details { type_name: type_name.to_owned(), message, source, backtrace: None }))
    }

    /// Adds a backtrace, as text.
    #[must_use]
    pub fn with_backtrace(mut self, backtrace: String) -> RemoteError {
        self.0.backtrace = Some(backtrace);
        self
    }

    /// The name of the error's type, as `std::any::type_name` gave it there.
    #[must_use]
    pub fn type_name(&self) -> &str {
        &self.0.type_name
    }

    /// What the error's `Display` said.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the error's sources said, the nearest first.
    #[must_use]
    pub fn sources(&self) -> Vec<&str> {
        let mut messages = Vec::new();
        let mut next = self.0.source.as_ref();
        while let Some(source) = next {
            messages.push(source.message.as_str());
            next = source.next.as_deref();
        }
        messages
    }

    /// The backtrace, if one was added.
    #[must_use]
    pub fn backtrace(&self) -> Option<&str> {
        self.0.backtrace.as_deref()
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.type_name, self.0.message)?;
        for source in self.sources() {
            write!(f, "\n  caused by: {source}")?;
        }
        match &self.0.backtrace {
            Some(backtrace) => write!(f, "\n{backtrace}"),
            None => Ok(()),
        }
    }
}

impl Error for RemoteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Source {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.next.as_deref().map(|source| source as _)
    }
}
