//! The crate `ipc-channel` between two processes, its form for bytes: a Unix socket of sequenced packets.

use crate::scenario::{Entry, Regime};

#[cfg(feature = "rivals")]
mod real {
    use std::time::Instant;

    use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, bytes_channel};

    use crate::peers::forked::FarSide;
    use crate::pin;
    use crate::scenario::{Entry, Failure, Regime};

    /// Takes as many messages as the first one says, and confirms the last.
    fn sink(inbox: &IpcBytesReceiver, outbox: &IpcBytesSender) -> Result<(), Failure> {
        let first = inbox.recv()?;
        for _ in 0..u64::from_ne_bytes(first[..8].try_into()?) {
            inbox.recv()?;
        }
        Ok(outbox.send(&[1])?)
    }

    pub(super) fn measured(regime: Regime, size: usize, echoes: bool) -> Entry {
        let core = pin::near_side(regime)?;
        let (there, inbox) = bytes_channel()?;
        let (outbox, back) = bytes_channel()?;
        // Its descriptors are among these.
        let keep: Vec<i32> = (3..256).collect();
        let far = FarSide::fork(&keep, core, move || {
            if echoes {
                while inbox.recv().is_ok_and(|message| outbox.send(&message).is_ok()) {}
            } else {
                while sink(&inbox, &outbox).is_ok() {}
            }
        })?;
        let message = vec![7_u8; size];
        Ok(Box::new(move |n: u64| {
            let _far = &far;
            if echoes {
                return regime.timed(n, || {
                    there.send(&message)?;
                    back.recv()?;
                    Ok(())
                });
            }
            let start = Instant::now();
            let mut first = message.clone();
            first[..8].copy_from_slice(&n.to_ne_bytes());
            there.send(&first)?;
            for _ in 0..n {
                there.send(&message)?;
            }
            back.recv()?;
            Ok(start.elapsed())
        }))
    }
}

/// One message there, the same back.
///
/// # Errors
///
/// If built without it.
pub fn round_trip(regime: Regime, size: usize) -> Entry {
    measured(regime, size, true)
}

/// Messages one way; the last is confirmed.
///
/// # Errors
///
/// If built without it.
pub fn throughput(regime: Regime, size: usize) -> Entry {
    measured(regime, size, false)
}

fn measured(regime: Regime, size: usize, echoes: bool) -> Entry {
    #[cfg(feature = "rivals")]
    return real::measured(regime, size, echoes);
    #[cfg(not(feature = "rivals"))]
    Err(format!("built without the feature `rivals` ({regime:?}, {size} bytes, echoes: {echoes})").into())
}
