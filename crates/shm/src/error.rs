//! The one error of this crate.

use rustix::{io::Errno, process::Resource};
use std::{fmt, io};

/// Why a segment could not be made, attached or changed.
pub struct Error {
    operation: &'static str,
    /// `` `jobs` (2147483648 bytes)`` or `(fd 7)`.
    object: String,
    cause: Cause,
}

pub(crate) enum Cause {
    /// A limit of this process forbids it.
    Limit { name: &'static str, limit: u64 },
    /// No descriptor is left; the limit of this process, if that is the one.
    NoDescriptors { limit: Option<u64> },
    /// No memory or address space is left; the limit of this process, if there is one.
    NoMemory { limit: Option<u64> },
    /// No room for the pages.
    NoSpace,
    /// A heap is as full as it may become.
    Full { cap: u64 },
    /// The kernel or a sandbox does not offer the call.
    Unsupported { call: &'static str, errno: Errno },
    /// It is no segment of ours, or not one that is safe to map.
    Foreign { what: &'static str },
    /// It is a segment, but not the one that was expected.
    Differs { what: &'static str, found: u64, expected: u64 },
    /// There is no segment of this name.
    NotFound,
    /// There is one already.
    Exists,
    /// The name is another handle's or process's to take away.
    NotOwner,
    /// The mapping is not to be written through.
    ReadOnly,
    /// The list has no such place.
    OutOfRange { index: usize, len: usize },
    /// The value does not fit into its place.
    TooLarge { len: usize, room: usize },
    /// The caller asked for the impossible.
    Invalid { what: String },
    /// Anything else.
    Os { call: &'static str, errno: Errno },
}

impl Error {
    pub(crate) fn new(operation: &'static str, object: String, cause: Cause) -> Error {
        Error { operation, object, cause }
    }

    /// Sorts what the kernel said to `call`.
    pub(crate) fn os(operation: &'static str, object: String, call: &'static str, errno: Errno) -> Error {
        let limit = |resource| rustix::process::getrlimit(resource).current;
        let cause = match errno {
            Errno::MFILE => Cause::NoDescriptors { limit: limit(Resource::Nofile) },
            Errno::NFILE => Cause::NoDescriptors { limit: None },
            Errno::NOMEM => Cause::NoMemory { limit: limit(Resource::As) },
            Errno::NOSPC | Errno::DQUOT => Cause::NoSpace,
            Errno::NOSYS | Errno::OPNOTSUPP => Cause::Unsupported { call, errno },
            // Sandboxes answer so; the calls here need no privilege.
            Errno::PERM if call == "memfd_create" => Cause::Unsupported { call, errno },
            errno => Cause::Os { call, errno },
        };
        Error::new(operation, object, cause)
    }

    /// Whether no descriptor was left.
    #[must_use]
    pub fn is_no_descriptors(&self) -> bool {
        matches!(self.cause, Cause::NoDescriptors { .. })
    }

    /// Whether memory or address space was lacking.
    #[must_use]
    pub fn is_no_memory(&self) -> bool {
        matches!(self.cause, Cause::NoMemory { .. })
    }

    /// Whether there was no room for the pages.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self.cause, Cause::NoSpace)
    }

    /// Whether a heap has as much in it as its cap allows.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.cause, Cause::Full { .. })
    }

    /// Whether a resource limit of this process forbids it (`RLIMIT_FSIZE`).
    #[must_use]
    pub fn is_limit(&self) -> bool {
        matches!(self.cause, Cause::Limit { .. })
    }

    /// Whether the kernel, or a sandbox around this process, does not offer a call that is needed.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.cause, Cause::Unsupported { .. })
    }

    /// Whether the object is no segment, or not the segment that was expected.
    #[must_use]
    pub fn is_incompatible(&self) -> bool {
        matches!(self.cause, Cause::Foreign { .. } | Cause::Differs { .. })
    }

    /// Whether there is no segment of this name (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.cause, Cause::NotFound)
    }

    /// Whether the name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self.cause, Cause::Exists)
    }

    /// Whether only the owner may do this, and this handle is not.
    #[must_use]
    pub fn is_not_owner(&self) -> bool {
        matches!(self.cause, Cause::NotOwner)
    }

