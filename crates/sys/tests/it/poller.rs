//! Futures are woken by what happens to their descriptors, and by nothing else.

use crate::counter::counter;
use procession_sys::poller::{Interest, watch};
use procession_testkit::{Census, isolated, limits::Surroundings, storm::Rng, watchdog};
use std::{
    cell::RefCell,
    fs::File,
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::Arc,
    task::{Wake, Waker},
    time::Duration,
};

#[test]
fn what_comes_wakes_who_reads_and_room_wakes_who_writes() {
    let _watchdog = watchdog!();
    let (mut a, b) = UnixStream::pair().unwrap();
    b.set_nonblocking(true).unwrap();
    let (reads, reader) = counter();
    let (writes, writer) = counter();
    while (&b).write(&[0; 1000]).is_ok() {}
    let _reading = watch(b.as_fd(), Interest::Read, &reader);
    let _writing = watch(b.as_fd(), Interest::Write, &writer);
    a.write_all(b"x").unwrap();
    reads.wait(1);
    assert_eq!(writes.count(), 0);
    while a.read(&mut [0; 1 << 20]).unwrap() == 1 << 20 {}
    writes.wait(1);
    // Once each.
    a.write_all(b"x").unwrap();
    assert_eq!((reads.count(), writes.count()), (1, 1));
}

#[test]
fn what_was_there_before_wakes_at_once_and_so_does_the_end() {
    let _watchdog = watchdog!();
    let (mut a, b) = UnixStream::pair().unwrap();
    let (count, waker) = counter();
    a.write_all(b"x").unwrap();
    let first = watch(b.as_fd(), Interest::Read, &waker);
    count.wait(1);
    drop(first);
    let _second = watch(b.as_fd(), Interest::Read, &waker);
    count.wait(2);
    let (count, waker) = counter();
    let (c, d) = UnixStream::pair().unwrap();
    let _third = watch(d.as_fd(), Interest::Read, &waker);
    drop(c);
    count.wait(1);
}

#[test]
fn many_wait_for_many_and_each_gets_its_own() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    let mut pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
    for _ in 0..20 {
        let chosen = rng.below(100) as usize;
        let (count, waker) = counter();
        let (others, other) = counter();
        {
            let watches: Vec<_> = pairs
                .iter()
                .enumerate()
                .map(|(index, pair)| {
                    watch(pair.1.as_fd(), Interest::Read, if index == chosen { &waker } else { &other })
                })
                .collect();
            (&pairs[chosen].0).write_all(b"x").unwrap();
            count.wait(1);
            drop(watches);
        }
        assert_eq!(others.count(), 0);
        pairs[chosen].1.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn two_that_wait_for_the_same_are_both_woken() {
    let _watchdog = watchdog!();
    let (mut a, b) = UnixStream::pair().unwrap();
    let (one, first) = counter();
    let (two, second) = counter();
    let _first = watch(b.as_fd(), Interest::Read, &first);
    let given_up = watch(b.as_fd(), Interest::Read, &first);
    let _second = watch(b.as_fd(), Interest::Read, &second);
    drop(given_up);
    a.write_all(b"x").unwrap();
    one.wait(1);
    two.wait(1);
}

#[test]
fn what_is_dropped_is_not_watched_and_the_thread_goes_in_the_end() {
    isolated!({
        let before = Census::take();
        let (count, waker) = counter();
        let (mut a, b) = UnixStream::pair().unwrap();
        drop(watch(b.as_fd(), Interest::Read, &waker));
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1, "its waker is gone");
        a.write_all(b"x").unwrap();
        drop((a, b));
        before.assert_settles(Duration::from_secs(30));
        assert_eq!(count.count(), 0);
        // And a new one comes when it is needed again. The number may be that of a watch that was leaked.
        let (c, d) = UnixStream::pair().unwrap();
        std::mem::forget(watch(d.as_fd(), Interest::Read, Waker::noop()));
        drop((c, d));
        let (mut c, d) = UnixStream::pair().unwrap();
        let (count, waker) = counter();
        let _watch = watch(d.as_fd(), Interest::Read, &waker);
        c.write_all(b"x").unwrap();
        count.wait(1);
    });
}

#[test]
fn what_cannot_be_watched_wakes_at_once() {
    isolated!({
        let (count, waker) = counter();
        let file = File::open("/proc/self/exe").unwrap();
        let _file = watch(file.as_fd(), Interest::Read, &waker);
        count.wait(1);
    });
}

#[test]
fn without_descriptors_a_future_looks_again_and_again() {
    isolated!({
        let (_a, b) = UnixStream::pair().unwrap();
        if !Surroundings::new().nofile(3).apply_or_skip() {
            return;
        }
        let (count, waker) = counter();
        let _watch = watch(b.as_fd(), Interest::Read, &waker);
        count.wait(1);
    });
}

#[test]
fn a_waker_that_panics_stops_nobody_else() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("as an executor may that is gone");
        }
    }
    let _watchdog = watchdog!();
    let (mut a, b) = UnixStream::pair().unwrap();
    let (mut c, d) = UnixStream::pair().unwrap();
    let (count, waker) = counter();
    let _panics = watch(b.as_fd(), Interest::Read, &Waker::from(Arc::new(Panics)));
    let _late = watch(d.as_fd(), Interest::Read, &waker);
    a.write_all(b"x").unwrap();
    c.write_all(b"x").unwrap();
    count.wait(1);
}

#[test]
fn a_forked_child_has_a_poller_of_its_own() {
    isolated!({
        let (mut a, b) = UnixStream::pair().unwrap();
        let (count, waker) = counter();
        let watched = RefCell::new(Some(watch(b.as_fd(), Interest::Read, &waker)));
        procession_testkit::forked(|| {
            drop(watched.take());
            let (mut c, d) = UnixStream::pair().unwrap();
            let (count, waker) = counter();
            let _watch = watch(d.as_fd(), Interest::Read, &waker);
            c.write_all(b"x").unwrap();
            count.wait(1);
        });
        // The child has taken nothing out of the parent's.
        a.write_all(b"x").unwrap();
        count.wait(1);
    });
}
