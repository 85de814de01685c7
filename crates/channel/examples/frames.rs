//! Large frames to another process and back, without a copy: `cargo run --release -p procession-channel --example frames`

use procession_channel::{Receiver, Sender, channel_on};
use procession_process::Process;
use procession_shm::{Heap, SharedVec};
use std::time::Instant;

const PIXELS: usize = 1920 * 1080;

/// A frame and its number.
type Frame = (u64, SharedVec<u8>);

/// Turns each frame into its negative, until no more come.
fn invert((frames, mut inverted): (Receiver<Frame>, Sender<Frame>)) -> u64 {
    let mut count = 0;
    for frame in frames {
        let (number, mut pixels) = frame.expect("the sender lives until it is done");
        pixels.iter_mut().for_each(|pixel| *pixel = !*pixel);
        // A value that is refused comes back in the error.
        if let Err(unsent) = inverted.send((number, pixels)) {
            let reason = unsent.to_string();
            eprintln!("frame {} is lost: {reason}", unsent.into_value().0);
            break;
        }
        count += 1;
    }
    count
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let heap = Heap::new()?;
    let (mut frames, theirs) = channel_on::<Frame>(&heap)?;
    let (back, mut inverted) = channel_on::<Frame>(&heap)?;
    let worker = Process::spawn(invert, (theirs, back))?;

    let start = Instant::now();
    let mut pixels = heap.vec::<u8>(PIXELS)?;
    for number in 0..100 {
        pixels.fill(number as u8);
        frames.send((number, pixels))?;
        // Should the worker die, this says so instead of waiting for ever.
        let (came, frame) = inverted.recv()?;
        assert!(came == number && frame[PIXELS - 1] == !(number as u8));
        // The `&` of that look is over: `moved` shows it.
        pixels = frame.moved();
    }
    println!("100 frames of {PIXELS} bytes there and back in {:.1?}", start.elapsed());
    frames.close();
    println!("the worker inverted {} frames", worker.join()?);
    Ok(())
}
