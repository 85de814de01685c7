//! Objects: what they are, and who does what they are asked.

use super::{
    Answer, Trouble,
    containers::{self, List},
    locks::Lock,
    map::Map,
    queue::Queue,
    value::Value,
    waits::{Barrier, Event, Semaphore},
    world::{Caller, Reply, World},
};
use crate::{
    error::ErrorKind,
    hosting::TypeEntry,
    proto::{Op, Reader, Type},
    ship::{Done, Job, State},
};
use bytes::Bytes;
use std::{any::Any, collections::VecDeque};

/// A function to be run by the workers, and what becomes of what it leaves.
pub(crate) struct Task {
    pub(crate) run: Run,
    pub(crate) job: Job,
    pub(crate) apply: Apply,
}

/// The function.
pub(crate) enum Run {
    /// The reference to a trampoline, which came from a client.
    Shipped(Vec<u8>),
    /// The server's own.
    Known(fn(Job) -> Done),
}

/// Where the result of a function goes.
pub(crate) enum Apply {
    /// A dictionary's value.
    Key(Box<[u8]>),
    /// A list's value.
    Index(usize),
    /// A whole list.
    All,
    /// An object of the server's memory.
    Object,
    /// A new one: it is given to whoever asked.
    New,
    /// A pool's call, by its number there.
    #[cfg(feature = "pool")]
    Pool(u64),
}

pub(crate) enum Body {
    Map(Map),
    List(List),
    Queue(Queue),
    Lock(Lock),
    Semaphore(Semaphore),
    Event(Event),
    Barrier(Barrier),
    /// `None` while a function works on it.
    Custom(Option<Box<dyn Any + Send>>),
    #[cfg(feature = "pool")]
    Pool(super::pool::Hosted),
}

impl Body {
    /// What takes its time to be dropped, or panics there: the user's own.
    pub(crate) fn into_rubbish(self) -> Option<Box<dyn Any + Send>> {
        match self {
            Body::Custom(hosted) => hosted,
            #[cfg(feature = "pool")]
            Body::Pool(mut pool) => pool.rubbish(),
            _ => None,
        }
    }
}

/// A request that waits for an object at work.
pub(crate) struct Deferred {
    pub(crate) caller: Caller,
    pub(crate) op: Op,
    pub(crate) replies: bool,
    pub(crate) payload: Bytes,
}

pub(crate) struct Object {
    pub(crate) kind: Type,
    /// The number of its types (`proto::type_number`).
    pub(crate) types: u64,
    pub(crate) body: Body,
    /// Its methods, where they go by name.
    pub(crate) entry: Option<&'static TypeEntry>,
    /// A function works on it; requests stand in the backlog.
    pub(crate) busy: bool,
    pub(crate) backlog: VecDeque<Deferred>,
}

impl Object {
    /// A new object, as a client describes it.
    pub(crate) fn create(
        kind: Type,
        types: u64,
        input: &mut Reader<'_>,
        world: &World,
    ) -> Result<Object, Trouble> {
        let number = |input: &mut Reader<'_>| input.u64();
        let body = match kind {
            Type::Dict | Type::Set | Type::Namespace => Body::Map(Map::default()),
            Type::List | Type::Array | Type::Value => {
                let items: VecDeque<Value> = Value::read_many(&world.counts, input)?.into();
                let fixed = kind != Type::List;
                if kind == Type::Value && items.len() != 1 {
                    return Err(Trouble::fault(ErrorKind::Invalid, "a value is one"));
                }
                Body::List(List { items, fixed })
            }
            Type::Queue => Body::Queue(Queue::new(number(input)?, false)),
            Type::JoinableQueue => Body::Queue(Queue::new(number(input)?, true)),
            Type::Lock => Body::Lock(Lock::new(false)),
            Type::RLock => Body::Lock(Lock::new(true)),
            Type::Semaphore => Body::Semaphore(Semaphore::new(number(input)?, false)),
            Type::BoundedSemaphore => Body::Semaphore(Semaphore::new(number(input)?, true)),
            Type::Event => Body::Event(Event::default()),
            Type::Barrier => match number(input)? {
                0 => return Err(Trouble::fault(ErrorKind::Invalid, "a barrier has one party or more")),
                parties => Body::Barrier(Barrier::new(parties)),
            },
            Type::Custom | Type::Instance => Body::Custom(None),
            #[cfg(feature = "pool")]
            Type::Pool => Body::Pool(super::pool::Hosted::default()),
            #[cfg(not(feature = "pool"))]
            Type::Pool => {
                let text = "the server was built without the feature `pool`";
                return Err(Trouble::fault(ErrorKind::Refused, text));
            }
        };
        Ok(Object { kind, types, body, entry: None, busy: false, backlog: VecDeque::new() })
    }

