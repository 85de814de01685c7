//! A Unix stream socket between two processes, plain reads and writes.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::forked::FarSide;
use crate::pin;
use crate::scenario::{Entry, Regime};

/// One message there, the same back.
///
/// # Errors
///
/// If the far side cannot be started.
pub fn round_trip(regime: Regime, size: usize) -> Entry {
    let core = pin::near_side(regime)?;
    let (mut near, mut other) = UnixStream::pair()?;
    let far = FarSide::fork(&[other.as_raw_fd()], core, || {
        let mut message = vec![0; size];
        while other.read_exact(&mut message).and_then(|()| other.write_all(&message)).is_ok() {}
    })?;
    let mut message = vec![7; size];
    Ok(Box::new(move |n| {
        let _far = &far;
        regime.timed(n, || {
            near.write_all(&message)?;
            near.read_exact(&mut message)?;
            Ok(())
        })
    }))
}

/// Messages one way, a write each; the far side reads as many as there are at once, and confirms the last.
///
/// # Errors
///
/// If the far side cannot be started.
pub fn throughput(regime: Regime, size: usize) -> Entry {
    let core = pin::near_side(regime)?;
    let (mut near, mut other) = UnixStream::pair()?;
    let far = FarSide::fork(&[other.as_raw_fd()], core, || {
        let mut buffer = vec![0; 64 * 1024];
        let mut count = [0; 8];
        while other.read_exact(&mut count).is_ok() {
            let mut left = usize::from_ne_bytes(count) * size;
            while left > 0 {
                let most = left.min(buffer.len());
                match other.read(&mut buffer[..most]) {
                    Ok(got) if got > 0 => left -= got,
                    _ => return,
                }
            }
            if other.write_all(&[1]).is_err() {
                return;
            }
        }
    })?;
    let message = vec![7; size];
    Ok(Box::new(move |n: u64| {
        let _far = &far;
        let start = std::time::Instant::now();
        near.write_all(&n.to_ne_bytes())?;
        for _ in 0..n {
            near.write_all(&message)?;
        }
        near.read_exact(&mut [0])?;
        Ok(start.elapsed())
    }))
}
