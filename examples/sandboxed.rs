//! Parses input that nobody trusts, in workers without files, network and new processes. A parser that was taken over
//! gets errors where it reaches out; the pool goes on.
//!
//! Python: nothing like it; a worker may do whatever its parent may.
//!
//! ```sh
//! cargo run --release --example sandboxed
//! ```
// ci: => 3 were parsed, 1 was malformed, 2 reached out in vain

use procession::{
    TaskError,
    pool::{Sandbox, Work},
    prelude::*,
};
use std::{error::Error, fs, net::TcpStream};

/// Sums up the numbers of a line. It has two holes, by which its input gets at files and hosts.
fn parse(line: String) -> Result<u64, Box<dyn Error + Send + Sync>> {
    if let Some(path) = line.strip_prefix("file ") {
        return Ok(fs::read(path)?.len() as u64);
    }
    if let Some(address) = line.strip_prefix("host ") {
        TcpStream::connect(address)?;
    }
    let mut sum = 0;
    for number in line.split_whitespace() {
        sum += number.parse::<u64>()?;
    }
    Ok(sum)
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder().workers(2).sandbox(Sandbox::strict()).build()?;
    let lines = ["1 2 3", "file /etc/passwd", "10 20", "host 127.0.0.1:9", "4 x", "7"].map(String::from);

    let (mut parsed, mut malformed, mut in_vain) = (0, 0, 0);
    for (line, result) in lines.iter().zip(pool.tasks_of(Work::fallible(parse), lines.clone())) {
        match result {
            Ok(sum) => {
                println!("{line:?}: {sum}");
                parsed += 1;
            }
            Err(TaskError::Failed(error)) => {
                println!("{line:?}: {error}");
                // What the system refuses has a number, `Permission denied (os error 13)` for example.
                if error.message().contains("os error") { in_vain += 1 } else { malformed += 1 }
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("{parsed} were parsed, {malformed} was malformed, {in_vain} reached out in vain");
    pool.join();
    Ok(())
}