    pub(crate) fn handle(
        &mut self,
        op: Op,
        caller: Caller,
        input: &mut Reader<'_>,
        reply: &mut Reply<'_>,
        world: &mut World,
    ) -> Result<Answer, Trouble> {
        match &mut self.body {
            Body::Map(map) => containers::map(map, op, input, reply, world),
            Body::List(list) => containers::list(list, op, input, reply, world),
            Body::Queue(queue) => queue.handle(op, caller, input, reply, world),
            Body::Lock(lock) => lock.handle(op, caller, input, reply, world),
            Body::Semaphore(semaphore) => semaphore.handle(op, caller, input, reply, world),
            Body::Event(event) => event.handle(op, caller, input, reply, world),
            Body::Barrier(barrier) => barrier.handle(op, caller, input, reply, world),
            #[cfg(feature = "pool")]
            Body::Pool(pool) => pool.handle(op, caller, input, reply, world),
            Body::Custom(object) => {
                match (op, self.entry) {
                    (Op::Call, _) => {}
                    (Op::CallMethod, Some(entry)) => return call_method(entry, object, input),
                    (Op::Methods, Some(entry)) => {
                        input.end()?;
                        let at = reply.later();
                        let mut count = 0;
                        for (name, signature) in entry.describe() {
                            reply.bytes(name.as_bytes());
                            reply.bytes(signature.as_bytes());
                            count += 1;
                        }
                        reply.fill(at, count);
                        return Ok(Answer::Now);
                    }
                    _ => return Err(Trouble::no_method(op)),
                }
                let trampoline = input.bytes()?.to_vec();
                let (method, args) = (input.bytes()?.to_vec(), input.bytes()?.to_vec());
                input.end()?;
                let job = Job { state: State::Object(object.take()), method, args };
                Ok(Answer::Work(Box::new(Task { run: Run::Shipped(trampoline), job, apply: Apply::Object })))
            }
        }
    }

    /// Takes over what a function has left.
    pub(crate) fn apply(&mut self, apply: &Apply, state: State) {
        match (&mut self.body, apply, state) {
            (Body::Map(map), Apply::Key(key), State::One(Some(new))) => {
                // There was a place for it, or as good as.
                drop(map.insert(key, Value::plain(new).incoming()));
            }
            (Body::Map(map), Apply::Key(key), State::One(None)) => drop(map.remove(key)),
            (Body::List(list), Apply::Index(index), State::One(Some(new))) => {
                list.set(*index, Value::plain(new));
            }
            (Body::List(list), Apply::All, State::Many(new)) => {
                list.items = new.into_iter().map(Value::plain).collect();
            }
            #[cfg(feature = "pool")]
            (Body::Pool(pool), Apply::New, State::Object(made)) => pool.made(made),
            (Body::Custom(place), Apply::Object | Apply::New, State::Object(object)) => *place = object,
            _ => {}
        }
    }

