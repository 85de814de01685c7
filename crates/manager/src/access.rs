//! What a client must know to reach a server, and how it behaves when the connection breaks.

use procession_channel::net::{Address, AuthKey};
use procession_parcel::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, hash::BuildHasher as _, time::Duration};

/// All that a client must know. It goes along with sessions, proxies and tickets.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) address: Address,
    pub(crate) key: Bytes,
    pub(crate) material: Option<Material>,
    pub(crate) reconnect: Option<Reconnect>,
    /// How long the other side may say nothing.
    pub(crate) silence: Option<Duration>,
}

/// Certificates and keys, in DER.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Material {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: Vec<u8>,
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Whose certificate a client expects; the address's own otherwise.
    pub(crate) name: Option<String>,
}

impl Access {
    pub(crate) fn new(address: Address, key: &AuthKey) -> Access {
        let key = Bytes(key.as_bytes().to_vec());
        Access { address, key, material: None, reconnect: None, silence: None }
    }

    pub(crate) fn authkey(&self) -> AuthKey {
        AuthKey::new(&*self.key)
    }
}

impl PartialEq for Access {
    fn eq(&self, other: &Access) -> bool {
        self.address == other.address
            && *self.key == *other.key
            && self.material == other.material
            && (self.reconnect, self.silence) == (other.reconnect, other.silence)
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("Tls")
            .field("chain", &self.chain.len())
            .field("authorities", &self.authorities.len())
            .field("server_name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How a client comes back when its connection to a server breaks.
///
/// Attempt after attempt, with a pause that doubles from `first` up to `longest`, less a random part of up to a half; at most
/// `attempts` of them. The server keeps what the client holds for `grace` meanwhile, or for as long as the server's
/// [`max_grace`](crate::Builder::max_grace) allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reconnect {
    pub(crate) attempts: u32,
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    pub(crate) grace: Duration,
}

impl Default for Reconnect {
    /// 12 attempts, pauses from 50 ms to 5 s, a grace of 30 s.
    fn default() -> Reconnect {
        Reconnect {
            attempts: 12,
            first: Duration::from_millis(50),
            longest: Duration::from_secs(5),
            grace: Duration::from_secs(30),
        }
    }
}

impl Reconnect {
    /// How often it is tried before the connection counts as gone.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> Reconnect {
        Reconnect { attempts, ..self }
    }

    /// The first pause, and the longest.
    #[must_use]
    pub fn pauses(self, first: Duration, longest: Duration) -> Reconnect {
        Reconnect { first, longest, ..self }
    }

    /// How long the server keeps leases, locks, permits and places in waits of a client whose connection broke. As long, the
    /// death of a client goes unnoticed.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Reconnect {
        Reconnect { grace, ..self }
    }

    /// The pause before an attempt, counted from 0.
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        let whole =
            self.first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.longest);
        // Each hasher of std's has a key of its own.
        let random = std::hash::RandomState::new().hash_one(attempt) % 1024;
        whole / 2 + (whole / 2).mul_f64(random as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_never_half_as_short() {
        let reconnect = Reconnect::default().pauses(Duration::from_millis(10), Duration::from_millis(70));
        for (attempt, whole) in [10, 20, 40, 70, 70].into_iter().chain([70; 60]).enumerate() {
            let (pause, whole) = (reconnect.pause(attempt as u32), Duration::from_millis(whole));
            assert!(pause >= whole / 2 && pause <= whole, "{attempt}: {pause:?}");
        }
    }
}
