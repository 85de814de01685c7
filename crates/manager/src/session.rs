//! A session with a server: makes, publishes and finds objects.

use crate::{
    Array, Barrier, BoundedSemaphore, Condition, Custom, Dict, Event, Hosted, JoinableQueue, List, Lock,
    Namespace, Queue, RLock, Semaphore, Set, Value,
    access::Access,
    client::{Request, malformed},
    connector::Connector,
    error::{Error, ErrorKind, Result},
    lease::{self, Lease, Proxy},
    proto::{Op, Reader},
    ship,
    site::Site,
};
use procession_channel::net::{Address, AuthKey, ToAddress};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{fmt, sync::Arc, time::Duration};

/// How a server can be reached, and this process's connection to it.
///
/// A clone is the same session. It may be sent to other processes, which then make objects of their own with the same server.
/// Its encoding holds the key: it is for parcels, not for files.
#[derive(Clone)]
#[must_use = "a session that is dropped lets go of its server"]
pub struct Session {
    site: Arc<Site>,
}

/// What a server keeps, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Objects.
    pub objects: u64,
    /// Connections: one for each client process, and one for each proxy that was sent in a parcel.
    pub connections: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// Published names.
    pub names: u64,
    /// Clients whose connection broke, and who may come back.
    pub away: u64,
    /// Connections that were refused, since the server began.
    pub refused: u64,
}

const CREATE: &str = "create an object";

impl Session {
    pub(crate) fn new(access: Access) -> Session {
        Session { site: Site::of(access) }
    }

    pub(crate) fn of(site: Arc<Site>) -> Session {
        Session { site }
    }

    /// Connects to a server's public address, whose key both know (Python's `connect`).
    ///
    /// # Errors
    /// If nobody listens there, or one side refuses the other.
    pub fn connect(address: impl ToAddress, authkey: impl Into<AuthKey>) -> Result<Session> {
        Session::connector(authkey).connect(address)
    }

    /// A connection to a server's public address that is about to be described: with TLS, one that comes back after it broke,
    /// one that gives signs of life.
    pub fn connector(authkey: impl Into<AuthKey>) -> Connector {
        Connector::new(authkey.into())
    }

    pub(crate) fn ping(&self, doing: &'static str) -> Result<()> {
        self.site.client(doing)?.call(doing, Request::new(Op::Ping, 0), None).map(drop)
    }

    /// Where the server listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.site.access.address
    }

    /// The server's pid.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn server_pid(&self) -> Result<u32> {
        self.site.client("look for the server").map(|client| client.server_pid)
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    /// If it is gone, or does not answer in time.
    pub fn ping_timeout(&self, timeout: Duration) -> Result<()> {
        const DOING: &str = "ping the server";
        self.site.client(DOING)?.call(DOING, Request::new(Op::Ping, 0), Some(timeout)).map(drop)
    }

    pub(crate) fn ask_to_end(&self, timeout: Duration) -> Result<()> {
        const DOING: &str = "end the server";
        // A server that does not answer is not waited for: its owner has other means.
        let client = self.site.client_soon(DOING, timeout)?;
        client.call(DOING, Request::new(Op::Shutdown, 0), Some(timeout)).map(drop)
    }

    /// What the server keeps (Python's `_number_of_objects` and `_debug_info`).
    ///
    /// # Errors
    /// If the server is gone.
    pub fn stats(&self) -> Result<Stats> {
        const DOING: &str = "count what the server keeps";
        let reply = self.site.client(DOING)?.call(DOING, Request::new(Op::Stats, 0), None)?;
        let mut input = Reader::new(&reply.payload);
        let mut next = || input.u64().map_err(|error| malformed(DOING, error));
        Ok(Stats {
            objects: next()?,
            connections: next()?,
            waiting: next()?,
            names: next()?,
            away: next()?,
            refused: next()?,
        })
    }

    /// Why connections were refused: the last ones, at most 16. Only processes of the manager's own tree may ask.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for others; if the server is gone.
    pub fn refusals(&self) -> Result<Vec<String>> {
        const DOING: &str = "ask who was refused";
        let reply = self.site.client(DOING)?.call(DOING, Request::new(Op::Refusals, 0), None)?;
        let mut input = Reader::new(&reply.payload);
        let count = input.count(8).map_err(|error| malformed(DOING, error))?;
        let texts = (0..count).map(|_| input.text().map(str::to_owned));
        texts.collect::<Result<_, _>>().map_err(|error| malformed(DOING, error))
    }

    /// How long the server keeps what is this process's while its connection is broken; zero if it does not.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn grace(&self) -> Result<Duration> {
        self.site.client("ask for the grace").map(|client| client.grace())
    }

    pub(crate) fn make<'a, H: Hosted>(
        &self,
        write: impl FnOnce(Request<'a>) -> Result<Request<'a>>,
    ) -> Result<H> {
        let form = H::form();
        let request = Request::new(Op::Create, 0).u64(form.kind as u64).u64(form.types);
        let request = write(request)?;
        let client = self.site.client(CREATE)?;
        let reply = client.call(CREATE, request, None)?;
        let object = Reader::new(&reply.payload).u64().map_err(|error| malformed(CREATE, error))?;
        Ok(H::from_proxy(Lease::held(self.site.clone(), client.granted(object), form)))
    }

    /// Publishes an object under a name: it lives as long as that, and whoever connects finds it. A name that is in use
    /// stands for the new one from now on.
    ///
    /// # Errors
    /// If the object is of another server, or the server is gone.
    pub fn publish<H: Hosted>(&self, name: &str, object: &H) -> Result<()> {
        const DOING: &str = "publish an object";
        let proxy: &Proxy = object.proxy();
        if !proxy.site.is_same(&self.site) {
            return Err(Error::new(ErrorKind::Invalid, DOING, "it is another manager's object"));
        }
        let client = proxy.client(DOING)?;
        client.call(DOING, Request::new(Op::Publish, 0).bytes(name.as_bytes()).u64(proxy.object), None)?;
        Ok(())
    }

    /// Finds what was published under a name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if nothing is, [`ErrorKind::WrongType`] if it is of other types.
    pub fn find<H: Hosted>(&self, name: &str) -> Result<H> {
        const DOING: &str = "find an object";
        let client = self.site.client(DOING)?;
        let form = H::form();
        let held = lease::ask(&client, DOING, Request::new(Op::Find, 0).bytes(name.as_bytes()), form)?;
        Ok(H::from_proxy(Lease::held(self.site.clone(), held, form)))
    }

    /// Takes a name back; false if there was none.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn unpublish(&self, name: &str) -> Result<bool> {
        const DOING: &str = "take a name back";
        let client = self.site.client(DOING)?;
        let reply = client.call(DOING, Request::new(Op::Unpublish, 0).bytes(name.as_bytes()), None)?;
        Ok(Reader::new(&reply.payload).u64().map_err(|error| malformed(DOING, error))? != 0)
    }

    fn number<H: Hosted>(&self, number: usize) -> Result<H> {
        self.make(|request| Ok(request.u64(number as u64)))
    }
}

