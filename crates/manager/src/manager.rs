//! The manager: a server in a process of its own, from start to end; and a server in this process.

use crate::{
    Host, Session,
    access::{Access, Material},
    error::{Error, ErrorKind, Result},
    hosting::{self, Known, Registered},
    server::{Bounds, Secure, Server},
};
use procession_channel::{
    connection::{Connection, Pipe},
    net::{Address, AuthKey, Listener, ToAddress},
};
use procession_parcel::{Bytes, Erased, Outcome, Parcel};
use procession_process::{ExitStatus, Process, StartMethod};
use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, ops::Deref, os::fd::OwnedFd, sync::Arc, time::Duration};

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a server gets to end by itself, when its manager is dropped.
const GRACE: Duration = Duration::from_secs(1);

/// Describes a manager before it starts.
#[derive(Debug)]
#[must_use = "a builder does nothing until it starts"]
pub struct Builder {
    name: Option<String>,
    method: Option<StartMethod>,
    addresses: std::result::Result<Vec<Address>, std::io::Error>,
    key: Option<AuthKey>,
    initializer: Option<Result<(Erased, Parcel)>>,
    bounds: Bounds,
    registered: Vec<Registered>,
    material: Option<Material>,
}

impl Builder {
    fn new() -> Builder {
        let addresses = Ok(Vec::new());
        let bounds = Bounds::default();
        Builder {
            name: None,
            method: None,
            addresses,
            key: None,
            initializer: None,
            bounds,
            registered: Vec::new(),
            material: None,
        }
    }

    /// The name of its process, for messages and `ps`; `Manager-1` by default.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// How its process starts.
    pub fn start_method(mut self, method: StartMethod) -> Builder {
        self.method = Some(method);
        self
    }

    /// A public address besides the private one that the tree uses: for processes of other trees, and of other machines.
    /// It needs a [key](Builder::authkey). With port 0 the kernel chooses one.
    pub fn address(mut self, address: impl ToAddress) -> Builder {
        self.addresses = address.to_addresses();
        self
    }

    /// The key that clients at the public address must know.
    pub fn authkey(mut self, key: impl Into<AuthKey>) -> Builder {
        self.key = Some(key.into());
        self
    }

