//! Proxies: an object's number, and what keeps the object alive while they exist.
//!
//! # States
//! A proxy of this process is *held*: its lease is counted by the server for this process's connection; or *arriving*: it
//! came in a parcel, with a descriptor that stands for its lease, and has not been used yet. The first use makes it held and
//! lets the descriptor go.
//!
//! # On the way
//! * **In a parcel** a proxy brings the descriptor of a connection to the server that was made for this one lease, and is
//!   used for nothing else: the lease lasts until the last copy of that socket is closed, be it in the sender, in a parcel
//!   that waits somewhere, or in a receiver. Nobody has to tell the server anything, so nothing is lost with whoever should
//!   have.
//! * **Inside a value** of the same server it is the object's number. The frame lists the numbers beside the bytes, and the
//!   server counts a reference for the value as long as it keeps it; a reply that hands out the value grants its receiver a
//!   lease of each in the same step.
//! * In a ring (a queue in shared memory) it is refused, as everything is that holds a descriptor. A ticket goes there
//!   (`ticket`), which the server counts for its issuer.
//!
//! # When a process dies
//! Its connection ends, and its leases with it. A parcel that nobody received is closed by the kernel. The server's death
//! ends everything: calls give [`ErrorKind::ServerGone`].

use crate::{
    access::Access,
    client::{Client, Held, Late, Payload, Request, Undo, malformed},
    error::{Error, ErrorKind, Result},
    proto::{LARGE, Malformed, Op, Reader, Type},
    site::{Site, generation},
};
use procession_parcel::{
    carrier::{self, Carrier},
    codec, handle,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, Visitor},
    ser::Error as _,
};
use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What a proxy's type says about its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Form {
    pub(crate) kind: Type,
    pub(crate) types: u64,
}

#[derive(Default)]
struct Keep {
    held: Option<Arc<Held>>,
    /// A socket that stands for the lease: one that came, or was made to go.
    socket: Option<Arc<OwnedFd>>,
}

pub(crate) struct Lease {
    pub(crate) site: Arc<Site>,
    pub(crate) object: u64,
    form: Form,
    keep: Mutex<Keep>,
}

/// What all proxies have inside.
pub(crate) type Proxy = Arc<Lease>;

impl Lease {
    pub(crate) fn held(site: Arc<Site>, held: Arc<Held>, form: Form) -> Proxy {
        let object = held.object;
        let keep = Mutex::new(Keep { held: Some(held), socket: None });
        Arc::new(Lease { site, object, form, keep })
    }

    fn keep(&self) -> MutexGuard<'_, Keep> {
        self.keep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection on which this process holds the lease.
    pub(crate) fn client(&self, doing: &'static str) -> Result<Arc<Client>> {
        let mut keep = self.keep();
        if let Some(held) = &keep.held
            && held.client.generation == generation()
        {
            // One that is dead says so itself.
            return Ok(held.client.clone());
        }
        let client = self.site.client(doing)?;
        let held = ask(&client, doing, Request::new(Op::Lease, 0).u64(self.object), self.form)?;
        keep.held = Some(held);
        // The lease is ours now, whatever becomes of the one that came.
        keep.socket = None;
        Ok(client)
    }

    /// A socket that stands for a lease of its own.
    fn socket(&self) -> Result<Arc<OwnedFd>> {
        const DOING: &str = "send a proxy";
        if let Some(socket) = &self.keep().socket {
            return Ok(socket.clone());
        }
        // The lease is held by now.
        let _client = self.client(DOING)?;
        let transit = self.site.transit()?;
        let request =
            Request::new(Op::Lease, 0).u64(self.object).u64(self.form.kind as u64).u64(self.form.types);
        transit.call(DOING, request, None)?;
        // The lease lasts as long as a copy of this.
        let socket = Arc::new(transit.into_socket()?);
        Ok(self.keep().socket.insert(socket).clone())
    }

    pub(crate) fn request<'a>(&self, op: Op) -> Request<'a> {
        Request::new(op, self.object)
    }

    pub(crate) fn is_same(&self, other: &Lease) -> bool {
        self.object == other.object && self.site.is_same(&other.site)
    }
}

/// Asks for a lease, by a request that lacks the form only.
pub(crate) fn ask(
    client: &Arc<Client>,
    doing: &'static str,
    request: Request<'_>,
    form: Form,
) -> Result<Arc<Held>> {
    let reply = client.call(doing, request.u64(form.kind as u64).u64(form.types), None)?;
    let object = Reader::new(&reply.payload).u64().map_err(|error| malformed(doing, error))?;
    Ok(client.granted(object))
}

/// What a request's values are encoded with.
struct Packing {
    site: Arc<Site>,
    refs: Mutex<Vec<u64>>,
}

