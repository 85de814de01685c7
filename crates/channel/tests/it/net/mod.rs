//! Listeners, clients and their handshakes.

mod handshake;
mod listener;
mod paths;
#[cfg(feature = "pickle")]
mod pickle;
mod python;
