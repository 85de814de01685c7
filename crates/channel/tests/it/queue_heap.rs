//! Queues on a heap: blocks go to consumers by reference, and none is lost or freed twice, whoever dies.

use crate::{
    heap::{Frame, check, frame, heap},
    support::{assert_soon_empty, give, take},
};
use procession_channel::{
    JoinableQueue, Queue, SimpleQueue,
    queue::{GetError, Policy, PutError},
};
use procession_parcel::Parcel;
use procession_shm::{Heap, SharedBox, SharedSlice, SharedStr, SharedVec};
use procession_sys::Deadline;
use procession_testkit::{role, wait::eventually, watchdog};
use serde::{Deserialize, Serialize};
use std::{os::unix::net::UnixStream, time::Duration};

/// No block is left, though nobody swept.
#[track_caller]
fn assert_empty(heap: &Heap) {
    assert_eq!((heap.stats().blocks, heap.stats().used), (0, 0));
}

#[test]
fn role_consumer() {
    let Some(mut role) = role::enter(role_consumer) else { return };
    let (frames, back): (Queue<Frame>, Queue<(u64, SharedVec<u8>)>) = take(role.fd());
    for frame in &frames {
        let frame = frame.unwrap();
        check(&frame, frame.number);
        let mut pixels = frame.pixels;
        pixels[0] = 255;
        back.put((frame.number, pixels.moved())).unwrap();
    }
}

#[test]
fn blocks_of_all_kinds_cross_between_many_producers_and_consumers() {
    let _watchdog = watchdog!();
    let heap = heap();
    let frames: Queue<Frame> = Queue::builder().heap(&heap).capacity(10).build().unwrap();
    let back: Queue<(u64, SharedVec<u8>)> = Queue::builder().heap(&heap).build().unwrap();
    assert!(frames.heap().unwrap().same(&heap) && Queue::<u8>::unbounded().unwrap().heap().is_none());
    let mut consumers: Vec<_> = (0..2)
        .map(|_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let process = role::start(role_consumer, &[&theirs]);
            give(&ours, &(&frames, &back));
            process
        })
        .collect();
    std::thread::scope(|scope| {
        for part in 0..3 {
            let (heap, frames) = (&heap, frames.clone());
            scope.spawn(move || {
                (0..60).for_each(|number| frames.put(frame(heap, part * 60 + number)).unwrap());
            });
        }
        let mut numbers: Vec<u64> = (0..180)
            .map(|_| {
                let (number, pixels) = back.get().unwrap();
                assert!(pixels[0] == 255 && pixels[1..].iter().all(|&pixel| pixel == number as u8));
                number
            })
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..180).collect::<Vec<_>>());
    });
    frames.close().unwrap();
    for consumer in &mut consumers {
        assert!(consumer.wait().success(), "{}", consumer.output());
    }
    assert_empty(&heap);
}

#[test]
fn what_is_refused_comes_back_whole() {
    let _watchdog = watchdog!();
    let (heap, other) = (heap(), heap());
    let queue: Queue<Frame> = Queue::builder().heap(&heap).capacity(1).build().unwrap();
    queue.put(frame(&heap, 1)).unwrap();
    let full = queue.try_put(frame(&heap, 2)).unwrap_err();
    assert!(full.is_full());
    let full = full.into_item();
    check(&full, 2);
    // It was looked at: that would have to be taken back before it sets out again.
    let looked_at = queue.try_put(full).unwrap_err();
    assert!(looked_at.to_string().contains("moved()"), "{looked_at}");
    drop(looked_at);
    let late = queue.put_deadline(frame(&heap, 3), Deadline::after(Duration::from_millis(1))).unwrap_err();
    check(&late.into_item(), 3);
    let foreign = queue.try_put(frame(&other, 4)).unwrap_err();
    assert!(matches!(foreign, PutError::Encode(..)) && foreign.to_string().contains("another heap"));
    check(&foreign.into_item(), 4);
    let rest = queue.try_put_many(vec![frame(&heap, 5), frame(&heap, 6)]).unwrap_err();
    assert!(rest.cause.is_full() && rest.rest.len() == 2);
    rest.rest.iter().zip(5..).for_each(|(item, number)| check(item, number));
    drop(rest);
    check(&queue.get().unwrap(), 1);
    queue.close().unwrap();
    let closed = queue.put(frame(&heap, 7)).unwrap_err();
    assert!(closed.is_closed());
    check(&closed.into_item(), 7);
    assert_empty(&heap);
    assert_empty(&other);
    // Without a heap it does not go at all.
    let plain = Queue::unbounded().unwrap();
    let unsent = plain.put(frame(&heap, 8)).unwrap_err();
    assert!(matches!(unsent, PutError::Encode(..)));
    check(&unsent.into_item(), 8);
    assert_empty(&heap);
}

