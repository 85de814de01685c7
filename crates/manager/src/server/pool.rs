//! Pools that the server keeps.
//!
//! The loop hands a call's items to the pool and parks the request. The pool's own thread tells when they are done: what
//! came of them goes into the workers' row (`work`), as what other functions leave does, and from there into the reply.
//!
//! # Invariant
//! A request is parked exactly as long as its task stands in `jobs`, or its join in `joiners`.
//!
//! # When a process dies
//! * **A client**: its tasks are dropped. What has not begun is not run; what runs is asked to end
//!   ([`cancelled`](procession_pool::cancelled)), and its result is nobody's.
//! * **A worker**: the item that it had in hand is its call's error, and the worker is replaced.
//! * **The server**: its workers die with it.

use super::{
    Answer, Trouble,
    value::Value,
    work::{Call, Completer},
    world::{Caller, Reply, Waiter, World},
};
use crate::{
    error::ErrorKind,
    proto::{Op, Reader},
    server::body::Apply,
    ship::{self, Done, Failure, Job, State},
};
use procession_parcel::{Bytes, Outcome, Panic, codec};
use procession_pool::{Pool, Task, TaskError, Work};
use serde::{Deserialize, Serialize};
use std::{any::Any, collections::HashMap};

/// What a pool is kept with.
#[derive(Default)]
pub(crate) struct Hosted {
    /// None until it was made, and once it was ended.
    pool: Option<Box<Pool>>,
    closed: bool,
    /// By connection and request.
    jobs: HashMap<(u64, u64), Under>,
    joiners: Vec<Waiter>,
    /// How many calls were made.
    calls: u64,
}

/// A call that is under way, and which of all it is: a client may use its request's number again once it has given it up, and
/// what is told of the old one comes later.
type Under = (u64, Waiter, Task<Vec<Came>>);

/// What came of one item.
#[derive(Serialize, Deserialize)]
enum Came {
    Value(Bytes),
    Panicked(Panic),
    Bad(String),
}

/// A function that a client sent.
#[derive(Clone, Serialize, Deserialize)]
struct Shipped {
    function: Bytes,
    /// It may be a reference into the program; else a name only.
    trusted: bool,
}

/// Runs a client's function in a worker.
fn run(shipped: &Shipped, arg: &Bytes) -> Came {
    let function = match ship::erased(&shipped.function, shipped.trusted) {
        Ok(function) => function,
        Err(error) => return Came::Bad(error),
    };
    let mut output = Vec::new();
    match function.call_bytes(arg, &mut output) {
        Outcome::Value(()) => Came::Value(Bytes(output)),
        Outcome::Panicked(panic) => Came::Panicked(panic),
        other => Came::Bad(other.to_string()),
    }
}

/// Makes a pool, on a thread of the server's.
pub(crate) fn make(job: Job) -> Done {
    let made = ship::caught(|| {
        let workers: u64 = codec::decode(&job.args).map_err(ship::encoding)?;
        let mut builder = Pool::builder();
        if workers > 0 {
            builder = builder.workers(usize::try_from(workers).unwrap_or(usize::MAX));
        }
        let failed = |error: procession_pool::Error| Failure::Other(ErrorKind::System, error.to_string());
        builder.build().map(Box::new).map_err(failed)
    });
    match made {
        Ok(pool) => Done { state: State::Object(Some(pool)), outcome: Ok(Vec::new()) },
        Err(failure) => Done { state: State::Object(None), outcome: Err(failure) },
    }
}

fn failure(error: &TaskError) -> Failure {
    let kind = match error {
        TaskError::Panicked(panic) => return Failure::Panicked(panic.clone()),
        TaskError::Died(_) | TaskError::TimedOut(_) | TaskError::Quarantined(_) => ErrorKind::Lost,
        TaskError::BadArguments(_) | TaskError::BadResult(_) => ErrorKind::Encoding,
        _ => ErrorKind::Refused,
    };
    Failure::Other(kind, error.to_string())
}

