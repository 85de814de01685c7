//! Why a lane or a bell could not be made or attached.

use crate::lane::Corrupt;
use std::fmt;

/// Why a lane or a bell could not be made or attached.
pub struct Error {
    operation: &'static str,
    cause: Cause,
}

pub(crate) enum Cause {
    Segment(procession_shm::Error),
    Capacity { capacity: usize },
    Place { offset: usize, size: usize, len: usize },
    Layout { found: u32, expected: u32 },
    Taken { end: &'static str },
    Corrupt(Corrupt),
}

impl Error {
    pub(crate) fn new(operation: &'static str, cause: Cause) -> Error {
        Error { operation, cause }
    }

    /// Why the shared memory below could not be had, if it was that.
    #[must_use]
    pub fn segment_error(&self) -> Option<&procession_shm::Error> {
        match &self.cause {
            Cause::Segment(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {} a lane or bell: ", self.operation)?;
        match &self.cause {
            Cause::Segment(error) => write!(f, "{error}"),
            Cause::Capacity { capacity } => {
                write!(f, "a capacity of {capacity} bytes is no power of two from 4096 to 67108864")
            }
            Cause::Place { offset, size, len } => write!(
                f,
                "{size} bytes from offset {offset} on are not within the segment's {len}, or not aligned to 128"
            ),
            Cause::Layout { found, expected } => {
                write!(f, "layout {found:#x} from another build, this one expects {expected:#x}")
            }
            Cause::Taken { end } => write!(f, "its {end} came out of another copy of the parcel already"),
            Cause::Corrupt(corrupt) => write!(f, "{corrupt}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Segment(error) => Some(error),
            Cause::Corrupt(corrupt) => Some(corrupt),
            _ => None,
        }
    }
}

impl From<procession_shm::Error> for Error {
    fn from(error: procession_shm::Error) -> Error {
        Error::new("make or attach", Cause::Segment(error))
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        let kind = match &error.cause {
            Cause::Segment(segment) => {
                segment.os_error().map_or(std::io::ErrorKind::InvalidData, |os| os.kind())
            }
            Cause::Capacity { .. } => std::io::ErrorKind::InvalidInput,
            _ => std::io::ErrorKind::InvalidData,
        };
        std::io::Error::new(kind, error)
    }
}