    /// Runs `f(arg)` in the server before it listens, once. Should it panic, the start fails.
    pub fn initializer<A, R>(mut self, f: fn(A) -> R, arg: &A) -> Builder
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        const DOING: &str = "send an initialiser";
        let packed = Erased::new(f).and_then(|work| Ok((work, Parcel::pack(arg)?)));
        self.initializer = Some(packed.map_err(|error| Error::encoding(DOING, error)));
        self
    }

    /// The largest frame that is taken from a client, in bytes: 1 GiB by default. A client can make the server use that much
    /// memory, by sending it; and as much again, or 64 MiB if that is more, by requests that wait (for a place in a queue, for a
    /// function that works on an object, for a hosted pool): one more of over 4 KiB is [`ErrorKind::Limit`] then, and was not done.
    pub fn max_frame(mut self, bytes: u64) -> Builder {
        self.bounds.max_frame = bytes;
        self
    }

    /// The most connections at the public address: three quarters of the descriptors that the server may have by default, which
    /// leaves the others to its own tree. One more is told so ([`ErrorKind::Limit`]). One that proves nothing, or says nothing,
    /// for ten seconds is closed.
    pub fn max_connections(mut self, connections: usize) -> Builder {
        self.bounds.max_connections = Some(connections);
        self
    }

    /// The longest that a client may ask the server to keep what is its while its connection is broken
    /// ([`Reconnect::grace`](crate::Reconnect::grace)): a minute by default. Zero allows nobody to come back.
    pub fn max_grace(mut self, grace: Duration) -> Builder {
        self.bounds.max_grace = grace;
        self
    }

    /// Whether clients that come by a Unix socket, as the same user, get lanes in shared memory, by which a call takes a fraction
    /// of the time: they do by default, 256 of them at a time. Each takes a descriptor on both sides, and 24 KiB, or up to a MiB
    /// where its frames are large.
    pub fn shared_memory(mut self, lanes: bool) -> Builder {
        self.bounds.lanes = lanes;
        self
    }

    /// The most bytes of results of hosted pools' calls that wait in the server until their client reads them: 1 GiB for each
    /// client by default. A call whose results would be more than that is [`ErrorKind::Limit`]; it was done. A client reads
    /// while one of its threads waits for a call, or a future does.
    #[cfg(feature = "pool")]
    pub fn max_unread(mut self, bytes: u64) -> Builder {
        self.bounds.max_unread = bytes;
        self
    }

    /// Whether clients of the public address may [close](crate::PoolProxy::close) and
    /// [terminate](crate::PoolProxy::terminate) pools that were published, for everybody, and take their names away: they may not by
    /// default, as they cannot make pools.
    #[cfg(feature = "pool")]
    pub fn public_pool_end(mut self, allowed: bool) -> Builder {
        self.bounds.public_pool_end = allowed;
        self
    }

    /// TLS at the public address. Clients must show a certificate that one of the authorities has signed, and prove the key
    /// within.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: &crate::Tls) -> Builder {
        self.material = Some(tls.0.clone());
        self
    }

    /// Lets clients of the public address make objects of a [hosted](macro@crate::hosted) type, under this name
    /// ([`Session::create_named`]; [`Session::create`], where it is the type's own). Clients of the manager's own tree can make
    /// those of every hosted type without it. Python's `register`.
    pub fn register<T: Host>(mut self, name: &str) -> Builder {
        self.registered.push(hosting::registered::<T>(name));
        self
    }

    fn setup(self) -> Result<(Setup, Option<String>, Option<StartMethod>)> {
        let addresses = self.addresses.map_err(|error| Error::system(START, error))?;
        if !addresses.is_empty() && self.key.is_none() {
            return Err(Error::new(
                ErrorKind::Invalid,
                START,
                "a public address needs a key: `authkey(key)`",
            ));
        }
        let random = || AuthKey::random().map_err(|error| Error::system(START, error));
        let setup = Setup {
            addresses,
            key: self.key.map(|key| Bytes(key.as_bytes().to_vec())),
            private_key: Bytes(random()?.as_bytes().to_vec()),
            identity: Bytes(random()?.as_bytes()[..16].to_vec()),
            initializer: self.initializer.transpose()?,
            bounds: self.bounds,
            registered: self.registered,
            material: self.material,
            ready: None,
        };
        Ok((setup, self.name, self.method))
    }

    /// Starts the server in a process of its own, and waits until it listens.
    ///
    /// # Errors
    /// If the process cannot be started, the initialiser panics, or the address cannot be had.
    pub fn start(self) -> Result<Manager> {
        let failed = |error: &dyn fmt::Display| Error::new(ErrorKind::System, START, error.to_string());
        let (mut setup, name, method) = self.setup()?;
        let (receiver, sender) = Pipe::<Ready>::one_way().map_err(|error| failed(&error))?;
        setup.ready = Some(sender);
        let mut builder = Process::builder().class("Manager").daemon(true).drop_grace(GRACE);
        if let Some(name) = name {
            builder = builder.name(name);
        }
        if let Some(method) = method {
            builder = builder.start_method(method);
        }
        let process = builder.spawn_ref(serve, &setup).map_err(|error| failed(&error))?;
        let key = AuthKey::new(&*setup.private_key);
        // Its end of the pipe is the server's alone from here on.
        drop(setup);
        let ready = match receiver.recv_timeout(PATIENCE) {
            Ok(Some(Ok(ready))) => ready,
            Ok(Some(Err(cause))) => return Err(Error::new(ErrorKind::System, START, cause)),
            Ok(None) => return Err(Error::new(ErrorKind::Timeout, START, "the server does not get ready")),
            Err(_) => {
                let cause = match process.join_timeout(GRACE) {
                    Err(error) => error.to_string(),
                    Ok(_) => "it ended".to_owned(),
                };
                return Err(Error::gone(START, format!("the server ended before it was ready: {cause}")));
            }
        };
        let session = Session::new(Access::new(ready.0, &key));
        Ok(Manager { session, process, public: ready.1 })
    }

    /// Makes a server in this process; [`LocalServer::serve_forever`] runs it.
    ///
    /// # Errors
    /// As [`start`](Builder::start).
    pub fn bind(self) -> Result<LocalServer> {
        let (setup, ..) = self.setup()?;
        let key = AuthKey::new(&*setup.private_key);
        let parts = make(setup).map_err(|cause| Error::new(ErrorKind::System, START, cause))?;
        let (private, public) = parts.addresses();
        Ok(LocalServer { parts, session: Session::new(Access::new(private, &key)), public })
    }
}