#[test]
fn batches_and_items_without_blocks_go_too() {
    let _watchdog = watchdog!();
    let heap = heap();
    for policy in [Policy::Report, Policy::Drop, Policy::Redeliver] {
        let queue: Queue<Option<SharedBox<u64>>> =
            Queue::builder().heap(&heap).policy(policy).build().unwrap();
        let items = || (0..40).map(|n| (n % 3 > 0).then(|| heap.alloc(n).unwrap())).collect::<Vec<_>>();
        queue.put_many(items()).unwrap();
        let mut got = Vec::new();
        while got.len() < 40 {
            got.append(&mut queue.get_many(7).unwrap());
        }
        for (n, item) in (0..).zip(&got) {
            assert_eq!(item.as_deref().copied(), (n % 3 > 0).then_some(n));
        }
        assert_eq!(queue.stats().unwrap().in_hand, 0);
        drop(got);
        assert_empty(&heap);
    }
}

#[test]
fn joinable_and_simple_queues_take_blocks_along() {
    let _watchdog = watchdog!();
    let heap = heap();
    let joinable: JoinableQueue<SharedStr> = Queue::builder().heap(&heap).build_joinable().unwrap();
    joinable.put(heap.str("task").unwrap()).unwrap();
    let copy: JoinableQueue<SharedStr> = Parcel::pack(&joinable).unwrap().unpack().unwrap();
    assert_eq!(&*copy.get().unwrap(), "task");
    copy.task_done().unwrap();
    joinable.join_timeout(Duration::from_secs(20)).unwrap();
    let simple: SimpleQueue<SharedSlice<u8>> = SimpleQueue::on(&heap).unwrap();
    let slice = heap.vec_from(&[1_u8, 2]).unwrap().freeze().unwrap();
    // One block with many holders, in many items.
    (0..50).for_each(|_| simple.put(slice.clone()).unwrap());
    drop(slice);
    let copy: SimpleQueue<SharedSlice<u8>> = Parcel::pack(&simple).unwrap().unpack().unwrap();
    (0..50).for_each(|_| assert_eq!(*copy.get().unwrap(), [1, 2]));
    assert_empty(&heap);
}

#[test]
fn what_nobody_can_take_any_more_is_freed() {
    let _watchdog = watchdog!();
    let heap = heap();
    let queue: Queue<Frame> = Queue::builder().heap(&heap).build().unwrap();
    (0..5).for_each(|number| queue.put(frame(&heap, number)).unwrap());
    let parcel = Parcel::pack(&queue).unwrap();
    drop(queue);
    // As long as somebody could take them, they are there.
    heap.sweep().unwrap();
    assert_eq!((heap.stats().blocks, heap.stats().in_transit), (20, 10));
    let queue: Queue<Frame> = parcel.unpack().unwrap();
    check(&queue.get().unwrap(), 0);
    drop(queue);
    assert_soon_empty(&heap);
}

/// What is read as this takes one of the blocks, and fails.
#[derive(Debug)]
struct Fails;

impl Serialize for Fails {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        unreachable!("it is read only")
    }
}