/// What a reply's values are decoded with.
struct Unpacking {
    site: Arc<Site>,
    leases: Vec<Arc<Held>>,
}

/// Appends a value as the server keeps it: its bytes, and the objects inside.
pub(crate) fn put<T: Serialize + ?Sized>(
    doing: &'static str,
    site: &Arc<Site>,
    value: &T,
    out: &mut Vec<u8>,
) -> Result<()> {
    let packing = Arc::new(Packing { site: site.clone(), refs: Mutex::default() });
    put_with(doing, &packing, &(packing.clone() as Carrier), value, out)
}

fn put_with<T: Serialize + ?Sized>(
    doing: &'static str,
    packing: &Packing,
    carrier: &Carrier,
    value: &T,
    out: &mut Vec<u8>,
) -> Result<()> {
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    codec::encode_with(value, carrier, out).map_err(|error| Error::encoding(doing, error))?;
    let len = (out.len() - at - 8) as u64;
    out[at..at + 8].copy_from_slice(&len.to_le_bytes());
    let refs = std::mem::take(&mut *packing.refs.lock().unwrap_or_else(PoisonError::into_inner));
    crate::proto::put_u64(out, refs.len() as u64);
    refs.iter().for_each(|&object| crate::proto::put_u64(out, object));
    Ok(())
}

/// The bytes of a key, or of a value to compare with: one that holds no proxies.
pub(crate) fn plain<T: Serialize + ?Sized>(doing: &'static str, value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes).map_err(|error| Error::encoding(doing, error))?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned + 'static>(
    doing: &'static str,
    site: &Arc<Site>,
    client: &Arc<Client>,
    bytes: &[u8],
    refs: Vec<u64>,
) -> Result<T> {
    let decoded = if refs.is_empty() {
        codec::decode(bytes)
    } else {
        let leases = refs.into_iter().map(|object| client.granted(object)).collect();
        let carrier: Carrier = Arc::new(Unpacking { site: site.clone(), leases });
        codec::decode_with(bytes, &carrier)
    };
    decoded.map_err(|error| Error::encoding(doing, error))
}

/// A proxy in bytes.
#[derive(Serialize, Deserialize)]
enum Wire {
    /// In a parcel.
    Travelling { access: Box<Access>, object: u64, kind: u64, types: u64, lease: Socket },
    /// In a value of its own server.
    Inside { object: u64, kind: u64, types: u64 },
}

struct Socket(OwnedFd);

impl Serialize for Socket {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        handle::serialize(self.0.as_fd(), s)
    }
}

impl<'de> Deserialize<'de> for Socket {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Socket, D::Error> {
        handle::deserialize(d).map(Socket)
    }
}

/// As [`Wire`], lent.
#[derive(Serialize)]
enum WireRef<'a> {
    Travelling { access: &'a Access, object: u64, kind: u64, types: u64, lease: handle::Borrowed<'a> },
    Inside { object: u64, kind: u64, types: u64 },
}

struct Out<'a>(&'a Lease);

impl Serialize for Out<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        let lease = self.0;
        let (object, kind, types) = (lease.object, lease.form.kind as u64, lease.form.types);
        let Some(offered) = carrier::offered() else {
            let socket = lease.socket().map_err(S::Error::custom)?;
            let lent = handle::Borrowed(socket.as_fd());
            return WireRef::Travelling { access: &lease.site.access, object, kind, types, lease: lent }
                .serialize(s);
        };
        match offered.carrier.downcast_ref::<Packing>() {
            Some(packing) if packing.site.is_same(&lease.site) => {
                // The frame must not arrive before this process holds the lease.
                lease.client("store a proxy").map_err(S::Error::custom)?;
                if offered.writes {
                    packing.refs.lock().unwrap_or_else(PoisonError::into_inner).push(object);
                }
                WireRef::Inside { object, kind, types }.serialize(s)
            }
            Some(_) => {
                Err(S::Error::custom("a proxy of another manager's object cannot be kept by this one"))
            }
            None => Err(S::Error::custom(
                "a proxy does not go through a ring: send its ticket, or send it through a Pipe",
            )),
        }
    }
}

pub(crate) fn serialize<S: Serializer>(lease: &Lease, s: S) -> std::result::Result<S::Ok, S::Error> {
    carrier::serialize(&Out(lease), s)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    form: Form,
    d: D,
) -> std::result::Result<Proxy, D::Error> {
    carrier::deserialize(In(form), d)
}

struct In(Form);

