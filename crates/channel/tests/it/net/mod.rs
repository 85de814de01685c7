//! Listeners, clients and their handshakes.

mod handshake;
mod hostile;
#[cfg(feature = "ipc-channel")]
mod ipc;
mod listener;
mod paths;
#[cfg(feature = "pickle")]
mod pickle;
mod python;
