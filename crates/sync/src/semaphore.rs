//! [`Semaphore`] and [`BoundedSemaphore`]: a number of permits.
//!
//! Permits that nobody owns ([`Semaphore::acquire`], [`Semaphore::release`]) are a number. Those that a process owns
//! ([`Semaphore::permit`]) return when it dies, so shared memory must tell at any instant how many each process holds,
//! though no processor can change two words at once.
//!
//! # Words
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `word` | value: 32 bits; flag "somebody sleeps": 1; tag: slot: 10, number: 21 | everybody, by compare-and-swap only |
//! | `bell` | how often it was rung | a ringer |
//! | `many` | some sleeper wants, or wanted, more than one | a sleeper |
//! | `bound` | the largest value | the maker |
//! | `top` | one more than the largest slot in use | an owner, before its first operation |
//! | `swept` | when somebody looked last for dead owners | who looks |
//! | `recovery` | held by who recovers dead owners' slots | a recoverer |
//!
//! and for each member, that is process, a slot:
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `number` | of the operation under way, or the last one | the owner |
//! | `done` | operations up to this one are complete | the owner; a helper, by maximum |
//! | `held[0]`, `held[1]` | what the owner holds after an operation, by the last bit of its number | the owner |
//!
//! The threads of a process take turns at its slot, by a word of its own memory, for as long as an operation takes and
//! never while they sleep. Where the process has one thread (`alone.rs`) that word is stored and not swapped.
//!
//! # Protocol
//!
//! An operation of an owner (take, give back, disown), numbered *n*:
//!
//! 1. If there are too few permits: nothing is changed. Else `held[n]` = what it will hold; `number` = *n*.
//! 2. *Help*: let the tag in `word` be (s, q), of another slot. If the last bits of `number[s]` are q, and the tag is
//!    still there after that was read, `done[s]` = max(`done[s]`, that number).
//! 3. Compare-and-swap `word` from what was seen in step 2 to the new value and the tag (own slot, *n*): **the commit**.
//!    If `word` has changed: step 2, or, if there are too few permits by now, give up: *n* is then begun anew later.
//! 4. `done` = *n*.
//!
//! What is acquired and released without an owner changes the value, and leaves the tag as it is: nothing to help, nothing
//! to recover.
//!
//! Sleep: read `bell`; set the flag, or see it set, in a `word` with too few permits; sleep while `bell` has that value,
//! for a slice at most; try again. Ring, if the word that a commit replaced had the flag: wake as many as there are permits
//! given (all, if `many`). If that many did not sleep: clear the flag, add 1 to `bell`, wake all.
//!
//! # Invariants
//!
//! 1. An operation is complete if and only if `word` has its tag, or `done` is at least its number, or `number` is larger.
//!    For who replaces a tag has seen it in step 2, and either has recorded it, or has found that the owner had. (A
//!    `number` that differs from the tag's is a later one, begun by an owner that knew.)
//! 2. `done[s]` never runs ahead. Say a helper read F from `number[s]`, and then saw the tag (s, q) of an operation c, the
//!    last one that s has committed by then. F is at most c + 1, and its last bits are q, as c's are. So F is at most c.
//! 3. What a member holds is `held` of its last complete operation, *n* or *n* - 1; an operation under way writes the
//!    other one. So one word's change, the commit, changes the value and the holdings together: the sum of value and
//!    holdings changes only where permits without an owner come in.
//! 4. For each permit given a sleeper is woken, if there is one, and while the ringer lives. A sleeper saw too few permits
//!    in a `word` with the flag, so each later commit finds the flag, unless it was cleared. A ringer that wakes fewer than it
//!    gave permits clears the flag, then changes `bell`, then wakes all. Who saw the flag before that has read `bell`
//!    earlier still, so its sleep does not begin, or ends; who comes later sets the flag anew and sees the value.
//!
//! The number has 21 bits in the tag. Should an operation be held up between its steps 2 and 3 while another process makes
//! exactly two million operations, or a multiple, ends with the same value, and is killed within the instant between its own
//! steps 3 and 4, that last operation would be taken for incomplete. Nothing rules this out but its odds.
//!
//! # When a process dies
//!
//! Whoever waits looks after the owners, once in 100 ms and semaphore: a slot whose member is dead (by the lock that the
//! kernel lets go of, [`procession_shm::Member`]) is recovered under the mutex `recovery`, with the death looked at
//! again. Nobody else changes the slot then: its owner is dead, and a process that is to have its number recovers it first,
//! under the same mutex.
//!
//! The recoverer finds out by invariant 1 whether the last operation was complete, records that, and so knows what was
//! held. If that is not 0, it makes the dead member's next operation (or the one that it did not finish, under its number)
//! in its place: give back all. It is the protocol above, from step 1. A recoverer that is killed leaves a slot of a dead
//! member with an operation under way that is complete or not, as before; the mutex goes to the next recoverer, who finds
//! that nothing is held any more, or gives it back. So nothing is given twice, or lost.
//!
//! A process killed between a commit and its wake leaves sleepers asleep, for a slice at most; a flag left by a killed
//! sleeper costs one wake call for nobody.
//!
//! # Forks
//!
//! A child is another member. Guards that it has inherited are its parent's.

mod bug;
#[cfg(not(loom))]
mod error;
#[cfg(loom)]
pub mod model;
#[cfg(not(loom))]
mod permit;
mod permits;
#[cfg(not(loom))]
mod types;
#[cfg(not(loom))]
pub(crate) mod words;

#[cfg(not(loom))]
pub use {
    error::{AcquireError, TooManyReleased},
    permit::Permit,
    types::{BoundedSemaphore, Semaphore},
};
