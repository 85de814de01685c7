//! What a child is told: who it is, how it is set up, and what to run.
//!
//! The job travels as a parcel over the job socket, written before the child exists, so that no start waits for a
//! child to read. For a function two parcels follow each other: the job, and the encoded arguments, unless they are in the
//! job.

use crate::{StartMethod, stdio::Slot};
use procession_parcel::{
    Bytes, Fd,
    function::{BuildId, Erased},
};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;

/// The first argument bytes by which a re-executed child knows itself; 32 hexadecimal digits follow.
pub(crate) const MARKER: &str = "--procession-child=";

/// The random number that the marker and the job share.
pub(crate) type Nonce = [u8; 16];

/// Who a process is in the tree.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// The counters on the way from the root: `[1, 2]` is the second child of the first child.
    pub(crate) path: Vec<u32>,
    pub(crate) daemon: bool,
    pub(crate) parent_pid: u32,
    pub(crate) parent_name: String,
    pub(crate) method: StartMethod,
    /// The default start method that the child takes over.
    pub(crate) default_method: StartMethod,
}

/// How the child is set up before it runs anything. Applied in the order of the fields.
#[derive(Serialize, Deserialize, Default, Debug)]
pub(crate) struct Settings {
    pub(crate) stdio: [Slot; 3],
    /// The whole environment; `None` leaves the one that the process was executed with.
    pub(crate) environment: Option<Vec<(OsString, OsString)>>,
    pub(crate) directory: Option<Fd>,
    pub(crate) umask: Option<u32>,
    pub(crate) session: Session,
    /// Resource number, soft and hard limit.
    pub(crate) limits: Vec<(u32, u64, u64)>,
    pub(crate) nice: Option<i32>,
    pub(crate) affinity: Option<Vec<usize>>,
    pub(crate) stack_size: Option<usize>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) uid: Option<u32>,
    /// Whether the parent ignores SIGINT, which a child of the fork server must take over by hand.
    pub(crate) ignore_interrupt: bool,
}

/// Which process group and session a child lives in.
#[derive(Serialize, Deserialize, Default, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Session {
    /// The parent's.
    #[default]
    Inherited,
    /// A process group of its own.
    Group,
    /// A session of its own, and so a group of its own, without a terminal.
    Own,
}

/// What the child is for.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Work {
    /// Run a function on the arguments in the next parcel.
    Call(Erased),
    /// Serve forks: the page in which the last pid is published, and the program's name as the parent was called.
    ForkServer { page: Fd, argv0: OsString },
    /// Run a function on the argument when the owner, known by its pidfd, has ended.
    Guardian { owner: Fd, work: Erased, argument: String },
}

/// Where [`Job::seal`] lies in the job's parcel: an executed child needs it before it unpacks the rest.
pub(crate) const SEAL: std::ops::Range<usize> = 16..32;

/// The first parcel on the job socket.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Job {
    /// The first bytes of the parcel.
    pub(crate) nonce: Nonce,
    /// The key of this tree that seals references to functions. It follows the nonce ([`SEAL`]).
    pub(crate) seal: [u8; 16],
    pub(crate) build: BuildId,
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    /// The read end of the lifeline; `None` for a child that outlives its parent.
    pub(crate) lifeline: Option<Fd>,
    /// A pidfd of the parent, for a child without a lifeline.
    pub(crate) parent: Option<Fd>,
    #[cfg(feature = "tracing")]
    pub(crate) log: crate::log::Inherited,
    /// The encoded arguments, if they do not follow in a parcel of their own.
    pub(crate) input: Option<Bytes>,
    pub(crate) work: Work,
}
