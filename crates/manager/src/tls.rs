//! TLS at public addresses: certificates on both sides, `rustls` with `ring`, version 1.3.
//!
//! A [`Tunnel`] is one side of a connection. It has no socket of its own: whoever has one gives it, and a tunnel never waits.
//!
//! # Invariants
//! 1. After [`Tunnel::recv`] nothing that could be read stands inside, so a socket that is not readable has nothing to give.
//! 2. What [`Tunnel::send`] took goes out in order; what the socket did not take stays inside ([`Tunnel::has_rest`]).
//! 3. Once a tunnel has failed it stays so.

use crate::{
    access::Material,
    error::{Error, ErrorKind, Result},
};
use procession_channel::net::Address;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{
    fmt,
    io::{self, Read, Write},
    os::fd::BorrowedFd,
    sync::Arc,
};

/// What one side shows, and whose certificates it believes: the same type for servers and for clients.
///
/// Both sides show a certificate. What a session or a proxy needs to connect goes along with it in parcels, the private key
/// included: only to processes of this program, over their own sockets.
#[derive(Clone, Debug)]
pub struct Tls(pub(crate) Material);

const DOING: &str = "read certificates";

fn invalid(cause: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, DOING, cause.to_string())
}

impl Tls {
    /// From PEM: a chain of certificates with our own first, its private key, and the authorities that sign for the other side.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if something of it is missing or malformed, or the key is not the certificate's.
    pub fn from_pem(
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        authorities: impl AsRef<[u8]>,
    ) -> Result<Tls> {
        let certificates = |pem: &[u8], what: &str| {
            let read = CertificateDer::pem_slice_iter(pem).map(|one| one.map(|der| der.to_vec()));
            let read: Vec<Vec<u8>> = read
                .collect::<std::result::Result<_, _>>()
                .map_err(|error| invalid(format!("{what}: {error}")))?;
            Ok::<_, Error>(read)
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_ref())
            .map_err(|error| invalid(format!("the key: {error}")))?;
        Tls::from_der(
            certificates(chain.as_ref(), "the certificates")?,
            key.secret_der(),
            certificates(authorities.as_ref(), "the authorities")?,
        )
    }

    /// As [`from_pem`](Tls::from_pem), from DER; the key in PKCS #8, SEC 1 or PKCS #1.
    ///
    /// # Errors
    /// As [`from_pem`](Tls::from_pem).
    pub fn from_der(
        chain: impl IntoIterator<Item = Vec<u8>>,
        key: impl AsRef<[u8]>,
        authorities: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Tls> {
        let material = Material {
            chain: chain.into_iter().collect(),
            key: key.as_ref().to_vec(),
            authorities: authorities.into_iter().collect(),
            name: None,
        };
        // What is wrong with it is said now.
        server(&material).map_err(invalid)?;
        client(&material).map_err(invalid)?;
        Ok(Tls(material))
    }

    /// The name that the server's certificate must be for. Without it, it must be for the IP address that is connected to.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Tls {
        self.0.name = Some(name.into());
        self
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(material: &Material) -> std::result::Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in &material.authorities {
        let der = CertificateDer::from(authority.clone());
        roots.add(der).map_err(|error| format!("an authority: {error}"))?;
    }
    match roots.is_empty() {
        true => Err("no authority, so nobody could be believed".to_owned()),
        false => Ok(roots),
    }
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own(material: &Material) -> std::result::Result<Own, String> {
    if material.chain.is_empty() {
        return Err("no certificate of our own".to_owned());
    }
    let key = PrivateKeyDer::try_from(material.key.clone()).map_err(|error| format!("the key: {error}"))?;
    Ok((material.chain.iter().cloned().map(CertificateDer::from).collect(), key))
}

/// What a server makes of it.
pub(crate) fn server(material: &Material) -> std::result::Result<Arc<ServerConfig>, String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(material)?), provider());
    let (chain, key) = own(material)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| text(&error))?
        .with_client_cert_verifier(verifier.build().map_err(|error| text(&error))?)
        .with_single_cert(chain, key)
        .map_err(|error| text(&error))?;
    // Nothing is resumed at this level.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client(material: &Material) -> std::result::Result<ClientConfig, String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let (chain, key) = own(material)?;
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| text(&error))?
        .with_root_certificates(roots(material)?)
        .with_client_auth_cert(chain, key)
        .map_err(|error| text(&error))
}

