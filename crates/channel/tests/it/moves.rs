//! Ends that leave in a parcel.

use crate::support::{drain, next, small, soon};
use procession_channel::Bell;
use procession_channel::lane::{Config, RawReceiver, RawSender, RecvError, SendError, TrySendError, pair};
use procession_parcel::{Erased, Parcel, task};
use procession_testkit::{Census, forked, isolated, watchdog};
use std::{sync::Mutex, time::Duration};

#[test]
fn an_end_that_arrived_goes_on_where_it_left_and_the_old_one_is_of_no_use() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    sender.try_send(&[b"one"]).unwrap();
    sender.try_send(&[b"two"]).unwrap();
    assert_eq!(next(&mut receiver).unwrap(), b"one");

    let mut arrived: RawSender = Parcel::pack(&sender).unwrap().unpack().unwrap();
    assert_eq!((arrived.sent(), arrived.taken()), (2, 1));
    assert_eq!(sender.try_send(&[b"lost"]), Err(TrySendError::Moved));
    assert_eq!(sender.send(&[b"lost"], None), Err(SendError::Moved));
    drop(sender);
    assert!(!receiver.is_closed());
    arrived.try_send(&[b"three"]).unwrap();

    let mut there: RawReceiver = Parcel::pack(&receiver).unwrap().unpack().unwrap();
    assert_eq!(receiver.try_recv(&mut Vec::new()), Err(RecvError::Moved));
    assert_eq!(receiver.recv(&mut Vec::new(), None), Err(RecvError::Moved));
    assert_eq!(receiver.recv_batch(1, |_| ()), Err(RecvError::Moved));
    drop(receiver);
    assert!(!arrived.is_closed());
    assert_eq!(there.taken(), 1);
    drop(arrived);
    let all = (vec![b"two".to_vec(), b"three".to_vec()], Some(RecvError::Disconnected));
    assert_eq!(drain(&mut there), all);
}

#[test]
fn an_end_is_packed_once() {
    let _watchdog = watchdog!();
    let (sender, _receiver) = small();
    let parcel = Parcel::pack(&sender).unwrap();
    let error = Parcel::pack(&sender).unwrap_err().to_string();
    assert!(error.contains("only once"), "{error}");
    drop(parcel);
}

#[test]
fn of_two_copies_of_a_parcel_one_brings_the_end() {
    let _watchdog = watchdog!();
    let (sender, mut receiver) = small();
    let parcel = Parcel::pack(&sender).unwrap();
    let copy = parcel.try_clone().unwrap();
    let mut arrived: RawSender = parcel.unpack().unwrap();
    let error = copy.unpack::<RawSender>().unwrap_err().to_string();
    assert!(error.contains("another copy of the parcel"), "{error}");
    // And on from there.
    arrived = Parcel::pack(&arrived).unwrap().unpack().unwrap();
    arrived.try_send(&[b"once"]).unwrap();
    assert_eq!(next(&mut receiver).unwrap(), b"once");
}

#[test]
fn a_parcel_that_is_never_delivered_gives_the_end_back() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    drop(Parcel::pack(&(&sender, &receiver)).unwrap());
    sender.try_send(&[b"still here"]).unwrap();
    assert_eq!(next(&mut receiver).unwrap(), b"still here");
    drop(sender);
    assert_eq!(drain(&mut receiver), (vec![], Some(RecvError::Disconnected)));
}

#[test]
fn a_receiver_in_the_middle_of_a_message_does_not_leave() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    let _ = sender.send(&[&[0; 100_000]], Some(soon()));
    assert_eq!(drain(&mut receiver), (vec![], None));
    let error = Parcel::pack(&receiver).unwrap_err().to_string();
    assert!(error.contains("in part"), "{error}");
}

#[test]
fn shared_bells_travel_along() {
    let _watchdog = watchdog!();
    let bell = Bell::new().unwrap();
    let config = Config { receiver_bell: Some(bell.clone()), ..Config::default() };
    let (sender, mut receiver) = pair(&config).unwrap();
    let mut sender: RawSender = Parcel::pack(&sender).unwrap().unpack().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.try_send(&[b"rings the shared bell"]).unwrap());
        let mut spin = procession_sys::Spin::none();
        assert!(bell.wait_while(None, &mut spin, || !receiver.has_news()));
    });
    assert_eq!(next(&mut receiver).unwrap(), b"rings the shared bell");
}