/// What a call came to: its values, or the first failure.
fn outcome(result: &Result<Vec<Came>, TaskError>) -> Done {
    let came = result.as_ref().map_err(failure);
    let values = came.and_then(|came| {
        let value = |one: &Came| match one {
            Came::Value(bytes) => Ok(bytes.0.clone()),
            Came::Panicked(panic) => Err(Failure::Panicked(panic.clone())),
            Came::Bad(text) => Err(Failure::Other(ErrorKind::Encoding, text.clone())),
        };
        came.iter().map(value).collect::<Result<Vec<_>, _>>()
    });
    match values {
        Ok(values) => Done { state: State::Many(values), outcome: Ok(Vec::new()) },
        Err(failure) => Done { state: State::Object(None), outcome: Err(failure) },
    }
}

impl Hosted {
    /// Takes the pool over, when it was made.
    pub(crate) fn made(&mut self, made: Option<Box<dyn Any + Send>>) {
        self.pool = made.and_then(|made| made.downcast().ok());
    }

    /// What is to be dropped elsewhere: it takes its time.
    pub(crate) fn rubbish(&mut self) -> Option<Box<dyn Any + Send>> {
        let jobs: Vec<_> = self.jobs.drain().map(|(_, (_, _, task))| task).collect();
        Some(Box::new((jobs, self.pool.take()?)))
    }

    fn pool(&self) -> Result<&Pool, Trouble> {
        let ended = || Trouble::fault(ErrorKind::Refused, "the pool was terminated");
        self.pool.as_deref().ok_or_else(ended)
    }

