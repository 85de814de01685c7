//! Events of the crate `raw_sync` between two processes: a mutex, a condition variable and a flag in shared memory.

use crate::scenario::{Entry, Regime};

#[cfg(feature = "rivals")]
#[expect(unsafe_code, reason = "a shared page")]
mod real {
    use raw_sync::Timeout;
    use raw_sync::events::{Event, EventImpl, EventInit, EventState};
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

    use crate::peers::forked::FarSide;
    use crate::pin;
    use crate::scenario::{Entry, Failure, Regime};

    const PAGE: usize = 4096;

    /// In a page of its own, which is never given back.
    fn event() -> Result<Box<dyn EventImpl>, Failure> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a null hint lets the kernel choose unused addresses.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), PAGE, access, MapFlags::SHARED) }?;
        // SAFETY: zeroed memory, far larger than an event, that nobody else uses yet, and is never unmapped.
        let made = unsafe { Event::new(page.cast(), true) };
        Ok(made.map_err(|error| error.to_string())?.0)
    }

    fn set(event: &dyn EventImpl) -> Result<(), Failure> {
        Ok(event.set(EventState::Signaled).map_err(|error| error.to_string())?)
    }

    fn wait(event: &dyn EventImpl) -> Result<(), Failure> {
        Ok(event.wait(Timeout::Infinite).map_err(|error| error.to_string())?)
    }

    pub(super) fn ping_pong(regime: Regime) -> Entry {
        let core = pin::near_side(regime)?;
        let (ping, pong) = (event()?, event()?);
        let far = {
            let (ping, pong) = (&*ping, &*pong);
            FarSide::fork(&[], core, move || while wait(ping).and_then(|()| set(pong)).is_ok() {})?
        };
        Ok(Box::new(move |n| {
            let _far = &far;
            regime.timed(n, || {
                set(&*ping)?;
                wait(&*pong)
            })
        }))
    }
}

/// Set one, wait for the other one, which clears itself.
///
/// # Errors
///
/// If built without it.
pub fn raw_sync(regime: Regime) -> Entry {
    #[cfg(feature = "rivals")]
    return real::ping_pong(regime);
    #[cfg(not(feature = "rivals"))]
    Err(format!("built without the feature `rivals` ({regime:?})").into())
}
