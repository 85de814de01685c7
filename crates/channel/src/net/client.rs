//! The client's side.

use super::{
    address::{Address, ToAddress},
    error::{Error, Refusal},
    handshake::Handshake,
    mac::AuthKey,
    socket,
};
use procession_sys::Deadline;
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

const DOING: &str = "connect to";

/// How to connect to a listener, ours or CPython's.
///
/// ```no_run
/// use procession_channel::net::{ByteConnection, Client};
///
/// let connection: ByteConnection = Client::new().authkey("secret").connect(("localhost", 6000))?;
/// # Ok::<(), procession_channel::net::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a client does nothing until it connects"]
pub struct Client {
    key: Option<AuthKey>,
    open: bool,
    allow_md5: bool,
    timeout: Duration,
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}

impl Client {
    /// A client without a key, which connects to Unix sockets of the same user only.
    pub fn new() -> Client {
        Client { key: None, open: false, allow_md5: false, timeout: Duration::from_secs(20) }
    }

    /// The key, which the listener must know as well: each proves it to the other.
    pub fn authkey(mut self, key: impl Into<AuthKey>) -> Client {
        self.key = Some(key.into());
        self
    }

    /// Connects to TCP without any proof of who is there. Without this, and without a key, TCP is an error.
    pub fn without_authkey(mut self) -> Client {
        self.key = None;
        self.open = true;
        self
    }

    /// Whether MD5 will do, which CPython up to 3.11 uses. Not by default; see [`Handshake::allow_md5`].
    pub fn allow_md5(mut self, allow: bool) -> Client {
        self.allow_md5 = allow;
        self
    }

    /// How long connecting and the handshake may take, 20 seconds by default: longer than a listener's time for a handshake,
    /// so that it is the listener who gives up on a client that waited its turn.
    pub fn timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn socket(&self, address: impl ToAddress) -> Result<(OwnedFd, Address), Error> {
        let addresses = address.to_addresses().map_err(|error| Error::io(DOING, "", error))?;
        let deadline = Deadline::after(self.timeout);
        let mut outcome = Err(Error::invalid(DOING, "", "no address"));
        for address in addresses {
            outcome = self.socket_to(&address, deadline).map(|socket| (socket, address));
            match &outcome {
                // Nobody there: the host's next address.
                Err(error) if error.os_error().is_some() => {}
                _ => break,
            }
        }
        outcome
    }

    fn socket_to(&self, address: &Address, deadline: Deadline) -> Result<OwnedFd, Error> {
        let on = || address.to_string();
        if self.key.is_none() && !self.open && !address.is_local() {
            let what = "TCP needs a key: `authkey(key)`, or `without_authkey()` to talk to whoever is there";
            return Err(Error::invalid(DOING, on(), what));
        }
        let socket = socket::new(address).map_err(|error| Error::io(DOING, on(), error))?;
        socket::connect(socket.as_fd(), address, deadline)?;
        socket::without_delay(socket.as_fd(), address);
        let refused = |refusal: Refusal| Error::refused(DOING, on(), refusal);
        match &self.key {
            Some(key) => {
                let handshake = Handshake::client(key).map_err(|error| Error::io(DOING, on(), error))?;
                socket::drive(&socket, &mut handshake.allow_md5(self.allow_md5), deadline)
                    .map_err(refused)?;
            }
            None if address.is_local() => socket::check_user(socket.as_fd()).map_err(refused)?,
            None => {}
        }
        Ok(socket)
    }
}
