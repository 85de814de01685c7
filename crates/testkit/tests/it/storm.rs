//! The same seed gives the same storm.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use procession_testkit::storm::{Herd, Rng, delay, kill_within, pidfd};
use procession_testkit::{isolated, watchdog};

#[test]
fn a_seed_gives_the_same_numbers_and_another_gives_others() {
    let numbers = |seed| {
        let mut rng = Rng::from_seed(seed);
        [(); 8].map(|()| rng.next_u64())
    };
    assert_eq!(numbers(7), numbers(7));
    assert_ne!(numbers(7), numbers(8));
}

#[test]
fn numbers_stay_in_their_range_and_fill_it() {
    let mut rng = Rng::from_env_or(1);
    let mut seen = [0; 10];
    for _ in 0..10_000 {
        seen[rng.below(10) as usize] += 1;
        assert!((5..8).contains(&rng.within(5..8)));
        assert!(rng.duration(Duration::from_micros(3)) < Duration::from_micros(3));
    }
    assert!(seen.iter().all(|&count| count > 700), "{seen:?}");
    assert_eq!(rng.duration(Duration::ZERO), Duration::ZERO);
    let mut order: Vec<u32> = (0..100).collect();
    rng.shuffle(&mut order);
    assert!(!order.is_sorted());
    order.sort_unstable();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_delay_is_never_short() {
    for duration in [Duration::ZERO, Duration::from_micros(3), Duration::from_micros(400)] {
        let start = Instant::now();
        delay(duration);
        assert!(start.elapsed() >= duration);
    }
}

#[test]
fn a_kill_hits_within_the_window_and_a_dead_process_is_no_error() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pidfd = pidfd(child.id()).unwrap();
    let window = Duration::from_millis(2);
    assert!(kill_within(&mut rng, &pidfd, window).unwrap() < window);
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    kill_within(&mut rng, &pidfd, window).unwrap();
}

#[test]
fn a_herd_is_killed_one_by_one_and_started_again() {
    isolated!({
        let page = crate::step::SharedPage::of_memfd("herd");
        let mut rng = Rng::from_env();
        let mut herd = Herd::start(&mut rng, 4, |_, _| {
            loop {
                page.counter().fetch_add(1, Ordering::SeqCst);
            }
        });
        for kills in 1..20 {
            herd.kill_one(&mut rng, Duration::from_micros(500));
            herd.start_all(&mut rng);
            assert_eq!(herd.kills(), kills);
        }
        herd.kill_all();
        assert_eq!(herd.kills(), 23);
        let count = page.counter().load(Ordering::SeqCst);
        assert!(count > 0);
        drop(herd);
        assert_eq!(page.counter().load(Ordering::SeqCst), count, "somebody still works");
    });
}

#[test]
fn one_of_a_herd_that_ends_by_itself_is_a_failure() {
    isolated!({
        let mut rng = Rng::from_env();
        let mut herd = Herd::start(&mut rng, 1, |_, _| panic!("on purpose"));
        let pids = || std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let ended = || {
            let stat = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            pids().split_whitespace().all(|pid| stat(pid).contains(") Z "))
        };
        procession_testkit::wait::eventually("it ends", Duration::from_secs(10), ended);
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| herd.kill_all()));
        assert!(killed.unwrap_err().downcast_ref::<String>().unwrap().contains("ended by itself"));
    });
}