/// One side of a connection.
pub(crate) struct Tunnel {
    connection: Connection,
    failed: Option<(io::ErrorKind, String)>,
    over: bool,
}

/// A socket, as `rustls` takes one; never waits.
struct Socket<'a>(BorrowedFd<'a>);

impl Read for Socket<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::net::recv(self.0, &mut *bytes, RecvFlags::DONTWAIT))?.0)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::io::retry_on_intr(|| rustix::net::send(self.0, bytes, flags))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is read at once.
const STEP: usize = 64 << 10;

impl Tunnel {
    pub(crate) fn server(config: &Arc<ServerConfig>) -> std::result::Result<Tunnel, String> {
        ServerConnection::new(config.clone())
            .map(|one| Tunnel::of(one.into()))
            .map_err(|error| error.to_string())
    }

    pub(crate) fn client(material: &Material, address: &Address) -> std::result::Result<Tunnel, String> {
        let name = match (&material.name, address) {
            (Some(name), _) => {
                ServerName::try_from(name.clone()).map_err(|error| format!("`{name}`: {error}"))?
            }
            (None, Address::Tcp(address)) => ServerName::from(address.ip()),
            (None, _) => {
                return Err("a path has no certificate: `server_name(name)` says whose it is".to_owned());
            }
        };
        let connection = ClientConnection::new(Arc::new(client(material)?), name);
        connection.map(|one| Tunnel::of(one.into())).map_err(|error| error.to_string())
    }

    fn of(connection: Connection) -> Tunnel {
        Tunnel { connection, failed: None, over: false }
    }

    /// Whether what was sent did not all go out.
    pub(crate) fn has_rest(&self) -> bool {
        self.connection.wants_write()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Why it failed, or `AGAIN` as long as it did not.
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
            None => Ok(()),
        }
    }

    /// Has the socket take what it takes.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes some bytes; `AGAIN` if the socket does not take what stands before them.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.flush(socket)?;
        if self.connection.wants_write() {
            return Err(Errno::AGAIN.into());
        }
        let taken = self.connection.writer().write(bytes)?;
        self.flush(socket)?;
        match taken {
            // The handshake is not over, and enough stands behind it.
            0 => Err(Errno::AGAIN.into()),
            taken => Ok(taken),
        }
    }

    /// Appends what came, some tens of thousands of bytes at once; 0 is the end, `AGAIN` that nothing came.
    pub(crate) fn recv(&mut self, socket: BorrowedFd<'_>, into: &mut Vec<u8>) -> io::Result<usize> {
        let begin = into.len();
        loop {
            let before = into.len();
            match self.connection.reader().read_to_end(into) {
                Ok(_) => self.over = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end without a farewell: as with any socket, frames say where they end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.over = true,
                Err(error) => return Err(error),
            }
            let came = into.len() - begin;
            if self.over || came >= STEP || (came > 0 && into.len() == before) {
                return Ok(came);
            }
            if came == 0 {
                self.check()?;
            }
            match self.connection.read_tls(&mut Socket(socket)) {
                Ok(0) => self.over = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if came > 0 { Ok(came) } else { Err(Errno::AGAIN.into()) };
                }
                Err(_) if came > 0 => return Ok(came),
                Err(error) => return Err(error),
            }
            if self.over && self.connection.is_handshaking() {
                let text = "it closed the connection in the middle of the TLS handshake".to_owned();
                self.failed = Some((io::ErrorKind::UnexpectedEof, text));
                return self.check().map(|()| 0);
            }
            let processed = self.connection.process_new_packets();
            // An alert, where it failed.
            let _ = self.flush(socket);
            if let Err(error) = processed {
                self.failed = Some((io::ErrorKind::InvalidData, explain(&error)));
            }
        }
    }
}

/// What is wrong, for those who do not know the protocol.
fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(_) => {
            format!("what came is no TLS ({error}): does the other side have it?")
        }
        rustls::Error::NoCertificatesPresented => "the other side shows no certificate".to_owned(),
        rustls::Error::AlertReceived(alert) => {
            format!("the other side refuses our certificate or us ({alert:?})")
        }
        rustls::Error::InvalidCertificate(why) => {
            format!("the other side's certificate is not accepted: {why}")
        }
        other => format!("TLS: {other}"),
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("failed", &self.failed).finish_non_exhaustive()
    }
}
