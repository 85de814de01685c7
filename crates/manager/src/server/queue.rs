//! Queues: first in, first out, with those who wait on either side.
//!
//! An item that was given to a client is *in hand* until that says that it has it ([`Op::Took`]). A client that dies before,
//! or whose time was over when the item came ([`Op::GiveBack`]), has not had it: it goes back to the front. So nothing is
//! lost on the way, and an item is given twice only if its first receiver died before it could look at it.
//!
//! In a joinable queue each item is a task until somebody calls `task_done`. The tasks of a client that died with them are
//! counted as lost, which is what `join` then says: it does not wait for the dead.

use super::{
    Answer, Trouble,
    value::Value,
    waits::forget,
    world::{Caller, Reply, Waiter, World},
};
use crate::{
    error::ErrorKind,
    proto::{Op, Reader},
};
use std::collections::{HashMap, VecDeque};

pub(crate) struct Queue {
    items: VecDeque<Value>,
    capacity: usize,
    joinable: bool,
    getters: VecDeque<(Waiter, usize)>,
    putters: VecDeque<(Waiter, Vec<Value>)>,
    joiners: VecDeque<Waiter>,
    /// By connection and request.
    in_hand: HashMap<(u64, u64), Vec<Value>>,
    /// Tasks that were put and are not done.
    unfinished: u64,
    /// Tasks that a client took and has not called done.
    taken: HashMap<u64, u64>,
    lost: u64,
}

const FULL: &str = "the queue is full";
const EMPTY: &str = "the queue is empty";

impl Queue {
    pub(crate) fn new(capacity: u64, joinable: bool) -> Queue {
        let capacity =
            if capacity == 0 { usize::MAX } else { usize::try_from(capacity).unwrap_or(usize::MAX) };
        Queue {
            items: VecDeque::new(),
            capacity,
            joinable,
            getters: VecDeque::new(),
            putters: VecDeque::new(),
            joiners: VecDeque::new(),
            in_hand: HashMap::new(),
            unfinished: 0,
            taken: HashMap::new(),
            lost: 0,
        }
    }

    fn fits(&self, items: usize) -> bool {
        self.capacity - self.items.len().min(self.capacity) >= items
    }

    /// Gives what there is to those who wait for it.
    fn pump(&mut self, object: u64, world: &mut World) {
        loop {
            if !self.items.is_empty()
                && let Some((waiter, most)) = self.getters.pop_front()
            {
                let items = self.take(most, waiter.conn, object, world);
                world.answer(waiter, |reply| write(reply, &items));
                self.in_hand.insert((waiter.conn, waiter.request), items);
            } else if self.putters.front().is_some_and(|(_, items)| self.fits(items.len()))
                && let Some((waiter, items)) = self.putters.pop_front()
            {
                self.accept(items);
                world.answer(waiter, |_| {});
            } else {
                return;
            }
        }
    }

    fn accept(&mut self, items: Vec<Value>) {
        self.unfinished += items.len() as u64;
        self.items.extend(items);
    }

    fn take(&mut self, most: usize, conn: u64, object: u64, world: &mut World) -> Vec<Value> {
        // One in any case, further ones as long as the reply is not too long.
        let mut room = world.limit;
        let fit = self.items.iter().take(most).take_while(|item| {
            let begins = room > 0;
            room = room.saturating_sub(item.weight());
            begins
        });
        let count = fit.count();
        let items: Vec<_> = self.items.drain(..count).collect();
        *self.taken.entry(conn).or_default() += items.len() as u64;
        world.holds(conn, object, true);
        items
    }

    /// A client has what it was given.
    fn took(&mut self, conn: u64, request: u64) {
        let Some(items) = self.in_hand.remove(&(conn, request)) else { return };
        if !self.joinable {
            self.done(conn, items.len() as u64);
        }
    }

    fn done(&mut self, conn: u64, tasks: u64) {
        self.unfinished -= tasks.min(self.unfinished);
        // What is beyond the caller's own was another's, which must not count it again when it dies.
        let mut rest = tasks - self.strike(conn, tasks);
        while rest > 0
            && let Some(other) = self.taken.keys().min().copied()
        {
            rest -= self.strike(other, rest);
        }
    }

    /// Takes up to so many tasks off a client's count; tells how many.
    fn strike(&mut self, conn: u64, tasks: u64) -> u64 {
        let Some(taken) = self.taken.get_mut(&conn) else { return 0 };
        let struck = tasks.min(*taken);
        *taken -= struck;
        if *taken == 0 {
            self.taken.remove(&conn);
        }
        struck
    }

    fn give_back(&mut self, conn: u64, request: u64) {
        let Some(items) = self.in_hand.remove(&(conn, request)) else { return };
        self.strike(conn, items.len() as u64);
        items.into_iter().rev().for_each(|item| self.items.push_front(item));
    }

