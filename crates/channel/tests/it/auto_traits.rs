//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_channel::{
    Bell, ChannelBuilder, Connection, ConnectionError, Error, JoinableQueue, Queue, ReceiveError, Receiver,
    Sender, SimpleQueue, Unsent,
    queue::{Claim, GetError, PutError},
};
use procession_testkit::{send, send_and_sync};
use std::cell::Cell;

#[test]
fn ends_and_queues_go_to_other_threads() {
    send_and_sync!(Connection<u8, u8>, Queue<u8>, JoinableQueue<u8>, SimpleQueue<u8>, Bell, ChannelBuilder);
    send_and_sync!(Sender<u8>, Receiver<u8>);
    send!(Claim<u8>);
}

#[test]
fn what_values_are_is_of_no_account_to_an_end_since_they_cross_as_bytes() {
    send_and_sync!(Connection<Cell<u8>, Cell<u8>>, Queue<Cell<u8>>, Sender<Cell<u8>>, Receiver<Cell<u8>>);
}

#[test]
fn errors_go_to_other_threads() {
    send_and_sync!(Error, ConnectionError, GetError, PutError<u8>, ReceiveError, Unsent<u8>);
}

#[cfg(feature = "net")]
#[test]
fn listeners_are_shared_by_threads() {
    use procession_channel::net;
    send_and_sync!(net::Listener, net::Client, net::Builder, net::AuthKey, net::Error, net::Handshake);
}
