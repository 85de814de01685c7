//! A queue: many producers and many consumers over processes and threads, first in, first out among all of them.
//!
//! [`Queue`] holds values; [`JoinableQueue`] tells when they are done; [`SimpleQueue`] is the least of it. Below is a ring
//! of bytes in one segment of shared memory, with one robust mutex for the putting side and one for the taking side. Its
//! algorithm is made for deaths: any process may be killed at any instruction, and the others go on with whole items.
//!
//! # States
//!
//! Items have tickets 0, 1, 2… in the order of their commits; positions count the bytes of their frames since the queue
//! was made. A frame is 8 bytes of length, and the encoded item, padded to 8.
//!
//! | words | state |
//! |---|---|
//! | `head.ticket = tail.ticket` | nothing waits |
//! | `head.ticket < tail.ticket` | the items between wait |
//! | `closed` | nothing more is accepted; consumers drain, then it is over |
//! | a record *held* | items are in hand of a consumer |
//! | a record *again* | an item waits to be delivered again |
//! | a record in *doubt* | nobody can tell whether the items were acted on |
//!
//! At any moment: consumed + waiting + in hand + in doubt + lost = accepted.
//!
//! # Protocol
//!
//! * Put: encode, in memory of one's own; lock the producers' side; see that there is room; copy the frame behind the
//!   tail; write ticket and position of the new tail into the entry that is not in use; **`tail.ticket`: the commit**;
//!   unlock; ring for a consumer.
//! * Get: lock the consumers' side; copy the frame out; write a record of who takes what; write the entry that is not in
//!   use; **`head.ticket`: the commit**; say that the space is free; unlock; ring for producers; decode (code of the
//!   user's, under no lock); free the record: the acknowledgement. A claim does that last step when the work is done.
//! * Two entries stand on each side, of which the one that has the committed ticket is good: so ticket and position change
//!   by one store.
//! * Close: under the producers' lock, so that nothing is accepted after it.
//!
//! # Memory
//!
//! The segment is sparse. Positions get chunks of memory by a map: a chunk is taken when the tail reaches it, and free
//! when everything in it was taken (with `Redeliver`: acknowledged). Free chunks are used again, the warmest first; of
//! more than are in use the memory is given back, so that a burst leaves nothing behind. A chunk's memory is reserved
//! before it is touched: a lack of it is an error of `put`, not a SIGBUS. An item of any size up to the whole memory fits,
//! since chunks that follow each other need not lie side by side.
//!
//! # Invariants
//!
//! 1. The frames between head and tail are whole, and do not change until the head has passed them and what is freed is
//!    behind them.
//! 2. `tail` changes under the producers' lock, `head` under the consumers'. Both only grow.
//! 3. Whoever has taken something and not acknowledged it has a record, from before the commit on (`hands.rs`).
//! 4. Positions from `recycled` to `mapped` have chunks, each its own; any other chunk that was ever used is free. The
//!    lists of free chunks are made anew from that when a producer dies.
//! 5. No code of a user runs under a lock.
//! 6. What is read from the memory is checked before it is used: indexes, lengths, positions. Nonsense is an error
//!    ([`Trouble::Corrupt`]), and no more.
//! 7. The consumers' lock may be taken under the producers', never the other way round.
//!
//! # Blocks of a heap
//!
//! A queue that was made on a [`Heap`](procession_shm::Heap) takes blocks of it along by reference: see `load.rs`.
//!
//! # Memory ordering
//!
//! `tail.ticket` is stored with Release and loaded with Acquire: it carries the frames, the map and `limit`. `head.freed`
//! likewise: it carries that the copies are made, so that what is written into the chunk comes after them. `closed` is
//! stored with Release, after the last commit, and is read before the tail. A record's state carries the record. What lies
//! under a lock is ordered by it. Sleeping is the gates' business (`gate.rs`).
//!
//! # When a process dies
//!
//! * A producer, before its commit: the frame lies behind the tail, as if never written. After it: the item is accepted,
//!   though `put` never returned. The mutex goes to the next producer, who makes the lists of free chunks anew.
//! * A consumer, before its commit: the item waits still; the next consumer to have the lock clears the record, which it
//!   knows by its ticket. After the commit: the item is in doubt until the record is free. The next one to have the lock
//!   also frees the space.
//! * Who settles what was in doubt: whoever waits for an item, for room or for the queue's end looks after each slice
//!   ([`procession_sys::SLICE`]); a member of the segment is dead when the lock of its number is free
//!   ([`Member`](procession_shm::Member)). With `Redeliver`, consumers that never wait look at every 256th take.
//! * Anybody, before a wake call: a sleeper finds out after one slice.

pub(crate) mod books;
pub(crate) mod gate;
pub(crate) mod hands;
pub(crate) mod ring;
pub(crate) mod take;
mod trouble;
pub(crate) mod words;

#[cfg(not(loom))]
mod claim;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod get;
#[cfg(not(loom))]
mod joinable;
#[cfg(all(feature = "async", not(loom)))]
mod later;
#[cfg(not(loom))]
mod load;
#[cfg(not(loom))]
mod mapped;
#[cfg(not(loom))]
#[expect(clippy::module_inception, reason = "the type's file has the type's name")]
mod queue;
#[cfg(not(loom))]
mod waiting;

#[cfg(all(feature = "async", not(loom)))]
pub use later::Items;
#[cfg(not(loom))]
pub use {
    books::{InDoubt, QueueStats},
    claim::Claim,
    error::{GetError, JoinError, PutError, PutManyError, QueueError, TooManyDone},
    get::Iter,
    joinable::{JoinableQueue, SimpleQueue},
    queue::{Queue, QueueBuilder},
};
pub use {trouble::Trouble, words::Policy};