const START: &str = "start a manager";

/// The private address, and the public one.
type Addresses = (Address, Option<Address>);
type Ready = std::result::Result<Addresses, String>;

#[derive(Serialize, Deserialize)]
struct Setup {
    addresses: Vec<Address>,
    key: Option<Bytes>,
    private_key: Bytes,
    identity: Bytes,
    initializer: Option<(Erased, Parcel)>,
    bounds: Bounds,
    registered: Vec<Registered>,
    material: Option<Material>,
    ready: Option<Connection<Ready, procession_channel::connection::Nothing>>,
}

/// The server's life.
fn serve(mut setup: Setup) {
    crate::signals::ignore_interrupts();
    // Each client is a descriptor.
    if let Some(hard) = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum {
        let limit = rustix::process::Rlimit { current: Some(hard), maximum: Some(hard) };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    }
    let ready = setup.ready.take();
    let (made, said) = match make(setup) {
        Ok(parts) => {
            let addresses = parts.addresses();
            (Some(parts), Ok(addresses))
        }
        Err(cause) => (None, Err(cause)),
    };
    if let Some(ready) = ready {
        // If nobody is there to hear it, this process is about to be killed.
        let _ = ready.send(&said);
    }
    if let Some(parts) = made
        && let Err(error) = parts.serve()
    {
        eprintln!("procession: a manager's server failed: {error}");
    }
}

/// What a server is made of, before it is in its thread.
struct Parts {
    private: Listener,
    public: Option<Listener>,
    stop: Arc<OwnedFd>,
    identity: [u8; 16],
    bounds: Bounds,
    known: Known,
    secure: Option<Secure>,
}

impl Parts {
    fn addresses(&self) -> Addresses {
        (self.private.address().clone(), self.public.as_ref().map(|public| public.address().clone()))
    }

    fn serve(self) -> std::io::Result<()> {
        let (private, public) = (Some(self.private), self.public);
        let mut server = Server::new(private, public, self.stop, self.identity, self.bounds, self.secure)?;
        server.known = self.known;
        server.run()
    }
}

fn make(setup: Setup) -> std::result::Result<Parts, String> {
    let known = Known::new(setup.registered)?;
    if let Some((work, arg)) = setup.initializer {
        match work.call(arg) {
            Outcome::Value(_) => {}
            other => return Err(format!("the initialiser {other}")),
        }
    }
    let text = |error: &dyn fmt::Display| error.to_string();
    let name = AuthKey::random().map_err(|error| text(&error))?;
    let name: String = name.as_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let private = Listener::builder()
        .authkey(AuthKey::new(&*setup.private_key))
        .bind(Address::Abstract(format!("procession-manager-{name}").into_bytes()))
        .map_err(|error| text(&error))?;
    let mut secure = None;
    let public = match setup.key {
        Some(key) if !setup.addresses.is_empty() => {
            let key = AuthKey::new(&*key);
            secure = setup.material.as_ref().map(|material| secured(material, &key)).transpose()?;
            let mut outcome = Err(String::new());
            for address in &setup.addresses {
                let bound = match secure {
                    // The key is proved within TLS.
                    Some(_) => Listener::builder().without_authkey(),
                    None => Listener::builder().authkey(key.clone()),
                };
                let bound = bound.bind(address);
                outcome = bound.map_err(|error| error.to_string());
                if outcome.is_ok() {
                    break;
                }
            }
            Some(outcome?)
        }
        _ => None,
    };
    let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| text(&error))?;
    let stop = Arc::new(stop);
    let mut identity = [0; 16];
    let len = identity.len().min(setup.identity.len());
    identity[..len].copy_from_slice(&setup.identity[..len]);
    Ok(Parts { private, public, stop, identity, bounds: setup.bounds, known, secure })
}

