//! The crate `iceoryx2` between two processes: samples in shared memory. Its subscribers poll.

use crate::scenario::{Entry, Regime};

#[cfg(feature = "rivals")]
mod real {
    use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
    use iceoryx2::prelude::*;

    use crate::peers::forked::FarSide;
    use crate::pin;
    use crate::scenario::{Entry, Failure, Regime};

    type Message = [u8; 16];
    type Service = ipc::Service;
    type Ends = (Node<Service>, Publisher<Service, Message, ()>, Subscriber<Service, Message, ()>);

    /// A process's ends of two services, of which it publishes in one.
    fn ends(out: &str, back: &str) -> Result<Ends, Failure> {
        let node = NodeBuilder::new().create::<Service>().map_err(|error| error.to_string())?;
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
        let names = (there.clone(), back.clone());
        let far = FarSide::fork(&[], core, move || {
            let (there, back) = names;
            let answered = ends(&back, &there).and_then(|(_node, publisher, subscriber)| {
                loop {
                    send(&publisher, recv(&subscriber)?)?;
                }
            });
            let _: Result<(), Failure> = answered;
        })?;
        let (node, publisher, subscriber) = ends(&there, &back)?;
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
        Ok(Box::new(move |n| {
            let (_far, _node) = (&far, &node);
            regime.timed(n, || {
                send(&publisher, [7; 16])?;
                recv(&subscriber)?;
                Ok(())
            })
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
