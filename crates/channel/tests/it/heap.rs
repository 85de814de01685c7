//! Channels on a heap: blocks go to the receiver by reference, and are lost with the last end only.

use crate::support::{assert_soon_empty, give, take};
use procession_channel::{ChannelBuilder, ReceiveError, Receiver, Sender, Unsent, channel, channel_on};
use procession_parcel::Parcel;
use procession_shm::{Heap, SharedBox, SharedSlice, SharedStr, SharedVec};
use procession_testkit::{role, wait::eventually, watchdog};
use serde::{Deserialize, Serialize};
use std::{os::unix::net::UnixStream, time::Duration};

#[derive(Serialize, Deserialize)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) pixels: SharedVec<u8>,
    pub(crate) header: Option<SharedBox<[u64; 4]>>,
    pub(crate) name: SharedStr,
    pub(crate) table: Vec<SharedSlice<u32>>,
}

pub(crate) fn heap() -> Heap {
    Heap::builder().cap(64 << 20).overcommit(true).build().unwrap()
}

pub(crate) fn frame(heap: &Heap, number: u64) -> Frame {
    let mut pixels = heap.vec::<u8>(100_000).unwrap();
    pixels.fill(number as u8);
    let table = heap.vec_from(&[1_u32, 2, number as u32]).unwrap().freeze().unwrap();
    Frame {
        number,
        pixels,
        header: Some(heap.alloc([number; 4]).unwrap()),
        name: heap.str(&format!("frame {number}")).unwrap(),
        table: vec![table.clone(), table],
    }
}

pub(crate) fn check(frame: &Frame, number: u64) {
    assert_eq!(frame.number, number);
    assert!(frame.pixels.len() == 100_000 && frame.pixels.iter().all(|&byte| byte == number as u8));
    assert_eq!(**frame.header.as_ref().unwrap(), [number; 4]);
    assert_eq!(&*frame.name, format!("frame {number}"));
    assert!(frame.table[0].same(&frame.table[1]) && *frame.table[0] == [1, 2, number as u32]);
}

#[test]
fn role_worker() {
    let Some(mut role) = role::enter(role_worker) else { return };
    let (mut frames, mut back): (Receiver<Frame>, Sender<Frame>) = take(role.fd());
    while let Ok(mut frame) = frames.recv() {
        check(&frame, frame.number);
        frame.number += 1;
        frame.pixels.fill(frame.number as u8);
        **frame.header.as_mut().unwrap() = [frame.number; 4];
        // The string and the table stay as they are: read-only.
        frame.pixels = frame.pixels.moved();
        frame.header = frame.header.map(SharedBox::moved);
        back.send(frame).unwrap();
    }
}

#[test]
fn blocks_of_all_kinds_cross_to_another_process_and_back() {
    let _watchdog = watchdog!();
    let heap = heap();
    let (mut sender, theirs) = channel_on::<Frame>(&heap).unwrap();
    let (back, mut receiver) = channel_on::<Frame>(&heap).unwrap();
    let (ours, socket) = UnixStream::pair().unwrap();
    let mut worker = role::start(role_worker, &[&socket]);
    give(&ours, &(&theirs, &back));
    drop((theirs, back));
    let name = heap.str("frame 7").unwrap();
    for number in 0..200 {
        sender.send(frame(&heap, number)).unwrap();
        let came = receiver.recv().unwrap();
        assert!(came.number == number + 1 && came.pixels.iter().all(|&byte| byte == number as u8 + 1));
        assert_eq!((**came.header.as_ref().unwrap(), came.table[1][2]), ([number + 1; 4], number as u32));
    }
    // None of them needed a descriptor or a sweep to go; the worker may be about to let go of the last ones.
    eventually("one block is left", Duration::from_secs(10), || heap.stats().blocks == 1);
    drop((sender, name));
    assert!(matches!(receiver.recv(), Err(ReceiveError::Closed)));
    assert!(worker.wait().success(), "{}", worker.output());
    assert_eq!(heap.stats().blocks, 0);
}

