//! A pipe that goes one way, and one that goes both ways.
//!
//! Python: `receiver, sender = Pipe(duplex=False)` and `a, b = Pipe()`. Here the compiler knows what travels in which
//! direction, and that an end moves into the process which uses it, so that nobody keeps a copy open by oversight.
//!
//! ```sh
//! cargo run --example pipes
//! ```
// ci: => 3 lines came, 2 questions were answered

use procession::{
    channel::connection::{PipeReceiver, PipeSender},
    prelude::*,
};
use std::error::Error;

fn count_down(from: u32, sender: PipeSender<String>) {
    for n in (1..=from).rev() {
        sender.send(&format!("{n}…")).expect("the parent listens");
    }
    // The end of the function drops the sender, which is the end of the stream.
}

/// Gets numbers and sends text.
fn answer(end: Connection<String, f64>) {
    while let Ok(number) = end.recv() {
        end.send(&format!("the root of {number} is {:.3}", number.sqrt())).expect("the parent listens");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (receiver, sender): (PipeReceiver<String>, _) = Pipe::one_way()?;
    let child = spawn!(count_down(3, sender))?;
    let mut lines = 0;
    // `EOFError` in Python: when all senders are gone, and not before everything has come.
    let end = loop {
        match receiver.recv() {
            Ok(line) => println!("{line}"),
            Err(error) => break error,
        }
        lines += 1;
    };
    assert!(end.is_eof(), "{end}");
    child.join()?;

    let (ours, theirs) = Pipe::<f64, String>::duplex()?;
    let child = Process::spawn(answer, theirs)?;
    let mut answers = 0;
    for number in [2.0, 16.0] {
        ours.send(&number)?;
        println!("{}", ours.recv()?);
        answers += 1;
    }
    drop(ours);
    child.join()?;
    println!("{lines} lines came, {answers} questions were answered");
    Ok(())
}
