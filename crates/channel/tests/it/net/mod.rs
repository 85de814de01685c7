//! Listeners, clients and their handshakes.

mod handshake;
