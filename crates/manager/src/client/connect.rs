//! How a connection is made: the socket, TLS, the key, and the greeting.

use super::{Client, FrameReader, Row, State, lock, malformed};
use crate::{
    access::Access,
    error::{Error, ErrorKind, Result},
    lanes,
    proto::{self, Op, Reader},
    wire::Wire,
};
use procession_channel::net::{self, Address, Handshake, Refusal};
use procession_parcel::function::image;
use procession_sys::Deadline;
use rustix::net::{AddressFamily, sockopt};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, atomic::Ordering},
    time::Duration,
};

const DOING: &str = "connect to a manager";

/// What a client must tell to come back.
pub(super) struct Resume {
    pub(super) token: Vec<u8>,
    /// How long the server keeps what is this client's.
    pub(super) grace: Duration,
}

/// Connects, proves who we are, and says hello.
pub(crate) fn connect(access: &Access, role: u64, timeout: Duration) -> Result<Client> {
    let wire = Arc::new(open(access, timeout)?);
    let mut client = Client {
        generation: crate::site::generation(),
        transit: role == super::TRANSIT,
        server_pid: 0,
        identity: [0; 16],
        trusted: false,
        access: access.clone(),
        row: Mutex::new(Row::new(wire.clone())),
        turn: Condvar::new(),
        state: Mutex::new(State::new(wire)),
        next: 1.into(),
        futures: Arc::default(),
        held: Mutex::default(),
        resume: None,
        heard: Deadline::now().as_nanos().into(),
        bell: Arc::default(),
        me: std::sync::OnceLock::new(),
    };
    let mut hello = super::Request::new(Op::Hello, 0)
        .u64(proto::PROTOCOL)
        .u64(role)
        .u64(std::process::id().into())
        .bytes(image().build_id().as_bytes());
    let asks = role == super::CLIENT && (access.reconnect.is_some() || access.silence.is_some());
    if asks {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        hello = hello.u64(access.reconnect.map_or(0, |reconnect| nanos(reconnect.grace)));
        hello = hello.u64(access.silence.map_or(0, nanos));
    }
    let reply = client.call(DOING, hello, Some(timeout))?;
    let mut input = Reader::new(&reply.payload);
    let mut read = || Ok::<_, proto::Malformed>((input.u64()?, input.u64()?, input.bytes()?));
    let (trusted, pid, identity) = read().map_err(|error| malformed(DOING, error))?;
    let identity = identity.try_into().map_err(|_| malformed(DOING, "an identity of another length"))?;
    (client.trusted, client.server_pid, client.identity) = (trusted != 0, pid as u32, identity);
    if asks {
        let mut read = || Ok::<_, proto::Malformed>((input.bytes()?, input.u64()?));
        let (token, grace) = read().map_err(|error| malformed(DOING, error))?;
        if !token.is_empty() {
            client.resume = Some(Resume { token: token.to_vec(), grace: Duration::from_nanos(grace) });
            client.keep_frames();
        }
    } else if role == super::CLIENT {
        client.ask_for_lanes(timeout)?;
    }
    Ok(client)
}

impl Client {
    /// Nobody else has the connection yet. Without lanes it stays as it is.
    fn ask_for_lanes(&self, timeout: Duration) -> Result<()> {
        let wire = lock(&self.row).wire.clone();
        if wire.is_tls() || sockopt::socket_domain(&wire) != Ok(AddressFamily::UNIX) {
            return Ok(());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match lanes::agree(&wire, number, Deadline::after(timeout)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(Error::new(ErrorKind::Timeout, DOING, "the server did not answer in time"))
            }
            Err(error) => Err(Error::gone(DOING, format!("the server is gone: {error}"))),
        }
    }
}

fn refused(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Refused, DOING, cause.to_string())
}

/// A wire to a server that let us in.
pub(super) fn open(access: &Access, timeout: Duration) -> Result<Wire> {
    let deadline = Deadline::after(timeout);
    let key = access.authkey();
    let within = access.material.is_some();
    let client = net::Client::new().timeout(timeout);
    // Within TLS the key is proved inside.
    let client = if within { client.without_authkey() } else { client.authkey(key.clone()) };
    let socket: OwnedFd = client
        .connect::<(), ()>(access.address.clone())
        .map_err(|error| {
            // One that ends in the middle of the handshake has not refused anybody.
            let gone = matches!(error.refusal(), None | Some(Refusal::HungUp | Refusal::Crowded));
            let kind = match error.refusal() {
                _ if gone => ErrorKind::ServerGone,
                Some(Refusal::TimedOut) => ErrorKind::Timeout,
                _ => ErrorKind::Refused,
            };
            let silent = matches!(error.refusal(), Some(Refusal::HungUp | Refusal::TimedOut));
            let hint = match &access.address {
                Address::Tcp(_) if silent => "; a server with TLS wants it of its clients",
                _ => "",
            };
            Error::new(kind, DOING, format!("{error}{hint}")).with_source(error)
        })?
        .into();
    let wire = secure(access, socket)?;
    if within {
        enter(&wire, &key, deadline)?;
    }
    match access.silence {
        // Who gives signs of life reads.
        Some(silence) => wire.watch_peer(silence, silence),
        None => wire.watch_peer(crate::server::SILENCE, crate::server::UNREAD),
    }
    Ok(wire)
}