#[cfg(feature = "tls")]
fn secured(material: &Material, key: &AuthKey) -> std::result::Result<Secure, String> {
    Ok(Secure { config: crate::tls::server(material)?, key: key.clone() })
}

#[cfg(not(feature = "tls"))]
fn secured(_: &Material, _: &AuthKey) -> std::result::Result<Secure, String> {
    Err("this program was built without the feature `tls`".to_owned())
}

/// A server in a process of its own, which ends with this value, and with this process. Python's `Manager()`.
///
/// It derefs to a [`Session`], by which objects are made.
#[must_use = "a manager that is dropped ends its server"]
pub struct Manager {
    session: Session,
    process: Process<()>,
    public: Option<Address>,
}

impl Manager {
    /// Starts a server for this tree of processes.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn start() -> Result<Manager> {
        Manager::builder().start()
    }

    /// A manager that is about to be described.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A session with a server, that goes to other processes.
    pub fn session(&self) -> Session {
        self.session.clone()
    }

    /// The public address, if it has one, with the port that the kernel chose.
    #[must_use]
    pub fn public_address(&self) -> Option<&Address> {
        self.public.as_ref()
    }

    /// The server's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its process's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.process.name()
    }

    /// Whether the server lives.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// How the server ended, if it did.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    /// Waits for the server's end; `None` after `timeout`. Python's `join`.
    ///
    /// # Errors
    /// What waiting reports.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let failed = |error: procession_process::Error| {
            Error::new(ErrorKind::System, "wait for a manager's server", error.to_string())
        };
        self.process.wait_timeout(timeout).map_err(failed)
    }

    /// Ends the server: it is asked to, then it gets SIGTERM after `grace`, and SIGKILL after as long again. Everything that
    /// it kept is gone, and every call that waits is an error. Again does nothing, and tells the same.
    ///
    /// # Errors
    /// What waiting reports.
    pub fn shutdown(&self, grace: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.process.exit_status() {
            return Ok(status);
        }
        // One that does not answer is ended all the same.
        if self.session.ask_to_end(grace).is_ok()
            && let Some(status) = self.wait_timeout(grace)?
        {
            return Ok(status);
        }
        let failed = |error: procession_process::Error| {
            Error::new(ErrorKind::System, "end a manager's server", error.to_string())
        };
        self.process.stop(grace).map_err(failed)
    }
}

impl Deref for Manager {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // The process's own drop is what ends it for sure.
        let _ = self.shutdown(GRACE);
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("pid", &self.pid())
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// A server in this process. Python's `get_server()`.
#[must_use = "a server that is dropped serves nobody"]
pub struct LocalServer {
    parts: Parts,
    session: Session,
    public: Option<Address>,
}

/// Ends a [`LocalServer`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<OwnedFd>);

impl LocalServer {
    /// A session with it, for this tree of processes. It answers once the server runs.
    pub fn session(&self) -> Session {
        self.session.clone()
    }

    /// The public address, if it has one, with the port that the kernel chose.
    #[must_use]
    pub fn public_address(&self) -> Option<&Address> {
        self.public.as_ref()
    }

    /// What ends it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.parts.stop.clone())
    }

    /// Serves, in this thread, until somebody ends it.
    ///
    /// # Errors
    /// If the system has no more memory for the loop.
    pub fn serve_forever(self) -> Result<()> {
        self.parts.serve().map_err(|error| Error::system("serve", error))
    }
}

impl Stopper {
    /// Ends the server.
    pub fn stop(&self) {
        // A counter that is full has told it before.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl fmt::Debug for LocalServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalServer").field("public", &self.public).finish_non_exhaustive()
    }
}
