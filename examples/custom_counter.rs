//! A type of one's own in a manager, with a typed proxy. Python: a subclass of `BaseManager`, and `register`.
//!
//! ```python
//! class MyManager(BaseManager): pass
//! MyManager.register("Counter", Counter)
//! ```
//!
//! becomes `#[hosted]`: it writes `CounterProxy`, whose methods are those of `Counter`, with results that may fail. Methods go
//! by their names and types, so that a client may be another program on another machine; here it is a process that connects to
//! a TCP port of this machine.
//!
//! ```sh
//! cargo run --release --example custom_counter
//! ```
// ci: => all votes: 8

use procession::{
    hosted,
    manager::{Address, ErrorKind, Session},
    prelude::*,
};
use std::{collections::BTreeMap, error::Error};

/// It lives in the server, so it may hold what cannot travel: an open file, a connection, the handle of a C library.
#[derive(Debug)]
pub struct Counter {
    votes: BTreeMap<String, u64>,
    most: u64,
}

#[hosted]
impl Counter {
    /// `create` calls this in the server.
    pub fn new(most: u64) -> Counter {
        Counter { votes: BTreeMap::new(), most }
    }

    /// Counts a vote.
    ///
    /// # Errors
    /// If there were enough. It is the method's own error: it travels as its result does.
    pub fn vote(&mut self, name: String) -> Result<u64, String> {
        if self.all() == self.most {
            return Err(format!("no more than {} votes", self.most));
        }
        let votes = self.votes.entry(name).or_default();
        *votes += 1;
        Ok(*votes)
    }

    /// How many votes there were.
    pub fn total(&self) -> u64 {
        self.all()
    }

    /// Who has most of them.
    pub fn winner(&self) -> Option<(String, u64)> {
        self.votes.iter().max_by_key(|(_, votes)| **votes).map(|(name, votes)| (name.clone(), *votes))
    }

    /// Not public: not exposed.
    fn all(&self) -> u64 {
        self.votes.values().sum()
    }
}

/// A process of this tree: it got the proxy as an argument.
fn voter(counter: CounterProxy, name: String) -> Result<(), String> {
    for _ in 0..3 {
        counter.vote(name.clone()).map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// A program that knows the address and the key. It finds what was published by name, and makes what was registered.
fn stranger(address: Address) -> Result<u64, String> {
    let text = |error: procession::manager::Error| error.to_string();
    let session = Session::connect(address, "a secret").map_err(text)?;
    let counter = session.find::<CounterProxy>("election").map_err(text)?;
    counter.vote("ada".to_owned()).map_err(text)??;
    counter.vote("ada".to_owned()).map_err(text)??;
    // The limit was reached: the counter's own error, not the manager's.
    let refused = counter.vote("ada".to_owned()).map_err(text)?;
    println!("{}", refused.unwrap_err());
    // A counter of its own.
    let other = session.create::<Counter>((1,)).map_err(text)?;
    other.vote("tea".to_owned()).map_err(text)?
}

fn main() -> Result<(), Box<dyn Error>> {
    // Python registers at both ends. Here the type is enough for this program's own processes; `register` allows clients from
    // outside to make counters as well.
    let manager = Manager::builder()
        .address(("127.0.0.1", 0))
        .authkey("a secret")
        .register::<Counter>("Counter")
        .start()?;
    let counter = manager.create::<Counter>((8,))?;
    manager.publish("election", &counter)?;

    let voters = ["bob", "ada"].map(|name| spawn!(voter(counter.clone(), name.to_owned())));
    for voter in voters {
        voter?.join()??;
    }
    let address = manager.public_address().ok_or("it has one")?.clone();
    assert_eq!(spawn!(stranger(address))?.join()??, 1);

    println!("winner: {:?}", counter.winner()?);
    println!("all votes: {}", counter.total()?);
    // A proxy outlives nothing: when the server is gone, each call says so at once.
    drop(manager);
    assert_eq!(counter.total().unwrap_err().kind(), ErrorKind::ServerGone);
    Ok(())
}
