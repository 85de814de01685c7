//! What the storms have in common: four processes that work on one primitive until they are killed.

use crate::{steps_support::Words, support::BOUND};
use core::{
    cell::RefCell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use procession_testkit::{
    isolated_within,
    storm::{Herd, Rng, kills},
    wait::eventually,
};
use std::time::Duration;

const PROCESSES: usize = 4;
/// After so many kills all are killed, and the primitive is looked at alone.
const ROUND: u32 = 16;

/// Two counters that are equal whenever nobody is between the two additions.
pub(crate) struct Pair(pub(crate) Words);

impl Pair {
    pub(crate) fn new() -> Pair {
        Pair(Words::new())
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.0.long(index)
    }

    pub(crate) fn read(&self) -> [u64; 2] {
        [0, 1].map(|index| self.word(index).load(Relaxed))
    }

    pub(crate) fn is_whole(&self) -> bool {
        let [first, second] = self.read();
        first == second
    }

    pub(crate) fn add(&self) {
        // Not by read-modify-write: two at a time would lose something.
        for index in 0..2 {
            let word = self.word(index);
            word.store(word.load(Relaxed) + 1, Relaxed);
            // So that many are killed in between.
            (0..40).for_each(|_| std::hint::spin_loop());
        }
    }

    pub(crate) fn repair(&self) {
        let [first, second] = self.read();
        assert!(first == second || first == second + 1, "more than one was inside: {first} {second}");
        self.word(1).store(first, Relaxed);
    }
}

/// Kills one of four processes at random instants, thousands of times where `PROCESSION_KILLS` says so.
///
/// Each process calls `work` again and again, with what is in `world`. After each kill this one calls `look`, while the
/// others go on; who waits there for what they have does so seldom, since they are quicker for long. After some kills all of them must have got further; then they are killed at once, and `alone` looks at
/// what they left, and may change the world.
pub(crate) fn storm<W>(
    test: &str,
    world: W,
    work: impl Fn(&W, &mut Rng),
    look: impl Fn(&W, &mut Rng),
    mut alone: impl FnMut(&mut W, &mut Rng),
) {
    isolated_within(test, Duration::from_secs(240), || {
        let mut rng = Rng::from_env();
        let (world, done, limit) = (RefCell::new(world), Words::new(), kills(64));
        let turns = || (0..PROCESSES).map(|number| done.long(number).load(Relaxed)).sum::<u64>();
        let mut herd = Herd::start(&mut rng, PROCESSES, |number, mut rng| {
            loop {
                work(&world.borrow(), &mut rng);
                // Its own word: nobody else writes it.
                let turns = done.long(number);
                turns.store(turns.load(Relaxed) + 1, Relaxed);
            }
        });
        let mut before = 0;
        while herd.kills() < limit {
            for _ in 0..ROUND {
                herd.kill_one(&mut rng, Duration::from_millis(2));
                look(&world.borrow(), &mut rng);
                herd.start_all(&mut rng);
            }
            eventually("the others get further", BOUND, || turns() > before);
            before = turns();
            herd.kill_all();
            alone(&mut world.borrow_mut(), &mut rng);
            herd.start_all(&mut rng);
        }
        herd.kill_all();
        alone(&mut world.borrow_mut(), &mut rng);
        println!("{test}: {} kills, {} turns", herd.kills(), turns());
    });
}