    fn tell_joiners(&mut self, world: &mut World) {
        if self.unfinished > 0 || self.joiners.is_empty() {
            return;
        }
        let lost = std::mem::take(&mut self.lost);
        for waiter in self.joiners.drain(..) {
            world.answer(waiter, |reply| reply.u64(lost));
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
        match op {
            Op::Len => reply.u64(self.items.len() as u64),
            Op::Full => reply.bool(!self.fits(1)),
            Op::PutItem => {
                let (timeout, items) = (input.u64()?, Value::read_many(&world.counts, input)?);
                input.end()?;
                if items.len() > self.capacity {
                    return Err(Trouble::fault(ErrorKind::Limit, "more items at once than it may ever hold"));
                }
                if !self.putters.is_empty() || !self.fits(items.len()) {
                    if timeout == 0 {
                        return Err(Trouble::fault(ErrorKind::Full, FULL));
                    }
                    self.putters.push_back((world.park(caller, timeout), items));
                    return Ok(Answer::Later);
                }
                self.accept(items);
                self.pump(caller.object, world);
            }
            Op::GetItem => {
                let (timeout, most) = (input.u64()?, input.u64()?);
                input.end()?;
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                if self.items.is_empty() {
                    if timeout == 0 {
                        return Err(Trouble::fault(ErrorKind::Empty, EMPTY));
                    }
                    self.getters.push_back((world.park(caller, timeout), most));
                    return Ok(Answer::Later);
                }
                let items = self.take(most, caller.conn, caller.object, world);
                write(reply, &items);
                self.in_hand.insert((caller.conn, caller.request), items);
                self.pump(caller.object, world);
            }
            Op::Took => self.took(caller.conn, input.u64()?),
            Op::GiveBack => {
                let request = input.u64()?;
                // Nobody there has looked at the proxies inside.
                for item in self.in_hand.get(&(caller.conn, request)).into_iter().flatten() {
                    item.ids().iter().for_each(|&inside| world.revoke(caller.conn, inside, 1));
                }
                self.give_back(caller.conn, request);
                self.pump(caller.object, world);
            }
            Op::TaskDone if self.joinable => {
                let tasks = input.u64()?;
                if tasks > self.unfinished {
                    return Err(Trouble::fault(ErrorKind::Invalid, "more tasks are done than were put"));
                }
                self.done(caller.conn, tasks);
                self.tell_joiners(world);
            }
            Op::Join if self.joinable => {
                let timeout = input.u64()?;
                if self.unfinished > 0 {
                    if timeout == 0 {
                        return Err(Trouble::fault(ErrorKind::Timeout, "tasks are not done"));
                    }
                    self.joiners.push_back(world.park(caller, timeout));
                    return Ok(Answer::Later);
                }
                reply.u64(std::mem::take(&mut self.lost));
            }
            _ => return Err(Trouble::no_method(op)),
        }
        input.end()?;
        Ok(Answer::Now)
    }

    /// Takes out who waits; tells which kind of wait it was.
    pub(crate) fn remove(&mut self, conn: u64, request: u64) -> Option<(Waiter, &'static str)> {
        let is = |waiter: &Waiter| (waiter.conn, waiter.request) == (conn, request);
        if let Some(at) = self.getters.iter().position(|(waiter, _)| is(waiter)) {
            return self.getters.remove(at).map(|(waiter, _)| (waiter, EMPTY));
        }
        if let Some(at) = self.putters.iter().position(|(waiter, _)| is(waiter)) {
            return self.putters.remove(at).map(|(waiter, _)| (waiter, FULL));
        }
        let at = self.joiners.iter().position(is)?;
        self.joiners.remove(at).map(|waiter| (waiter, "tasks are not done"))
    }

    /// A client that waits here has died.
    pub(crate) fn forget(&mut self, conn: u64, object: u64, world: &mut World) {
        forget(&mut self.getters, |(waiter, _)| *waiter, conn, world);
        forget(&mut self.putters, |(waiter, _)| *waiter, conn, world);
        forget(&mut self.joiners, |waiter| *waiter, conn, world);
        self.pump(object, world);
    }

    /// Those behind one that gave up may fit.
    pub(crate) fn go_on(&mut self, object: u64, world: &mut World) {
        self.pump(object, world);
    }

    pub(crate) fn client_died(&mut self, conn: u64, object: u64, world: &mut World) {
        let mut requests: Vec<u64> =
            self.in_hand.keys().filter(|key| key.0 == conn).map(|key| key.1).collect();
        // The first that was given is the first again.
        requests.sort_unstable_by(|a, b| b.cmp(a));
        requests.into_iter().for_each(|request| self.give_back(conn, request));
        let lost = self.taken.remove(&conn).unwrap_or(0);
        if self.joinable {
            self.lost += lost;
            self.unfinished -= lost.min(self.unfinished);
        }
        self.pump(object, world);
        self.tell_joiners(world);
    }
}

fn write(reply: &mut Reply<'_>, items: &[Value]) {
    reply.u64(items.len() as u64);
    items.iter().for_each(|item| reply.value(item));
}
