//! Where a child's standard streams lead.

use procession_parcel::Fd;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

/// Where one standard stream of a child leads.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// To where the parent's leads. The default of stdout and stderr.
    #[default]
    Inherit,
    /// To the null device. The default of stdin.
    Null,
    /// To a pipe, whose other end [`Process`](crate::Process) hands out.
    Piped,
    /// To this descriptor.
    Fd(OwnedFd),
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Stdio {
        Stdio::Fd(fd)
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Stdio {
        Stdio::Fd(file.into())
    }
}

/// What the job says of one standard stream.
#[derive(Serialize, Deserialize, Default, Debug)]
pub(crate) enum Slot {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Open the null device.
    Null,
    /// Put this descriptor there.
    Fd(Fd),
}

/// The three streams of a child, and the parent's ends of its pipes.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) slots: [Slot; 3],
    pub(crate) ends: [Option<OwnedFd>; 3],
}

/// Resolves what the builder asked for. `relayed` is set where the child does not inherit the streams by itself, as
/// under the fork server.
pub(crate) fn resolve(wanted: [Stdio; 3], relayed: bool) -> crate::Result<Streams> {
    let mut streams = Streams::default();
    for (index, wanted) in wanted.into_iter().enumerate() {
        streams.slots[index] = match wanted {
            Stdio::Null => Slot::Null,
            Stdio::Fd(fd) => Slot::Fd(fd.into()),
            Stdio::Piped => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .map_err(|error| crate::Error::system("create a pipe for a standard stream", error))?;
                let (theirs, ours) = if index == 0 { (read, write) } else { (write, read) };
                streams.ends[index] = Some(ours);
                Slot::Fd(theirs.into())
            }
            // The job socket arrives as a spawned child's stdin, so that one is always relayed.
            Stdio::Inherit if relayed || index == 0 => inherited(index)?,
            Stdio::Inherit => Slot::Keep,
        };
    }
    Ok(streams)
}

fn inherited(index: usize) -> crate::Result<Slot> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let fd = match index {
        0 => stdin.as_fd(),
        1 => stdout.as_fd(),
        _ => stderr.as_fd(),
    };
    match rustix::io::fcntl_dupfd_cloexec(fd, 3) {
        Ok(fd) => Ok(Slot::Fd(fd.into())),
        // The parent runs with this stream closed.
        Err(rustix::io::Errno::BADF) => Ok(Slot::Null),
        Err(error) => Err(crate::Error::system("duplicate a standard stream", error)),
    }
}

/// Opens the null device for each standard stream that is closed, or the next descriptor that is opened would take its
/// place, and be taken for a stream by a child.
pub(crate) fn fill_standard_streams() {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        fs::{Mode, OFlags, open},
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    let asked = poll(&mut streams, Some(&Timespec::default()));
    if asked.is_ok() && streams.iter().all(|stream| !stream.revents().contains(PollFlags::NVAL)) {
        return;
    }
    while let Ok(fd) = open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        if std::os::fd::AsRawFd::as_raw_fd(&fd) > 2 {
            return;
        }
        // A stream stays open over an execution. Should this fail, the executed program does what this one does here.
        let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty());
        std::mem::forget(fd);
    }
}
