//! What a waiter does before it sleeps: a bounded spin that learns whether spinning pays, then a few turns given to others.
//!
//! Across two cores a spin hands over in 0.15 µs where a sleep costs 5 to 40; on one core it only delays the other
//! side. So it is bounded, stops while it fails, and is off where the affinity mask holds one processor.
//!
//! # States of the spin
//!
//! | state | a wait spins for | next |
//! |---|---|---|
//! | trusting | [`BUDGET`] | after [`FAILURES`] waits in a row that a spin did not end: resting |
//! | resting | nothing | after a time and a number of waits, which double with each rest: probing |
//! | probing | [`PROBE`] | a wait that the spin ends: trusting; [`FAILURES`] that it does not: resting, for twice as long |
//!
//! A rest is a time first of all. The scheduler puts two sides that were apart on one processor, where waits are short and no
//! spin is of use, and takes them apart again, where waits that sleep are ten times as long: thousands of them would last until
//! the next time. The number of waits is for those who wait for a millisecond each: no spin meets what they wait for, and they
//! would probe all the time.
//!
//! A probe is longer than the usual spin because two sides that both sleep would never find back otherwise: each
//! waits for the other's wake, 30 to 50 µs, which no usual spin outlasts. One side's probe does, and the other side
//! then finds it awake.
//!
//! Looking at a word takes its cache line away from whoever works on it. That is no harm where the other side stores once,
//! to say that it is done; where it locks and unlocks all the time it is slowed down to a fraction. So
//! [`until_seldom`](Spin::until_seldom) leaves it alone between two looks, for longer than many short turns at a lock take.
//!
//! # Giving way
//!
//! Where both sides share a processor the other one runs as soon as this one lets it, and `sched_yield(2)` does so without
//! the two system calls of a sleep and a wake: a hand-over there and back takes 2.9 µs where futexes take 4.5. So a waiter
//! whose spin is over or off yields its turn, [`TURNS`] times at most, and sleeps only then.
//!
//! * A spin does so too from time to time ([`ALONE`]), and is over where the processor is wanted by others. Where that brought what
//!   is waited for, the other side runs on this processor, and the spin counts as one that failed; otherwise it counts for nothing.
//! * A yield that comes back within [`NOBODY`] found nobody else who could run: the waiter sleeps at once. That is 0.3 µs in
//!   front of a sleep.
//! * Where more than one yield in five takes longer than [`LONG`], somebody has much to compute, who has the processor for a whole
//!   slice of some milliseconds each time, while a sleeper that is woken would run before him. That is so for all waits of this
//!   process, so none of them yields for some time: [`HOLD`] times the time that was lost, and twice as many times for each time
//!   in a row that this happens, up to [`LONGEST_HOLD`]. In a row means: not later than [`KNOWN`] times the hold before. So
//!   whoever computes all the time costs less than 2 % of the time in the long run.
//! * Fewer long turns are no reason. Of many who work with each other some take a slice as well, while all that they wait for is
//!   there, and the scheduler lets one who yields wait for those who sleep and wake. If such a turn were held against them, those
//!   who sleep would be ever more, and each of their wakes is a system call and a switch: eight clients of one server on two
//!   processors make 1.1 million calls a second where all of them yield, and 0.3 where they sleep.

use crate::{Deadline, sync::spin_loop};
// Not a part of any protocol that is modelled: nobody relies on it.
use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread::yield_now,
    time::Duration,
};

