//! Listeners, clients and their handshakes.

mod handshake;
mod listener;
mod paths;
mod python;
