//! A chat between this program and a Python process, over `multiprocessing.connection`.
//!
//!     cargo run -p procession-examples --example chat
//!
//! It starts the Python side itself, with the `python3` that it finds, and ends by itself. Both sides prove to each other
//! that they know a key that was drawn for this run; what they say are plain values, pickled.

// ci: => the chat is over

use procession::channel::net::{Address, AuthKey, ByteConnection, Listener};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    io::{ErrorKind, Write as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

const PYTHON: &str = r#"
import os, sys
from multiprocessing.connection import Client

key = bytes.fromhex(sys.stdin.readline())
with Client(sys.argv[1], authkey=key) as rust:
    me = 'CPython %d.%d.%d' % sys.version_info[:3]
    rust.send({'from': me, 'text': 'hello from process %d' % os.getpid(), 'numbers': []})
    while True:
        try: line = rust.recv()
        except EOFError: break
        words = line['text'].split()
        rust.send({'from': me, 'text': 'you said %d words to me' % len(words), 'numbers': [len(w) for w in words]})
"#;

/// What both sides send: a dictionary in Python.
#[derive(Serialize, Deserialize)]
struct Line {
    from: String,
    text: String,
    numbers: Vec<u32>,
}

/// Nobody waits for longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let key = AuthKey::random()?;
    // A socket that only this user can reach. MD5, since CPython up to 3.11 knows no other code.
    let listener = Listener::builder().authkey(key.clone()).allow_md5(true).bind_private()?;
    let Some(mut python) = start(&listener, &key)? else {
        println!("there is no python3 here: the chat is over before it began");
        return Ok(());
    };
    let connection: ByteConnection = listener.accept_timeout(PATIENCE)?.ok_or("python3 did not connect")?;
    print(&hear(&connection)?);
    for text in ["Good evening.", "Shared memory, pipes and locks work here too.", "Until next time"] {
        let line = Line { from: "Rust".to_owned(), text: text.to_owned(), numbers: Vec::new() };
        print(&line);
        connection.send_pickle(&line)?;
        let answer = hear(&connection)?;
        print(&answer);
        let counted: Vec<u32> = text.split(' ').map(|word| word.len() as u32).collect();
        assert_eq!(answer.numbers, counted);
    }
    // The end of the connection is the end of the other side's loop.
    drop(connection);
    let status = python.wait()?;
    println!("the chat is over, and python3 ended with {status}");
    Ok(())
}

fn start(listener: &Listener, key: &AuthKey) -> Result<Option<Child>, Box<dyn Error>> {
    let Address::Unix(path) = listener.address() else { return Err("no path".into()) };
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON]).arg(path).stdin(Stdio::piped());
    let mut python = match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        started => started?,
    };
    // Not as an argument, which every user of the machine could read.
    let key: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(mut input) = python.stdin.take() {
        writeln!(input, "{key}")?;
    }
    Ok(Some(python))
}

fn hear(connection: &ByteConnection) -> Result<Line, Box<dyn Error>> {
    Ok(connection.recv_pickle_timeout(PATIENCE)?.ok_or("python3 says nothing")?)
}

fn print(line: &Line) {
    println!("{:>14}: {}", line.from, line.text);
}
