//! A board of jobs over TCP: one program hangs them up, others, on other machines perhaps, take them and hand in the results.
//!
//!     cargo run -p procession-examples --example job_board
//!     cargo run -p procession-examples --example job_board -- work HOST:PORT   # on another machine; the key comes by stdin
//!
//! In Python this is a `BaseManager` with `register`, `get_server` and `connect`. Here nothing is registered: the owner
//! publishes objects under names, and whoever knows the key finds them. Their types are checked. No functions go over a
//! network; what Python does in a method of the shared object is a `compare_and_swap` here.

// ci: => 24 jobs are done, 1 by two attempts

use procession::manager::{AuthKey, Dict, JoinableQueue, Manager, Reconnect, Session};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    io::{BufRead as _, Write as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A job on the board. Plain data, as everything that is shared.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
enum Job {
    /// Sum the squares below this number.
    Open {
        below: u64,
        attempts: u32,
    },
    Taken {
        below: u64,
        attempts: u32,
        by: u32,
    },
    Done {
        sum: u64,
        attempts: u32,
    },
}

/// A worker: a program of its own, which shares nothing with the owner but the address and the key.
fn work(address: &str) -> Result<(), Box<dyn Error>> {
    let mut key = String::new();
    std::io::stdin().lock().read_line(&mut key)?;
    let (host, port) = address.rsplit_once(':').ok_or("HOST:PORT")?;
    // A short cut of the network is bridged: the session comes back, and no call is done twice.
    let session = Session::connector(key.trim())
        .reconnect(Reconnect::default().grace(Duration::from_secs(1)))
        .connect((host, port.parse::<u16>()?))?;
    let open = session.find::<JoinableQueue<Option<u64>>>("open")?;
    let board = session.find::<Dict<u64, Job>>("board")?;
    let me = std::process::id();
    // `None` is the end of the day.
    while let Some(number) = open.get()? {
        let Some(job @ Job::Open { below, attempts }) = board.get(&number)? else { continue };
        let attempts = attempts + 1;
        let taken = Job::Taken { below, attempts, by: me };
        // One round trip: if somebody else was quicker it says so, and nobody needs a lock.
        if !board.compare_and_swap(&number, Some(&job), Some(&taken))? {
            continue;
        }
        if number == 7 && attempts == 1 {
            // What happens to a worker now and then. Its connection ends with it, and the server knows.
            std::process::abort();
        }
        board.set(&number, &Job::Done { sum: (0..below).map(|n| n * n).sum(), attempts })?;
        open.task_done()?;
    }
    Ok(())
}

fn start(address: &str, key: &str) -> Result<Child, Box<dyn Error>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["work", address])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // Not as an argument: everybody can read those.
    writeln!(child.stdin.take().ok_or("no stdin")?, "{key}")?;
    Ok(child)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("work") {
        return work(&args.next().ok_or("HOST:PORT")?);
    }
    // Python: `manager = BoardManager(address=('', 0), authkey=key); manager.start()`.
    let key = format!("{:x?}", AuthKey::random()?.as_bytes());
    let manager = Manager::builder().address(("127.0.0.1", 0)).authkey(key.as_str()).start()?;
    let (board, open) = (manager.dict::<u64, Job>()?, manager.joinable_queue::<Option<u64>>(0)?);
    manager.publish("board", &board)?;
    manager.publish("open", &open)?;
    for number in 0..24 {
        board.set(&number, &Job::Open { below: 1000 * number, attempts: 0 })?;
        open.put(&Some(number))?;
    }
    let address = manager.public_address().ok_or("no address")?.to_string();
    let mut workers: Vec<_> = (0..3).map(|_| start(&address, &key)).collect::<Result<_, _>>()?;
    // A worker that dies with a job in hand is an error here, once its grace is over, and not a join that never ends.
    while let Err(error) = open.join() {
        println!("{error}");
        for (number, job) in board.snapshot()? {
            if let Job::Taken { below, attempts, .. } = job {
                board.set(&number, &Job::Open { below, attempts })?;
                open.put(&Some(number))?;
            }
        }
    }
    for _ in &workers {
        open.put(&None)?;
    }
    for worker in &mut workers {
        worker.wait()?;
    }
    let attempts = |job| if let Job::Done { attempts, .. } = job { Some(attempts) } else { None };
    let done: Vec<u32> = board.snapshot()?.into_iter().filter_map(|(_, job)| attempts(job)).collect();
    let again = done.iter().filter(|attempts| **attempts == 2).count();
    println!("{} jobs are done, {again} by two attempts", done.len());
    Ok(())
}
