//! Programs that show what `procession` is for; each is a file in this folder.
//!
//! * `cargo run --release --example wordcount -- [PATH…]`: counts words in many files with many processes.
//! * `cargo run --example chat`: talks to a Python process.
//! * `cargo run --example job_board`: jobs and their results over TCP, with workers that are programs of their own.
//! * `cargo run --example remote_queue`: a queue that three programs share.

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");
