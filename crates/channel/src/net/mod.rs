//! Listeners and clients over TCP and Unix sockets: for processes that we did not start, CPython's among them.
//!
//! ```
//! use procession_channel::net::{ByteConnection, Client, Listener};
//!
//! let listener = Listener::builder().authkey("secret").bind(("localhost", 0))?;
//! let address = listener.address().clone();
//! let client = std::thread::spawn(move || -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
//!     let connection: ByteConnection = Client::new().authkey("secret").connect(address)?;
//!     connection.send_bytes(b"hello")?;
//!     Ok(connection.recv_bytes()?)
//! });
//! let connection: ByteConnection = listener.accept()?;
//! assert_eq!(connection.recv_bytes()?, b"hello");
//! connection.send_bytes(b"and good day")?;
//! assert_eq!(client.join().unwrap().unwrap(), b"and good day");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # With CPython
//!
//! What is behind `multiprocessing.connection.Listener` and `Client` can be the other end of each: the frames are the same,
//! and so are both handshakes. `send_bytes` and `recv_bytes` meet their namesakes; `send` and `recv` there are
//! `send_pickle` and `recv_pickle` here, with feature `pickle`, for plain values. CPython up to 3.11 needs
//! [`allow_md5`](Builder::allow_md5). Typed messages (`send` here) are for peers of ours.
//!
//! # Who is let in
//!
//! | address | with a key | without |
//! |---|---|---|
//! | TCP | who knows the key | nobody, unless the builder says [`without_authkey`](Builder::without_authkey) |
//! | Unix path, abstract name | who knows the key | processes of the same user (`SO_PEERCRED`) |
//!
//! A client checks the listener in the same way. There is no key by default: a process of ours does not draw one, as
//! Python's `current_process().authkey`; [`AuthKey::random`] does, to be handed to a child as an argument.
//!
//! Each side proves to the other that it knows the key. Codes are compared in constant time. Nothing after the handshake is
//! signed or encrypted: on a network that is not trusted, put a tunnel around it.
//!
//! # Mistakes end in errors
//!
//! | listener | client | listener's `accept` | client's `connect` |
//! |---|---|---|---|
//! | a key | another key | [`Refusal::WrongKey`] | [`Refusal::Rejected`] |
//! | a key | none | refused, at its first message or at the deadline | connects; its first `recv` says that a key is asked for, its sends fail |
//! | none | a key | lets in; then the end comes | refused, at its deadline or at the listener's first message |
//!
//! An error of [`accept`](Listener::accept) with [`Error::is_refused`] is about one client, and the listener goes on.
//! [`incoming`](Listener::incoming) leaves these out.
//!
//! # When a process dies
//!
//! A dead client is refused in its handshake, or is the end of its connection. A dead listener is the end for those in its
//! queue. Nothing of it stays in the file system, but for a path that the user named and SIGKILL.
//!
//! # Threads
//!
//! A listener may be shared: any number of threads may accept, each gets clients of its own. No thread is started, so
//! handshakes go on while somebody accepts; clients wait meanwhile.

mod address;
mod client;
mod error;
mod handshake;
#[cfg(feature = "pickle")]
mod inspect;
#[cfg(feature = "ipc-channel")]
pub mod ipc;
mod listener;
mod mac;
mod paths;
#[cfg(feature = "pickle")]
pub mod pickle;
mod socket;

pub use address::{Address, ToAddress};
pub use client::Client;
pub use error::{Error, Refusal};
pub use handshake::Handshake;
pub use listener::{Builder, Listener};
pub use mac::AuthKey;
/// The crate that makes values of pickles: its `Value` holds any plain one.
#[cfg(feature = "pickle")]
pub use serde_pickle;

pub(crate) use handshake::is_challenge;

use crate::connection::{Connection, Nothing};
use procession_sys::Deadline;
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// A connection for bytes and pickles, without typed messages.
pub type ByteConnection = Connection<Nothing, Nothing>;

impl Listener {
    /// Waits for a client that is let in.
    ///
    /// # Errors
    ///
    /// * a client was refused ([`Error::is_refused`]): call it again for the next one;
    /// * the listener was closed ([`Error::is_closed`]), or is a forked copy;
    /// * no descriptors or memory are left.
    pub fn accept<S, R>(&self) -> Result<Connection<S, R>, Error> {
        loop {
            if let Some(connection) = self.accept_deadline(None)? {
                return Ok(connection);
            }
        }
    }

