//! What may cross to another process: serde values with file descriptors beside them, and references to functions.
//!
//! * [`Parcel`]: any serde value as bytes, and the descriptors that it holds. What [`handle`] packs travels in it;
//!   [`Fd`] is the simplest such type.
//! * [`wire`]: parcels over Unix sockets, of any size and with any number of descriptors.
//! * [`codec`]: values as bytes alone, for rings. [`Bytes`] and [`Pod`] make large ones fast.
//! * [`function`]: functions that are sent. [`Erased`] takes bytes and gives bytes, whatever its types; it is what
//!   a process or a pool runs, and ends in an [`Outcome`]. [`task!`] makes functions with captured values,
//!   [`register!`] gives them names that other builds understand.
//! * [`panics`] and [`RemoteError`]: how a failure travels.
//!
//! ```
//! use procession_parcel::{Fd, Parcel, wire};
//! use std::io::{Read, Write};
//! use std::os::unix::net::UnixStream;
//!
//! let (here, there) = UnixStream::pair()?;
//! let (mut reader, mut writer) = std::io::pipe()?;
//! writer.write_all(b"through the pipe in the parcel")?;
//! drop(writer);
//!
//! wire::send(&here, &Parcel::pack(&("take this", Fd::from(reader)))?, None)?;
//! let parcel = wire::recv(&there, &wire::Limits::default(), None)?.expect("the socket is open");
//! let (words, pipe): (String, Fd) = parcel.unpack()?;
//! reader = pipe.into();
//! # let mut text = String::new();
//! # reader.read_to_string(&mut text)?;
//! # assert_eq!((words.as_str(), text.as_str()), ("take this", "through the pipe in the parcel"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Terms
//! A *parcel* is bytes and descriptors that cross together; a *frame* is a parcel on a socket; a *handle* is a value
//! that holds a descriptor; an *entry* is a function compiled with the types of another, and called without them.
//!
//! # Whom it trusts
//! Nobody, but for one thing. Whatever comes from a socket or a ring is checked before it is used: lengths, tags,
//! depths, seals; a bad parcel is an error, its descriptors are closed. The exception is a reference to a function by
//! its offset, which is an address to jump to: it is honoured only in a parcel that was packed here or comes from a
//! peer that proved to run this very program, and only under a seal that no bytes made by hand can bear. Functions
//! registered by name need no trust.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

mod borrowed;
mod bytes;
pub mod carrier;
pub mod codec;
mod error;
mod fd;
pub mod function;
pub mod handle;
mod macros;
mod outcome;
pub mod panics;
mod parcel;
mod remote;
mod trust;
pub mod wire;

pub use borrowed::{EncodeArgs, EncodeAs};
pub use bytes::{Bytes, Pod};
pub use error::Error;
pub use fd::Fd;
pub use function::{BuildId, Erased, Function, Task};
pub use outcome::Outcome;
pub use panics::Panic;
pub use parcel::Parcel;
pub use remote::RemoteError;

#[doc(hidden)]
pub use macros::private as __private;

/// The README's example runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct ReadmeDoctests;
