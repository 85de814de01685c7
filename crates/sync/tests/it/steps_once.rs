//! Death at every instruction of what is to be done once: it is done, or the next one does it.

use crate::steps_support::{BOUND, Partner, Words, isolated};
use core::sync::atomic::Ordering::SeqCst;
use procession_sync::{Once, OnceValue};
use procession_testkit::{
    step::{Options, each_instruction, each_instruction_after},
    test_name,
};

/// How often the function ended.
fn ended(words: &Words) -> u32 {
    words.word(0).load(SeqCst)
}

fn run(once: &Once, words: &Words) -> bool {
    let end = || _ = words.word(0).fetch_add(1, SeqCst);
    once.call_once_timeout(BOUND, end).unwrap()
}

#[derive(Default)]
struct Tally {
    done: u32,
    again: u32,
    anew: u32,
}

impl Tally {
    /// After a death: who comes next runs it, exactly if it was not done, and nobody does after that.
    fn count(&mut self, finished: bool, once: &Once, words: &Words) {
        let (before, was_done) = (ended(words), once.is_completed());
        assert!(before == 1 || (before == 0 && !was_done));
        assert!(was_done || !finished);
        assert_eq!(run(once, words), !was_done);
        match (was_done, before) {
            (true, _) => self.done += 1,
            (false, 1) => self.again += 1,
            (false, _) => self.anew += 1,
        }
        assert!(once.is_completed() && !run(once, words));
        assert_eq!(ended(words), before + u32::from(!was_done));
    }

    fn print(&self, what: &str, report: procession_testkit::step::Report) {
        let Tally { done, again, anew } = self;
        println!("{what}: {report}; done after {done} of the deaths, anew after {anew}, again after {again}");
        assert!(*done > 0 && *anew > 0);
    }
}

#[test]
fn it_is_done_once_or_anew_wherever_its_runner_dies() {
    isolated(test_name!(), || {
        let mut tally = Tally::default();
        let report = each_instruction(
            &Options::one_of(97),
            || (Once::new().unwrap(), Words::new()),
            |(once, words)| assert!(run(once, words)),
            |death, (once, words)| tally.count(death.finished, once, words),
        );
        tally.print("once", report);
    });
}

#[test]
fn a_partner_that_sleeps_learns_that_it_is_done_wherever_its_runner_dies() {
    isolated(test_name!(), || {
        let mut tally = Tally::default();
        let report = each_instruction_after(
            &Options::one_of(97),
            || {
                let once = Once::new().unwrap();
                let waits = once.clone();
                let partner = Partner::start(move |gate| {
                    gate.ready();
                    gate.child_is_here();
                    waits.wait_timeout(BOUND)
                });
                (once, Words::new(), partner)
            },
            |(.., partner)| partner.here_until_it_waits(),
            |(once, words, _), ()| assert!(run(once, words)),
            |death, (once, words, partner)| {
                tally.count(death.finished, once, words);
                assert!(partner.end(), "it slept on");
            },
        );
        tally.print("once, with a partner that sleeps", report);
    });
}

#[test]
fn it_is_done_once_wherever_one_dies_that_waits_for_its_runner() {
    isolated(test_name!(), || {
        let report = each_instruction_after(
            &Options::one_of(97),
            || {
                let (once, words) = (Once::new().unwrap(), Words::new());
                let (runs, counts) = (once.clone(), words.clone());
                let partner = Partner::start(move |gate| {
                    let function = || {
                        gate.ready();
                        gate.child_sleeps();
                        counts.word(0).fetch_add(1, SeqCst);
                    };
                    runs.call_once(function).unwrap()
                });
                (once, words, partner)
            },
            |(.., partner)| partner.here(),
            |(once, words, _), ()| assert!(!run(once, words)),
            |_, (once, words, partner)| {
                assert!(partner.end());
                assert!(once.is_completed() && !run(once, words));
                assert_eq!(ended(words), 1);
            },
        );
        println!("once, behind a partner that runs it: {report}");
    });
}

#[test]
fn a_value_is_whole_wherever_its_maker_dies() {
    isolated(test_name!(), || {
        let (mut there, mut missing) = (0, 0);
        let report = each_instruction(
            &Options::one_of(97),
            || OnceValue::<[u64; 8]>::new().unwrap(),
            |value| assert_eq!(value.get_or_init(|| [3; 8]).unwrap(), [3; 8]),
            |death, value| match value.get() {
                Some(found) => {
                    assert_eq!(found, [3; 8]);
                    there += 1;
                }
                None => {
                    assert!(!death.finished);
                    assert_eq!(value.get_or_init_timeout(BOUND, || [4; 8]).unwrap(), [4; 8]);
                    assert_eq!(value.get(), Some([4; 8]));
                    missing += 1;
                }
            },
        );
        println!("once value: {report}; there after {there} of the deaths, not after {missing}");
        assert!(there > 0 && missing > 0);
    });
}