#[test]
fn lanes_come_and_go_and_leave_nothing() {
    isolated!({
        let before = Census::take();
        for _ in 0..100 {
            let (sender, receiver) = small();
            let parcel = Parcel::pack(&(&sender, &receiver)).unwrap();
            let (mut sender, mut receiver): (RawSender, RawReceiver) = parcel.unpack().unwrap();
            sender.try_send(&[b"x"]).unwrap();
            assert_eq!(next(&mut receiver).unwrap(), b"x");
        }
        before.assert_settles(Duration::from_secs(10));
    });
}

#[test]
fn an_end_that_came_back_and_the_copy_of_its_parcel_are_not_both_of_use() {
    let _watchdog = watchdog!();
    for copy_first in [true, false] {
        let (mut sender, mut receiver) = small();
        let parcel = Parcel::pack(&sender).unwrap();
        let copy = parcel.try_clone().unwrap();
        drop(parcel);
        let mut here = || sender.try_send(&[b"here"]);
        let (first, second) = if copy_first {
            let mut there: RawSender = copy.unpack().unwrap();
            (there.try_send(&[b"there"]), here())
        } else {
            (here(), copy.unpack::<RawSender>().map(drop).map_err(|_| TrySendError::Moved))
        };
        assert_eq!((first, second), (Ok(()), Err(TrySendError::Moved)));
        assert_eq!(drain(&mut receiver).0.len(), 1);
    }
}

#[test]
fn an_end_that_came_back_and_was_taken_by_a_copy_closes_nothing() {
    let _watchdog = watchdog!();
    let (sender, receiver) = small();
    let parcel = Parcel::pack(&(&sender, &receiver)).unwrap();
    let copy = parcel.try_clone().unwrap();
    drop(parcel);
    let (mut there, mut others): (RawSender, RawReceiver) = copy.unpack().unwrap();
    drop((sender, receiver));
    there.try_send(&[b"open"]).unwrap();
    assert_eq!(drain(&mut others), (vec![b"open".to_vec()], None));
}

#[test]
fn an_end_that_came_back_can_be_packed_again_and_older_copies_bring_nothing() {
    let _watchdog = watchdog!();
    let (sender, mut receiver) = small();
    let parcel = Parcel::pack(&sender).unwrap();
    let copy = parcel.try_clone().unwrap();
    drop(parcel);
    let again = Parcel::pack(&sender).unwrap();
    let error = copy.unpack::<RawSender>().unwrap_err().to_string();
    assert!(error.contains("another copy of the parcel"), "{error}");
    let mut arrived: RawSender = again.unpack().unwrap();
    arrived.try_send(&[b"once"]).unwrap();
    assert_eq!(next(&mut receiver).unwrap(), b"once");
}

#[test]
fn an_end_inside_of_a_parcel_that_was_delivered_inside_of_another_does_not_come_back() {
    let _watchdog = watchdog!();
    let (tx, mut receiver) = small();
    let tx = Mutex::new(tx);
    let task = task!(move |word: String| tx.lock().unwrap().send(&[word.as_bytes()], None).is_ok(); tx);
    let erased = Erased::of_task(&task).unwrap();
    // What goes to another process, and is called there only when the origin is gone.
    let there: Erased = Parcel::pack(&erased).unwrap().unpack().unwrap();
    drop(erased);
    drop(task);
    assert!(!receiver.is_closed());
    let outcome = there.call(Parcel::pack("late").unwrap());
    assert!(outcome.into_value().unwrap().unpack::<bool>().unwrap());
    assert_eq!(next(&mut receiver).unwrap(), b"late");
}

#[test]
fn an_end_inside_of_a_parcel_comes_back_if_neither_it_nor_the_outer_one_is_delivered() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = small();
    let inner = Parcel::pack(&sender).unwrap();
    drop(Parcel::pack(&inner).unwrap());
    drop(inner);
    sender.try_send(&[b"still here"]).unwrap();
    assert_eq!(next(&mut receiver).unwrap(), b"still here");
}

#[test]
fn a_forked_copy_closes_no_lane_of_its_parent() {
    isolated!({
        let (mut sender, mut receiver) = small();
        let (back, other) = small();
        let undelivered = Parcel::pack(&back).unwrap();
        drop(undelivered);
        let mut ends = Some((sender, receiver, back, other));
        forked(|| drop(ends.take()));
        let (still, more, mut back, mut other) = ends.take().unwrap();
        (sender, receiver) = (still, more);
        assert!(!sender.is_closed() && !receiver.is_closed() && !back.is_closed() && !other.is_closed());
        sender.try_send(&[b"open"]).unwrap();
        assert_eq!(next(&mut receiver).unwrap(), b"open");
        back.try_send(&[b"open"]).unwrap();
        assert_eq!(next(&mut other).unwrap(), b"open");
    });
}
