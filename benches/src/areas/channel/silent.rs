//! Clients that get in beside five hundred that say nothing.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use procession_channel::net::{Client, Listener};
use procession_sync::RawValue;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::peers::forked::FarSide;
use crate::scenario::{Entry, Field, Goal, Observation, Regime, Scenario, Surroundings, Unit, percentile_99};

const SILENT: u64 = 500;
/// So many good clients give one figure.
const GOOD: usize = 200;
const KEY: &str = "a key that both know";
const LONG: Duration = Duration::from_secs(3600);

pub(super) fn scenario() -> Scenario {
    Scenario {
        id: "net.accept.p99",
        what: "the 99th percentile of 200 clients, one after the other: from `connect` over TCP to the end of both \
               handshakes, beside 500 silent clients; `alone`: without those; `tcp`: connect and accept without a handshake",
        unit: Unit::Nanoseconds,
        regime: Regime::FREE,
        goal: Goal { text: "every good client succeeds", bounds: &[] },
        field,
    }
}

fn field(_: &Surroundings, _: Regime) -> Field {
    Field::default().ours(clients(SILENT)).peer("alone", clients(0)).peer("tcp", plain())
}

/// A thread that accepts until it is dropped.
struct Server(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let ended = self.1.take().map(std::thread::JoinHandle::join);
        // Its panic is told on stderr, and the clients' errors are the entrant's.
        drop(ended);
    }
}

fn clients(silent: u64) -> Entry {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let builder = Listener::builder().authkey(KEY).handshake_timeout(LONG).max_pending(1000);
    let listener =
        builder.bind("127.0.0.1:0".parse::<std::net::SocketAddr>()?).map_err(|error| error.to_string())?;
    let address = listener.address().clone();
    let connected = RawValue::<u64>::new(0)?;
    let far = {
        let (connected, address) = (connected.clone(), address.to_string());
        FarSide::fork(&(3..256).collect::<Vec<i32>>(), None, move || {
            let held: Result<Vec<TcpStream>, _> = (0..silent).map(|_| TcpStream::connect(&address)).collect();
            if held.is_ok() {
                connected.store(1);
            }
            std::thread::sleep(LONG);
        })?
    };
    let stop = Arc::new(AtomicBool::new(false));
    let server = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // A client that is refused is its own error.
                let _ = listener.accept_timeout::<(), ()>(Duration::from_millis(100));
            }
        })
    };
    let server = Server(stop, Some(server));
    let start = Instant::now();
    while connected.load() == 0 {
        if start.elapsed() > Duration::from_secs(20) {
            return Err("the silent clients do not get through".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let client = Client::new().authkey(KEY);
    Ok(Box::new(Observation(move || {
        let _kept = (&far, &server);
        percentile_99(GOOD, || {
            client.connect::<(), ()>(address.clone()).map_err(|error| error.to_string())?;
            Ok(())
        })
    })))
}

fn plain() -> Entry {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    Ok(Box::new(Observation(move || {
        percentile_99(GOOD, || {
            let _near = TcpStream::connect(address)?;
            listener.accept()?;
            Ok(())
        })
    })))
}
