//! Shows what the pools of a running process do, as `top` does for processes.
//!
//! Python: nothing like it; one would log from the workers.
//!
//!     cargo run --example top -- PID [--once]
//!
//! It needs no preparation in that process: each pool of processes can be seen by its user, and those of threads that want to. `--once` prints one
//! picture and ends; without a PID, it starts a process with a pool that has something to do, and shows that.
// ci: --once => items in

use procession::{Pool, Process, pool::seeing::look};
use std::{
    error::Error,
    io::{self, ErrorKind, IsTerminal, Write},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

const REFRESH: Duration = Duration::from_millis(500);

/// Something to look at: a process with a pool that is busy for this many seconds.
fn demo(seconds: u64) {
    let pool = Pool::new(2).expect("failed to start workers");
    let naps = (0..seconds * 200).map(|n| 5 + n % 11);
    pool.for_each(|millis| sleep(Duration::from_millis(millis)), naps).expect("naps do not fail");
    pool.join();
}

/// One picture of all pools of `pid`. Right after its start it may have none yet, so it is asked a few times.
fn picture(pid: u32) -> io::Result<String> {
    let mut tries = 0;
    loop {
        match look(pid) {
            Ok(pools) => return Ok(pools.iter().map(|stats| format!("{stats}\n")).collect()),
            Err(error) if tries == 20 || error.kind() == ErrorKind::InvalidData => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)),
        }
        tries += 1;
    }
}

fn show(pid: u32, once: bool) -> io::Result<()> {
    if once || !io::stdout().is_terminal() {
        print!("{}", picture(pid)?);
        return Ok(());
    }
    loop {
        let text = picture(pid)?;
        // To the top left corner, and what was there is cleared.
        print!("\x1b[H\x1b[2J{text}");
        io::stdout().flush()?;
        sleep(REFRESH);
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = arguments.iter().any(|argument| argument == "--once");
    let Some(pid) = arguments.iter().find(|argument| *argument != "--once") else {
        let host = Process::spawn(demo, if once { 20 } else { 60 })?;
        let shown = show(host.pid(), once);
        host.kill()?;
        return Ok(shown.map(|()| ExitCode::SUCCESS)?);
    };
    if let Err(error) = show(pid.parse()?, once) {
        eprintln!("top: {error}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
