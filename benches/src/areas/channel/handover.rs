//! A large block of the shared heap through a channel that was made on the heap.

use procession_channel::{Receiver, Sender, channel_on};
use procession_shm::{Heap, SharedVec};

use crate::memory::keep_what_is_freed;
use crate::peers::forked::FarSide;
use crate::pin;
use crate::scenario::{
    Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
};

const SIZE: usize = 64 << 20;

pub(super) fn scenario() -> Scenario {
    Scenario {
        id: "channel.handover.64MiB",
        what: "64 MiB to another process and back, as a SharedVec through channels on its heap; empty: the same channels, \
               without the block; memcpy: copy them twice, memory warm",
        unit: Unit::Nanoseconds,
        regime: Regime::AWAKE,
        goal: Goal {
            text: "less than 5 µs more than an empty message for each of the two ways",
            bounds: &[Bound { against: Against::Beyond("empty", 10_000.0), factor: 1.0 }],
        },
        field,
    }
}

fn field(_: &Surroundings, regime: Regime) -> Field {
    keep_what_is_freed();
    Field::default()
        .ours(blocks(regime, true))
        .peer("empty", blocks(regime, false))
        .peer("memcpy", crate::areas::copies(SIZE))
}

type Message = Option<SharedVec<u8>>;

fn send(sender: &mut Sender<Message>, message: Message) -> Result<(), Failure> {
    sender.send(message).map_err(|unsent| unsent.to_string().into())
}

/// Takes what comes, writes to it, and sends it back.
fn answer(inbox: &mut Receiver<Message>, outbox: &mut Sender<Message>) -> Result<(), Failure> {
    loop {
        let mut message = inbox.recv()?;
        if let Some(block) = &mut message {
            block[SIZE - 1] = block[SIZE - 1].wrapping_add(1);
        }
        // What `&mut` saw needs no `moved`, but the byte was read by `&`.
        send(outbox, message.map(SharedVec::moved))?;
    }
}

fn blocks(regime: Regime, full: bool) -> Entry {
    // With one core left by the entrant before, the ends would not spin.
    pin::widen()?;
    let heap = Heap::new()?;
    let (mut there, mut inbox) = channel_on::<Message>(&heap)?;
    let (mut outbox, mut back) = channel_on::<Message>(&heap)?;
    let core = pin::near_side(regime)?;
    // What a process needs to become a member of the heap is among these.
    let keep: Vec<i32> = (3..256).collect();
    let far = FarSide::fork(&keep, core, move || drop(answer(&mut inbox, &mut outbox)))?;
    let mut block = if full { Some(heap.vec::<u8>(SIZE)?) } else { None };
    let mut expected = 0_u8;
    Ok(Box::new(move |n| {
        let _far = &far;
        timed(n, || {
            send(&mut there, block.take().map(SharedVec::moved))?;
            block = back.recv()?;
            if let Some(block) = &block {
                expected = expected.wrapping_add(1);
                if block[SIZE - 1] != expected {
                    return Err("the far side did not write to it".into());
                }
            }
            Ok(())
        })
    }))
}