/// The usual spin, in nanoseconds.
const BUDGET: u64 = 20_000;
/// A spin that is to outlast the wake of the other side, in nanoseconds.
const PROBE: u64 = 100_000;
/// After this many failures in a row spinning is no use.
const FAILURES: u32 = 4;
/// The first rest, in nanoseconds.
const REST: u64 = 400_000;
/// The longest rest, in nanoseconds: probes then cost less than 2 % of a waiter's time.
const LONGEST_REST: u64 = 64 * REST;
/// A rest has a wait at least for each of so many nanoseconds of it: hand-overs that sleep are shorter.
const REST_PER_WAIT: u64 = 50_000;
/// How often the condition is looked at between two reads of the clock.
const LOOKS: u32 = 32;
/// Who looks seldom leaves the word alone for so long before it looks again, in nanoseconds; then for twice as long.
const GAP: u64 = 500;
/// The longest it is left alone, in nanoseconds.
const LONGEST_GAP: u64 = 1_000;
/// How long a spin goes on before it finds out whether others want the processor, in nanoseconds; and then again.
const ALONE: u64 = 4_000;
/// How often a wait gives way to others.
const TURNS: u32 = 16;
/// A yield that takes less than this let nobody else run, in nanoseconds.
const NOBODY: u64 = 1_000;
/// A yield that takes longer than this costs more than a sleep, in nanoseconds. That of eight who take turns with a server takes 100
/// microseconds.
const LONG: u64 = 400_000;
/// So many more count as one long turn than as one that is not, which takes it back.
const WEIGHT: u64 = 4;
/// So many long turns without any other in between are too many.
const STRIKES: u64 = 4;
/// For how many times the time lost by those nobody is given way to.
const HOLD: u64 = 8;
/// The same at the most.
const LONGEST_HOLD: u64 = 256;
/// They are one time more in a row until so many times the hold after the last one are over.
const KNOWN: u64 = 8;
/// The longest time that counts as lost by a turn, in nanoseconds.
const LONGEST_TURN: u64 = 100_000_000;

/// Whether this process gives way to others.
static OTHERS: Others = Others::new();

struct Others {
    /// Until when nobody is given way to, in nanoseconds of [`Deadline`]'s clock.
    held: AtomicU64,
    /// For how many times the time lost that was.
    hold: AtomicU64,
    /// Until when too many long turns are one time more in a row.
    known: AtomicU64,
    /// [`WEIGHT`] for each long turn, one less for each other.
    score: AtomicU64,
    /// What the long turns took, in nanoseconds, as far as they are still counted.
    lost: AtomicU64,
}

impl Others {
    const fn new() -> Others {
        let [held, known, score, lost] = [const { AtomicU64::new(0) }; 4];
        Others { held, hold: AtomicU64::new(HOLD), known, score, lost }
    }

    fn may_run(&self, now: u64) -> bool {
        now >= self.held.load(Ordering::Relaxed)
    }

    /// A turn took so long.
    fn ran(&self, took: u64, now: u64) {
        let (began, score) = (now - took, self.score.load(Ordering::Relaxed));
        if took <= LONG {
            if score > 0 {
                self.score.store(score - 1, Ordering::Relaxed);
                let lost = self.lost.load(Ordering::Relaxed);
                self.lost.store(lost - lost / score, Ordering::Relaxed);
            }
            return;
        }
        // Several threads may come back from the same turn: it counts once.
        if !self.may_run(began) {
            return;
        }
        // Who was stopped by a debugger lost more than that, and not to others.
        let lost = took.min(LONGEST_TURN) + if score > 0 { self.lost.load(Ordering::Relaxed) } else { 0 };
        let score = score + WEIGHT;
        if score < STRIKES * WEIGHT {
            self.score.store(score, Ordering::Relaxed);
            self.lost.store(lost, Ordering::Relaxed);
            return;
        }
        let again = began < self.known.load(Ordering::Relaxed);
        let hold = if again { (self.hold.load(Ordering::Relaxed) * 2).min(LONGEST_HOLD) } else { HOLD };
        let length = lost * hold;
        self.score.store(0, Ordering::Relaxed);
        self.hold.store(hold, Ordering::Relaxed);
        self.held.store(now + length, Ordering::Relaxed);
        self.known.store(now + length * KNOWN, Ordering::Relaxed);
    }
}

/// How long one waiter spins, and whether it gives way to others, before it sleeps.
#[derive(Clone, Debug)]
pub struct Spin {
    enabled: bool,
    failures: u32,
    /// Until when waits do not spin, in nanoseconds of [`Deadline`]'s clock.
    resting: u64,
    /// How many more waits do not spin, at least.
    skips: u64,
    /// The next rest, in nanoseconds; [`REST`] while trusting.
    rest: u64,
    /// Whether waits give way to others.
    yields: bool,
    /// The last wait ended before anybody was given way to.
    spun: bool,
}