impl<'de> Visitor<'de> for In {
    type Value = Proxy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a proxy")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Proxy, D::Error> {
        let offered = carrier::offered();
        let check = |kind: u64, types: u64| {
            if (kind, types) == (self.0.kind as u64, self.0.types) {
                return Ok(self.0);
            }
            let has = Type::of(kind).map_or_else(|| "nothing".to_owned(), |kind| format!("{kind:?}"));
            Err(D::Error::custom(format_args!("it is a proxy of a {has}, or of other types than asked for")))
        };
        match Wire::deserialize(d)? {
            Wire::Travelling { access, object, kind, types, lease } => {
                let form = check(kind, types)?;
                let keep = Mutex::new(Keep { held: None, socket: Some(Arc::new(lease.0)) });
                let site = Site::of(*access);
                Ok(Arc::new(Lease { site, object, form, keep }))
            }
            Wire::Inside { object, kind, types } => {
                let form = check(kind, types)?;
                let unpacking =
                    offered.as_ref().and_then(|offered| offered.carrier.downcast_ref::<Unpacking>());
                let Some(unpacking) = unpacking else {
                    return Err(D::Error::custom(
                        "a proxy that was inside of a manager's value came by another way",
                    ));
                };
                let held = unpacking.leases.iter().find(|held| held.object == object);
                let held = held.ok_or_else(|| D::Error::custom("a proxy whose lease did not come along"))?;
                Ok(Lease::held(unpacking.site.clone(), held.clone(), form))
            }
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} at {:?}", self.form.kind, self.object, self.site)
    }
}

/// How many bytes say that a value refers to nothing.
const NO_REFS: usize = 8;

/// What a reply holds.
pub(crate) struct Answer<'a> {
    doing: &'static str,
    site: &'a Arc<Site>,
    client: &'a Arc<Client>,
    payload: Payload,
    /// How much of it was read.
    at: usize,
    /// The request's number.
    pub(crate) number: u64,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(
        doing: &'static str,
        site: &'a Arc<Site>,
        client: &'a Arc<Client>,
        payload: Payload,
        number: u64,
    ) -> Answer<'a> {
        Answer { doing, site, client, payload, at: 0, number }
    }
}

