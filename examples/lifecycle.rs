//! The life of a process: alive, terminated, killed, exited, panicked; and what each of these ends looks like.
//!
//! Python: `p.is_alive()`, `p.terminate()`, `p.kill()`, `p.exitcode`. Where Python has a number, `join` has an error that
//! says what happened; the number is there too.
//!
//! ```sh
//! cargo run --example lifecycle
//! ```
// ci: => 0, 3, 101, -15, -9, -11

use procession::{prelude::*, sync::Event};
use std::{error::Error, thread, time::Duration};

/// Says that it runs, and waits for ever.
fn sleep(there: Event) {
    there.set();
    loop {
        thread::park();
    }
}

fn segfault(_: ()) {
    // What a wild pointer in a C library comes to.
    let own = current_process().pid().to_string();
    let _ = std::process::Command::new("kill").args(["-SEGV", &own]).status();
    thread::park();
}

fn main() -> Result<(), Box<dyn Error>> {
    let sleeper = || -> Result<Process<()>, Box<dyn Error>> {
        let there = Event::new()?;
        let child = Process::spawn(sleep, there.clone())?;
        there.wait();
        Ok(child)
    };

    let child = sleeper()?;
    assert!(child.is_alive() && child.exit_status().is_none());
    // A time limit is no error: it is not over, and nothing is lost.
    assert!(child.join_timeout(Duration::from_millis(10))?.is_none());
    child.terminate()?; // SIGTERM. It does not wait.
    let terminated = child.wait()?;
    assert!(!child.is_alive());

    let child = sleeper()?;
    child.kill()?; // SIGKILL: nothing can be done against it
    let killed = child.wait()?;

    // Politely, then not: SIGTERM, up to a second, SIGKILL; and it waits.
    let stopped = sleeper()?.stop(Duration::from_secs(1))?;
    assert_eq!(stopped, terminated);

    let finished = Process::spawn(|n: u8| n + 1, 1)?.wait()?;
    let exited = Process::spawn(|()| -> () { std::process::exit(3) }, ())?.wait()?;
    let child = Process::spawn(|()| -> () { panic!("on purpose") }, ())?;
    let panicked = child.wait()?;
    // `wait` is for the status, `join` for the value, or for the error that says why there is none.
    match child.join() {
        Err(error @ JoinError::Panicked { .. }) => println!("{error}"),
        other => return Err(format!("{other:?}").into()),
    }
    let child = Process::spawn(segfault, ())?;
    let crashed = child.wait()?;
    println!("{}", child.join().err().ok_or("it crashed")?);

    let codes = [finished, exited, panicked, terminated, killed, crashed];
    let codes: Vec<String> =
        codes.iter().filter_map(|status| status.exitcode()).map(|code| code.to_string()).collect();
    println!("{}", codes.join(", "));
    Ok(())
}