impl Spin {
    /// A spin with the usual bounds; if this thread may run on one processor only it gives way without one.
    #[must_use]
    pub fn adaptive() -> Spin {
        let many = rustix::thread::sched_getaffinity(None).map_or(true, |set| set.count() > 1);
        Spin { enabled: many && cfg!(not(loom)), yields: cfg!(not(loom)), ..Spin::none() }
    }

    /// No spin: every wait sleeps at once.
    #[must_use]
    pub const fn none() -> Spin {
        Spin { enabled: false, failures: 0, resting: 0, skips: 0, rest: REST, yields: false, spun: false }
    }

    /// Looks at `ready` until it holds, the deadline has come, or the spin is over and others have had their turns; tells
    /// whether it held.
    ///
    /// It is looked at once even where spinning is off or the deadline has passed. The last turn of others may go beyond that.
    #[inline]
    pub fn until(&mut self, deadline: Option<Deadline>, mut ready: impl FnMut() -> bool) -> bool {
        self.spun = true;
        ready() || self.wait(deadline, &mut ready, often)
    }

    /// Gives way to others once, though there is something to do: who waits for this side on the same processor has not to wait
    /// for the end of its time slice then. Tells for how long: who keeps the processor for as long after that has his share.
    pub fn give_way(&self) -> Duration {
        let took = if self.yields { give_one_turn(&OTHERS, &clock, &yield_now) } else { 0 };
        Duration::from_nanos(took)
    }

    /// Whether looking alone has ended the last wait, without a turn of others.
    #[must_use]
    pub fn has_spun(&self) -> bool {
        self.spun
    }

    /// As [`until`](Spin::until), but looks once in half a microsecond, later in one: for what another side changes again
    /// and again, as the word of a lock, which it does the faster the longer the word's cache line stays with it.
    #[inline]
    pub fn until_seldom(&mut self, deadline: Option<Deadline>, mut ready: impl FnMut() -> bool) -> bool {
        let mut gap = GAP;
        self.spun = true;
        ready() || self.wait(deadline, &mut ready, |now, ready| seldom(&mut gap, now, ready))
    }

    /// `look` looks, once or several times, and gives the time when it has not seen it.
    fn wait(
        &mut self,
        deadline: Option<Deadline>,
        ready: &mut dyn FnMut() -> bool,
        look: impl FnMut(u64, &mut dyn FnMut() -> bool) -> Result<(), u64>,
    ) -> bool {
        let latest = deadline.map_or(u64::MAX, Deadline::as_nanos);
        if self.enabled && self.spin(latest, ready, look) {
            return true;
        }
        self.spun = false;
        self.yields && give_way(latest, ready, &OTHERS, &clock, &yield_now)
    }

    fn spin(
        &mut self,
        latest: u64,
        ready: &mut dyn FnMut() -> bool,
        mut look: impl FnMut(u64, &mut dyn FnMut() -> bool) -> Result<(), u64>,
    ) -> bool {
        let mut now = clock();
        if now < self.resting || self.skips > 0 {
            self.skips = self.skips.saturating_sub(1);
            return false;
        }
        let end = now + if self.rest > REST { PROBE } else { BUDGET };
        let mut alone = now + ALONE;
        loop {
            match look(now, ready) {
                Ok(()) => {
                    (self.failures, self.rest) = (0, REST);
                    return true;
                }
                Err(time) => now = time,
            }
            if now >= alone && self.yields && OTHERS.may_run(now) {
                yield_now();
                let took = clock() - now;
                now += took;
                alone = now + ALONE;
                OTHERS.ran(took, now);
                if took >= NOBODY {
                    self.spun = false;
                    let ready = ready();
                    if ready {
                        // By who runs here as well: for that one no spin is of use.
                        self.fail(now);
                    }
                    return ready;
                }
            }
            if now >= end {
                self.fail(now);
                return false;
            }
            if now >= latest {
                return false;
            }
        }
    }

