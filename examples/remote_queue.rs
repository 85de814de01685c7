//! A queue that several programs share over TCP: the "remote manager" of Python's documentation.
//!
//!     cargo run -p procession-examples --example remote_queue            # all three parts, as three programs
//!     cargo run -p procession-examples --example remote_queue -- serve 50000
//!     cargo run -p procession-examples --example remote_queue -- put 50000 hello
//!     cargo run -p procession-examples --example remote_queue -- get 50000
//!
//! Over a network that is not trusted, the feature `tls` wraps it: `.tls(&Tls::from_pem(…)?)` on both sides.

// ci: => the second program got: hello

use procession::manager::{Manager, Queue, Session};
use std::{
    error::Error,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    time::Duration,
};

const KEY: &str = "abracadabra";

/// Python: `QueueManager.register('get_queue', callable=lambda: queue)`, `get_server().serve_forever()`.
fn serve(port: u16) -> Result<(), Box<dyn Error>> {
    let server = Manager::builder().address(("127.0.0.1", port)).authkey(KEY).bind()?;
    let address = server.public_address().ok_or("no address")?.to_string();
    let (session, stopper) = (server.session(), server.stopper());
    // The server is this process: it makes the queue once it serves, and ends with its input, for want of a better word.
    std::thread::spawn(move || {
        let published = session.queue::<String>().and_then(|queue| session.publish("queue", &queue));
        match published {
            // The queue lives on under its name.
            Ok(()) => println!("{address}"),
            Err(error) => eprintln!("{error}"),
        }
        let _ = std::io::stdin().read(&mut [0; 1]);
        stopper.stop();
    });
    Ok(server.serve_forever()?)
}

/// Python: `QueueManager(address=…, authkey=…).connect()`, `manager.get_queue()`. A queue of another type would be an error.
fn find(port: u16) -> Result<Queue<String>, Box<dyn Error>> {
    Ok(Session::connect(("127.0.0.1", port), KEY)?.find("queue")?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port.parse()?),
        ["put", port, text] => Ok(find(port.parse()?)?.put(&(*text).to_owned())?),
        ["get", port] => {
            // It waits in the server; for a server that dies it does not.
            println!("{}", find(port.parse()?)?.get_timeout(Duration::from_secs(20))?);
            Ok(())
        }
        [] => {
            let program = |args: &[&str]| -> Result<Command, Box<dyn Error>> {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(args).stdout(Stdio::piped());
                Ok(command)
            };
            let mut server = program(&["serve", "0"])?.stdin(Stdio::piped()).spawn()?;
            let mut address = String::new();
            BufReader::new(server.stdout.take().ok_or("no output")?).read_line(&mut address)?;
            let port = address.trim().rsplit(':').next().unwrap_or_default();
            let waits = program(&["get", port])?.spawn()?;
            program(&["put", port, "hello"])?.status()?;
            let got = waits.wait_with_output()?;
            print!("the second program got: {}", String::from_utf8(got.stdout)?);
            drop(server.stdin.take());
            server.wait()?;
            Ok(())
        }
        _ => Err("serve PORT, put PORT TEXT, get PORT; or nothing at all".into()),
    }
}