    /// Whether the segment is another user's, or was attached to read only.
    #[must_use]
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.cause, Cause::ReadOnly | Cause::Os { errno: Errno::ACCESS | Errno::PERM, .. })
    }

    /// Whether the caller asked for the impossible: an empty segment, a name with a slash, bytes beyond the end.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self.cause, Cause::Invalid { .. })
    }

    /// Whether a list has no such place.
    #[must_use]
    pub fn is_out_of_range(&self) -> bool {
        matches!(self.cause, Cause::OutOfRange { .. })
    }

    /// Whether a value does not fit into its place in a list.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self.cause, Cause::TooLarge { .. })
    }

    /// What the kernel said, where it was the kernel that refused.
    #[must_use]
    pub fn os_error(&self) -> Option<io::Error> {
        let errno = match &self.cause {
            Cause::NoDescriptors { limit: Some(_) } => Errno::MFILE,
            Cause::NoDescriptors { limit: None } => Errno::NFILE,
            Cause::NoMemory { .. } => Errno::NOMEM,
            Cause::NoSpace => Errno::NOSPC,
            Cause::Full { .. } => return None,
            Cause::Limit { .. } => Errno::FBIG,
            Cause::Unsupported { errno, .. } | Cause::Os { errno, .. } => *errno,
            Cause::NotFound => Errno::NOENT,
            Cause::Exists => Errno::EXIST,
            Cause::Foreign { .. }
            | Cause::Differs { .. }
            | Cause::NotOwner
            | Cause::ReadOnly
            | Cause::OutOfRange { .. }
            | Cause::TooLarge { .. }
            | Cause::Invalid { .. } => return None,
        };
        Some(errno.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {} segment {}: ", self.operation, self.object)?;
        match &self.cause {
            Cause::Limit { name, limit } => write!(f, "the limit {name} of this process is {limit} bytes"),
            Cause::NoDescriptors { limit: Some(limit) } => {
                write!(f, "no descriptor is left, the limit RLIMIT_NOFILE of this process is {limit}")
            }
            Cause::NoDescriptors { limit: None } => {
                write!(f, "the system has no descriptor left (fs.file-max)")
            }
            Cause::NoMemory { limit: Some(limit) } => write!(
                f,
                "no memory or address space is left, the limit RLIMIT_AS of this process is {limit} bytes"
            ),
            Cause::NoMemory { limit: None } => write!(f, "no memory or address space is left"),
            Cause::Full { cap } => write!(f, "its cap of {cap} bytes leaves no room for it"),
            Cause::NoSpace => write!(f, "no room is left for its pages"),
            Cause::Unsupported { call, errno } => {
                write!(f, "this kernel or the sandbox around this process refuses {call}: {errno}")
            }
            Cause::Foreign { what } => f.write_str(what),
            Cause::Differs { what: "layout", found, expected } => {
                write!(f, "layout {found:#x} from another build, this one expects {expected:#x}")
            }
            Cause::Differs { what, found, expected } => {
                write!(f, "its {what} is {found:#x}, expected {expected:#x}")
            }
            Cause::NotFound => f.write_str("there is no segment of this name: not found"),
            Cause::Exists => f.write_str("a segment of this name exists already"),
            Cause::NotOwner => {
                f.write_str("only its owner may, the handle that made it in the process that did")
            }
            Cause::ReadOnly => f.write_str("it was attached to read only"),
            Cause::OutOfRange { index, len } => write!(f, "index {index} is not within its {len} items"),
            Cause::TooLarge { len, room } => {
                write!(f, "a value of {len} bytes does not fit into the {room} of its place")
            }
            Cause::Invalid { what } => f.write_str(what),
            Cause::Os { call, errno } => write!(f, "{call}: {errno}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error.cause {
            Cause::Invalid { .. } | Cause::OutOfRange { .. } | Cause::TooLarge { .. } => {
                io::ErrorKind::InvalidInput
            }
            Cause::NotOwner | Cause::ReadOnly => io::ErrorKind::PermissionDenied,
            Cause::Foreign { .. } | Cause::Differs { .. } => io::ErrorKind::InvalidData,
            Cause::Full { .. } => io::ErrorKind::OutOfMemory,
            _ => error.os_error().map_or(io::ErrorKind::Other, |os| os.kind()),
        };
        io::Error::new(kind, error)
    }
}
