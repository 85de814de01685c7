//! Message authentication codes: HMAC with the digests that CPython's peers may name.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha2::{Sha256, Sha384};
use std::fmt;

/// A key that both sides of a connection know: any bytes, none at all included.
///
/// It never shows itself in `Debug`. Write it to a child's memory or to a file of mode 0600, not to a command line.
#[derive(Clone)]
pub struct AuthKey(Box<[u8]>);

impl AuthKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: impl AsRef<[u8]>) -> AuthKey {
        AuthKey(bytes.as_ref().into())
    }

    /// A key of 32 bytes from the kernel's random numbers.
    ///
    /// # Errors
    ///
    /// What `getrandom(2)` reports: ENOSYS in a sandbox without it.
    pub fn random() -> std::io::Result<AuthKey> {
        random::<32>().map(AuthKey::new)
    }

    /// Its bytes, for those who must pass it on.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthKey({} bytes)", self.0.len())
    }
}

impl<T: AsRef<[u8]> + ?Sized> From<&T> for AuthKey {
    fn from(bytes: &T) -> AuthKey {
        AuthKey::new(bytes)
    }
}

impl From<Vec<u8>> for AuthKey {
    fn from(bytes: Vec<u8>) -> AuthKey {
        AuthKey(bytes.into())
    }
}

/// Bytes from the kernel.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(came) => filled += came,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// A digest by its name on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Digest {
    Md5,
    Sha256,
    Sha384,
}

impl Digest {
    /// The digests that we compute. CPython knows `sha3_256` and `sha3_384` besides, and never asks for them by itself.
    pub(super) fn named(name: &[u8]) -> Option<Digest> {
        match name {
            b"md5" => Some(Digest::Md5),
            b"sha256" => Some(Digest::Sha256),
            b"sha384" => Some(Digest::Sha384),
            _ => None,
        }
    }

    /// What stands before a text or a code.
    pub(super) fn prefix(self) -> &'static [u8] {
        match self {
            Digest::Md5 => b"{md5}",
            Digest::Sha256 => b"{sha256}",
            Digest::Sha384 => b"{sha384}",
        }
    }

    /// The code of `text` under `key`.
    pub(super) fn sign(self, key: &AuthKey, text: &[u8]) -> Vec<u8> {
        match self {
            Digest::Md5 => sign::<Hmac<Md5>>(key, text),
            Digest::Sha256 => sign::<Hmac<Sha256>>(key, text),
            Digest::Sha384 => sign::<Hmac<Sha384>>(key, text),
        }
    }

    /// Whether `code` is the code of `text` under `key`, in a time that does not depend on where they differ.
    pub(super) fn verify(self, key: &AuthKey, text: &[u8], code: &[u8]) -> bool {
        match self {
            Digest::Md5 => verify::<Hmac<Md5>>(key, text, code),
            Digest::Sha256 => verify::<Hmac<Sha256>>(key, text, code),
            Digest::Sha384 => verify::<Hmac<Sha384>>(key, text, code),
        }
    }
}

fn start<M: Mac + KeyInit>(key: &AuthKey, text: &[u8]) -> Option<M> {
    // HMAC takes a key of any length, so there is always a code.
    let mut mac = <M as KeyInit>::new_from_slice(key.as_bytes()).ok()?;
    mac.update(text);
    Some(mac)
}

fn sign<M: Mac + KeyInit>(key: &AuthKey, text: &[u8]) -> Vec<u8> {
    start::<M>(key, text).map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default()
}

fn verify<M: Mac + KeyInit>(key: &AuthKey, text: &[u8], code: &[u8]) -> bool {
    start::<M>(key, text).is_some_and(|mac| mac.verify_slice(code).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn codes_are_those_of_cpython() {
        let key = AuthKey::new("key");
        let legacy: Vec<u8> = (0..20).collect();
        assert_eq!(hex(&Digest::Md5.sign(&key, &legacy)), "5b2709aec5bcecbd08bd1f92d77ecea1");
        let text = [b"{sha256}".to_vec(), (0..40).collect()].concat();
        let code = Digest::Sha256.sign(&key, &text);
        assert_eq!(hex(&code), "05b37335205f51ff483146e965fdf576943e0e64675a64ceccba80b6704d76b8");
        assert!(Digest::Sha256.verify(&key, &text, &code));
        assert!(!Digest::Sha256.verify(&key, &text, &code[..31]));
        assert!(!Digest::Sha256.verify(&AuthKey::new("kez"), &text, &code));
        assert_eq!(Digest::Sha384.sign(&key, &text).len(), 48);
    }

    #[test]
    fn keys_of_any_length_sign_and_none_shows_itself() {
        for len in [0, 1, 64, 65, 1000] {
            let key = AuthKey::from(vec![b'k'; len]);
            assert!(Digest::Sha256.verify(&key, b"text", &Digest::Sha256.sign(&key, b"text")));
            assert_eq!(format!("{key:?}"), format!("AuthKey({len} bytes)"));
        }
        assert_ne!(AuthKey::random().unwrap().as_bytes(), AuthKey::random().unwrap().as_bytes());
    }
}
