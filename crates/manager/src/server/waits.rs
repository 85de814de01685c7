//! Semaphores, events and barriers.
//!
//! # When a client dies
//! Its owned permits return, its place in every row is empty, and a barrier at which it waited is broken.

use super::{
    Answer, Trouble,
    world::{Caller, Reply, Waiter, World},
};
use crate::{
    error::ErrorKind,
    proto::{Op, Reader},
};
use std::collections::{HashMap, VecDeque};

fn position(row: &VecDeque<Waiter>, conn: u64, request: u64) -> Option<usize> {
    row.iter().position(|waiter| (waiter.conn, waiter.request) == (conn, request))
}

/// Takes a client that died out of a row, in one pass; tells whether it was there.
pub(super) fn forget<T>(
    row: &mut VecDeque<T>,
    waiter: impl Fn(&T) -> Waiter,
    conn: u64,
    world: &mut World,
) -> bool {
    let before = row.len();
    row.retain(|one| {
        let waiter = waiter(one);
        if waiter.conn == conn {
            world.forget(waiter);
        }
        waiter.conn != conn
    });
    row.len() < before
}

pub(crate) struct Semaphore {
    permits: u64,
    bound: Option<u64>,
    queue: VecDeque<(Waiter, u64, bool)>,
    /// Permits that return when their client dies.
    owned: HashMap<u64, u64>,
}

impl Semaphore {
    pub(crate) fn new(permits: u64, bounded: bool) -> Semaphore {
        let bound = bounded.then_some(permits);
        Semaphore { permits, bound, queue: VecDeque::new(), owned: HashMap::new() }
    }

    fn own(&mut self, conn: u64, permits: u64, object: u64, world: &mut World) {
        let owned = self.owned.entry(conn).or_default();
        *owned = owned.saturating_add(permits);
        world.holds(conn, object, true);
    }

    fn pass_on(&mut self, object: u64, world: &mut World) {
        while let Some(&(waiter, permits, owned)) = self.queue.front()
            && permits <= self.permits
        {
            self.queue.pop_front();
            if world.answer(waiter, |reply| reply.bool(true)) {
                self.permits -= permits;
                if owned {
                    self.own(waiter.conn, permits, object, world);
                }
            }
        }
    }

    fn give(&mut self, permits: u64, object: u64, world: &mut World) -> Result<(), Trouble> {
        let most = self.bound.unwrap_or(u64::MAX);
        // Those that are out and have an owner are none of those that anyone may give.
        let out = match self.bound {
            Some(_) => self.owned.values().fold(0_u64, |sum, owned| sum.saturating_add(*owned)),
            None => 0,
        };
        match self.permits.checked_add(permits) {
            Some(sum) if sum.saturating_add(out) <= most => {
                self.permits = sum;
                self.pass_on(object, world);
                Ok(())
            }
            _ => Err(Trouble::fault(ErrorKind::Invalid, "released more often than it was acquired")),
        }
    }

    pub(crate) fn handle(
        &mut self,
        op: Op,
        caller: Caller,
        input: &mut Reader<'_>,
        reply: &mut Reply<'_>,
        world: &mut World,
    ) -> Result<Answer, Trouble> {
        let object = caller.object;
        match op {
            Op::Permit => {
                let (timeout, permits, owned) = (input.u64()?, input.u64()?, input.u64()? != 0);
                input.end()?;
                if self.bound.is_some_and(|bound| permits > bound) {
                    return Err(Trouble::fault(ErrorKind::Invalid, "more permits than there ever are"));
                }
                if self.queue.is_empty() && permits <= self.permits {
                    self.permits -= permits;
                    if owned {
                        self.own(caller.conn, permits, object, world);
                    }
                    reply.bool(true);
                } else if timeout == 0 {
                    reply.bool(false);
                } else {
                    self.queue.push_back((world.park(caller, timeout), permits, owned));
                    return Ok(Answer::Later);
                }
            }
            Op::GivePermits => self.give(input.u64()?, object, world)?,
            Op::GiveOwned => {
                let permits = input.u64()?;
                let owned = self.owned.get_mut(&caller.conn).filter(|owned| **owned >= permits);
                let Some(owned) = owned else {
                    return Err(Trouble::fault(ErrorKind::NotOwner, "this client has no such permits"));
                };
                *owned -= permits;
                if *owned == 0 {
                    self.owned.remove(&caller.conn);
                    world.holds(caller.conn, object, false);
                }
                self.give(permits, object, world)?;
            }
            Op::Permits => reply.u64(self.permits),
            _ => return Err(Trouble::no_method(op)),
        }
        input.end()?;
        Ok(Answer::Now)
    }

