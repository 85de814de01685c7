//! Futures are woken by what happens to their words, and by nothing else before a slice is over.

use crate::counter::counter;
use procession_sys::{
    futex,
    sync::{AtomicU32, Ordering},
    waker::{Word, watch},
};
use procession_testkit::{Census, isolated, watchdog};
use std::{
    sync::{Arc, Mutex},
    task::{Wake, Waker},
    time::Duration,
};

struct Plain(AtomicU32);

impl Word for Plain {
    fn word(&self) -> &AtomicU32 {
        &self.0
    }
}

fn word() -> Arc<Plain> {
    Arc::new(Plain(AtomicU32::new(7)))
}

#[test]
fn a_change_and_a_wake_wake_the_future_of_that_word() {
    let _watchdog = watchdog!();
    // More than one thread can watch.
    let words: Vec<_> = (0..300).map(|_| word()).collect();
    for round in 0..20 {
        let chosen = &words[round * 15];
        let (counter, waker) = counter();
        let value = chosen.0.load(Ordering::Relaxed);
        let watches: Vec<_> = words
            .iter()
            .map(|word| {
                let (_, nobody) = self::counter();
                let is_chosen = Arc::ptr_eq(word, chosen);
                watch(word.clone(), word.0.load(Ordering::Relaxed), if is_chosen { &waker } else { &nobody })
            })
            .collect();
        chosen.0.store(value + 1, Ordering::Release);
        futex::wake_one(&chosen.0);
        counter.wait(1);
        drop(watches);
    }
}

#[test]
fn a_value_that_changed_before_wakes_at_once() {
    let _watchdog = watchdog!();
    let word = word();
    let (counter, waker) = counter();
    let _watch = watch(word, 6, &waker);
    counter.wait(1);
}

#[test]
fn the_end_of_a_slice_wakes_too() {
    let _watchdog = watchdog!();
    let (counter, waker) = counter();
    let _watch = watch(word(), 7, &waker);
    counter.wait(1);
}

#[test]
fn what_others_lay_down_does_not_put_off_the_end_of_a_slice() {
    let _watchdog = watchdog!();
    let (counter, waker) = counter();
    let _watch = watch(word(), 7, &waker);
    let (_, nobody) = self::counter();
    while counter.count() == 0 {
        // The thread looks anew each time.
        drop(watch(word(), 7, &nobody));
        std::thread::yield_now();
    }
}

/// A wake of it is for one sleeper.
struct One(Plain);

impl Word for One {
    fn word(&self) -> &AtomicU32 {
        self.0.word()
    }

    fn passes_on(&self) -> bool {
        true
    }
}

#[test]
fn wakes_of_several_at_once_reach_each_of_them() {
    struct Log(u32, Arc<Mutex<Vec<u32>>>);
    impl Wake for Log {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }
    // Nobody else's words by the side of these two: all threads of a process share the one that watches.
    isolated!({
        let word = Arc::new(One(Plain(AtomicU32::new(7))));
        loop {
            let log = Arc::new(Mutex::new(Vec::new()));
            let _watches = [1, 2].map(|n| watch(word.clone(), 7, &Arc::new(Log(n, log.clone())).into()));
            let mut woken = 0;
            while woken == 0 && log.lock().unwrap().is_empty() {
                std::thread::yield_now();
                woken = futex::wake(word.word(), 2);
            }
            // Otherwise the thread did not sleep on both yet.
            if woken == 2 {
                while !log.lock().unwrap().contains(&2) {
                    std::thread::yield_now();
                }
                // The kernel has told the last one, and the thread goes through them in order.
                assert_eq!(log.lock().unwrap()[0], 1);
                return;
            }
        }
    });
}

#[test]
fn what_is_dropped_is_not_watched_and_the_thread_goes_in_the_end() {
    isolated!({
        let before = Census::take();
        let word = word();
        let (counter, waker) = counter();
        drop(watch(word.clone(), 7, &waker));
        assert_eq!(counter.count(), 0);
        drop(waker);
        assert_eq!(Arc::strong_count(&counter), 1, "its waker is gone");
        before.assert_settles(Duration::from_secs(30));
        assert_eq!(Arc::strong_count(&word), 1);
        // And a new one comes when it is needed again.
        let (counter, waker) = self::counter();
        let _watch = watch(word, 6, &waker);
        counter.wait(1);
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
    let (counter, waker) = counter();
    let (quiet, word) = (word(), word());
    let _late = watch(quiet, 7, &waker);
    let _panics = watch(word.clone(), 6, &Waker::from(Arc::new(Panics)));
    // By a later round of the same thread.
    counter.wait(1);
}

#[test]
fn a_forked_childs_copy_of_a_watch_ends_though_a_thread_of_the_parent_was_at_it() {
    isolated!({
        let (mine, (_, waker)) = (word(), counter());
        let _many: Vec<_> = (0..100).map(|_| watch(word(), 7, &waker)).collect();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // What they do is done under the lock that the child's copies of the watches need.
            for _ in 0..2 {
                scope.spawn(|| {
                    let (word, (_, waker)) = (word(), counter());
                    while !over.load(Ordering::Relaxed) {
                        drop(watch(word.clone(), 7, &waker));
                    }
                });
            }
            for _ in 0..300 {
                let mut watched = Some(watch(mine.clone(), 7, &waker));
                procession_testkit::forked(|| drop(watched.take()));
                watched.take().unwrap().end();
            }
            over.store(true, Ordering::Relaxed);
        });
    });
}
