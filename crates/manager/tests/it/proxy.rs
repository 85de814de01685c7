//! A network that fails: between clients and a server, connections are cut, or swallow everything.

use procession_testkit::storm::Rng;
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

#[derive(Default)]
struct State {
    connections: Mutex<Vec<TcpStream>>,
    refuses: AtomicBool,
    swallows: AtomicBool,
    /// How many bytes a direction of a connection passes on before it is cut, at most; 0 for all.
    most: AtomicU64,
    cuts: AtomicU64,
    over: AtomicBool,
}

pub(crate) struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
}

fn pump(state: &State, mut from: TcpStream, mut to: TcpStream, limit: u64) {
    let mut bytes = vec![0; 16 << 10];
    let mut passed = 0;
    while let Ok(came) = from.read(&mut bytes)
        && came > 0
    {
        if state.swallows.load(SeqCst) {
            continue;
        }
        let most = if limit == 0 { came } else { came.min((limit - passed) as usize) };
        passed += most as u64;
        if to.write_all(&bytes[..most]).is_err() {
            break;
        }
        if limit > 0 && passed == limit {
            state.cuts.fetch_add(1, SeqCst);
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

impl Proxy {
    pub(crate) fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            let mut rng = Rng::from_env();
            for client in listener.incoming() {
                let state = shared.clone();
                if state.over.load(SeqCst) {
                    return;
                }
                let client = client.unwrap();
                if state.refuses.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let most = state.most.load(SeqCst);
                let mut limit = || if most == 0 { 0 } else { rng.within(1..most) };
                let (up, down) = (limit(), limit());
                let ends = [&client, &server].map(|end| end.try_clone().unwrap());
                {
                    let mut connections = state.connections.lock().unwrap();
                    connections.retain(|one| one.peer_addr().is_ok());
                    connections.extend(ends.iter().map(|end| end.try_clone().unwrap()));
                }
                let [from, to] = ends;
                let other = state.clone();
                std::thread::spawn(move || pump(&state, from, to, up));
                std::thread::spawn(move || pump(&other, server, client, down));
            }
        });
        Proxy { state, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts what there is.
    pub(crate) fn cut(&self) {
        for one in self.state.connections.lock().unwrap().drain(..) {
            let _ = one.shutdown(Shutdown::Both);
        }
    }

    /// Whether new connections are refused.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, SeqCst);
    }

    /// Whether everything is swallowed without a word.
    pub(crate) fn swallow(&self, swallows: bool) {
        self.state.swallows.store(swallows, SeqCst);
    }

    /// Cuts each direction of later connections somewhere in its first `most` bytes; 0 does not.
    pub(crate) fn cut_within(&self, most: u64) {
        self.state.most.store(most, SeqCst);
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.state.cuts.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}