    pub(crate) fn remove(&mut self, conn: u64, request: u64) -> Option<Waiter> {
        let is = |waiter: &Waiter| (waiter.conn, waiter.request) == (conn, request);
        let at = self.queue.iter().position(|(waiter, ..)| is(waiter))?;
        self.queue.remove(at).map(|(waiter, ..)| waiter)
    }

    pub(crate) fn forget(&mut self, conn: u64, object: u64, world: &mut World) {
        forget(&mut self.queue, |(waiter, ..)| *waiter, conn, world);
        self.go_on(object, world);
    }

    /// Those behind one that gave up may want less.
    pub(crate) fn go_on(&mut self, object: u64, world: &mut World) {
        self.pass_on(object, world);
    }

    pub(crate) fn client_died(&mut self, conn: u64, object: u64, world: &mut World) {
        let owned = self.owned.remove(&conn).unwrap_or(0);
        self.permits = self.permits.saturating_add(owned);
        self.pass_on(object, world);
    }
}

#[derive(Default)]
pub(crate) struct Event {
    set: bool,
    waiting: VecDeque<Waiter>,
}

impl Event {
    pub(crate) fn handle(
        &mut self,
        op: Op,
        caller: Caller,
        input: &mut Reader<'_>,
        reply: &mut Reply<'_>,
        world: &mut World,
    ) -> Result<Answer, Trouble> {
        match op {
            Op::Set => {
                self.set = true;
                for waiter in self.waiting.drain(..) {
                    world.answer(waiter, |reply| reply.bool(true));
                }
            }
            Op::Unset => self.set = false,
            Op::IsSet => reply.bool(self.set),
            Op::Wait => {
                let timeout = input.u64()?;
                input.end()?;
                if !self.set && timeout > 0 {
                    self.waiting.push_back(world.park(caller, timeout));
                    return Ok(Answer::Later);
                }
                reply.bool(self.set);
            }
            _ => return Err(Trouble::no_method(op)),
        }
        input.end()?;
        Ok(Answer::Now)
    }

    pub(crate) fn remove(&mut self, conn: u64, request: u64) -> Option<Waiter> {
        let at = position(&self.waiting, conn, request)?;
        self.waiting.remove(at)
    }

    pub(crate) fn forget(&mut self, conn: u64, world: &mut World) {
        forget(&mut self.waiting, |waiter| *waiter, conn, world);
    }
}

pub(crate) struct Barrier {
    parties: u64,
    waiting: VecDeque<Waiter>,
    broken: bool,
}

const BROKEN: &str = "the barrier is broken";

impl Barrier {
    pub(crate) fn new(parties: u64) -> Barrier {
        Barrier { parties, waiting: VecDeque::new(), broken: false }
    }

    fn dismiss(&mut self, world: &mut World) {
        for waiter in self.waiting.drain(..) {
            world.fail(waiter, ErrorKind::Broken, BROKEN);
        }
    }

    pub(crate) fn break_it(&mut self, world: &mut World) {
        self.broken = true;
        self.dismiss(world);
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
            Op::Pass => {
                let timeout = input.u64()?;
                input.end()?;
                if self.broken {
                    return Err(Trouble::fault(ErrorKind::Broken, BROKEN));
                }
                if self.waiting.len() as u64 + 1 < self.parties {
                    self.waiting.push_back(world.park(caller, timeout));
                    return Ok(Answer::Later);
                }
                for (index, waiter) in self.waiting.drain(..).enumerate() {
                    world.answer(waiter, |reply| reply.u64(index as u64));
                }
                reply.u64(self.parties - 1);
            }
            Op::Abort => self.break_it(world),
            Op::Reset => {
                self.dismiss(world);
                self.broken = false;
            }
            Op::State => {
                reply.u64(self.parties);
                reply.u64(self.waiting.len() as u64);
                reply.bool(self.broken);
            }
            _ => return Err(Trouble::no_method(op)),
        }
        input.end()?;
        Ok(Answer::Now)
    }

    pub(crate) fn remove(&mut self, conn: u64, request: u64) -> Option<Waiter> {
        let at = position(&self.waiting, conn, request)?;
        self.waiting.remove(at)
    }

    pub(crate) fn forget(&mut self, conn: u64, world: &mut World) {
        if forget(&mut self.waiting, |waiter| *waiter, conn, world) {
            self.break_it(world);
        }
    }
}