#[cfg(feature = "tls")]
fn secure(access: &Access, socket: OwnedFd) -> Result<Wire> {
    match &access.material {
        Some(material) => crate::tls::Tunnel::client(material, &access.address)
            .map(|tunnel| Wire::within(socket, tunnel))
            .map_err(refused),
        None => Ok(Wire::plain(socket)),
    }
}

#[cfg(not(feature = "tls"))]
fn secure(access: &Access, socket: OwnedFd) -> Result<Wire> {
    match &access.material {
        Some(_) => {
            Err(refused("the server speaks TLS, and this program was built without the feature `tls`"))
        }
        None => Ok(Wire::plain(socket)),
    }
}

/// Proves the key inside of TLS, whose own handshake goes along.
fn enter(wire: &Wire, key: &net::AuthKey, deadline: Deadline) -> Result<()> {
    let mut handshake = Handshake::client(key).map_err(|error| Error::system(DOING, error))?;
    let failed = |error: io::Error| match error.kind() {
        // What TLS finds wrong.
        io::ErrorKind::InvalidData => refused(error),
        _ => Error::gone(DOING, error.to_string()),
    };
    let mut input = Vec::new();
    loop {
        wire.flush().map_err(failed)?;
        while !handshake.output().is_empty() {
            match wire.send(handshake.output()) {
                Ok(sent) => handshake.sent(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        if let Some(outcome) = handshake.outcome() {
            if !input.is_empty() {
                return Err(refused("it sent more than its handshake"));
            }
            while outcome.is_ok() && !wire.flush().map_err(failed)? && !deadline.passed() {
                crate::wire::wait(wire, true, deadline).map_err(failed)?;
            }
            return outcome.map_err(refused);
        }
        if !input.is_empty() && handshake.wanted() > 0 {
            let wanted = handshake.wanted().min(input.len());
            handshake.input(&input[..wanted]);
            input.drain(..wanted);
            continue;
        }
        match wire.recv(&mut input, false) {
            Ok(0) => return Err(Error::gone(DOING, Refusal::HungUp.to_string())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let writes = wire.has_rest() || (!handshake.output().is_empty() && !wire.is_handshaking());
                if !crate::wire::wait(wire, writes, deadline).map_err(failed)? {
                    let which = if wire.is_handshaking() { "the TLS handshake" } else { "the handshake" };
                    let text = format!("{which} was not over by its deadline");
                    return Err(Error::new(ErrorKind::Timeout, DOING, text));
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Comes back: tells what we have, and hears what the server has. The reader has what came behind that.
pub(super) fn resume(
    access: &Access,
    token: &[u8],
    received: u64,
    timeout: Duration,
) -> Result<(Arc<Wire>, FrameReader, u64)> {
    const DOING: &str = "come back to a manager";
    let deadline = Deadline::after(timeout);
    let wire = Arc::new(open(access, timeout)?);
    let mut request = super::Request::new(Op::Resume, 0).u64(proto::PROTOCOL).bytes(token).u64(received);
    request.frame(proto::Kind::Request, 0);
    let gone = |error: io::Error| Error::gone(DOING, error.to_string());
    let mut rest = &request.out[..];
    while !rest.is_empty() || !wire.flush().map_err(gone)? {
        match wire.send(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !crate::wire::wait(&wire, true, deadline).map_err(gone)? {
                    return Err(Error::gone(DOING, "the server does not read"));
                }
            }
            Err(error) => return Err(gone(error)),
        }
    }
    let mut reader = FrameReader::new(wire.clone());
    let Some((header, payload)) = reader.next(Some(deadline)).map_err(gone)? else {
        return Err(Error::gone(DOING, "the server does not answer"));
    };
    if header.method != 0 {
        return Err(super::refused(DOING, header.method, &payload));
    }
    let has = Reader::new(&payload).u64().map_err(|error| malformed(DOING, error))?;
    Ok((wire, reader, has))
}