impl Answer<'_> {
    fn read<R>(&mut self, read: impl FnOnce(&mut Reader<'_>, &Self) -> Result<R>) -> Result<R> {
        let mut input = Reader::new(&self.payload[self.at..]);
        let outcome = read(&mut input, self);
        self.at = self.payload.len() - input.len();
        outcome
    }

    fn malformed(&self) -> impl FnOnce(Malformed) -> Error + use<> {
        let doing = self.doing;
        move |error| malformed(doing, error)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.read(|input, answer| input.u64().map_err(answer.malformed()))
    }

    pub(crate) fn len(&mut self) -> Result<usize> {
        self.u64().map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        self.u64().map(|number| number != 0)
    }

    pub(crate) fn key<T: DeserializeOwned + 'static>(&mut self) -> Result<T> {
        self.read(|input, answer| {
            let bytes = input.bytes().map_err(answer.malformed())?;
            codec::decode(bytes).map_err(|error| Error::encoding(answer.doing, error))
        })
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        self.read(|input, answer| input.text().map(str::to_owned).map_err(answer.malformed()))
    }

    pub(crate) fn value<T: DeserializeOwned + 'static>(&mut self) -> Result<T> {
        if let Some(from) = self.is_last_and_large() {
            let payload = std::mem::take(&mut self.payload);
            self.at = 0;
            let (mut bytes, start) = payload.into_parts();
            bytes.truncate(bytes.len() - NO_REFS);
            // Small replies that came together before may have left room for many.
            bytes.shrink_to(bytes.len() + bytes.len() / 4);
            return codec::decode_vec(bytes, start + from)
                .map_err(|error| Error::encoding(self.doing, error));
        }
        self.read(|input, answer| {
            let (bytes, refs) = input.value().map_err(answer.malformed())?;
            decode(answer.doing, answer.site, answer.client, bytes, refs)
        })
    }

    /// Where the bytes of the value begin that is read next, if it is a large one without proxies, and nothing is behind it: then
    /// the payload's memory may become the value's.
    fn is_last_and_large(&self) -> Option<usize> {
        let mut input = Reader::new(&self.payload[self.at..]);
        let bytes = input.bytes().ok().filter(|bytes| bytes.len() >= LARGE)?;
        let end = self.payload.len() - NO_REFS;
        (input.len() == NO_REFS && input.u64() == Ok(0)).then(|| end - bytes.len())
    }

    /// A value behind its type's name; or that name, if it is another one.
    pub(crate) fn typed_value<T: DeserializeOwned + 'static>(
        &mut self,
        name: &str,
    ) -> Result<std::result::Result<T, String>> {
        self.read(|input, Answer { doing, site, client, .. }| {
            let (bytes, refs) = input.value().map_err(|error| malformed(doing, error))?;
            match codec::take::<String>(bytes) {
                Ok((is, bytes)) if is == name => decode(doing, site, client, bytes, refs).map(Ok),
                other => {
                    // Nobody wants these.
                    refs.into_iter().for_each(|object| drop(client.granted(object)));
                    other.map(|(is, _)| Err(is)).map_err(|error| Error::encoding(doing, error))
                }
            }
        })
    }

    pub(crate) fn option<T: DeserializeOwned + 'static>(&mut self) -> Result<Option<T>> {
        if self.bool()? { self.value().map(Some) } else { Ok(None) }
    }

    /// How many things follow.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize> {
        self.read(|input, answer| input.count(least).map_err(answer.malformed()))
    }

    pub(crate) fn values<T: DeserializeOwned + 'static>(&mut self) -> Result<Vec<T>> {
        let count = self.count(16)?;
        self.each(count, Answer::value)
    }

    /// Reads so many things: all of them, so that the leases of what cannot be decoded are known, and let go.
    pub(crate) fn each<R>(&mut self, count: usize, read: impl Fn(&mut Self) -> Result<R>) -> Result<Vec<R>> {
        let mut things = Vec::with_capacity(count);
        let mut outcome = Ok(());
        for _ in 0..count {
            match read(self) {
                Ok(thing) => things.push(thing),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.map(|()| things)
    }

    /// A key and its value.
    pub(crate) fn entry<K: DeserializeOwned + 'static, V: DeserializeOwned + 'static>(
        &mut self,
    ) -> Result<(K, V)> {
        let (key, value) = (self.key(), self.value());
        Ok((key?, value?))
    }
}

impl Lease {
    /// Asks the object, and reads the reply.
    pub(crate) fn ask<R>(
        &self,
        doing: &'static str,
        request: Request<'_>,
        read: impl FnOnce(&mut Answer<'_>) -> Result<R>,
    ) -> Result<R> {
        self.ask_late(doing, request, None, None, read)
    }

    /// As [`ask`](Lease::ask), for what may take some time.
    pub(crate) fn ask_late<R>(
        &self,
        doing: &'static str,
        request: Request<'_>,
        timeout: Option<Duration>,
        late: Option<Undo>,
        read: impl FnOnce(&mut Answer<'_>) -> Result<R>,
    ) -> Result<R> {
        let late = late.map(|undo| Late { undo, object: self.object, patient: false });
        self.ask_with(doing, request, timeout, late, read)
    }

    /// As [`ask_late`](Lease::ask_late).
    pub(crate) fn ask_with<R>(
        &self,
        doing: &'static str,
        request: Request<'_>,
        timeout: Option<Duration>,
        late: Option<Late>,
        read: impl FnOnce(&mut Answer<'_>) -> Result<R>,
    ) -> Result<R> {
        let client = self.client(doing)?;
        let (frame, number) = client.call_late(doing, request, timeout, late)?;
        read(&mut Answer::new(doing, &self.site, &client, frame.payload, number))
    }

    /// Adds a value to a request.
    pub(crate) fn with<'a, T: Serialize + ?Sized>(
        &self,
        doing: &'static str,
        mut request: Request<'a>,
        value: &'a T,
    ) -> Result<Request<'a>> {
        if request.lend(doing, value)? {
            // It refers to nothing.
            return Ok(request.u64(0));
        }
        put(doing, &self.site, value, &mut request.out)?;
        Ok(request)
    }

    /// Adds values and their number to a request.
    pub(crate) fn with_all<'a, T: Serialize + 'a>(
        &self,
        doing: &'static str,
        request: Request<'a>,
        values: impl IntoIterator<Item = &'a T>,
    ) -> Result<Request<'a>> {
        all(doing, &self.site, request, values)
    }
}

/// Adds values and their number to a request.
pub(crate) fn all<'a, T: Serialize + 'a>(
    doing: &'static str,
    site: &Arc<Site>,
    request: Request<'a>,
    values: impl IntoIterator<Item = &'a T>,
) -> Result<Request<'a>> {
    let mut request = request.u64(0);
    let at = request.out.len() - 8;
    let mut count = 0_u64;
    let packing = Arc::new(Packing { site: site.clone(), refs: Mutex::default() });
    let carrier: Carrier = packing.clone();
    for value in values {
        if request.lend(doing, value)? {
            request = request.u64(0);
        } else {
            put_with(doing, &packing, &carrier, value, &mut request.out)?;
        }
        count += 1;
    }
    request.out[at..at + 8].copy_from_slice(&count.to_le_bytes());
    Ok(request)
}

/// A call that is wrong, whatever the state.
pub(crate) fn invalid(doing: &'static str, cause: &str) -> Error {
    Error::new(ErrorKind::Invalid, doing, cause)
}
