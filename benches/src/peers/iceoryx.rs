//! The crate `iceoryx2` between two processes: samples in shared memory. Its subscribers poll.

use crate::scenario::{Entry, Regime};

#[cfg(feature = "rivals")]
mod real {
    use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
    use iceoryx2::prelude::*;

    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use crate::peers::forked::FarSide;
    use crate::pin;
    use crate::scenario::{Entry, Failure, Regime};

    type Message = [u8; 16];
    /// Asks the far side to wait for the next round.
    const PAUSE: Message = [9; 16];
    type Service = ipc::Service;
    type Ends = (Node<Service>, Publisher<Service, Message, ()>, Subscriber<Service, Message, ()>);

    /// A place of its own for what it leaves in the file system, since a killed process leaves it for ever.
    struct Place {
        prefix: String,
        folder: std::path::PathBuf,
    }

    impl Place {
        fn new() -> Place {
            let prefix = format!("procession-bench-{}-", std::process::id());
            Place { folder: std::env::temp_dir().join(format!("{prefix}iceoryx2")), prefix }
        }

        fn config(&self) -> Result<Config, Failure> {
            let mut config = Config::default();
            config.global.prefix = self.prefix.as_str().try_into().map_err(|_| "no prefix for files")?;
            let folder = self.folder.to_str().and_then(|folder| folder.try_into().ok());
            config.global.set_root_path(&folder.ok_or("no path for a folder")?);
            Ok(config)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            // What is not there need not be removed.
            let _ = std::fs::remove_dir_all(&self.folder);
            for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&self.prefix) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }

    /// A process's ends of two services, of which it publishes in one.
    fn ends(config: &Config, out: &str, back: &str) -> Result<Ends, Failure> {
        let node =
            NodeBuilder::new().config(config).create::<Service>().map_err(|error| error.to_string())?;
        let open = |name: &str| -> Result<_, Failure> {
            let name: ServiceName = name.try_into().map_err(|_| "no name for a service")?;
            let service = node.service_builder(&name).publish_subscribe::<Message>();
            Ok(service.open_or_create().map_err(|error| error.to_string())?)
        };
        let publisher = open(out)?.publisher_builder().create().map_err(|error| error.to_string())?;
        let subscriber = open(back)?.subscriber_builder().create().map_err(|error| error.to_string())?;
        Ok((node, publisher, subscriber))
    }

    fn send(publisher: &Publisher<Service, Message, ()>, message: Message) -> Result<(), Failure> {
        let sample = publisher.loan_uninit().map_err(|error| error.to_string())?;
        sample.write_payload(message).send().map_err(|error| error.to_string())?;
        Ok(())
    }

    fn recv(subscriber: &Subscriber<Service, Message, ()>) -> Result<Message, Failure> {
        loop {
            match subscriber.receive().map_err(|error| error.to_string())? {
                Some(sample) => return Ok(*sample),
                None => std::hint::spin_loop(),
            }
        }
    }

    pub(super) fn round_trip(regime: Regime) -> Entry {
        let core = pin::near_side(regime)?;
        let (there, back) =
            ["there", "back"].map(|way| format!("procession-bench-{}-{way}", std::process::id())).into();
        let place = Place::new();
        let config = place.config()?;
        let (names, far_config) = ((there.clone(), back.clone()), config.clone());
        // It polls all the time, and would take the core from the others' far sides: between rounds it is told to wait.
        let (mut rounds, far_rounds) = UnixStream::pair()?;
        let keep = [far_rounds.as_raw_fd()];
        let far = FarSide::fork(&keep, core, move || {
            let (there, back) = names;
            let mut rounds = far_rounds;
            let answered = ends(&far_config, &back, &there).and_then(|(_node, publisher, subscriber)| {
                loop {
                    match recv(&subscriber)? {
                        PAUSE => rounds.read_exact(&mut [0])?,
                        message => send(&publisher, message)?,
                    }
                }
            });
            let _: Result<(), Failure> = answered;
        })?;
        let (node, publisher, subscriber) = ends(&config, &there, &back)?;
        // Until the far side has subscribed nothing arrives there.
        let start = std::time::Instant::now();
        loop {
            send(&publisher, [0; 16])?;
            std::thread::sleep(std::time::Duration::from_millis(20));
            if subscriber.receive().map_err(|error| error.to_string())?.is_some() {
                break;
            }
            if start.elapsed().as_secs() > 5 {
                return Err("the far side does not answer".into());
            }
        }
        while subscriber.receive().map_err(|error| error.to_string())?.is_some() {}
        send(&publisher, PAUSE)?;
        Ok(Box::new(move |n| {
            let _kept = (&far, &node, &place);
            rounds.write_all(&[1])?;
            let took = regime.timed(n, || {
                send(&publisher, [7; 16])?;
                recv(&subscriber)?;
                Ok(())
            });
            send(&publisher, PAUSE)?;
            took
        }))
    }
}

/// One message of 16 bytes there, the same back, both sides polling.
///
/// # Errors
///
/// If built without it, or the far side does not come up.
pub fn round_trip(regime: Regime) -> Entry {
    #[cfg(feature = "rivals")]
    return real::round_trip(regime);
    #[cfg(not(feature = "rivals"))]
    Err(format!("built without the feature `rivals` ({regime:?})").into())
}
