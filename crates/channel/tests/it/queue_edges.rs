//! What a queue promises where something goes wrong in the middle.

use crate::support::past;
use procession_channel::queue::{GetError, JoinableQueue, Policy, PutError, Queue};
use procession_parcel::Parcel;
use procession_testkit::watchdog;
use serde::{Deserialize, Deserializer, Serialize};

/// Sevens cannot be sent, and eights not received.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Choosy(u32);

impl Serialize for Choosy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 7 {
            Err(serde::ser::Error::custom("not seven"))
        } else {
            serializer.serialize_u32(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Choosy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Choosy, D::Error> {
        match u32::deserialize(deserializer)? {
            8 => Err(serde::de::Error::custom("not eight")),
            number => Ok(Choosy(number)),
        }
    }
}

#[test]
fn a_batch_whose_first_item_cannot_be_encoded_comes_back_at_once() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    let error = queue.put_many(vec![Choosy(7), Choosy(1)]).unwrap_err();
    assert_eq!(error.rest, [Choosy(7), Choosy(1)]);
    assert!(matches!(error.cause, PutError::Encode(..)), "{error}");
    assert!(queue.is_empty());
    assert!(queue.put_many(Vec::new()).is_ok());
}

#[test]
fn an_item_that_cannot_be_decoded_keeps_nobody_from_what_comes_after_it() {
    let _watchdog = watchdog!();
    for policy in [Policy::Redeliver, Policy::Report, Policy::Drop] {
        let queue = Queue::builder().policy(policy).build().unwrap();
        for number in [8, 1, 2] {
            queue.put(Choosy(number)).unwrap();
        }
        let mut taken = Vec::new();
        let mut refused = 0;
        for _ in 0..10 {
            match queue.try_get_many(10) {
                Ok(items) => taken.extend(items),
                Err(GetError::Decode(_)) => refused += 1,
                Err(_) => break,
            }
        }
        assert_eq!(refused, 1, "{policy:?}");
        let stats = queue.stats().unwrap();
        match policy {
            Policy::Redeliver => assert_eq!(taken, [Choosy(1), Choosy(2)]),
            // One record stands for the batch.
            Policy::Report => assert_eq!(stats.in_doubt, 3),
            _ => assert_eq!(stats.lost, 3),
        }
        assert_eq!((stats.waiting, stats.in_hand), (0, 0), "{policy:?}");
    }
}

#[test]
fn task_done_is_for_what_was_given_out_by_get_and_not_for_claims() {
    let _watchdog = watchdog!();
    let one = JoinableQueue::bounded(10).unwrap();
    // Another handle of the same process, which has a list of its own.
    let other: JoinableQueue<u32> = Parcel::pack(&one).unwrap().unpack().unwrap();
    one.put(1).unwrap();
    one.put(2).unwrap();
    let claim = one.claim().unwrap();
    assert!(other.task_done().is_err() && one.task_done().is_err());
    assert_eq!(one.get().unwrap(), 2);
    other.task_done().unwrap();
    assert_eq!(one.stats().unwrap().in_hand, 1, "the claim");
    assert!(one.join_deadline(past()).is_err());
    assert_eq!(*claim, 1);
    drop(claim);
    one.join().unwrap();
    assert!(one.task_done().is_err());
}
