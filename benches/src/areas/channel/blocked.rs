//! What a receiver costs that has nothing to receive.

use std::time::Duration;

use procession_channel::{Receiver, channel};

use crate::peers::forked::FarSide;
use crate::scenario::{
    Against, Bound, Entry, Failure, Field, Goal, Observation, Regime, Scenario, Surroundings, Unit,
};

/// How long it is watched: some slices.
const WATCHED: Duration = Duration::from_millis(600);

pub(super) fn scenario() -> Scenario {
    Scenario {
        id: "channel.blocked.cpu",
        what: "processor time of a process that waits for a message for one second (watched for 0.6 s in each round)",
        unit: Unit::Nanoseconds,
        regime: Regime::FREE,
        goal: Goal {
            text: "under 0.1 % of a core: 1 ms",
            bounds: &[Bound { against: Against::Figure(1e6), factor: 1.0 }],
        },
        field,
    }
}

fn field(_: &Surroundings, _: Regime) -> Field {
    Field::default().ours(waits())
}

fn waits() -> Entry {
    let (sender, mut receiver) = channel::<u64>()?;
    let far = FarSide::fork(&(3..256).collect::<Vec<i32>>(), None, move || drop(wait(&mut receiver)))?;
    Ok(Box::new(Observation(move || {
        let _sender = &sender;
        let before = far.cpu_time()?;
        std::thread::sleep(WATCHED);
        let used = far.cpu_time()? - before;
        Ok(used.as_nanos() as f64 / WATCHED.as_secs_f64())
    })))
}

fn wait(receiver: &mut Receiver<u64>) -> Result<(), Failure> {
    receiver.recv()?;
    Ok(())
}
