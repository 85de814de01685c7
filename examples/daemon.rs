//! What becomes of children when the parent comes to its end: a daemonic one is ended, any other is waited for.
//!
//! Python: `Process(target=f, daemon=True)`. As there, the parent's end is the moment: so a process is started here that
//! starts two and returns.
//!
//! ```sh
//! cargo run --example daemon
//! ```
// ci: => the daemon was ended, the other one was waited for

use procession::{Connection, prelude::*};
use std::{error::Error, thread};

/// Says that it runs, then works until it is told to go on, which a daemon never is, and says that it is done.
fn work(parent: Connection<String, ()>) {
    parent.send(&"started".to_owned()).expect("the parent listens");
    // This is work without an end for one, and a short wait for the other.
    if current_process().daemon() {
        loop {
            thread::park();
        }
    }
    parent.recv().expect("the word to go on");
    parent.send(&"done".to_owned()).expect("the parent listens");
}

/// Starts both, and returns when it is told to: its process ends.
fn family(
    daemon: Connection<String, ()>,
    other: Connection<String, ()>,
    end: Connection<(), ()>,
) -> Result<(), String> {
    for (end, daemonic) in [(daemon, true), (other, false)] {
        let child =
            Process::builder().daemon(daemonic).spawn(work, end).map_err(|error| error.to_string())?;
        // Without this the handle would stop the process at the end of the scope, whatever its kind. What is detached is
        // left to the end of this process, as every process is in Python.
        child.detach();
    }
    end.recv().map_err(|error| error.to_string())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (daemon, its) = Pipe::<(), String>::duplex()?;
    let (other, others) = Pipe::<(), String>::duplex()?;
    let (end, told) = Pipe::<(), ()>::duplex()?;
    let parent = spawn!(family(its, others, told))?;
    assert_eq!((daemon.recv()?, other.recv()?), ("started".to_owned(), "started".to_owned()));
    end.send(&())?;
    // The process of `family` comes to its end now, and waits for one child only.
    assert!(daemon.recv().is_err_and(|error| error.is_eof()), "the daemon's end of the pipe is closed");
    other.send(&())?;
    assert_eq!(other.recv()?, "done");
    parent.join()??;
    println!("the daemon was ended, the other one was waited for");
    Ok(())
}
