//! The thread of a client that comes back, or gives signs of life: it sleeps until the connection breaks, or it is time to
//! ask the server.
//!
//! # Protocol
//! Whoever finds the connection broken says so (`State::down`, `Row::up`) and rings. From then on nobody reads or sends; the
//! keeper waits until those who did have come back, connects, tells how many frames came, hears how many the server has, and
//! puts the new wire in the places of the old one. What the server does not have goes out again.
//!
//! # When a process dies
//! The server's death is a connection that is refused, attempt after attempt; another server at its address does not know
//! the client. Both end as any other server's death, for all who wait.

use super::{Client, SLACK, connect, lock};
use crate::{
    access::Reconnect,
    error::{Error, ErrorKind},
    proto::Op,
};
use procession_sys::Deadline;
use std::{
    sync::{Arc, Condvar, Mutex, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long the keeper waits for those who still read or send on a broken wire before it looks again.
const GLANCE: Duration = Duration::from_millis(5);
/// Without signs of life to give: how long it sleeps.
const LONG: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    condvar: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *lock(&self.rung) = true;
        self.condvar.notify_one();
    }

    fn wait(&self, timeout: Duration) {
        let mut rung = lock(&self.rung);
        if !*rung {
            rung = self.condvar.wait_timeout(rung, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
}

/// Starts the keeper. Without a thread the connection stays as it is: its end is the end.
pub(super) fn start(client: &Arc<Client>) {
    let (weak, bell) = (Arc::downgrade(client), client.bell.clone());
    let every = client.access.silence.map_or(LONG, |silence| silence / 3);
    let keep = move || {
        while let Some(client) = weak.upgrade() {
            if lock(&client.state).dead.is_some() {
                return;
            }
            let down = lock(&client.state).down.clone();
            match down {
                Some(cause) => {
                    drop(client);
                    come_back(&weak, &bell, &cause);
                    continue;
                }
                None => client.give_sign(),
            }
            drop(client);
            bell.wait(every);
        }
    };
    let started = std::thread::Builder::new().name("manager: keeper".to_owned()).spawn(keep);
    if let Err(error) = started {
        client.bury(&format!("no thread keeps the connection: {error}"));
    }
}

/// Attempt after attempt; at the end there is a new wire, or the client is dead.
fn come_back(weak: &Weak<Client>, bell: &Bell, cause: &str) {
    let mut last = None;
    for attempt in 0.. {
        let Some(client) = weak.upgrade() else { return };
        let reconnect = client.access.reconnect.unwrap_or_default();
        let outcome = match attempt < reconnect.attempts {
            true => client.reconnect(),
            false => Err(last.take().unwrap_or_else(|| Error::gone("come back to a manager", "no attempt"))),
        };
        match outcome {
            Ok(()) => return,
            Err(error) => {
                let final_ =
                    !error.is_server_gone() && !matches!(error.kind(), ErrorKind::Limit | ErrorKind::Timeout);
                if final_ || attempt >= reconnect.attempts {
                    return client.bury(&format!("{cause}; {error}"));
                }
                last = Some(error);
            }
        }
        drop(client);
        pause(weak, bell, reconnect, attempt);
    }
}

fn pause(weak: &Weak<Client>, bell: &Bell, reconnect: Reconnect, attempt: u32) {
    let until = Deadline::after(reconnect.pause(attempt));
    // Who drops the client rings.
    while weak.strong_count() > 0 && !until.passed() {
        bell.wait(until.remaining());
    }
}

impl Client {
    /// Asks the server for a sign of life; so the server has one of ours.
    fn give_sign(&self) {
        let Some(silence) = self.access.silence else { return };
        let quiet = |now: Deadline| {
            Duration::from_nanos(now.as_nanos().saturating_sub(self.heard.load(Ordering::Relaxed)))
        };
        let wire = lock(&self.row).wire.clone();
        let asked = self.call(
            "look for the server",
            super::Request::new(Op::Ping, 0),
            Some(silence.saturating_sub(SLACK)),
        );
        if asked.is_err_and(|error| error.is_timeout()) && quiet(Deadline::now()) >= silence {
            self.broke(&wire, &format!("the server has said nothing for {silence:?}"));
        }
    }

    /// One attempt.
    fn reconnect(&self) -> Result<(), Error> {
        let received = loop {
            {
                let state = lock(&self.state);
                // Those who read or send on the broken wire come back soon: it was cut.
                if state.reader.is_some() && !lock(&self.row).busy {
                    break state.received;
                }
            }
            self.bell.wait(GLANCE);
        };
        let Some(resume) = &self.resume else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "come back to a manager",
                "nobody waits for this client",
            ));
        };
        let (wire, reader, has) = connect::resume(&self.access, &resume.token, received, ATTEMPT)?;
        {
            let mut state = lock(&self.state);
            let mut row = lock(&self.row);
            if !row.replace(wire, has) {
                let text = format!("the server has {has} requests, which cannot be");
                return Err(Error::new(ErrorKind::Refused, "come back to a manager", text));
            }
            (state.reader, state.down) = (Some(reader), None);
            drop(row);
            self.note_life();
            state.wake_next();
        }
        self.flush();
        Ok(())
    }
}