impl<'de> Deserialize<'de> for Fails {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Fails, D::Error> {
        let (_taken,) = <(SharedBox<u64>,)>::deserialize(d)?;
        Err(serde::de::Error::custom("as it should"))
    }
}

#[test]
fn what_cannot_be_decoded_leaves_no_block_behind() {
    let _watchdog = watchdog!();
    let heap = heap();
    for policy in [Policy::Report, Policy::Drop, Policy::Redeliver] {
        type Two = (SharedBox<u64>, SharedStr);
        let queue: Queue<Two> = Queue::builder().heap(&heap).policy(policy).build().unwrap();
        let bad: Queue<Fails> = Parcel::pack(&queue).unwrap().unpack().unwrap();
        let two = |n| (heap.alloc(n).unwrap(), heap.str("text").unwrap());
        (0..4).for_each(|n| queue.put(two(n)).unwrap());
        assert!(matches!(bad.get(), Err(GetError::Decode(_))));
        assert!(matches!(bad.claim(), Err(GetError::Decode(_))));
        assert_eq!(heap.stats().blocks, 4, "two items wait");
        assert!(matches!(bad.get_many(2), Err(GetError::Decode(_))));
        let left = queue.stats().unwrap();
        // The one that came after it was not looked at.
        assert_eq!(left.waiting, u64::from(policy == Policy::Redeliver), "{left:?}");
        if policy == Policy::Redeliver {
            let (number, text) = queue.get().unwrap();
            assert_eq!((*number, &*text), (3, "text"));
        }
        assert_empty(&heap);
    }
}

#[test]
fn an_item_that_is_given_back_with_its_blocks_is_in_doubt() {
    let _watchdog = watchdog!();
    let heap = heap();
    let queue: Queue<Option<SharedBox<u64>>> =
        Queue::builder().heap(&heap).policy(Policy::Redeliver).build().unwrap();
    queue.put(Some(heap.alloc(1).unwrap())).unwrap();
    queue.put(None).unwrap();
    queue.claim().unwrap().give_back();
    queue.claim().unwrap().give_back();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.waiting, stats.in_doubt), (1, 1), "{stats:?}");
    assert_empty(&heap);
    let claim = queue.claim().unwrap();
    assert!(claim.is_none() && claim.redelivered());
    drop(claim);
    assert_eq!(queue.settle().unwrap()[0].ticket, 0);
    queue.close().unwrap();
    assert!(queue.get().unwrap_err().is_closed());
}

#[test]
fn role_puts_and_dies() {
    let Some(mut role) = role::enter(role_puts_and_dies) else { return };
    let queue: Queue<Frame> = take(role.fd());
    let heap = queue.heap().unwrap();
    (0..5).for_each(|number| queue.put(frame(&heap, number)).unwrap());
    let _kept = heap.vec::<u8>(1 << 20).unwrap();
    role.say("put");
    role.hear();
}

#[test]
fn what_a_dead_producer_put_is_taken() {
    let _watchdog = watchdog!();
    let heap = heap();
    let queue: Queue<Frame> = Queue::builder().heap(&heap).build().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut process = role::start(role_puts_and_dies, &[&theirs]);
    give(&ours, &queue);
    process.expect("put");
    process.kill();
    process.wait();
    heap.sweep().unwrap();
    (0..5).for_each(|number| check(&queue.get().unwrap(), number));
    let empty = || {
        heap.sweep().unwrap();
        heap.stats().blocks == 0
    };
    eventually("the heap is empty while the queue lives", Duration::from_secs(10), empty);
}

/// Takes its blocks, and kills its process where that is number 3.
struct Deadly;

impl<'de> Deserialize<'de> for Deadly {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Deadly, D::Error> {
        let (number, _text) = <(SharedBox<u64>, SharedStr)>::deserialize(d)?;
        if *number == 3 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
        Ok(Deadly)
    }
}