#[test]
fn what_is_refused_comes_back_whole() {
    let _watchdog = watchdog!();
    let heap = heap();
    let (mut sender, mut receiver) = ChannelBuilder::new().capacity(4096).heap(&heap).build().unwrap();
    let mut unsent = None;
    for number in 0.. {
        match sender.try_send(frame(&heap, number)) {
            Ok(()) => {}
            Err(full) => {
                assert!(full.is_full());
                unsent = Some(full.into_value());
                break;
            }
        }
    }
    let mut unsent = unsent.unwrap();
    let number = unsent.number;
    check(&unsent, number);
    assert!(unsent.pixels.is_here());
    unsent.pixels[0] = number as u8;
    // It was looked at: that would have to be taken back before it sets out again.
    check(&unsent, number);
    let read = sender.try_send(unsent).unwrap_err();
    assert!(matches!(read, Unsent::Encode(..)) && read.to_string().contains("moved()"), "{read}");
    let mut unsent = read.into_value();
    unsent.pixels = unsent.pixels.moved();
    unsent.header = unsent.header.map(SharedBox::moved);
    for number in 0..number {
        check(&receiver.recv().unwrap(), number);
    }
    sender.send(unsent).unwrap();
    check(&receiver.recv().unwrap(), number);
    drop(receiver);
    let closed = sender.send(frame(&heap, 9)).unwrap_err();
    check(&closed.into_value(), 9);
    assert_eq!(heap.stats().blocks, 0);
}

#[test]
fn a_block_goes_once_into_one_message_of_its_own_heap() {
    let _watchdog = watchdog!();
    let heap = heap();
    let other = self::heap();
    /// The same block twice.
    struct Twice(SharedBox<u64>);
    impl Serialize for Twice {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            (&self.0, &self.0).serialize(s)
        }
    }
    let (mut sender, _receiver) = channel_on::<Twice>(&heap).unwrap();
    let twice = sender.send(Twice(heap.alloc(1).unwrap())).unwrap_err();
    assert!(twice.to_string().contains("only once"), "{twice}");
    assert_eq!(*twice.into_value().0, 1);
    let (mut sender, mut receiver) = channel_on::<SharedBox<u64>>(&heap).unwrap();
    let foreign = sender.send(other.alloc(2).unwrap()).unwrap_err();
    assert!(foreign.to_string().contains("another heap"), "{foreign}");
    assert_eq!(*foreign.into_value(), 2);
    // Through a parcel that was not delivered, then through the ring, then through a parcel.
    let block = heap.alloc(3).unwrap();
    drop(Parcel::pack(&block).unwrap());
    sender.send(block).unwrap();
    let block = receiver.recv().unwrap();
    let block: SharedBox<u64> = Parcel::pack(&block).unwrap().unpack().unwrap();
    assert_eq!(*block, 3);
    drop(block);
    // Without a heap it does not go at all.
    let (mut sender, _receiver) = channel::<SharedBox<u64>>().unwrap();
    let unsent = sender.send(heap.alloc(4).unwrap()).unwrap_err();
    assert_eq!(*unsent.into_value(), 4);
    assert_eq!((heap.stats().blocks, other.stats().blocks), (0, 0));
}

#[test]
fn what_nobody_will_receive_is_freed() {
    let _watchdog = watchdog!();
    let heap = heap();
    let (mut sender, receiver) = channel_on::<Frame>(&heap).unwrap();
    for number in 0..5 {
        sender.send(frame(&heap, number)).unwrap();
    }
    // As long as somebody could receive them, they are there.
    let parcel = Parcel::pack(&receiver).unwrap();
    drop((sender, receiver));
    heap.sweep().unwrap();
    assert_eq!((heap.stats().blocks, heap.stats().in_transit), (20, 10));
    let mut receiver: Receiver<Frame> = parcel.unpack().unwrap();
    check(&receiver.recv().unwrap(), 0);
    drop(receiver);
    assert_soon_empty(&heap);
    // And where the receiver goes first, when the sender learns of it.
    let (mut sender, receiver) = channel_on::<Frame>(&heap).unwrap();
    sender.send(frame(&heap, 1)).unwrap();
    drop(receiver);
    assert!(matches!(sender.send(frame(&heap, 2)), Err(Unsent::Closed(_))));
    assert_soon_empty(&heap);
}

#[test]
fn role_sends_and_dies() {
    let Some(mut role) = role::enter(role_sends_and_dies) else { return };
    let (heap, mut sender): (Heap, Sender<Frame>) = take(role.fd());
    sender.send_many((0..5).map(|number| frame(&heap, number))).unwrap();
    let _kept = heap.vec::<u8>(1 << 20).unwrap();
    role.say("sent");
    role.hear();
}

#[test]
fn what_a_dead_sender_sent_is_received() {
    let _watchdog = watchdog!(Duration::from_secs(60));
    let heap = heap();
    let (sender, mut receiver) = channel_on::<Frame>(&heap).unwrap();
    let (ours, socket) = UnixStream::pair().unwrap();
    let mut process = role::start(role_sends_and_dies, &[&socket]);
    give(&ours, &(&heap, &sender));
    drop(sender);
    process.expect("sent");
    process.kill();
    heap.sweep().unwrap();
    for number in 0..5 {
        check(&receiver.recv().unwrap(), number);
    }
    assert!(matches!(receiver.recv(), Err(ReceiveError::Died)));
    assert_soon_empty(&heap);
}
