//! The spawn start method: this program is executed anew.
//!
//! # Protocol
//!
//! 1. The parent makes a socket pair and writes the job into it: two parcels whose large bodies travel as memfds, so
//!    that nothing waits for a reader.
//! 2. It executes `/proc/self/exe` (not the path of the executable, which may have been replaced meanwhile) with the
//!    child's end as stdin and a marker as last argument. There is no code between fork and exec, so `Command` takes
//!    glibc's `posix_spawn`, whose cost does not grow with the parent.
//! 3. The child finds the marker before `main` (`boot`), checks the socket, its peer and the job, and runs it.
//! 4. It answers with one frame on the same socket, and ends. The parent reads the frame when the pidfd says that
//!    the child has ended.
//!
//! Killed before 2: both ends close with the parent. Killed between 2 and 3, the child's lifeline, which is part of
//! the job, is hung up when the child arms it, and the child leaves.

use crate::{
    Error, Result,
    builder::Plan,
    children::{self, Inner},
    handle::Started,
    job::{Job, MARKER, Nonce, Work},
    lifeline::Keeper,
};
use procession_parcel::{
    Parcel,
    function::{self, Erased, image},
    wire,
};
use procession_sys::{Deadline, PidFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    sync::Arc,
    time::Duration,
};

/// The program itself, even if its file was replaced or deleted.
const SELF: &str = "/proc/self/exe";
/// How long a job may take into a socket that nobody else uses. Only thousands of descriptors do not fit at once.
const SEND_PATIENCE: Duration = Duration::from_secs(10);

/// Both ends of a job socket: the parent's, and the child's.
pub(crate) fn job_socket() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::system("create a job socket", error))
}

pub(crate) fn nonce() -> Result<Nonce> {
    let mut nonce = Nonce::default();
    let length = rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::system("draw a random number", error))?;
    if length == nonce.len() {
        Ok(nonce)
    } else {
        Err(Error::invalid("failed to draw a random number: too short"))
    }
}

pub(crate) fn argv0() -> OsString {
    std::env::args_os().next().unwrap_or_else(|| OsString::from("procession"))
}

/// Takes the plan apart: the job to send, and what the parent keeps.
pub(crate) fn job(mut plan: Plan, nonce: Nonce, work: Work) -> Result<(Job, Kept)> {
    let kept = Kept {
        name: plan.identity.name.clone(),
        daemon: plan.identity.daemon,
        leads_group: plan.leads_group,
        keeper: plan.keeper.take(),
        ends: plan.ends,
    };
    // A child with a lifeline is alive only while its parent is, and opens one when it is asked for its parent.
    let parent = if plan.lifeline.is_none() { Some(own_pidfd()?) } else { None };
    let job = Job {
        nonce,
        seal: seal_key()?,
        build: image().build_id(),
        identity: plan.identity,
        settings: plan.settings,
        lifeline: plan.lifeline.map(Into::into),
        parent,
        #[cfg(feature = "tracing")]
        log: crate::log::inherited(&kept.name)?,
        input: None,
        work,
    };
    Ok((job, kept))
}

/// The key that seals references to functions in this tree. Asked for before every fork too, so that the copy has it.
#[expect(unsafe_code, reason = "the key must get no further than to our own children")]
pub(crate) fn seal_key() -> Result<[u8; 16]> {
    // SAFETY: it goes into jobs only, which our own children get over sockets of their own.
    unsafe { function::seal_key() }.map_err(|error| Error::parcel("seal a job", error))
}

/// A pidfd of this process, for a child that may outlive it.
pub(crate) fn own_pidfd() -> Result<procession_parcel::Fd> {
    let pidfd = open_pidfd("this process", std::process::id())?;
    Ok(OwnedFd::from(pidfd).into())
}

