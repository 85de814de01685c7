//! Locks, with the conditions that stand on them.
//!
//! # Protocol
//! A lock belongs to a client by a token, the number of the request that took it; a reentrant one to a thread of it as well.
//! Whoever waits stands in `queue`, in the order in which they came. A wait for a condition gives the lock away, stands in
//! the condition's row, and comes back through the same queue: notified, or because its time is over.
//!
//! # When a client dies
//! Its place in every row is empty. A notification that had reached it goes to the next one in that row. A lock that it held
//! is poisoned with its pid, which every later holder is told, and goes to the next one; those who wait for the lock's
//! conditions are woken, since whoever should have notified them may be the dead one.

use super::{
    Answer, Trouble,
    waits::forget,
    world::{Caller, Reply, Waiter, World},
};
use crate::{
    error::ErrorKind,
    proto::{Op, Reader},
};
use std::collections::{HashMap, VecDeque};

#[derive(Clone, Copy)]
struct Owner {
    conn: u64,
    token: u64,
    thread: u64,
    depth: u64,
}

/// Who stands in the lock's queue.
struct Next {
    waiter: Waiter,
    owner: Owner,
    /// Comes back from a condition: from which, and whether it was notified.
    back: Option<(u64, bool)>,
}

#[derive(Default)]
pub(crate) struct Lock {
    reentrant: bool,
    owner: Option<Owner>,
    queue: VecDeque<Next>,
    conditions: HashMap<u64, VecDeque<(Waiter, Owner)>>,
    poison: u32,
}

const NOT_OWNER: &str = "it is not held by this client, or was taken by another call";

impl Lock {
    pub(crate) fn new(reentrant: bool) -> Lock {
        Lock { reentrant, ..Lock::default() }
    }

    fn owned(&self, conn: u64, token: u64) -> Result<Owner, Trouble> {
        self.owner
            .filter(|owner| (owner.conn, owner.token) == (conn, token))
            .ok_or_else(|| Trouble::fault(ErrorKind::NotOwner, NOT_OWNER))
    }

    /// Gives the lock to the next one, if it is free.
    fn pass_on(&mut self, object: u64, world: &mut World) {
        while self.owner.is_none()
            && let Some(next) = self.queue.pop_front()
        {
            world.holds(next.owner.conn, object, true);
            let poison = self.poison;
            let came = world.answer(next.waiter, |reply| match next.back {
                None => {
                    reply.u64(next.owner.token);
                    reply.u64(poison.into());
                }
                Some((_, notified)) => {
                    reply.bool(notified);
                    reply.u64(poison.into());
                    reply.u64(next.owner.token);
                }
            });
            if came {
                self.owner = Some(next.owner);
            }
        }
    }

    fn let_go(&mut self, conn: u64, object: u64, world: &mut World) {
        self.owner = None;
        world.holds(conn, object, false);
        self.pass_on(object, world);
    }

    fn notify(&mut self, condition: u64, most: u64, world: &mut World) {
        let Some(row) = self.conditions.get_mut(&condition) else { return };
        for _ in 0..most {
            let Some((waiter, owner)) = row.pop_front() else { break };
            let waiter = world.without_timer(waiter);
            self.queue.push_back(Next { waiter, owner, back: Some((condition, true)) });
        }
        if row.is_empty() {
            self.conditions.remove(&condition);
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
            Op::Acquire => {
                let (timeout, thread) = (input.u64()?, input.u64()?);
                input.end()?;
                let new = Owner { conn: caller.conn, token: caller.request, thread, depth: 1 };
                match &mut self.owner {
                    None => {
                        self.owner = Some(new);
                        world.holds(caller.conn, object, true);
                        reply.u64(new.token);
                        reply.u64(self.poison.into());
                    }
                    Some(owner) if (owner.conn, owner.thread) == (caller.conn, thread) && self.reentrant => {
                        owner.depth += 1;
                        reply.u64(owner.token);
                        reply.u64(self.poison.into());
                    }
                    Some(_) if timeout == 0 => reply.u64(0),
                    Some(owner) if (owner.conn, owner.thread) == (caller.conn, thread) => {
                        return Err(Trouble::fault(
                            ErrorKind::Deadlock,
                            "this thread holds it already, and would wait for itself",
                        ));
                    }
                    Some(_) => {
                        let waiter = world.park(caller, timeout);
                        self.queue.push_back(Next { waiter, owner: new, back: None });
                        return Ok(Answer::Later);
                    }
                }
            }
            Op::ReleaseLock => {
                let owner = self.owned(caller.conn, input.u64()?)?;
                if owner.depth > 1 {
                    self.owner = Some(Owner { depth: owner.depth - 1, ..owner });
                } else {
                    self.let_go(caller.conn, object, world);
                }
            }
            Op::WaitFor => {
                let (condition, token, timeout) = (input.u64()?, input.u64()?, input.u64()?);
                input.end()?;
                let owner = self.owned(caller.conn, token)?;
                let waiter = world.park(caller, timeout);
                self.conditions.entry(condition).or_default().push_back((waiter, owner));
                self.let_go(caller.conn, object, world);
                return Ok(Answer::Later);
            }
            Op::Notify => {
                let (condition, token, most) = (input.u64()?, input.u64()?, input.u64()?);
                self.owned(caller.conn, token)?;
                self.notify(condition, most, world);
            }
            Op::IsLocked => {
                reply.bool(self.owner.is_some());
                reply.u64(self.poison.into());
            }
            Op::ClearPoison => self.poison = 0,
            _ => return Err(Trouble::no_method(op)),
        }
        input.end()?;
        Ok(Answer::Now)
    }