/// Objects. Each of these fails if the server is gone, or a value cannot be encoded.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Session {
    /// A dictionary. Keys are equal when their encodings are.
    pub fn dict<K: 'static, V: 'static>(&self) -> Result<Dict<K, V>> {
        self.make(Ok)
    }

    /// A list.
    pub fn list<T: 'static>(&self) -> Result<List<T>> {
        self.make(|request| Ok(request.u64(0)))
    }

    /// A list of these items.
    pub fn list_of<T: Serialize + 'static>(&self, items: &[T]) -> Result<List<T>> {
        self.make(|request| lease::all(CREATE, &self.site, request, items))
    }

    /// A set. Members are equal when their encodings are.
    pub fn set<T: 'static>(&self) -> Result<Set<T>> {
        self.make(Ok)
    }

    /// A namespace: values of any types, by name.
    pub fn namespace(&self) -> Result<Namespace> {
        self.make(Ok)
    }

    /// One value.
    pub fn value<T: Serialize + 'static>(&self, value: &T) -> Result<Value<T>> {
        self.make(|request| lease::all(CREATE, &self.site, request, [value]))
    }

    /// A row of values, of fixed length.
    pub fn array<T: Serialize + 'static>(&self, items: &[T]) -> Result<Array<T>> {
        self.make(|request| lease::all(CREATE, &self.site, request, items))
    }

    /// A queue without a bound.
    pub fn queue<T: 'static>(&self) -> Result<Queue<T>> {
        self.number(0)
    }

    /// A queue of at most `capacity` items; 0 is no bound.
    pub fn bounded_queue<T: 'static>(&self, capacity: usize) -> Result<Queue<T>> {
        self.number(capacity)
    }

    /// A queue whose items are tasks, to be called done, of at most `capacity` items; 0 is no bound.
    pub fn joinable_queue<T: 'static>(&self, capacity: usize) -> Result<JoinableQueue<T>> {
        self.number(capacity)
    }

    /// A lock.
    pub fn lock(&self) -> Result<Lock> {
        self.make(Ok)
    }

    /// A lock that its thread may take again.
    pub fn rlock(&self) -> Result<RLock> {
        self.make(Ok)
    }

    /// A condition, with a lock of its own.
    pub fn condition(&self) -> Result<Condition> {
        self.rlock().map(Condition::of)
    }

    /// A semaphore.
    pub fn semaphore(&self, permits: usize) -> Result<Semaphore> {
        self.number(permits)
    }

    /// A semaphore that never has more permits than at first.
    pub fn bounded_semaphore(&self, permits: usize) -> Result<BoundedSemaphore> {
        self.number(permits)
    }

    /// An event.
    pub fn event(&self) -> Result<Event> {
        self.make(Ok)
    }

    /// A barrier for so many parties.
    pub fn barrier(&self, parties: usize) -> Result<Barrier> {
        self.number(parties)
    }

    /// An object of any type, that lives in the server: `value` goes there.
    pub fn host<T>(&self, value: &T) -> Result<Custom<T>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        self.host_made(ship::for_new(CREATE, |value: T| value)?, &lease::plain(CREATE, value)?)
    }

    /// An object that is made in the server by `make`, and need not be able to travel: the handle of a C library, say.
    pub fn host_with<T, A>(&self, make: fn(A) -> T, arg: &A) -> Result<Custom<T>>
    where
        T: Send + 'static,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.host_made(ship::for_new(CREATE, make)?, &lease::plain(CREATE, arg)?)
    }

    fn host_made<T: Send + 'static>(
        &self,
        (trampoline, make): ship::Packed,
        args: &[u8],
    ) -> Result<Custom<T>> {
        self.make(|request| Ok(request.bytes(&trampoline).bytes(&make).bytes(args)))
    }
}

impl Serialize for Session {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        self.site.access.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Session {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Session, D::Error> {
        Access::deserialize(d).map(Session::new)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("address", &self.site.access.address).finish_non_exhaustive()
    }
}
