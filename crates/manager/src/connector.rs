//! How a client connects to a public address.

use crate::{
    Session,
    access::{Access, Reconnect},
    error::{Error, ErrorKind, Result},
};
use procession_channel::net::{AuthKey, ToAddress};
use std::time::Duration;

/// Describes a connection to a server's public address before it is made; [`Session::connector`].
///
/// ```no_run
/// use procession_manager::{Queue, Reconnect, Session};
/// use std::time::Duration;
///
/// let session = Session::connector("secret")
///     .reconnect(Reconnect::default().grace(Duration::from_secs(10)))
///     .keepalive(Duration::from_secs(15))
///     .connect(("localhost", 6000))?;
/// let jobs = session.find::<Queue<String>>("jobs")?;
/// # Ok::<(), procession_manager::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a connector does nothing until it connects"]
pub struct Connector {
    key: AuthKey,
    material: Option<crate::access::Material>,
    reconnect: Option<Reconnect>,
    silence: Option<Duration>,
}

impl Connector {
    pub(crate) fn new(key: AuthKey) -> Connector {
        Connector { key, material: None, reconnect: None, silence: None }
    }

    /// Connects within TLS, with a certificate of our own: the server shows one, and asks for one.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &crate::Tls) -> Connector {
        self.material = Some(tls.0.clone());
        self
    }

    /// Comes back when the connection breaks. Meanwhile calls wait, and the server keeps what this process holds: its leases,
    /// its locks, its permits, its places in every wait. No call is done twice, and none that got a reply was not done. Once
    /// the attempts or the grace are over, every call is an error, and the server has given all of that back.
    ///
    /// The price: the death of this process is noticed a grace later, unless it drops its sessions and proxies before.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Connector {
        self.reconnect = Some(reconnect);
        self
    }

    /// Each side gives the other a sign of life every third of `bound`, and counts as gone after about `bound` without one (a
    /// second at least): as if its connection had broken. Without this the kernel asks, which notices a network that is gone,
    /// after half a minute, but no process that is stopped.
    pub fn keepalive(mut self, bound: Duration) -> Connector {
        self.silence = Some(bound.max(Duration::from_secs(1)));
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there ([`ErrorKind::ServerGone`]), one side refuses the other, be it the key or the certificate
    /// ([`ErrorKind::Refused`]), or the server has as many connections as it takes ([`ErrorKind::Limit`]).
    pub fn connect(&self, address: impl ToAddress) -> Result<Session> {
        const DOING: &str = "connect to a manager";
        let addresses = address.to_addresses().map_err(|error| Error::system(DOING, error))?;
        let mut outcome = Err(Error::new(ErrorKind::Invalid, DOING, "no address"));
        for address in addresses {
            let access = Access {
                material: self.material.clone(),
                reconnect: self.reconnect,
                silence: self.silence,
                ..Access::new(address, &self.key)
            };
            let session = Session::new(access);
            outcome = session.ping(DOING).map(|()| session);
            if !matches!(&outcome, Err(error) if error.is_server_gone()) {
                break;
            }
        }
        outcome
    }
}
