//! Waits for many things at once.
//!
//! # Protocol
//!
//! Each object is prepared, in order; then all are looked at; then this thread sleeps in `poll(2)` on the descriptors that
//! they gave, and looks again; at last each that was prepared is finished, whatever happened in between. Where a
//! descriptor may stay silent though its object became ready, since whoever should signal it was killed, the sleep is cut
//! into slices.
//!
//! # When a process dies
//!
//! The kernel reports the ends of connections and processes. For objects in shared memory, a death between a change and
//! its signal delays a waiter by one slice ([`procession_sys::SLICE`]) at most.

use procession_sys::{Deadline, fd};
use rustix::event::{PollFd, PollFlags};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

/// Something that [`wait`] can wait for.
///
/// Whatever has a descriptor that becomes readable is: connections, listeners, sockets and pipes, a process's sentinel.
/// Other objects give a descriptor for the length of a wait.
pub trait Waitable {
    /// Called at the beginning of a wait: from now on until [`finish`](Waitable::finish), what makes this object ready
    /// makes the descriptor readable. Several waits may be under way at once, in several threads.
    ///
    /// # Errors
    ///
    /// If there is no such descriptor, for want of one perhaps. The wait ends with this error.
    fn prepare(&self) -> io::Result<BorrowedFd<'_>>;

    /// Whether the object is ready. `readable`: whether the descriptor is readable, has hung up or failed.
    ///
    /// Called before the sleep, with what the descriptor says then, and after. An object whose descriptor was readable and
    /// that is not ready sees to it that the descriptor is silent again: otherwise the wait does not sleep.
    fn is_ready(&self, readable: bool) -> bool {
        readable
    }

    /// Whether the object can become ready while its descriptor stays silent, as where a process can be killed between the
    /// change and the signal. Then [`is_ready`](Waitable::is_ready) is asked after every slice of sleep.
    fn needs_slices(&self) -> bool {
        false
    }

    /// Called at the end of a wait, if [`prepare`](Waitable::prepare) succeeded.
    fn finish(&self) {}
}

impl<T: AsFd + ?Sized> Waitable for T {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.as_fd())
    }
}

/// Waits until at least one of `objects` is ready, for `timeout` at most, or without end. Tells which are: their indices, in
/// order; none at the timeout.
///
/// A connection is ready when there is something to receive or its end has come, a listener when somebody connects or a
/// handshake goes on (so take clients from it with `try_accept`, which may find none), a process's sentinel when the process
/// has ended, a queue when there is an item to take, or never will be one, a [`Receiver`](crate::Receiver) of a channel when there is
/// a value, or its end has come. An object may be there several times. Without objects and without a timeout nothing is
/// waited for.
///
/// ```
/// use procession_channel::{connection::Pipe, wait};
/// use std::time::Duration;
///
/// let (idle, _other) = Pipe::<u8>::duplex()?;
/// let (receiver, sender) = Pipe::<u8>::one_way()?;
/// let (mut reader, _writer) = std::io::pipe()?;
/// sender.send(&1)?;
/// let ready = wait(&[&idle, &receiver, &reader], Duration::from_secs(10))?;
/// assert_eq!(ready, [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// What `poll(2)` reports, and what an object's [`prepare`](Waitable::prepare) does.
pub fn wait(objects: &[&dyn Waitable], timeout: impl Into<Option<Duration>>) -> io::Result<Vec<usize>> {
    wait_deadline(objects, timeout.into().map(Deadline::after))
}

/// As [`wait`], until `deadline`.
///
/// # Errors
///
/// As [`wait`].
pub fn wait_deadline(objects: &[&dyn Waitable], deadline: Option<Deadline>) -> io::Result<Vec<usize>> {
    let mut prepared = Prepared { objects, count: 0 };
    let mut polled = Vec::with_capacity(objects.len());
    for object in objects {
        polled.push(PollFd::from_borrowed_fd(object.prepare()?, PollFlags::IN));
        prepared.count += 1;
    }
    let mut polled = Polled::new(polled);
    let slices = objects.iter().any(|object| object.needs_slices());
    if objects.is_empty() && deadline.is_none() {
        return Ok(Vec::new());
    }
    // One look at all of them before the sleep, where a descriptor does not tell all.
    let mut until = if slices { Some(Deadline::from_nanos(0)) } else { deadline };
    loop {
        polled.wait(until)?;
        let mut ready = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            if object.is_ready(polled.is_readable(index)?) {
                ready.push(index);
            }
        }
        if !ready.is_empty() || deadline.is_some_and(Deadline::passed) {
            return Ok(ready);
        }
        until = if slices { Some(Deadline::slice(deadline)) } else { deadline };
    }
}