#[test]
fn role_has_many_in_hand() {
    let Some(mut role) = role::enter(role_has_many_in_hand) else { return };
    let (queue, decodes): (Queue<(SharedBox<u64>, SharedStr)>, bool) = take(role.fd());
    if decodes {
        let claims: Vec<_> = (0..10).map(|_| queue.claim().unwrap()).collect();
        role.say("claimed");
        role.hear();
        drop(claims);
    }
    let deadly: Queue<Deadly> = Parcel::pack(&queue).unwrap().unpack().unwrap();
    let _ = deadly.get_many(10);
    unreachable!("it died on its way");
}

#[test]
fn one_look_at_the_heap_is_enough_for_all_that_a_dead_consumer_had() {
    let _watchdog = watchdog!();
    for policy in [Policy::Report, Policy::Drop, Policy::Redeliver] {
        for decodes in [true, false] {
            let heap = heap();
            let queue: Queue<(SharedBox<u64>, SharedStr)> =
                Queue::builder().heap(&heap).policy(policy).build().unwrap();
            (0..10).for_each(|n| queue.put((heap.alloc(n).unwrap(), heap.str("text").unwrap())).unwrap());
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut process = role::start(role_has_many_in_hand, &[&theirs]);
            give(&ours, &(&queue, decodes));
            if decodes {
                process.expect("claimed");
                process.kill();
            }
            process.wait();
            let before = heap.sweeps();
            let stats = queue.stats().unwrap();
            let context = format!("{policy:?}, {decodes}: {stats:?}");
            // What was decoded has left its message, and is known to have; not where that would let it come again.
            let looks = u64::from(!decodes || policy == Policy::Redeliver);
            assert_eq!(heap.sweeps() - before, looks, "{context}");
            let waiting = if policy == Policy::Redeliver && !decodes { 6 } else { 0 };
            assert_eq!((stats.in_hand, stats.waiting), (0, waiting), "{context}");
            assert_eq!(stats.in_doubt + stats.lost, 10 - waiting, "{context}");
            heap.sweep().unwrap();
            assert_eq!(heap.stats().blocks, 2 * waiting as usize, "{context}");
            assert_eq!((0..waiting).map(|_| *queue.get().unwrap().0).sum::<u64>(), (10 - waiting..10).sum());
            drop(queue);
            assert_soon_empty(&heap);
        }
    }
}

#[test]
fn one_look_at_the_heap_is_enough_for_a_batch_that_is_given_up() {
    let _watchdog = watchdog!();
    let heap = heap();
    for policy in [Policy::Report, Policy::Drop] {
        type Two = (SharedBox<u64>, SharedStr);
        let queue: Queue<Two> = Queue::builder().heap(&heap).policy(policy).build().unwrap();
        let bad: Queue<Fails> = Parcel::pack(&queue).unwrap().unpack().unwrap();
        (0..20).for_each(|n| queue.put((heap.alloc(n).unwrap(), heap.str("text").unwrap())).unwrap());
        let before = heap.sweeps();
        assert!(matches!(bad.get_many(20), Err(GetError::Decode(_))));
        // One for the item that cannot be decoded, under no lock, and one for the others.
        assert_eq!(heap.sweeps() - before, 2);
        assert_empty(&heap);
    }
}

#[cfg(feature = "async")]
#[test]
fn a_put_that_is_given_up_gives_the_blocks_back_to_the_heap() {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Waker},
    };
    let _watchdog = watchdog!();
    let heap = heap();
    let queue: Queue<Frame> = Queue::builder().heap(&heap).capacity(1).build().unwrap();
    {
        let first = pin!(queue.put_async(frame(&heap, 1)));
        assert!(first.poll(&mut Context::from_waker(Waker::noop())).is_ready());
        let waits = pin!(queue.put_async(frame(&heap, 2)));
        assert!(waits.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(heap.stats().blocks, 8);
    }
    assert_eq!(heap.stats().blocks, 4);
    let get = pin!(queue.get_async());
    let std::task::Poll::Ready(got) = get.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("an item is there")
    };
    check(&got.unwrap(), 1);
    assert_eq!(heap.stats().blocks, 0);
}