    /// The time of a wait is over.
    pub(crate) fn expire(&mut self, conn: u64, request: u64, object: u64, world: &mut World) {
        let is = |waiter: &Waiter| (waiter.conn, waiter.request) == (conn, request);
        if let Some(at) = self.queue.iter().position(|next| is(&next.waiter)) {
            if let Some(next) = self.queue.remove(at) {
                world.answer(next.waiter, |reply| reply.u64(0));
            }
            return;
        }
        for (&condition, row) in &mut self.conditions {
            let Some(at) = row.iter().position(|(waiter, _)| is(waiter)) else { continue };
            if let Some((waiter, owner)) = row.remove(at) {
                let waiter = world.without_timer(waiter);
                self.queue.push_back(Next { waiter, owner, back: Some((condition, false)) });
            }
            break;
        }
        self.conditions.retain(|_, row| !row.is_empty());
        self.pass_on(object, world);
    }

    /// A client waits no more.
    pub(crate) fn give_up(&mut self, conn: u64, request: u64, world: &mut World) {
        let is = |waiter: &Waiter| (waiter.conn, waiter.request) == (conn, request);
        if let Some(at) = self.queue.iter().position(|next| is(&next.waiter)) {
            if let Some(next) = self.queue.remove(at) {
                world.forget(next.waiter);
                if let Some((condition, true)) = next.back {
                    self.notify(condition, 1, world);
                }
            }
            return;
        }
        for row in self.conditions.values_mut() {
            if let Some(at) = row.iter().position(|(waiter, _)| is(waiter))
                && let Some((waiter, _)) = row.remove(at)
            {
                world.forget(waiter);
            }
        }
        self.conditions.retain(|_, row| !row.is_empty());
    }

    /// A client that waits has died.
    pub(crate) fn forget(&mut self, conn: u64, world: &mut World) {
        // Those that a notification had reached: it goes to the next one.
        let mut notified: Vec<u64> = self
            .queue
            .iter()
            .filter(|next| next.waiter.conn == conn)
            .filter_map(|next| next.back.filter(|(_, notified)| *notified).map(|(condition, _)| condition))
            .collect();
        forget(&mut self.queue, |next| next.waiter, conn, world);
        for row in self.conditions.values_mut() {
            forget(row, |(waiter, _)| *waiter, conn, world);
        }
        self.conditions.retain(|_, row| !row.is_empty());
        notified.drain(..).for_each(|condition| self.notify(condition, 1, world));
    }

    pub(crate) fn client_died(&mut self, conn: u64, object: u64, world: &mut World) {
        if self.owner.is_some_and(|owner| owner.conn == conn) {
            self.poison = world.pid(conn).max(1);
            for (condition, row) in self.conditions.drain() {
                for (waiter, owner) in row {
                    let waiter = world.without_timer(waiter);
                    self.queue.push_back(Next { waiter, owner, back: Some((condition, false)) });
                }
            }
            self.let_go(conn, object, world);
        }
    }
}
