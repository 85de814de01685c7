//! Memory that processes share.
//!
//! A [`Segment`] is a memory file that is mapped once per process, sealed against resizing, and starts with a
//! header that tells what it holds; whoever attaches it compares. It has no name: the kernel frees it when the last
//! process that has it lets go of it, however that process ends.
//!
//! ```
//! use procession_shm::{Kind, Segment, signature};
//!
//! const JOBS: Kind = Kind::new("jobs", 1, signature(&[64]));
//! let segment = Segment::anonymous(JOBS, 1 << 20)?;
//! // Another process would get the descriptor inside a parcel.
//! let again = Segment::attach(segment.fd().try_clone_to_owned()?, JOBS)?;
//! assert!(again.same(&segment));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`SharedMemory`] is memory with a name, for programs that share nothing but that, CPython's among them; a
//! [`ShareableList`] lies in one. Here alone is something that a death could leave behind: see
//! [there](SharedMemory#when-a-process-dies) how it goes.
//!
//! A [`Heap`] is a segment that processes allocate from together. Its blocks go to other processes inside parcels by
//! reference: [`SharedBox`] and [`SharedVec`] with one owner, [`SharedSlice`] and [`SharedStr`] read-only for many.
//!
//! # Words used here
//!
//! * *segment*: the shared object and its bytes; *mapping*: its view in one address space;
//! * *offset*: a position in a segment's payload, the only kind of pointer that is stored in shared memory;
//! * *header*, *magic*, *version*, *layout signature*: the segment's first bytes and what is compared on attach;
//! * *member*: a process that takes part in a segment, by a number that no other living process has there;
//! * *claim*: a number that is taken as long as a descriptor is open somewhere;
//! * *block*: a piece of a heap; *sweep*: freeing what the dead had;
//! * *seal*: the kernel's promise that the size never changes, without which any holder could make the others
//!   fail with SIGBUS.
//!
//! # When a process dies
//!
//! Names aside, only a membership belongs to a process, and the kernel ends it with the process: a segment needs no
//! clean-up, and a death cannot leave a header half written for others, since the descriptor is handed over only when the
//! header is complete. What a process had in a heap is freed by a sweep.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

mod claim;
mod error;
mod heap;
mod layout;
mod list;
mod mapping;
mod members;
mod named;
mod segment;

pub use error::Error;
pub use heap::{
    Heap, HeapBuilder, HeapRing, HeapStats, Lending, LentPart, Loan, Plain, SharedBox, SharedSlice,
    SharedStr, SharedVec,
};
pub use layout::{Kind, signature};
pub use list::{Item, ShareableList};
pub use mapping::watch_forks;
pub use members::Member;
pub use named::{SharedMemory, SharedMemoryManager};
pub use segment::Segment;

/// The README's examples, run as tests.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