    fn fail(&mut self, now: u64) {
        self.failures += 1;
        if self.failures >= FAILURES {
            self.failures = 0;
            (self.resting, self.skips) = (now + self.rest, self.rest / REST_PER_WAIT);
            self.rest = (self.rest * 2).min(LONGEST_REST);
        }
    }
}

/// For how long others ran; 0 where they are not given way to.
fn give_one_turn(others: &Others, now: &dyn Fn() -> u64, yield_now: &dyn Fn()) -> u64 {
    let before = now();
    if !others.may_run(before) {
        return 0;
    }
    yield_now();
    let after = now();
    others.ran(after - before, after);
    after - before
}

/// Lets others run, who may bring what is waited for; tells whether it is there.
#[cold]
fn give_way(
    latest: u64,
    ready: &mut dyn FnMut() -> bool,
    others: &Others,
    now: &dyn Fn() -> u64,
    yield_now: &dyn Fn(),
) -> bool {
    let mut before = now();
    if !others.may_run(before) {
        return false;
    }
    for _ in 0..TURNS {
        if before >= latest {
            return false;
        }
        yield_now();
        let after = now();
        let took = after - before;
        others.ran(took, after);
        if ready() {
            return true;
        }
        if !(NOBODY..=LONG).contains(&took) {
            return false;
        }
        before = after;
    }
    false
}

fn clock() -> u64 {
    Deadline::now().as_nanos()
}

fn often(_now: u64, ready: &mut dyn FnMut() -> bool) -> Result<(), u64> {
    for _ in 0..LOOKS {
        spin_loop();
        if ready() {
            return Ok(());
        }
    }
    Err(clock())
}

