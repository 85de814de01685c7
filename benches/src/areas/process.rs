//! Starting a process that runs a function: start to result to reaped.

use procession_process::{Context, StartMethod};

use crate::peers::{c_fork_server, forked, posix_spawn, procspawn};
use crate::scenario::{Against, Bound, Entry, Field, Goal, Regime, Scenario, Surroundings, Unit, timed};

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, goal, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime: Regime::FREE,
        goal,
        field,
    };
    vec![
        scenario(
            "process.start.fork",
            "fork a child that adds one to a number, take the result, reap; raw_fork and CPython return no result, \
             raw_fork_with_result sends one number",
            Goal {
                text: "at most 1.5 times raw fork + exit + wait",
                bounds: &[Bound { against: Against::Peer("raw_fork"), factor: 1.5 }],
            },
            fork,
        ),
        scenario(
            "process.start.forkserver",
            "ask the running fork server for a child that adds one to a number, take the result, reap; CPython returns none",
            Goal {
                text: "at most 1.3 times a minimal C fork server with the same messages; 20 times faster than CPython",
                bounds: &[
                    Bound { against: Against::Limit, factor: 1.3 },
                    Bound { against: Against::CPython, factor: 1.0 / 20.0 },
                ],
            },
            fork_server,
        ),
        scenario(
            "process.start.spawn",
            "re-execute this program as a child that adds one to a number, take the result, reap; CPython returns none",
            Goal {
                text: "at most 1.25 times posix_spawn of the same executable with the same socket and result; \
                       20 times faster than CPython",
                bounds: &[
                    Bound { against: Against::Peer("posix_spawn"), factor: 1.25 },
                    Bound { against: Against::CPython, factor: 1.0 / 20.0 },
                ],
            },
            spawn,
        ),
    ]
}

fn fork(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours(StartMethod::Fork))
        .peer("raw_fork", forked::fork_exit_wait())
        .peer("raw_fork_with_result", forked::fork_result_wait())
        .cpython(surroundings, regime, "process.fork")
}

fn fork_server(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours(StartMethod::ForkServer))
        .limit("c_fork_server", c_fork_server::start())
        .cpython(surroundings, regime, "process.forkserver")
}

fn spawn(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours(StartMethod::Spawn))
        .peer("posix_spawn", posix_spawn::start())
        .peer("procspawn", procspawn::start())
        .cpython(surroundings, regime, "process.spawn")
}

/// Start to result to reaped.
fn ours(method: StartMethod) -> Entry {
    let context = Context::new(method);
    let mut number: u64 = 0;
    Ok(Box::new(move |n| {
        timed(n, || {
            number += 1;
            let answer = context.spawn(|number: u64| number + 1, number)?.join()?;
            if answer == number + 1 { Ok(()) } else { Err("wrong answer".into()) }
        })
    }))
}