/// Opens a pidfd; the error tells a system without them from one that is short of descriptors.
pub(crate) fn open_pidfd(whose: &str, pid: u32) -> Result<PidFd> {
    PidFd::open(pid).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM) => Error::unsupported(format!(
            "failed to open a pidfd of {whose}: {error}; processes need pidfds (Linux 5.4), which this kernel or a \
             sandbox does not allow"
        )),
        _ => Error::system(format!("open a pidfd of {whose} (pid {pid})"), error),
    })
}

/// What the parent keeps of a plan.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) name: String,
    daemon: bool,
    leads_group: bool,
    keeper: Option<Keeper>,
    ends: [Option<OwnedFd>; 3],
}

impl Kept {
    /// Enters the child that came into being into the table.
    pub(crate) fn started(self, pid: u32, pidfd: PidFd, socket: OwnedFd) -> Started {
        let inner = Arc::new(Inner::new(self.name, pid, pidfd, self.daemon, self.leads_group));
        children::add(inner.clone(), socket, self.keeper);
        Started { inner, ends: self.ends }
    }
}

/// Writes parcels into a socket whose reader may not exist yet.
pub(crate) fn send(socket: &OwnedFd, parcels: &[&Parcel]) -> Result<()> {
    for parcel in parcels {
        wire::send(socket.as_fd(), parcel, Some(Deadline::after(SEND_PATIENCE)))
            .map_err(|error| Error::parcel("send a job to a child", error))?;
    }
    Ok(())
}

pub(crate) fn start(mut plan: Plan, work: Erased, input: Parcel) -> Result<Started> {
    let executable = plan.executable.take().unwrap_or_else(|| OsString::from(SELF));
    let environment = plan.settings.environment.take();
    let nonce = nonce()?;
    let (job, kept) = job(plan, nonce, Work::Call(work))?;
    let parcel = Parcel::pack(&job).map_err(|error| Error::parcel("encode a job", error))?;
    drop(job);
    let (ours, theirs) = job_socket()?;
    send(&ours, &[&parcel])?;
    drop(parcel);
    let (pid, pidfd) = execute(&kept.name, &executable, &argv0(), nonce, environment, theirs)?;
    // Only now, so that the child cannot end, and be reaped by somebody else, before it is watched.
    let sent = wire::send(ours.as_fd(), &input, Some(Deadline::after(SEND_PATIENCE)));
    let started = kept.started(pid, pidfd, ours);
    match sent {
        Ok(()) => Ok(started),
        // It has ended already: joining it tells how.
        Err(error) if error.is_disconnected() => Ok(started),
        Err(error) => {
            let _ = started.inner.stop(Duration::ZERO);
            Err(Error::parcel("send its arguments to a child", error))
        }
    }
}

/// Executes the program as a child with `socket` as its stdin.
pub(crate) fn execute(
    name: &str,
    executable: &OsStr,
    argv0: &OsStr,
    nonce: Nonce,
    environment: Option<Vec<(OsString, OsString)>>,
    socket: OwnedFd,
) -> Result<(u32, PidFd)> {
    use std::fmt::Write;
    let mut marker = MARKER.to_owned();
    for byte in nonce {
        // Writing to a string does not fail.
        let _ = write!(marker, "{byte:02x}");
    }
    let mut command = Command::new(executable);
    command.arg0(argv0).args(std::env::args_os().skip(1)).arg(marker).stdin(socket);
    if let Some(environment) = environment {
        command.env_clear().envs(environment);
    }
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound && executable == SELF {
            return Error::unsupported(format!(
                "failed to start process `{name}`: {SELF} is missing; the spawn start method and the fork server need \
                 /proc to be mounted"
            ));
        }
        Error::system(format!("start process `{name}` from `{}`", executable.display()), error)
    })?;
    drop(command);
    let pid = child.id();
    let pidfd = open_pidfd(&format!("process `{name}`"), pid);
    if pidfd.as_ref().is_err_and(|error| error.os_error() != Some(libc::ESRCH)) {
        // Not reaped yet, so the pid is still the child's.
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok((pid, pidfd?))
}
