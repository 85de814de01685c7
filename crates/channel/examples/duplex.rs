//! A pipe between two processes: questions go one way, answers the other, and a file travels inside a message.
//!
//! cargo run -p procession-channel --example duplex
//
// ci: => the child counted 3 words, and was gone after the last question

use procession_channel::connection::{Connection, Pipe};
use procession_parcel::Fd;
use procession_process::Process;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fs::File;
use std::io::{Read, Seek, Write};

#[derive(Serialize, Deserialize)]
enum Question {
    Square(u64),
    Words(Fd),
}

/// The other process: answers until its end of the pipe says that nobody asks any more.
fn answers(end: Connection<u64, Question>) {
    for question in end.iter() {
        let answer = match question {
            Ok(Question::Square(number)) => number * number,
            Ok(Question::Words(file)) => {
                let mut text = String::new();
                File::from(file)
                    .read_to_string(&mut text)
                    .map_or(0, |_| text.split_whitespace().count() as u64)
            }
            Err(error) => panic!("{error}"),
        };
        if end.send(&answer).is_err() {
            return;
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // `theirs` moves to the child, so it is closed here: otherwise we would not see the child's death.
    let (ours, theirs) = Pipe::<Question, u64>::duplex()?;
    let child = Process::spawn(answers, theirs)?;

    ours.send(&Question::Square(12))?;
    assert_eq!(ours.recv()?, 144);

    let path = std::env::temp_dir().join(format!("duplex-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    file.write_all(b"three little words")?;
    file.rewind()?;
    ours.send(&Question::Words(file.into()))?;
    let words = ours.recv()?;

    child.kill()?;
    assert!(child.join().is_err());
    // No answer comes, and nobody waits for one.
    let error = ours.send(&Question::Square(1)).expect_err("nobody is there to ask");
    assert!(error.is_broken_pipe());
    let error = ours.recv().expect_err("the child is dead");
    assert!(error.is_eof());
    println!("the child counted {words} words, and was gone after the last question");
    Ok(())
}
