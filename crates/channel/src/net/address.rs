//! Where a listener listens.

use rustix::net::{SocketAddrAny, SocketAddrUnix};
use serde::{Deserialize, Serialize};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where a listener listens: something that a client connects to. It may be sent to another process.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Address {
    /// IPv4 or IPv6, and a port.
    Tcp(#[serde(with = "tcp")] SocketAddr),
    /// A path in the file system, at most 108 bytes long.
    Unix(PathBuf),
    /// A name in the kernel's table of the network namespace, without a file: at most 107 bytes. Every user may connect.
    Abstract(Vec<u8>),
}

/// With the scope of a link-local address, without which it names nobody; serde's own form leaves it out.
mod tcp {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        let (flow, scope) = match address {
            SocketAddr::V4(_) => (0, 0),
            SocketAddr::V6(address) => (address.flowinfo(), address.scope_id()),
        };
        (address.ip(), address.port(), flow, scope).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        let (ip, port, flow, scope) = <(IpAddr, u16, u32, u32)>::deserialize(deserializer)?;
        Ok(match ip {
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, flow, scope).into(),
        })
    }
}

impl Address {
    /// What the kernel takes.
    pub(super) fn to_socket(&self) -> io::Result<SocketAddrAny> {
        Ok(match self {
            Address::Tcp(address) => SocketAddrAny::from(*address),
            Address::Unix(path) => SocketAddrUnix::new(path.as_path())?.into(),
            Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?.into(),
        })
    }

    /// What the kernel tells; nothing for a Unix socket without a name.
    pub(super) fn from_socket(address: SocketAddrAny) -> Option<Address> {
        if let Ok(address) = SocketAddr::try_from(address.clone()) {
            return Some(Address::Tcp(address));
        }
        let address = SocketAddrUnix::try_from(address).ok()?;
        if let Some(name) = address.abstract_name() {
            return (!name.is_empty()).then(|| Address::Abstract(name.to_vec()));
        }
        let path = address.path_bytes().filter(|path| !path.is_empty())?;
        Some(Address::Unix(std::ffi::OsStr::from_bytes(path).into()))
    }

    /// Whether the kernel can tell who is at the other end.
    pub(super) fn is_local(&self) -> bool {
        !matches!(self, Address::Tcp(_))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "`{}`", path.display()),
            Address::Abstract(name) => write!(f, "`@{}`", name.escape_ascii()),
        }
    }
}

/// As CPython reads a string: a path, or an abstract name if it starts with a zero byte.
impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Address> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        if let Some(name) = text.strip_prefix('\0') {
            return Ok(Address::Abstract(name.as_bytes().to_vec()));
        }
        if text.starts_with(r"\\") {
            return Err(invalid("it is a named pipe of Windows"));
        }
        match text.is_empty() {
            true => Err(invalid("an address is not empty")),
            false => Ok(Address::Unix(PathBuf::from(text))),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Address {
        Address::Unix(path)
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What names one address or, as a host does, several.
///
/// `("localhost", 6000)`, an IP address and a port, a `SocketAddr`, a path, or a string as CPython reads it: a path, or an
/// abstract name if it starts with a zero byte.
pub trait ToAddress: sealed::Sealed {
    /// The addresses, to be tried in this order: one at least.
    ///
    /// # Errors
    ///
    /// If it names none.
    fn to_addresses(&self) -> io::Result<Vec<Address>>;
}

macro_rules! to_address {
    ($($type:ty: $this:ident => $addresses:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl ToAddress for $type {
            fn to_addresses(&self) -> io::Result<Vec<Address>> {
                let $this = self;
                $addresses
            }
        }
    )*};
}

to_address! {
    Address: this => Ok(vec![this.clone()]);
    SocketAddr: this => Ok(vec![(*this).into()]);
    (IpAddr, u16): this => Ok(vec![SocketAddr::from(*this).into()]);
    (Ipv4Addr, u16): this => Ok(vec![SocketAddr::from(*this).into()]);
    (Ipv6Addr, u16): this => Ok(vec![SocketAddr::from(*this).into()]);
    (&str, u16): this => resolve(this.0, this.1);
    (String, u16): this => resolve(&this.0, this.1);
    str: this => Ok(vec![this.parse()?]);
    String: this => Ok(vec![this.parse()?]);
    Path: this => Ok(vec![this.to_owned().into()]);
    PathBuf: this => Ok(vec![this.clone().into()]);
}

impl<T: ToAddress + ?Sized> sealed::Sealed for &T {}
impl<T: ToAddress + ?Sized> ToAddress for &T {
    fn to_addresses(&self) -> io::Result<Vec<Address>> {
        (**self).to_addresses()
    }
}

fn resolve(host: &str, port: u16) -> io::Result<Vec<Address>> {
    let mut addresses: Vec<Address> = (host, port).to_socket_addrs()?.map(Address::Tcp).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    }
    // A listener at a name is found by peers that know IPv4 only, as CPython's are.
    addresses.sort_by_key(|address| matches!(address, Address::Tcp(SocketAddr::V6(_))));
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_cpython_does() {
        assert_eq!("/tmp/a".parse::<Address>().unwrap(), Address::Unix("/tmp/a".into()));
        assert_eq!("\0name".parse::<Address>().unwrap(), Address::Abstract(b"name".to_vec()));
        for invalid in [r"\\.\pipe\name", ""] {
            assert_eq!(invalid.parse::<Address>().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn an_address_travels_with_its_scope() {
        for address in ["[fe80::1%7]:80", "[::1]:80", "127.0.0.1:80"] {
            let address = Address::Tcp(address.parse().unwrap());
            let packed = procession_parcel::Parcel::pack(&address).unwrap();
            assert_eq!(packed.unpack::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn addresses_go_through_the_kernels_form() {
        let addresses = [
            Address::Tcp("127.0.0.1:80".parse().unwrap()),
            Address::Tcp("[::1]:80".parse().unwrap()),
            Address::Unix("/tmp/a".into()),
            Address::Abstract(b"a\0b".to_vec()),
        ];
        for address in addresses {
            assert_eq!(Address::from_socket(address.to_socket().unwrap()), Some(address));
        }
        assert!(Address::Unix("x".repeat(109).into()).to_socket().is_err());
    }
}
