//! How long a call takes beside thousands of clients that say half a sentence, or nonsense.
//!
//! Those who say no whole greeting are sent away after ten seconds: each measurement says how many are there.

use procession_channel::net::Client;
use procession_manager::Manager;
use std::{
    io::Write,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = limit.unwrap_or(20_000).min(20_000);
    let new = rustix::process::Rlimit { current: Some(limit), maximum: Some(limit) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, new)?;
    let crowd = 10_000.min(limit - 100);
    let path = std::env::temp_dir().join(format!("procession-crowd-{}", std::process::id()));
    let manager = Manager::builder().address(path).authkey("key").start()?;
    let address = manager.public_address().cloned().ok_or("no address")?;
    let dict = manager.dict::<u64, u64>()?;
    dict.set(&1, &2)?;
    let measure = |when: &str| {
        let mut times: Vec<Duration> = (0..20_000)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(dict.get(&1).ok().flatten(), Some(2));
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        let there = manager.stats().map_or(0, |stats| stats.connections);
        println!(
            "{when:<48} median {:>9.2?}   99 % {:>9.2?}   ({there} connections)",
            times[10_000], times[19_800]
        );
    };
    measure("alone");
    let connect = || -> Result<UnixStream, procession_channel::net::Error> {
        let connection = Client::new().authkey("key").connect::<(), ()>(address.clone())?;
        Ok(UnixStream::from(OwnedFd::from(connection)))
    };
    let start = Instant::now();
    let mut silent = Vec::new();
    for n in 0..crowd {
        let mut socket = connect()?;
        socket.write_all(&b"pM\x01\0\x01\0\0\0"[..(n % 8) as usize])?;
        silent.push(socket);
    }
    println!("{crowd} connections, each with half a frame: {:?}", start.elapsed());
    measure("beside them");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut garbage = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok(mut socket) = connect() {
                    let _ = socket.write_all(&[0xff; 4096]);
                    garbage += 1;
                }
            }
            println!("{garbage} connections that said nonsense");
        });
        measure("and beside one after the other that says nonsense");
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let tasks = std::fs::read_dir(format!("/proc/{}/task", manager.pid()))?.count();
    println!("threads of the server: {tasks}");
    Ok(())
}