    /// As [`accept`](Listener::accept), for `timeout` at most: then `None`.
    ///
    /// # Errors
    ///
    /// As [`accept`](Listener::accept).
    pub fn accept_timeout<S, R>(&self, timeout: Duration) -> Result<Option<Connection<S, R>>, Error> {
        self.accept_deadline(Some(Deadline::after(timeout)))
    }

    /// As [`accept`](Listener::accept), until `deadline`: then `None`.
    ///
    /// # Errors
    ///
    /// As [`accept`](Listener::accept).
    pub fn accept_deadline<S, R>(
        &self,
        deadline: Option<Deadline>,
    ) -> Result<Option<Connection<S, R>>, Error> {
        let Some(accepted) = self.accept_until(deadline)? else { return Ok(None) };
        connection(accepted.socket, "accept a client at", self.address()).map(Some)
    }

    /// Takes all handshakes as far as they go, and returns a client that is let in, if there is one.
    ///
    /// # Errors
    ///
    /// As [`accept`](Listener::accept).
    pub fn try_accept<S, R>(&self) -> Result<Option<Connection<S, R>>, Error> {
        self.accept_deadline(Some(Deadline::from_nanos(0)))
    }

    /// The clients that are let in, one after the other, up to the listener's end. Those that are refused are left out.
    pub fn incoming<S, R>(&self) -> impl Iterator<Item = Result<Connection<S, R>, Error>> {
        std::iter::from_fn(|| {
            loop {
                match self.accept() {
                    Err(error) if error.is_refused() => {}
                    Err(error) if error.is_closed() => return None,
                    result => return Some(result),
                }
            }
        })
    }
}

impl Client {
    /// Connects to a listener, and proves and checks the key, if there is one.
    ///
    /// # Errors
    ///
    /// * nobody listens there, or the network fails ([`Error::os_error`]);
    /// * the listener was refused, or refused us ([`Error::is_refused`]);
    /// * the time is over ([`Error::is_timeout`]);
    /// * TCP without a key, unless [asked for](Client::without_authkey).
    pub fn connect<S, R>(&self, address: impl ToAddress) -> Result<Connection<S, R>, Error> {
        let (socket, address) = self.socket(address)?;
        let connection = connection(socket, "connect to", &address)?;
        Ok(if self.has_key() { connection } else { connection.expecting_no_challenge() })
    }
}

fn connection<S, R>(
    socket: OwnedFd,
    doing: &'static str,
    address: &Address,
) -> Result<Connection<S, R>, Error> {
    Connection::from_stream(socket).map_err(|error| Error::io(doing, address.to_string(), error))
}

/// Proves on a connection that the other side knows the key, as CPython's function of this name: the other side
/// [answers](answer_challenge). Messages of its own must not be under way.
///
/// # Errors
///
/// Why it was refused: the deadline included.
pub fn deliver_challenge(
    connection: &impl AsFd,
    key: &AuthKey,
    allow_md5: bool,
    deadline: Deadline,
) -> Result<(), Error> {
    half(Handshake::deliver_challenge(key), connection, allow_md5, deadline, "deliver a challenge")
}

/// Proves on a connection that we know the key, as CPython's function of this name.
///
/// # Errors
///
/// Why we were refused, or could not answer: the deadline included.
pub fn answer_challenge(
    connection: &impl AsFd,
    key: &AuthKey,
    allow_md5: bool,
    deadline: Deadline,
) -> Result<(), Error> {
    half(Handshake::answer_challenge(key), connection, allow_md5, deadline, "answer a challenge")
}

fn half(
    handshake: std::io::Result<Handshake>,
    connection: &impl AsFd,
    allow_md5: bool,
    deadline: Deadline,
    doing: &'static str,
) -> Result<(), Error> {
    // A packet would be cut.
    match rustix::net::sockopt::socket_type(connection.as_fd()) {
        Ok(rustix::net::SocketType::STREAM) => {}
        Ok(_) => return Err(Error::invalid(doing, "", "this takes a stream socket")),
        Err(error) => return Err(Error::io(doing, "", error)),
    }
    let mut handshake = handshake.map_err(|error| Error::io(doing, "", error))?.allow_md5(allow_md5);
    socket::drive(connection, &mut handshake, deadline).map_err(|refusal| Error::refused(doing, "", refusal))
}