/// As [`wait`], as a future for any executor (feature `async`); without a timeout, for which executors have their own. It can be
/// dropped at any time: it takes nothing.
///
/// Where all objects can cross threads the future can too.
///
/// # Errors
///
/// As [`wait`].
#[cfg(feature = "async")]
pub async fn wait_async(objects: &[&(dyn Waitable + Sync)]) -> io::Result<Vec<usize>> {
    later::wait(objects).await
}

#[cfg(feature = "async")]
mod later {
    //! The wait as a future.
    //!
    //! Each poll: end the watches of the last one; look at all objects; have their descriptors watched
    //! ([`procession_sys::poller`]), which wakes at once where one has become ready since the look. Where a descriptor may
    //! stay silent, a word that never changes is watched as well: that ends with a slice.

    use super::{Polled, Prepared, Waitable};
    use procession_sys::{
        Deadline,
        poller::{self, Interest},
        sync::AtomicU32,
        waker,
    };
    use rustix::event::{PollFd, PollFlags};
    use std::{future::poll_fn, io, os::fd::BorrowedFd, sync::Arc, task::Poll};

    /// A word that never changes.
    struct Slice(AtomicU32);

    impl waker::Word for Slice {
        fn word(&self) -> &AtomicU32 {
            &self.0
        }
    }

    pub(super) async fn wait(objects: &[&(dyn Waitable + Sync)]) -> io::Result<Vec<usize>> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let mut prepared = Prepared { objects, count: 0 };
        let mut fds: Vec<BorrowedFd<'_>> = Vec::with_capacity(objects.len());
        for object in objects {
            fds.push(object.prepare()?);
            prepared.count += 1;
        }
        let slice = objects.iter().any(|object| object.needs_slices());
        let slice = slice.then(|| Arc::new(Slice(AtomicU32::new(0))));
        // Dropped before the objects are finished.
        let mut watching = (Vec::new(), None);
        poll_fn(|context| {
            watching = (Vec::new(), None);
            match look(objects, &fds) {
                Ok(ready) if ready.is_empty() => {}
                result => return Poll::Ready(result),
            }
            let waker = context.waker();
            let watches = fds.iter().map(|fd| poller::watch(*fd, Interest::Read, waker)).collect();
            watching = (watches, slice.as_ref().map(|slice| waker::watch(slice.clone(), 0, waker)));
            Poll::Pending
        })
        .await
    }

    /// Which objects are ready.
    fn look(objects: &[&(dyn Waitable + Sync)], fds: &[BorrowedFd<'_>]) -> io::Result<Vec<usize>> {
        let polled = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let mut polled = Polled::new(polled);
        polled.wait(Some(Deadline::from_nanos(0)))?;
        let mut ready = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            if object.is_ready(polled.is_readable(index)?) {
                ready.push(index);
            }
        }
        Ok(ready)
    }
}

/// Those that must be finished.
struct Prepared<'a, O: Waitable + ?Sized> {
    objects: &'a [&'a O],
    count: usize,
}

impl<O: Waitable + ?Sized> Drop for Prepared<'_, O> {
    fn drop(&mut self) {
        self.objects[..self.count].iter().for_each(|object| object.finish());
    }
}

/// The descriptors, each once where they are more than the kernel takes.
struct Polled<'a> {
    fds: Vec<PollFd<'a>>,
    /// The place of each object's, if it is not the object's own.
    places: Option<Vec<usize>>,
}

impl<'a> Polled<'a> {
    fn new(fds: Vec<PollFd<'a>>) -> Polled<'a> {
        // The kernel refuses more entries than this process may have descriptors.
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if most.is_none_or(|most| fds.len() as u64 <= most) {
            return Polled { fds, places: None };
        }
        let mut unique = Vec::new();
        let mut known = HashMap::new();
        let mut places = Vec::with_capacity(fds.len());
        for fd in fds {
            let place = *known.entry(fd.as_fd().as_raw_fd()).or_insert(unique.len());
            if place == unique.len() {
                unique.push(fd);
            }
            places.push(place);
        }
        Polled { fds: unique, places: Some(places) }
    }

    fn wait(&mut self, deadline: Option<Deadline>) -> io::Result<()> {
        fd::wait(&mut self.fds, deadline).map(drop)
    }

    fn is_readable(&self, index: usize) -> io::Result<bool> {
        let place = self.places.as_ref().map_or(index, |places| places[index]);
        let events = self.fds[place].revents();
        if events.contains(PollFlags::NVAL) {
            let text = format!(
                "failed to wait: object {index} has descriptor {:?}, which is not open",
                self.fds[place].as_fd()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(!events.is_empty())
    }
}