    /// The time of a wait is over.
    pub(crate) fn expire(&mut self, conn: u64, request: u64, object: u64, world: &mut World) {
        match &mut self.body {
            Body::Queue(queue) => {
                if let Some((waiter, text)) = queue.remove(conn, request) {
                    world.fail(waiter, ErrorKind::Timeout, text);
                    queue.go_on(object, world);
                }
            }
            Body::Lock(lock) => lock.expire(conn, request, object, world),
            Body::Semaphore(semaphore) => {
                if let Some(waiter) = semaphore.remove(conn, request) {
                    world.answer(waiter, |reply| reply.bool(false));
                    semaphore.go_on(object, world);
                }
            }
            Body::Event(event) => {
                if let Some(waiter) = event.remove(conn, request) {
                    world.answer(waiter, |reply| reply.bool(false));
                }
            }
            Body::Barrier(barrier) => {
                if let Some(waiter) = barrier.remove(conn, request) {
                    world.fail(waiter, ErrorKind::Timeout, "the other parties did not come in time");
                    barrier.break_it(world);
                }
            }
            #[cfg(feature = "pool")]
            Body::Pool(pool) => pool.expire(conn, request, world),
            Body::Map(_) | Body::List(_) | Body::Custom(_) => {}
        }
    }

    /// A client that waits here does so no more.
    pub(crate) fn give_up(&mut self, conn: u64, request: u64, object: u64, world: &mut World) {
        match &mut self.body {
            Body::Queue(queue) => {
                if let Some((waiter, _)) = queue.remove(conn, request) {
                    world.forget(waiter);
                    queue.go_on(object, world);
                }
            }
            Body::Lock(lock) => lock.give_up(conn, request, world),
            Body::Semaphore(semaphore) => {
                if let Some(waiter) = semaphore.remove(conn, request) {
                    world.forget(waiter);
                    semaphore.go_on(object, world);
                }
            }
            Body::Event(event) => {
                if let Some(waiter) = event.remove(conn, request) {
                    world.forget(waiter);
                }
            }
            Body::Barrier(barrier) => {
                // It has not come, so the others still wait for somebody.
                if let Some(waiter) = barrier.remove(conn, request) {
                    world.forget(waiter);
                }
            }
            #[cfg(feature = "pool")]
            Body::Pool(pool) => pool.give_up(conn, request, world),
            Body::Map(_) | Body::List(_) | Body::Custom(_) => {}
        }
    }

    /// A client that waited here, once or many times, has died.
    pub(crate) fn forget(&mut self, conn: u64, object: u64, world: &mut World) {
        match &mut self.body {
            Body::Queue(queue) => queue.forget(conn, object, world),
            Body::Lock(lock) => lock.forget(conn, world),
            Body::Semaphore(semaphore) => semaphore.forget(conn, object, world),
            Body::Event(event) => event.forget(conn, world),
            Body::Barrier(barrier) => barrier.forget(conn, world),
            #[cfg(feature = "pool")]
            Body::Pool(pool) => pool.forget(conn, world),
            Body::Map(_) | Body::List(_) | Body::Custom(_) => {}
        }
    }

    /// A client that held something of this has died.
    pub(crate) fn client_died(&mut self, conn: u64, object: u64, world: &mut World) {
        match &mut self.body {
            Body::Queue(queue) => queue.client_died(conn, object, world),
            Body::Lock(lock) => lock.client_died(conn, object, world),
            Body::Semaphore(semaphore) => semaphore.client_died(conn, object, world),
            _ => {}
        }
    }
}

/// A call of a method by its name.
fn call_method(
    entry: &'static TypeEntry,
    object: &mut Option<Box<dyn Any + Send>>,
    input: &mut Reader<'_>,
) -> Result<Answer, Trouble> {
    let (name, signature) = (input.text()?, input.u64()?);
    let args = input.bytes()?.to_vec();
    input.end()?;
    let run = entry.method(name, signature).map_err(|(kind, text)| Trouble::fault(kind, text))?;
    let job = Job { state: State::Object(object.take()), method: Vec::new(), args };
    Ok(Answer::Work(Box::new(Task { run: Run::Known(run), job, apply: Apply::Object })))
}
