//! Random work by several processes that are killed at random instants.

use crate::heap_support::{BOUND, assert_empty, balance, give, of_mib, start, take};
use procession_parcel::{Parcel, wire};
use procession_shm::{Heap, SharedSlice, SharedVec};
use procession_sys::Deadline;
use procession_testkit::{
    role,
    storm::{Rng, kill_within, kills},
    wait::eventually,
    watchdog,
};
use serde::{Deserialize, Serialize};
use std::{os::unix::net::UnixStream, time::Duration};

#[derive(Serialize, Deserialize)]
enum Message {
    Block(SharedVec<u64>),
    Slice(SharedSlice<u64>),
}

impl Message {
    /// All elements are the same, whoever wrote them: nobody else had the block at the same time.
    fn check(&mut self) {
        let (elements, before) = match self {
            Message::Block(block) => {
                let before = block[0];
                block.fill(before ^ 1);
                assert!(block.iter().all(|&element| element == before ^ 1), "somebody else wrote");
                block.fill(before);
                (&**block, before)
            }
            Message::Slice(slice) => (&**slice, slice[0]),
        };
        assert!(elements.iter().all(|&element| element == before), "torn: {elements:?}");
    }

    fn moved(self) -> Message {
        match self {
            Message::Block(block) => Message::Block(block.moved()),
            slice @ Message::Slice(_) => slice,
        }
    }
}

fn make(rng: &mut Rng, heap: &Heap) -> Option<Message> {
    let len = if rng.chance(1, 8) { 1 + rng.below(40_000) } else { 1 + rng.below(300) };
    // A full heap is no failure.
    let mut block = heap.vec::<u64>(len as usize).ok()?;
    assert!(block.iter().all(|&element| element == 0));
    block.fill(rng.next_u64());
    if rng.chance(1, 3) { block.freeze().ok().map(Message::Slice) } else { Some(Message::Block(block)) }
}

fn receive(socket: &UnixStream) -> Option<Message> {
    let soon = Deadline::after(Duration::from_millis(1));
    wire::recv(socket, &wire::Limits::default(), Some(soon)).ok()??.unpack().ok()
}

fn send(socket: &UnixStream, message: Message) {
    let Ok(parcel) = Parcel::pack(&message.moved()) else { return };
    let _ = wire::send(socket, &parcel, Some(Deadline::after(Duration::from_millis(1))));
}

#[test]
fn role_random() {
    let Some(mut role) = role::enter(role_random) else { return };
    let socket = UnixStream::from(role.fd());
    let (heap, seed): (Heap, u64) = take(&socket);
    let mut rng = Rng::from_seed(seed);
    let mut kept: Vec<Message> = Vec::new();
    loop {
        match rng.below(10) {
            0..4 => kept.extend(make(&mut rng, &heap)),
            4..6 if !kept.is_empty() => {
                kept.swap_remove(rng.below(kept.len() as u64) as usize).check();
            }
            6 if !kept.is_empty() => {
                let message = kept.swap_remove(rng.below(kept.len() as u64) as usize);
                send(&socket, message);
            }
            7 => {
                if let Some(mut message) = receive(&socket) {
                    message.check();
                    kept.push(message);
                }
            }
            8 if rng.chance(1, 50) => _ = heap.sweep().unwrap(),
            9 if kept.len() > 50 => kept.truncate(10),
            _ => {}
        }
    }
}

#[test]
fn kills_at_random_instants_lose_nothing_for_good() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    const WORKERS: usize = 4;
    let kills = kills(40);
    let mut rng = Rng::from_env();
    let heap = of_mib(16);
    let begin = |rng: &mut Rng| {
        let (process, socket) = start(role_random);
        give(&socket, &(&heap, rng.next_u64()));
        (process, socket)
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|_| begin(&mut rng)).collect();
    let mut kept: Vec<Message> = Vec::new();
    let mut received = 0;
    for _ in 0..kills {
        for _ in 0..20 {
            let (_, socket) = rng.pick(&workers);
            if let Some(mut message) = receive(socket) {
                message.check();
                kept.push(message);
                received += 1;
            }
            kept.extend(make(&mut rng, &heap));
            while kept.len() > 30 {
                let mut message = kept.swap_remove(rng.below(kept.len() as u64) as usize);
                message.check();
                let (_, socket) = rng.pick(&workers);
                send(socket, message);
            }
        }
        let victim = rng.below(WORKERS as u64) as usize;
        kill_within(&mut rng, workers[victim].0.pidfd(), Duration::from_millis(10)).unwrap();
        let output = workers[victim].0.output();
        assert!(!output.contains("panicked"), "{output}");
        workers[victim].0.kill();
        workers[victim] = begin(&mut rng);
        if rng.chance(1, 4) {
            heap.sweep().unwrap();
        }
    }
    for (process, _) in &mut workers {
        process.kill();
        assert!(!process.output().contains("panicked"), "{}", process.output());
    }
    drop(workers);
    println!("{kills} kills; {received} blocks came from processes that were killed later");
    // A process that a neighbouring test forks may have copies of the last parcels until it executes its program.
    eventually("what is kept here is there, and nothing else", BOUND, || {
        heap.sweep().unwrap();
        balance(&heap).blocks == kept.len()
    });
    kept.iter_mut().for_each(Message::check);
    drop(kept);
    assert_empty(&heap);
    drop(heap.vec::<u8>(15 << 20).unwrap());
}
