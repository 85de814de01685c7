//! A lane: a ring of bytes in shared memory with one sender and one receiver, and no lock.
//!
//! It is the fast path between two processes, and made for deaths: either process may be killed at any instruction,
//! and the other one goes on with whole messages only. The ends are bytes in, bytes out ([`pair`], [`RawSender`],
//! [`RawReceiver`]), or typed ([`channel`](crate::channel()), [`Sender`], [`Receiver`]).
//!
//! ```
//! use procession_channel::lane::{self, Config};
//!
//! let (mut sender, mut receiver) = lane::pair(&Config::default())?;
//! sender.send(&[b"task ", b"17"], None)?;
//! let mut message = Vec::new();
//! assert!(receiver.recv(&mut message, None)?);
//! assert_eq!(message, b"task 17");
//! receiver.mark_started(receiver.taken());
//! assert_eq!(sender.started(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # States
//!
//! A position counts bytes since the lane was made; its place in the ring is its remainder by the capacity, a power
//! of two. `head` and `tail` are positions, and multiples of 8.
//!
//! | words | state |
//! |---|---|
//! | `head = tail` | empty |
//! | `head < tail ≤ head + capacity` | the bytes from `head` to `tail` are committed frames |
//! | `sender_closed` | no more is committed; the receiver drains, then is disconnected |
//! | `receiver_closed` | nothing more is taken; every send fails |
//!
//! A frame is a header of 8 bytes (length and flags) and a body padded to 8 bytes, which may wrap around the end of
//! the ring. A whole message is one frame, first and last. A message larger than half the ring is cut into frames of
//! a quarter: it counts with the commit of its last frame, and the receiver puts it together in memory of its own. A
//! first frame ends what was never finished. A padding frame has no body and is passed over.
//!
//! Messages have tickets 1, 2, 3…, counted by each end for itself, whole messages only.
//!
//! A message may also grow, record by record, before it is committed: see `lane/growing.rs`.
//!
//! # Who writes what
//!
//! | word | written by | when |
//! |---|---|---|
//! | bytes from `tail` to `head + capacity` | sender | before the commit that covers them |
//! | `tail` | sender | **the commit**: one store with Release |
//! | `sent` | sender | after `tail`, for an end that is passed on |
//! | `grown` | sender | after each record of a message that grows |
//! | `taken` | receiver | after copying out, before `head`: these messages are in hand |
//! | `head` | receiver | gives the space back: one store with Release |
//! | `started` | receiver | before it acts on a message |
//! | `sender_closed`, `receiver_closed` | the end that goes, or on a dead one's behalf who knows of its death | once |
//!
//! # Invariants
//!
//! 1. The bytes from `head` to `tail` are whole frames, and do not change until `head` passes them.
//! 2. Only the sender writes `tail`, only the receiver writes `head`; both only grow; `tail - head ≤ capacity`.
//! 3. The receiver has copied out what is before `head`. What is outside `head..tail` is the sender's alone: it may
//!    write there, and give the memory there back to the kernel.
//! 4. `started ≤ taken`, and what is behind `taken` has not left the ring: of all messages, those up to `started` may
//!    have been acted on, those after it certainly have not.
//! 5. Nothing that was read from the ring or the words is used before it was copied and checked. A peer that breaks
//!    the rules makes its partner's end return [`Corrupt`] from then on, and no more.
//!
//! # Memory ordering
//!
//! `tail` is stored with Release and loaded with Acquire: it carries the frames. `head` likewise: it carries that the
//! receiver is done with the bytes, so that the sender's next write comes after the copy. The closed flags are stored
//! with Release, after the last commit; a receiver that sees the flag looks at `tail` once more. Everything else is
//! relaxed. The sleep needs a full fence on both sides, which is the bell's business.
//!
//! Each end keeps the other's position from when it last looked, and looks again only when it seems to be out of
//! messages, or of room: so in a stream the lines of `head` and `tail` do not travel for each message.
//!
//! # Sleeping
//!
//! The receiver sleeps on a bell that the sender rings after its commits, the sender on one that the receiver rings
//! after giving space back; see [`Bell`](crate::Bell). A process that serves many lanes gives them one bell.
//!
//! # Working set
//!
//! A ring may be up to 64 MiB, and takes memory as it is used. So that a large one does not use all of it by going
//! round and round, a sender that is 256 KiB into the ring, and finds the receiver close behind, passes over the rest
//! by a padding frame and starts over. After a burst, when the receiver has caught up, it gives the rest back to the
//! kernel (invariant 3).
//!
//! # When a process dies
//!
//! * The sender, before a commit: the bytes are outside `head..tail`, as if never written. After it: the message is
//!   accepted, though `send` never returned; if it was killed before the ring, a receiver that sleeps finds the
//!   message after one slice. Between frames of a message in pieces: the message was not accepted, and its pieces
//!   are dropped.
//! * The receiver, before the store of `taken`: the message is still in the ring. After it: it is in doubt, and
//!   `started` says whether it was acted on. The sender sees both words.
//! * A death closes nothing by itself. Where a supervisor has the dead one's pidfd, it says so by `abandon_peer`, or from
//!   another thread by a [`Hangup`]. Where there is none ([`Config::watch_peers`]) each end has a descriptor that goes
//!   where it goes, and holds a claim in the segment ([`Segment::claim`](procession_shm::Segment::claim)): when neither a
//!   process nor a parcel has the end any more, the claim is gone. Who waits looks at the other end's claim once per slice,
//!   and before it gives up at a deadline; if it is gone, it writes the closed flag on the lost end's behalf, after
//!   which everything goes as for a close: what was committed is received first.

pub(crate) mod consumer;
mod error;
mod frame;
mod growing;
mod pace;
pub(crate) mod producer;
pub(crate) mod words;

#[cfg(not(loom))]
mod ends;
#[cfg(not(loom))]
mod failure;
#[cfg(all(feature = "async", not(loom)))]
mod later;
#[cfg(not(loom))]
mod make;
#[cfg(not(loom))]
mod mapped;
#[cfg(not(loom))]
mod parcel;
#[cfg(not(loom))]
mod typed;
#[cfg(not(loom))]
mod waiting;

pub use error::{Corrupt, RecvError, SendError, TrySendError};
#[cfg(all(feature = "async", not(loom)))]
pub use later::{Receive, Send};
#[cfg(not(loom))]
pub use {
    ends::{Config, Hangup, LAYOUT, RawReceiver, RawSender, pair, pair_in},
    failure::{ReceiveError, Unsent},
    make::{ChannelBuilder, channel, channel_on},
    typed::{IntoIter, Iter, Receiver, Sender, TryIter},
};
