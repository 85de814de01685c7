//! A plain descriptor as a value: files, sockets and pipes as arguments.

use crate::handle;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

/// An open file, socket or pipe that travels in a parcel.
///
/// The receiver gets a duplicate of the descriptor (the same open file description), close-on-exec.
///
/// ```
/// use procession_parcel::{Fd, Parcel};
/// use std::fs::File;
///
/// let parcel = Parcel::pack(&Fd::from(File::open("/dev/null")?))?;
/// let file: File = parcel.unpack::<Fd>()?.into();
/// # drop(file);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Fd(pub OwnedFd);

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        handle::serialize(self.0.as_fd(), s)
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Fd, D::Error> {
        handle::deserialize(d).map(Fd)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl IntoRawFd for Fd {
    fn into_raw_fd(self) -> RawFd {
        self.0.into_raw_fd()
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Fd {
        Fd(fd)
    }
}

impl From<Fd> for OwnedFd {
    fn from(fd: Fd) -> OwnedFd {
        fd.0
    }
}

macro_rules! conversions {
    ($($type:ty),* $(,)?) => {$(
        impl From<$type> for Fd {
            fn from(object: $type) -> Fd {
                Fd(object.into())
            }
        }
        impl From<Fd> for $type {
            fn from(fd: Fd) -> $type {
                fd.0.into()
            }
        }
    )*};
}

conversions!(
    File,
    PipeReader,
    PipeWriter,
    TcpListener,
    TcpStream,
    UdpSocket,
    UnixDatagram,
    UnixListener,
    UnixStream,
);
