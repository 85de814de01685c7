//! Bytes and the descriptors that cross with them.

use crate::codec;
use crate::error::Error;
use crate::handle::{self, Incoming, Lent, Outgoing, Returns};
use crate::{Bytes, trust};
use rustix::io::fcntl_dupfd_cloexec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

/// A packed value: its bytes, and the descriptors that they refer to.
///
/// ```
/// use procession_parcel::Parcel;
///
/// let parcel = Parcel::pack(&("answer", 42))?;
/// assert_eq!(parcel.unpack::<(String, i32)>()?, ("answer".to_owned(), 42));
/// # Ok::<(), procession_parcel::Error>(())
/// ```
///
/// # Trust
/// A reference to a function by its offset is an address to jump to, so it is honoured only in a parcel that was
/// packed here, or that a peer sent which proved to run this very program
/// ([`assume_same_program`](Parcel::assume_same_program)), and only if its seal holds (see
/// [`function`](crate::function)). Everything else in a parcel is checked as it is decoded.
pub struct Parcel {
    /// The encoded value.
    pub(crate) bytes: Vec<u8>,
    /// The descriptors, in the order in which the bytes number them.
    pub(crate) fds: Vec<OwnedFd>,
    trusted: bool,
    /// Descriptors with one owner, which go back to it if the parcel is not delivered.
    returns: Returns,
}

impl Parcel {
    /// A parcel made of parts that came from somewhere else: not trusted.
    #[must_use]
    pub fn new(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Parcel {
        Parcel { bytes, fds, trusted: false, returns: Returns::default() }
    }

    /// The encoded value.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The descriptors, in the order in which the bytes number them.
    #[must_use]
    pub fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }

    /// Takes the parcel apart. Handles that can be packed once do not come back.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Vec<OwnedFd>) {
        self.returns.delivered();
        (self.bytes, self.fds)
    }

    /// Puts a byte behind the value, for a protocol that tells several kinds of parcels apart. The value can be
    /// unpacked once [`pop_tag`](Parcel::pop_tag) took it off.
    pub fn push_tag(&mut self, tag: u8) {
        self.bytes.push(tag);
    }

    /// Takes the last byte off.
    pub fn pop_tag(&mut self) -> Option<u8> {
        self.bytes.pop()
    }

    /// Packs a value, with duplicates of the descriptors it holds. The parcel is trusted.
    ///
    /// # Errors
    /// If the value's `Serialize` implementation fails, the value nests deeper than
    /// [`codec::MAX_DEPTH`], a handle that can be packed once has been, or this process has no descriptor left.
    pub fn pack<T: Serialize + ?Sized>(value: &T) -> Result<Parcel, Error> {
        let mut handles = Outgoing::default();
        let mut bytes = Vec::new();
        if let Err(fault) = codec::encode_raw(value, Some(&mut handles), &mut bytes) {
            return Err(match handles.failed.take() {
                Some(cause) => Error::io(
                    "duplicate a descriptor into a parcel",
                    format!(
                        "value `{}`, {} descriptors so far",
                        std::any::type_name::<T>(),
                        handles.fds.len()
                    ),
                    cause,
                ),
                None => codec::encode_error::<T>(fault),
            });
        }
        Ok(Parcel { bytes, fds: handles.fds, trusted: true, returns: handles.returns })
    }

    /// Unpacks the value, which takes the descriptors out.
    ///
    /// # Errors
    /// If the bytes are not the encoding of a `T` to the last one, name a descriptor that is not here or leave one
    /// over, or refer to a function by offset in a parcel that is not trusted. All descriptors are closed then.
    pub fn unpack<T: DeserializeOwned + 'static>(self) -> Result<T, Error> {
        let Parcel { bytes, fds, trusted, returns } = self;
        returns.delivered();
        let mut handles = Incoming::new(fds);
        let result = codec::decode_owned(bytes, &mut handles, trusted);
        if result.is_ok() && handles.left() > 0 {
            return Err(Error::malformed(format!(
                "{} descriptors came with a `{}` that does not name them",
                handles.left(),
                std::any::type_name::<T>()
            )));
        }
        result
    }

    /// Declares that this parcel was packed by this very program, so that references to functions by offset are
    /// honoured.
    ///
    /// # Safety
    /// The bytes were written by [`Parcel::pack`] in a process that runs the same executable as this one, and
    /// reached us unchanged: over a socket whose other end is a process that we started (or that started us), or
    /// one that proved as much. References hold only if both have the same
    /// [seal key](crate::function::seal_key), as processes of one tree have.
    #[must_use]
    #[expect(unsafe_code, reason = "the promise is the caller's; nothing unsafe happens here")]
    pub unsafe fn assume_same_program(mut self) -> Parcel {
        self.trusted = true;
        self
    }

    /// Whether references to functions by offset are honoured.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// A second parcel with the same bytes, and duplicates of the descriptors.
    ///
    /// A handle that can be packed once does not come back if one of the two is delivered.
    ///
    /// # Errors
    /// If this process has no descriptor left.
    pub fn try_clone(&self) -> Result<Parcel, Error> {
        let mut fds = Vec::with_capacity(self.fds.len());
        for fd in &self.fds {
            fds.push(fcntl_dupfd_cloexec(fd, 3).map_err(|errno| {
                Error::io("duplicate a descriptor of a parcel", format!("{} in all", self.fds.len()), errno)
            })?);
        }
        Ok(Parcel {
            bytes: self.bytes.clone(),
            fds,
            trusted: self.trusted,
            returns: self.returns.of_a_copy(),
        })
    }

    /// Declares that the parcel reached its receiver in a way other than [`wire::send`](crate::wire::send):
    /// handles that can be packed once do not come back when it is dropped.
    pub fn mark_delivered(&self) {
        self.returns.delivered();
    }
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parcel")
            .field("bytes", &self.bytes.len())
            .field("fds", &self.fds.len())
            .field("trusted", &self.trusted)
            .finish()
    }
}

struct Nested<'a>(&'a Parcel);

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let bytes = BytesRef(&self.0.bytes);
        let lend = |fd| Lent { fd: AsFd::as_fd(fd), returns: &self.0.returns };
        let fds: Vec<_> = self.0.fds.iter().map(lend).collect();
        (self.0.trusted, bytes, fds).serialize(s)
    }
}

struct BytesRef<'a>(&'a [u8]);

impl Serialize for BytesRef<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(self.0)
    }
}

/// A parcel inside a parcel: its bytes, and duplicates of its descriptors.
///
/// It is as trusted as both its packer and the outer parcel are. A handle in it that can be packed once comes back
/// if neither of the two is delivered.
impl Serialize for Parcel {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_newtype_struct(trust::MARK, &Nested(self))
    }
}

struct Handle(OwnedFd);

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Handle, D::Error> {
        handle::deserialize(d).map(Handle)
    }
}

impl<'de> Deserialize<'de> for Parcel {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Parcel, D::Error> {
        let ((inner, bytes, fds), outer): ((bool, Bytes, Vec<Handle>), bool) = trust::deserialize(d)?;
        let fds = fds.into_iter().map(|handle| handle.0).collect();
        Ok(Parcel { bytes: bytes.0, fds, trusted: inner && outer, returns: Returns::default() })
    }
}
