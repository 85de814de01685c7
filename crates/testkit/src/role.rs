//! A second process for tests of crates that cannot start processes themselves: the test binary runs itself once
//! more, as a role.
//!
//! A role is a test function that returns at once unless its process was started as that role. Both sides speak in
//! lines over a socket, so they order their events without sleeping.
//!
//! ```no_run
//! use procession_testkit::role;
//!
//! // #[test]
//! fn role_holder() {
//!     let Some(mut role) = role::enter(role_holder) else { return };
//!     let _segment = role.fd();
//!     role.say("locked");
//!     role.hear(); // and is killed here
//! }
//!
//! // #[test]
//! fn survivor_learns_that_the_owner_died() {
//!     let segment = std::fs::File::open("/dev/zero").unwrap();
//!     let mut holder = role::start(role_holder, &[&segment]);
//!     holder.expect("locked");
//!     holder.kill();
//! }
//! ```

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::vec;

use rustix::fs::MemfdFlags;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use crate::isolated::this_binary;
use crate::{name, test_timeout};

/// The variable that names the role of this process.
const MARKER: &str = "PROCESSION_ROLE";

/// How many descriptors the kernel passes in one message.
const MOST_FDS: usize = 253;

/// This process as a role.
#[derive(Debug)]
pub struct Role {
    control: BufReader<UnixStream>,
    fds: vec::IntoIter<OwnedFd>,
}

/// Takes the role if this process was started as `function`, which is the test function that asks. `None` in an
/// ordinary test run: return at once.
///
/// The process then ends with the thread that started it.
///
/// # Panics
///
/// If the starter's socket is not there: the environment is stale.
pub fn enter<F: Fn()>(function: F) -> Option<Role> {
    if std::env::var(MARKER).ok()? != name::of(&function) {
        return None;
    }
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    Some(Role::take().expect("a role's standard input is the socket from its starter"))
}

impl Role {
    fn take() -> io::Result<Self> {
        let control = fcntl_dupfd_cloexec(io::stdin(), 3)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let mut fds = Vec::new();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut greeting = [0; 1];
        let flags = RecvFlags::CMSG_CLOEXEC;
        rustix::net::recvmsg(&control, &mut [IoSliceMut::new(&mut greeting)], &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        Ok(Self { control: BufReader::new(UnixStream::from(control)), fds: fds.into_iter() })
    }

    /// The next of the descriptors that the starter gave, in its order; close-on-exec.
    ///
    /// # Panics
    ///
    /// If there is no further one.
    pub fn fd(&mut self) -> OwnedFd {
        self.fds.next().expect("the starter gave fewer descriptors than the role takes")
    }

    /// Sends a line to the starter.
    ///
    /// # Panics
    ///
    /// If the starter is gone.
    pub fn say(&mut self, line: &str) {
        writeln!(self.control.get_ref(), "{line}").expect("the starter listens");
    }

    /// Waits for a line from the starter, for as long as it lives. Ends this process when it is gone, which is no
    /// failure.
    ///
    /// # Panics
    ///
    /// If the socket fails otherwise.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(0) => std::process::exit(0),
            Ok(_) => line.trim_end_matches('\n').to_owned(),
            Err(error) => panic!("failed to hear the starter: {error}"),
        }
    }
}

/// A process that plays a role. Dropping it kills it and waits for its end.
pub struct RoleProcess {
    role: &'static str,
    child: Child,
    pidfd: OwnedFd,
    control: BufReader<UnixStream>,
    output: File,
}

/// Starts this test binary once more as the role `function`, with `fds` for [`Role::fd`].
///
/// # Panics
///
/// If it cannot be started.
#[track_caller]
pub fn start<F: Fn()>(function: F, fds: &[&dyn AsFd]) -> RoleProcess {
    let role = name::of(&function);
    match try_start(role, fds) {
        Ok(process) => process,
        Err(error) => panic!("failed to start role `{role}`: {error}"),
    }
}

fn try_start(role: &'static str, fds: &[&dyn AsFd]) -> io::Result<RoleProcess> {
    let (ours, theirs) = UnixStream::pair()?;
    // A file rather than a pipe: it is read only when something failed, and never fills up.
    let output = File::from(rustix::fs::memfd_create("role-output", MemfdFlags::CLOEXEC)?);
    let mut command = this_binary(role);
    command.env(MARKER, role).env_remove("PROCESSION_ISOLATED");
    command.stdin(OwnedFd::from(theirs)).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let child = command.spawn()?;
    // The command holds the role's end of the socket; without it the role's death is the end of the stream.
    drop(command);
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    ours.set_read_timeout(Some(test_timeout()))?;
    let process = RoleProcess { role, child, pidfd, control: BufReader::new(ours), output };

    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than one message takes"));
    }
    let greeting = [IoSlice::new(b"!")];
    loop {
        match rustix::net::sendmsg(process.control.get_ref(), &greeting, &mut ancillary, SendFlags::NOSIGNAL)
        {
            Ok(_) => return Ok(process),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl RoleProcess {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its pidfd, readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits for a line from the role.
    ///
    /// # Panics
    ///
    /// With the role's output if it ends instead, or says nothing within [`test_timeout`].
    #[track_caller]
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(0) => {
                let status = self.child.wait();
                panic!("role `{}` ended ({status:?})\n---- its output\n{}----", self.role, self.output());
            }
            Ok(_) => line.trim_end_matches('\n').to_owned(),
            Err(error) => panic!(
                "failed to hear role `{}`: {error}\n{}---- its output\n{}----",
                self.role,
                crate::proc::report(self.child.id().cast_signed()),
                self.output()
            ),
        }
    }

    /// Waits for just this line.
    ///
    /// # Panics
    ///
    /// If the role says something else, and as [`hear`](Self::hear).
    #[track_caller]
    pub fn expect(&mut self, line: &str) {
        assert_eq!(self.hear(), line, "from role `{}`", self.role);
    }

    /// Sends a line to the role. That it is gone is no failure: what is heard next will tell.
    pub fn say(&mut self, line: &str) {
        let _ =
            rustix::net::send(self.control.get_ref(), format!("{line}\n").as_bytes(), SendFlags::NOSIGNAL);
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it cannot be waited for, as where SIGCHLD is ignored.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a role is waited for by its starter only")
    }

    /// What it has written to its standard output and standard error so far.
    pub fn output(&self) -> String {
        // Opened anew, since reading through the shared position would move the role's.
        let path = format!("/proc/self/fd/{}", self.output.as_raw_fd());
        std::fs::read(path).map_or_else(
            |error| format!("(not readable: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for RoleProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleProcess")
            .field("role", &self.role)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