    pub(crate) fn handle(
        &mut self,
        op: Op,
        caller: Caller,
        input: &mut Reader<'_>,
        reply: &mut Reply<'_>,
        world: &mut World,
    ) -> Result<Answer, Trouble> {
        match op {
            Op::PoolRun => {
                let (function, chunk) = (Bytes(input.bytes()?.to_vec()), input.u64()?);
                let count = input.count(8)?;
                let items = (0..count).map(|_| input.bytes().map(|bytes| Bytes(bytes.to_vec())));
                let items = items.collect::<Result<Vec<_>, _>>()?;
                input.end()?;
                let trusted = world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted);
                self.run(Shipped { function, trusted }, chunk, items, caller, world)?;
                return Ok(Answer::Later);
            }
            Op::PoolInfo => {
                let pids = self.pool()?.worker_pids();
                reply.u64(pids.len() as u64);
                pids.into_iter().for_each(|pid| reply.u64(pid.into()));
            }
            // For all others as well, whose pool it may be.
            Op::PoolClose | Op::PoolEnd
                if !world.public_pool_end
                    && !world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted) =>
            {
                let text = "pools are closed and ended by processes of the manager's own tree only";
                return Err(Trouble::fault(ErrorKind::Refused, text));
            }
            Op::PoolClose => {
                self.closed = true;
                if let Some(pool) = &self.pool {
                    pool.close();
                }
            }
            Op::PoolJoin => {
                let timeout = input.u64()?;
                input.end()?;
                if !self.closed {
                    let text = "the pool still takes calls: close it before";
                    return Err(Trouble::fault(ErrorKind::Invalid, text));
                }
                if !self.jobs.is_empty() && timeout > 0 {
                    self.joiners.push(world.park(caller, timeout));
                    return Ok(Answer::Later);
                }
                reply.bool(self.jobs.is_empty());
            }
            Op::PoolEnd => {
                self.closed = true;
                // Its calls are told by their callbacks that they were terminated.
                if let Some(pool) = self.pool.take() {
                    world.rubbish.push(pool);
                }
            }
            _ => return Err(Trouble::no_method(op)),
        }
        input.end()?;
        Ok(Answer::Now)
    }

    fn run(
        &mut self,
        shipped: Shipped,
        chunk: u64,
        items: Vec<Bytes>,
        caller: Caller,
        world: &mut World,
    ) -> Result<(), Trouble> {
        if self.closed {
            return Err(Trouble::fault(ErrorKind::Refused, "the pool takes no more calls: it was closed"));
        }
        let pool = self.pool()?;
        let completer = world.completer.clone();
        let work = Work::task(&procession_parcel::task!(|arg: Bytes| run(shipped, &arg); shipped));
        let mut tasks = pool.tasks_of(work, items);
        if chunk > 0 {
            tasks = tasks.chunk_size(usize::try_from(chunk).unwrap_or(usize::MAX));
        }
        let refused = |error: TaskError| Trouble::fault(ErrorKind::Refused, error.to_string());
        let task = tasks.spawn().map_err(refused)?;
        self.calls += 1;
        let call = self.calls;
        task.on_done(move |result| tell(&completer, caller, call, result));
        let waiter = world.park(caller, crate::proto::FOREVER);
        self.jobs.insert((caller.conn, caller.request), (call, waiter, task));
        Ok(())
    }

    /// Answers a call that is done.
    pub(crate) fn finished(&mut self, caller: Caller, call: u64, done: Done, world: &mut World) {
        let key = (caller.conn, caller.request);
        // One that was given up has no waiter.
        let waits = self.jobs.get(&key).is_some_and(|under| under.0 == call);
        if let Some((_, waiter, task)) = waits.then(|| self.jobs.remove(&key)).flatten() {
            drop(task);
            match (done.outcome, done.state) {
                (Ok(_), State::Many(values)) => {
                    // Each with its length, and that it refers to nothing.
                    let bytes = values.iter().map(|value| value.len() as u64 + 16).sum::<u64>();
                    if let Err(text) = world.may_keep(waiter.conn, bytes) {
                        let text = format!("the call was done, but {text}");
                        world.fail(waiter, ErrorKind::Limit, &text);
                    } else {
                        world.answer(waiter, |reply| {
                            reply.u64(values.len() as u64);
                            values.into_iter().for_each(|value| reply.value(&Value::plain(value)));
                        });
                    }
                }
                (Ok(_), _) => {}
                (Err(failure), _) => {
                    world.forget(waiter);
                    world.refuse(waiter.conn, waiter.request, &super::trouble::failed(failure));
                }
            }
        }
        self.tell_joiners(world);
    }

    fn tell_joiners(&mut self, world: &mut World) {
        if self.jobs.is_empty() {
            for waiter in self.joiners.drain(..) {
                world.answer(waiter, |reply| reply.bool(true));
            }
        }
    }

    /// The time of a join is over.
    pub(crate) fn expire(&mut self, conn: u64, request: u64, world: &mut World) {
        let is = |waiter: &Waiter| (waiter.conn, waiter.request) == (conn, request);
        for waiter in self.joiners.extract_if(.., |waiter| is(waiter)) {
            world.answer(waiter, |reply| reply.bool(false));
        }
    }

    /// A request is given up.
    pub(crate) fn give_up(&mut self, conn: u64, request: u64, world: &mut World) {
        let is = |waiter: &Waiter| (waiter.conn, waiter.request) == (conn, request);
        self.joiners.extract_if(.., |waiter| is(waiter)).for_each(|waiter| world.forget(waiter));
        if let Some((_, waiter, task)) = self.jobs.remove(&(conn, request)) {
            world.forget(waiter);
            // What runs is told; what does not, never will.
            task.ask_to_end();
        }
        self.tell_joiners(world);
    }

    /// A client that waits here has died.
    pub(crate) fn forget(&mut self, conn: u64, world: &mut World) {
        self.joiners.extract_if(.., |waiter| waiter.conn == conn).for_each(|waiter| world.forget(waiter));
        for (_, (_, waiter, task)) in self.jobs.extract_if(|(of, _), _| *of == conn) {
            world.forget(waiter);
            task.ask_to_end();
        }
        self.tell_joiners(world);
    }
}

fn tell(completer: &Completer, caller: Caller, call: u64, result: &Result<Vec<Came>, TaskError>) {
    completer.push(Call { caller, replies: true, apply: Apply::Pool(call) }, outcome(result));
}