fn seldom(gap: &mut u64, mut now: u64, ready: &mut dyn FnMut() -> bool) -> Result<(), u64> {
    // By the clock, since a pause takes 5 ns on one processor and 50 on another.
    let next = now + *gap;
    while now < next {
        spin_loop();
        now = clock();
    }
    *gap = (*gap * 2).min(LONGEST_GAP);
    if ready() { Ok(()) } else { Err(now) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, sync::atomic::AtomicU32};

    fn enabled() -> Spin {
        Spin { enabled: true, ..Spin::none() }
    }

    /// Whether a wait spins: it then looks more than once.
    fn spins(spin: &mut Spin) -> bool {
        let mut looks = 0;
        spin.until(None, || {
            looks += 1;
            false
        });
        looks > 1
    }

    #[test]
    fn a_spin_that_fails_rests_and_probes_ever_more_seldom() {
        let mut spin = enabled();
        for times in [1, 2, 4, 8, 16, 32, 64, 64] {
            let before = clock();
            for _ in 0..FAILURES {
                assert_eq!(spin.resting, 0);
                assert!(spins(&mut spin));
            }
            assert!((before + times * REST..=clock() + times * REST).contains(&spin.resting));
            // Its time is over, its waits are not; then the reverse.
            spin.resting = 0;
            let skips = times * REST / REST_PER_WAIT;
            assert_eq!((0..).take_while(|_| !spins(&mut spin)).count() as u64, skips);
            (spin.failures, spin.resting) = (0, u64::MAX);
            assert!(!spins(&mut spin));
            spin.resting = 0;
        }
        assert_eq!(spin.rest, LONGEST_REST);
    }

    #[test]
    fn one_success_ends_the_rest_for_good() {
        let mut spin = enabled();
        while spin.resting == 0 {
            assert!(spins(&mut spin));
        }
        (spin.resting, spin.skips) = (0, 0);
        assert!(spins(&mut spin));
        let mut looks = 0;
        assert!(spin.until(None, || {
            looks += 1;
            looks > 3
        }));
        for _ in 0..FAILURES {
            assert_eq!(spin.resting, 0);
            assert!(spins(&mut spin));
        }
        assert!(spin.resting > 0, "it fails as often as at the start before it rests");
        assert_eq!(spin.rest, 2 * REST);
    }

    #[test]
    fn who_looks_seldom_leaves_the_word_alone_in_between() {
        let mut spin = enabled();
        let mut looks = Vec::new();
        assert!(!spin.until_seldom(None, || {
            looks.push(clock());
            false
        }));
        // At once, and then as often as there are gaps in the budget, at the most.
        assert!((2..=2 + BUDGET / GAP).contains(&(looks.len() as u64)), "{} looks", looks.len());
        assert!(looks[1] - looks[0] >= GAP, "{looks:?}");
        let mut looks = 0;
        assert!(spin.until_seldom(None, || {
            looks += 1;
            looks > 2
        }));
        assert_eq!((looks, spin.failures), (3, 0));
    }

    #[test]
    fn without_a_spin_the_condition_is_looked_at_once() {
        assert!(!spins(&mut Spin::none()));
    }

    /// A clock that stands still but for the turns of others, each of which takes so long; and what is held.
    struct Machine {
        clock: Cell<u64>,
        turns: Cell<u32>,
        others: Others,
    }

    impl Machine {
        /// How many turns they get in a wait that `ready` ends.
        fn turns(&self, took: u64, ready: &mut dyn FnMut() -> bool) -> (bool, u32) {
            self.turns.set(0);
            let ready = give_way(u64::MAX, ready, &self.others, &|| self.clock.get(), &|| {
                self.turns.set(self.turns.get() + 1);
                self.clock.set(self.clock.get() + took);
            });
            (ready, self.turns.get())
        }
    }

    fn machine() -> Machine {
        Machine { clock: Cell::new(1), turns: Cell::new(0), others: Others::new() }
    }

    #[test]
    fn others_have_some_turns_and_who_is_alone_sleeps_at_once() {
        let machine = machine();
        let never = &mut || false;
        assert_eq!(machine.turns(NOBODY, never), (false, TURNS));
        assert_eq!(machine.turns(NOBODY - 1, never), (false, 1));
        assert_eq!(machine.turns(LONG, never), (false, TURNS), "none of that held it off");
        let mut looks = 0;
        let third = &mut || {
            looks += 1;
            looks == 3
        };
        assert_eq!(machine.turns(NOBODY, third), (true, 3));
    }

    #[test]
    fn after_too_many_long_turns_nobody_gets_one_for_many_times_as_long() {
        let machine = machine();
        let never = &mut || false;
        let mut hold = HOLD;
        for long in [LONG + 1, 2 * LONG, 3 * LONG, LONG + 1, LONG + 1, LONG + 1, LONG + 1] {
            for strike in 0..STRIKES {
                // Also where it came, if late.
                let comes = strike % 2 == 0;
                assert_eq!(machine.turns(long, &mut || comes), (comes, 1));
            }
            let end = machine.clock.get() + STRIKES * long * hold;
            machine.clock.set(end - 1);
            assert_eq!(machine.turns(NOBODY, never), (false, 0), "{hold} times");
            machine.clock.set(end);
            hold = (2 * hold).min(LONGEST_HOLD);
        }
        // A long time without any ends the row.
        let mut strike_out =
            || (0..STRIKES).for_each(|_| assert_eq!(machine.turns(LONG + 1, never), (false, 1)));
        strike_out();
        assert_eq!(machine.others.hold.load(Ordering::Relaxed), LONGEST_HOLD);
        machine.clock.set(machine.clock.get() + STRIKES * (LONG + 1) * LONGEST_HOLD * KNOWN);
        strike_out();
        assert_eq!(machine.others.hold.load(Ordering::Relaxed), HOLD);
    }

    #[test]
    fn a_long_turn_in_five_is_not_too_many_and_more_are() {
        let machine = machine();
        for (short, held) in [(WEIGHT, false), (WEIGHT - 1, true)] {
            let mut turns = 0;
            while machine.others.may_run(machine.clock.get()) && turns < 10 * STRIKES {
                machine.turns(LONG + 1, &mut || true);
                (0..short).for_each(|_| assert!(machine.turns(NOBODY, &mut || true).1 <= 1));
                turns += 1;
            }
            assert_eq!(turns < 10 * STRIKES, held, "{short} short ones for each");
        }
        // Only those are held against them that are still counted.
        let lost = machine.others.held.load(Ordering::Relaxed) - machine.clock.get();
        assert!(lost <= HOLD * (LONG + 1) * STRIKES * WEIGHT, "{lost}");
    }

    #[test]
    fn what_was_lost_is_forgotten_as_its_turns_are() {
        let others = Others::new();
        let mut now = 0;
        let mut ran = |took: u64| {
            now += took;
            others.ran(took, now);
        };
        // One that is never taken back, and then as many that are as one likes.
        ran(LONG + 1);
        (1..WEIGHT).for_each(|_| ran(NOBODY));
        for _ in 0..1000 {
            ran(LONG + 1);
            (0..WEIGHT).for_each(|_| ran(NOBODY));
        }
        assert_eq!(others.score.load(Ordering::Relaxed), 1);
        let lost = others.lost.load(Ordering::Relaxed);
        assert!((1..=LONG).contains(&lost), "{lost}");
    }

    #[test]
    fn threads_that_come_back_from_the_same_turn_count_it_once_and_a_stop_is_not_lost_to_others() {
        let others = Others::new();
        (0..STRIKES).for_each(|_| others.ran(2 * LONG, 10 * LONG));
        let end = (10 + 2 * STRIKES * HOLD) * LONG;
        assert!(!others.may_run(end - 1) && others.may_run(end));
        (0..STRIKES).for_each(|_| others.ran(2 * LONG, 10 * LONG + 1));
        assert!(others.may_run(end), "they began before it was held");
        (0..STRIKES).for_each(|_| others.ran(1 << 50, 1 << 51));
        assert!(others.may_run((1 << 51) + STRIKES * LONGEST_TURN * HOLD));
    }

    #[test]
    fn who_has_something_to_do_gives_way_once_unless_others_compute() {
        let machine = machine();
        let pass = |took: u64| {
            let turn = || machine.clock.set(machine.clock.get() + took);
            give_one_turn(&machine.others, &|| machine.clock.get(), &turn)
        };
        assert_eq!((pass(NOBODY), pass(3)), (NOBODY, 3));
        (0..STRIKES).for_each(|_| assert_eq!(pass(LONG + 1), LONG + 1));
        assert_eq!(pass(NOBODY), 0);
    }

    #[test]
    fn nobody_is_given_way_to_at_a_deadline_that_has_passed() {
        let past = Some(Deadline::from_nanos(1));
        let mut spin = Spin { yields: true, ..enabled() };
        let mut looks = 0;
        assert!(!spin.until(past, || {
            looks += 1;
            false
        }));
        assert!(looks <= 1 + LOOKS, "{looks}");
        let turns = Cell::new(0);
        let count = || turns.set(turns.get() + 1);
        assert!(!give_way(10, &mut || false, &Others::new(), &|| 10, &count));
        assert_eq!(turns.get(), 0);
        let machine = machine();
        let pass = || machine.clock.set(machine.clock.get() + NOBODY);
        assert!(!give_way(1 + 2 * NOBODY, &mut || false, &machine.others, &|| machine.clock.get(), &pass));
        assert_eq!(machine.clock.get(), 1 + 2 * NOBODY);
    }

    #[test]
    fn a_waiter_on_one_processor_lets_the_other_thread_go_on() {
        let turn = AtomicU32::new(0);
        let alone = {
            let mut set = rustix::thread::CpuSet::new();
            let all = rustix::thread::sched_getaffinity(None).unwrap();
            set.set((0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).unwrap());
            set
        };
        // Nobody sleeps here: without the turns it would take a time slice, or for ever.
        let side = |mine: u32| {
            rustix::thread::sched_setaffinity(None, &alone).unwrap();
            let mut spin = Spin::adaptive();
            assert!(!spin.enabled && spin.yields);
            for round in 0..100 {
                while !spin.until(None, || turn.load(Ordering::Acquire) == 2 * round + mine) {}
                turn.fetch_add(1, Ordering::Release);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| side(0));
            scope.spawn(|| side(1));
        });
        assert_eq!(turn.into_inner(), 200);
    }
}
