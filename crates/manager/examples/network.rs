//! How long a call takes over TCP, plain, for a client that may come back, and within TLS, beside a round trip over a raw
//! socket: `cargo run --release --features tls --example network`.

use procession_manager::{Address, Connector, Dict, Manager, Reconnect, Session, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

const CALLS: usize = 5_000;
const ROUNDS: usize = 4;

fn median(mut call: impl FnMut()) -> Duration {
    let time = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..CALLS).map(|_| time(&mut call)).collect();
    times.sort_unstable();
    times[CALLS / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let signed = |name: &str| -> Result<Tls, Box<dyn std::error::Error>> {
        let key = KeyPair::generate()?;
        let chain = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &authority)?;
        Ok(Tls::from_pem(chain.pem(), key.serialize_pem(), authority.pem())?)
    };
    let plain = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start()?;
    let server = signed("127.0.0.1")?;
    let secure = Manager::builder().address(("127.0.0.1", 0)).authkey("key").tls(&server).start()?;
    let dict =
        |manager: &Manager, connector: Connector| -> Result<Dict<u64, u64>, Box<dyn std::error::Error>> {
            let address: Address = manager.public_address().cloned().ok_or("no address")?;
            let dict = connector.connect(address)?.dict()?;
            dict.set(&1, &2)?;
            Ok(dict)
        };
    let client = signed("client")?;
    let dicts = [
        ("dict.get over TCP", dict(&plain, Session::connector("key"))?),
        ("that may come back", dict(&plain, Session::connector("key").reconnect(Reconnect::default()))?),
        ("within TLS", dict(&secure, Session::connector("key").tls(&client))?),
    ];
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut ours = TcpStream::connect(listener.local_addr()?)?;
    let (mut theirs, _) = listener.accept()?;
    ours.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while theirs.read_exact(&mut bytes).and_then(|()| theirs.write_all(&bytes)).is_ok() {}
    });
    let mut bytes = [7; 64];
    // One after the other, in rounds, so that a busy machine is one for all.
    for _ in 0..ROUNDS {
        let raw = median(|| ours.write_all(&bytes).and_then(|()| ours.read_exact(&mut bytes)).unwrap());
        print!("raw TCP, 64 bytes and back {raw:.1?}");
        for (name, dict) in &dicts {
            let time = median(|| assert_eq!(dict.get(&1).unwrap(), Some(2)));
            print!("   {name} {time:.1?} ({:.2})", time.as_secs_f64() / raw.as_secs_f64());
        }
        println!();
    }
    Ok(())
}
