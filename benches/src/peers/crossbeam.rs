//! The crate `crossbeam-channel` between two threads of one process: it need not leave the address space.

use crate::scenario::{Entry, Regime};

#[cfg(feature = "rivals")]
mod real {
    use std::time::Instant;

    use crossbeam_channel::bounded;

    use crate::pin;
    use crate::scenario::{Entry, Regime};

    type Message = [u8; 16];

    pub(super) fn round_trip(regime: Regime) -> Entry {
        let core = pin::near_side(regime)?;
        let (there, inbox) = bounded::<Message>(64);
        let (outbox, back) = bounded::<Message>(64);
        std::thread::spawn(move || {
            let pinned = core.is_none_or(|core| pin::pin(core).is_ok());
            while pinned && inbox.recv().is_ok_and(|message| outbox.send(message).is_ok()) {}
        });
        Ok(Box::new(move |n| {
            regime.timed(n, || {
                there.send([7; 16])?;
                back.recv()?;
                Ok(())
            })
        }))
    }

    pub(super) fn throughput(regime: Regime) -> Entry {
        let core = pin::near_side(regime)?;
        let (there, inbox) = bounded::<Message>(4096);
        let (outbox, back) = bounded::<()>(1);
        // The first message holds the count of those that follow.
        let count_of = |message: Message| u64::from_ne_bytes(std::array::from_fn(|index| message[index]));
        std::thread::spawn(move || {
            if core.is_some_and(|core| pin::pin(core).is_err()) {
                return;
            }
            while let Ok(first) = inbox.recv() {
                let taken = inbox.iter().take(count_of(first) as usize).count();
                if taken as u64 != count_of(first) || outbox.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Box::new(move |n: u64| {
            let start = Instant::now();
            let mut first = [0; 16];
            first[..8].copy_from_slice(&n.to_ne_bytes());
            there.send(first)?;
            for _ in 0..n {
                there.send([7; 16])?;
            }
            back.recv()?;
            Ok(start.elapsed())
        }))
    }
}

/// One message of 16 bytes there, the same back.
///
/// # Errors
///
/// If built without it.
pub fn round_trip(regime: Regime) -> Entry {
    #[cfg(feature = "rivals")]
    return real::round_trip(regime);
    #[cfg(not(feature = "rivals"))]
    Err(format!("built without the feature `rivals` ({regime:?})").into())
}

/// Messages of 16 bytes one way; the last is confirmed.
///
/// # Errors
///
/// If built without it.
pub fn throughput(regime: Regime) -> Entry {
    #[cfg(feature = "rivals")]
    return real::throughput(regime);
    #[cfg(not(feature = "rivals"))]
    Err(format!("built without the feature `rivals` ({regime:?})").into())
}
