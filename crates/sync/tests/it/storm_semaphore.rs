//! Owners killed at random instants, each with two threads in a program of its own: every permit returns. A tenth as many
//! as where they are forks (`storm_held.rs`).

use crate::support::{BOUND, given, take};
use procession_sync::Semaphore;
use procession_testkit::{
    role,
    storm::{Rng, kill_within, kills},
    wait::eventually,
    watchdog,
};
use std::time::Duration;

const PERMITS: u32 = 4;

#[test]
fn role_owner() {
    let Some(mut role) = role::enter(role_owner) else { return };
    let (seed, semaphore): (u64, Semaphore) = take(role.fd());
    let mut rng = Rng::from_seed(seed);
    role.say("runs");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut rng = rng.split();
            let semaphore = &semaphore;
            scope.spawn(move || {
                loop {
                    let count = 1 + rng.below(3) as u32;
                    let Ok(permit) = semaphore.permits(count) else { std::process::abort() };
                    if rng.chance(1, 8) {
                        std::thread::sleep(rng.duration(Duration::from_micros(200)));
                    }
                    drop(permit);
                }
            });
        }
    });
}

#[test]
fn owners_killed_at_random_instants_leave_every_permit() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    let mut rng = Rng::from_env();
    let semaphore = Semaphore::new(PERMITS).unwrap();
    let start = |rng: &mut Rng| {
        let mut process = role::start(role_owner, &[&given(&(rng.next_u64(), &semaphore))]);
        process.expect("runs");
        process
    };
    let mut owners: Vec<_> = (0..4).map(|_| start(&mut rng)).collect();
    let kills = kills(200) / 10;
    for _ in 0..kills {
        let victim = rng.below(owners.len() as u64) as usize;
        kill_within(&mut rng, owners[victim].pidfd(), Duration::from_millis(3)).unwrap();
        owners[victim].wait();
        if rng.chance(1, 4) {
            // All of them at some instant: the books must agree with nobody there.
            owners.iter_mut().for_each(role::RoleProcess::kill);
            eventually("all permits are back", BOUND, || semaphore.value() == PERMITS);
            assert_eq!(semaphore.held(), 0);
            owners = (0..4).map(|_| start(&mut rng)).collect();
        } else {
            owners[victim] = start(&mut rng);
        }
        // It goes on, whatever the dead one held.
        drop(semaphore.permits_deadline(PERMITS, procession_sync::Deadline::after(BOUND)));
    }
    owners.iter_mut().for_each(role::RoleProcess::kill);
    eventually("all permits are back", BOUND, || semaphore.value() == PERMITS);
    assert_eq!(semaphore.held(), 0);
    println!("{kills} kills, every permit came back");
}
