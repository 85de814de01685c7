//! A small tree of processes: values, a panic, a signal, and the error each of them is to its parent.
//!
//! `cargo run -p procession-process --example tree`

use procession_process::{JoinError, Process, current_process, handle_interrupts, spawn};

/// Sums the squares below `n` in two children, which say who they are.
fn sum_of_squares(n: u64) -> Result<u64, String> {
    let halves = [(0, n / 2), (n / 2, n)].map(|(from, to)| spawn!(part(from, to)));
    let mut sum = 0;
    for half in halves {
        let (name, value) =
            half.map_err(|error| error.to_string())?.join().map_err(|error| error.to_string())?;
        println!("    {name} gave {value}");
        sum += value;
    }
    Ok(sum)
}

fn part(from: u64, to: u64) -> (String, u64) {
    (current_process().name().to_owned(), (from..to).map(|n| n * n).sum())
}

fn divide(pair: (u32, u32)) -> u32 {
    pair.0 / pair.1
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Ctrl-C ends the whole tree in order.
    handle_interrupts()?;

    // A value, from a child that has children.
    let sum = Process::builder().name("squares").spawn(sum_of_squares, 1000)?;
    println!("a value:   {}", sum.join()??);

    // A panic is an error here, with message and place.
    let quotient = Process::builder().name("divider").spawn(divide, (1, 0))?;
    match quotient.join() {
        Err(JoinError::Panicked { panic, .. }) => println!("a panic:   {panic}"),
        other => println!("not a panic: {other:?}"),
    }

    // So is a signal, whatever sent it.
    let sleeper =
        Process::builder().name("sleeper").spawn(std::thread::sleep, std::time::Duration::from_secs(60))?;
    sleeper.kill()?;
    if let Err(error) = sleeper.join() {
        println!("a signal:  {error}");
    }
    Ok(())
}
