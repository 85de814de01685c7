//! A socket, plain or within TLS, or with lanes beside it: what both sides send and read by.

use crate::lanes::Lanes;
use procession_sys::{Deadline, Spin, fd};
use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, sockopt},
};
#[cfg(feature = "tls")]
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
    time::Duration,
};

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: OwnedFd,
    /// By which everything goes once there are some.
    lanes: OnceLock<Arc<Lanes>>,
    /// Nobody waits with this lock in hand.
    #[cfg(feature = "tls")]
    tunnel: Option<Mutex<crate::tls::Tunnel>>,
}

impl Wire {
    pub(crate) fn plain(socket: OwnedFd) -> Wire {
        Wire {
            socket,
            lanes: OnceLock::new(),
            #[cfg(feature = "tls")]
            tunnel: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn within(socket: OwnedFd, tunnel: crate::tls::Tunnel) -> Wire {
        Wire { socket, lanes: OnceLock::new(), tunnel: Some(Mutex::new(tunnel)) }
    }

    #[cfg(feature = "tls")]
    fn tunnel(&self) -> Option<MutexGuard<'_, crate::tls::Tunnel>> {
        self.tunnel.as_ref().map(|tunnel| tunnel.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything goes by these lanes from here on.
    pub(crate) fn use_lanes(&self, lanes: impl Into<Arc<Lanes>>) {
        let _ = self.lanes.set(lanes.into());
    }

    pub(crate) fn lanes(&self) -> Option<&Arc<Lanes>> {
        self.lanes.get()
    }

    /// Waits until a read is worth while; false at the deadline.
    pub(crate) fn readable(&self, spin: &mut Spin, deadline: Option<Deadline>) -> io::Result<bool> {
        match self.lanes() {
            Some(lanes) => lanes.wait(self.as_fd(), spin, deadline),
            None => fd::readable(self.as_fd(), deadline),
        }
    }

    /// Whether reading never waits by itself.
    pub(crate) fn is_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tunnel.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Whether the handshake of TLS is under way.
    pub(crate) fn is_handshaking(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tunnel().is_some_and(|tunnel| tunnel.is_handshaking());
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Appends what came; 0 is the end. Waits only where `waits`, and never within TLS, nor for lanes: `AGAIN` then.
    pub(crate) fn recv(&self, into: &mut Vec<u8>, waits: bool) -> io::Result<usize> {
        if let Some(lanes) = self.lanes() {
            return lanes.recv(self.as_fd(), into);
        }
        #[cfg(feature = "tls")]
        if let Some(mut tunnel) = self.tunnel() {
            return tunnel.recv(self.socket.as_fd(), into);
        }
        let flags = if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        Ok(rustix::net::recv(&self.socket, spare_capacity(into), flags)?.1)
    }

    /// Takes some of the bytes, or `AGAIN`; never waits.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(lanes) = self.lanes() {
            return lanes.send(self.as_fd(), bytes);
        }
        #[cfg(feature = "tls")]
        if let Some(mut tunnel) = self.tunnel() {
            return tunnel.send(self.socket.as_fd(), bytes);
        }
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Sends what was taken and did not go out yet; false if the socket takes no more.
    pub(crate) fn flush(&self) -> io::Result<bool> {
        #[cfg(feature = "tls")]
        if let Some(mut tunnel) = self.tunnel() {
            tunnel.flush(self.socket.as_fd())?;
            return Ok(!tunnel.has_rest());
        }
        Ok(true)
    }

    /// Whether something that was taken did not go out yet.
    pub(crate) fn has_rest(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tunnel().is_some_and(|tunnel| tunnel.has_rest());
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Ends it for both sides and all copies.
    pub(crate) fn cut(&self) {
        if let Some(lanes) = self.lanes() {
            lanes.note_cut();
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Has the kernel notice a peer that vanished without a word: one that does not answer for about `bound`, or takes nothing
    /// of what is on its way for `unread`. Unix sockets know no such thing, and need none.
    pub(crate) fn watch_peer(&self, bound: Duration, unread: Duration) {
        if sockopt::socket_domain(&self.socket) == Ok(AddressFamily::UNIX) {
            return;
        }
        let part = |share: u32| (bound / share).max(Duration::from_secs(1));
        let _ = sockopt::set_socket_keepalive(&self.socket, true);
        let _ = sockopt::set_tcp_keepidle(&self.socket, part(2));
        let _ = sockopt::set_tcp_keepintvl(&self.socket, part(8));
        let _ = sockopt::set_tcp_keepcnt(&self.socket, 4);
        let millis = u32::try_from(unread.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(&self.socket, millis);
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Makes room for what is missing of a frame; for more where that is short. It grows with what has come, not with what was
/// announced: by as much, or by a step.
pub(crate) fn make_room(input: &mut Vec<u8>, missing: usize, step: usize) {
    const SHORT: usize = 4096;
    const PLENTY: usize = 32 << 10;
    let (len, spare) = (input.len(), input.capacity() - input.len());
    let more = missing.min(step.max(len));
    if len < SHORT || missing == 0 {
        input.reserve(more.max(SHORT));
    } else if spare < more.min(PLENTY) {
        // No more than that: a large frame would be moved for the sake of its last bytes.
        input.reserve_exact(more);
    }
}

/// What an error of a wire says about going on.
pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

/// Waits for the wire as the handshake wants it.
pub(crate) fn wait(wire: &Wire, writes: bool, deadline: procession_sys::Deadline) -> io::Result<bool> {
    if writes {
        fd::writable(wire.as_fd(), Some(deadline))
    } else {
        fd::readable(wire.as_fd(), Some(deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_a_frame_grows_seldom_and_to_what_it_needs() {
        for (frame, step, piece) in [
            (40 << 20, 16 << 20, 64 << 10),
            (3_000_000, 64 << 10, 1500),
            (100_000, 64 << 10, 64 << 10),
            (5000, 64 << 10, 64 << 10),
        ] {
            let (mut input, mut grown) = (Vec::new(), 0);
            while input.len() < frame {
                let before = input.capacity();
                let missing = frame - input.len();
                make_room(&mut input, missing, step);
                grown += usize::from(input.capacity() != before);
                // Never far beyond what has come, whatever was announced.
                assert!(input.capacity() <= 2 * (input.len() + step) + 8192);
                let came = piece.min(input.capacity() - input.len()).min(frame - input.len());
                assert!(came > 0);
                input.resize(input.len() + came, 0);
            }
            assert!(grown <= 12, "{frame} bytes: {grown} times");
            assert!(input.capacity() <= frame.max(4096), "{frame} bytes: {}", input.capacity());
            // A whole one that waits: what is behind it comes in larger pieces than single bytes.
            make_room(&mut input, 0, step);
            assert!(input.capacity() - input.len() >= 4096);
        }
    }
}
