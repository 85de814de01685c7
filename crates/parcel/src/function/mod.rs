//! References to functions that cross to another process.
//!
//! A function travels as the offset of its code from the executable's base, beside the build id of the executable,
//! a hash of its types, and a seal. The receiver honours it only in a trusted parcel (see
//! [`Parcel`](crate::Parcel)), of the same build, with an intact seal, with code of the main program at the target,
//! and with the same types. It checks in this order, and each refusal says what differed.
//!
//! # The seal
//! Trust says where a parcel came from, not who wrote which of its bytes: any `Serialize` implementation can write
//! what looks like a reference. So each reference is sealed by a MAC (SipHash-2-4) over its offsets, types, form and
//! build, under a key that is drawn from the kernel once in the root of a tree of processes. Its children get the key
//! with their job, forked copies have it anyway. No safe code can make a reference but from a function of the type
//! that it says, nor learn the key. Processes that are started in another way share it by [`seal_key`] and
//! [`adopt_seal_key`]; a copy that was forked by hand has the parent's, if that was drawn before.
//!
//! # Forms
//! [`Erased`] is a function with its types forgotten, bytes in and bytes out: what a process or pool runs.
//! [`Function`] keeps its types. Either may go by a registered name instead ([`register!`](crate::register)),
//! which works across builds and from any peer.
//!
//! # Addresses
//! Equal functions may share one address in optimised builds (identical code folding), so an address is never
//! compared, and never a name.
//!
//! # Invariants
//! 1. An entry is reached only through a pointer taken here, or one decoded by this module after all checks above. A
//!    seal that holds was made, by this program, for this form, these offsets and these types (see `seal`), so the
//!    decoded pointer is one that was taken here.
//! 2. An entry calls its target only if the signature beside it is the one it was compiled for.
//! 3. Trust alone makes nothing safe: what must hold for soundness, the seal proves.

mod call;
mod erased;
mod image;
mod local;
mod named;
mod seal;
mod signature;
mod spread;
mod task;
mod typed;

pub use call::{Carrying, Plainly, Records};
pub use erased::Erased;
pub use image::{BuildId, Image, image};
pub use local::{drop_local_state, set_local_state};
pub use named::{Registration, registered};
pub use seal::{adopt_seal_key, seal_key};
pub use spread::Arguments;
pub use task::Task;
pub use typed::Function;

#[doc(hidden)]
pub use named::REGISTRY;
