//! Requests: done at once, parked, put off behind a function at work, or given to the workers.

#[cfg(feature = "pool")]
use super::body;
use super::{Answer, OUTSTANDING, SMALL, Server, Trouble, trouble};
use crate::{
    error::ErrorKind,
    proto::{Header, Kind, Malformed, Op, Reader},
    server::{
        body::{Apply, Deferred, Run, Task},
        value::Value,
        work::Call,
        world::{Caller, Grants, Reply, write_refusal},
    },
    ship,
};

impl Server {
    /// One request. An error closes the connection.
    pub(super) fn frame(
        &mut self,
        conn: u64,
        header: &Header,
        mut payload: Reader<'_>,
    ) -> Result<(), Malformed> {
        if header.kind == Kind::Reply {
            return Err(Malformed("a reply, where only requests come".to_owned()));
        }
        let busy = self.objects.get(&header.object).is_some_and(|object| object.busy);
        let Some(peer) = self.world.peers.get_mut(&conn) else { return Ok(()) };
        let op = Op::of(header.method);
        // These are about the connection, and are not to wait for anything.
        match op {
            Some(Op::Ack) => return peer.ack(payload.u64()?),
            Some(Op::Bye) => {
                peer.grace = 0;
                return Ok(());
            }
            _ => {}
        }
        match (peer.greeted, op) {
            (true, Some(Op::Hello)) => return Err(Malformed("it has said hello before".to_owned())),
            (false, op) if op != Some(Op::Hello) => {
                return Err(Malformed("the first request is not a greeting".to_owned()));
            }
            (true, Some(Op::Lanes)) => return self.lanes(conn, header, &payload),
            _ => {}
        }
        let bytes = payload.len() as u64;
        let caller = Caller { conn, request: header.request, object: header.object, bytes };
        let refusal = match op {
            None => Trouble::fault(ErrorKind::Invalid, format!("there is no method {}", header.method)),
            _ if peer.parked.contains_key(&header.request) => {
                return Err(Malformed("its number is that of a request that still waits".to_owned()));
            }
            // What gives something back does not wait, but behind a function, and may be what others wait for.
            Some(op) if (busy || !op.gives_back()) && peer.parked.len() + peer.queued >= OUTSTANDING => {
                let text = format!("{OUTSTANDING} requests of this client wait already");
                Trouble::fault(ErrorKind::Limit, text)
            }
            Some(_) if bytes > SMALL && peer.kept >= self.world.limit => {
                let text = format!("requests of this client wait already that have {} bytes", peer.kept);
                Trouble::fault(ErrorKind::Limit, text)
            }
            Some(op) => return self.request(caller, op, header.kind == Kind::Request, payload),
        };
        if header.kind != Kind::Request {
            // Nobody would hear that it was not done.
            return Err(Malformed(refusal.text()));
        }
        self.world.refuse(conn, header.request, &refusal);
        Ok(())
    }

    fn request(
        &mut self,
        caller: Caller,
        op: Op,
        replies: bool,
        mut input: Reader<'_>,
    ) -> Result<(), Malformed> {
        let Some(peer) = self.world.peers.get_mut(&caller.conn) else { return Ok(()) };
        if caller.object != 0
            && let Some(object) = self.objects.get_mut(&caller.object)
            && object.busy
        {
            peer.queue(&caller);
            object.backlog.push_back(Deferred { caller, op, replies, payload: input.keep_rest() });
            return Ok(());
        }
        // What is said to this client meanwhile comes behind this reply.
        let (leased, has) = (peer.leases.contains_key(&caller.object), peer.received);
        let mut out = peer.out.take();
        let mut grants = Grants::new(&self.world.counts);
        let at = out.begin();
        let mut reply = Reply::new(&mut out, &mut grants);
        let answer = if caller.object == 0 {
            self.admin(caller, op, &mut input, &mut reply)
        } else {
            match self.objects.get_mut(&caller.object) {
                Some(object) if leased => object.handle(op, caller, &mut input, &mut reply, &mut self.world),
                _ => Err(Trouble::fault(ErrorKind::ObjectGone, "the object is not there any more")),
            }
        };
        let (mut work, mut broken) = (None, Ok(()));
        match answer {
            Ok(Answer::Now) if replies => out.end(at, 0, caller.request, has),
            Ok(Answer::Now | Answer::Later) => out.truncate(at),
            Ok(Answer::Work(task)) => {
                out.truncate(at);
                work = Some(task);
            }
            Err(trouble) => {
                out.truncate(at);
                grants = Grants::new(&self.world.counts);
                match trouble {
                    Trouble::Malformed(malformed) => broken = Err(malformed),
                    trouble if replies => write_refusal(&mut out, caller.request, &trouble, has),
                    _ => {}
                }
            }
        }
        if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
            let between = std::mem::replace(&mut peer.out, out);
            peer.out.append(between);
        }
        self.world.dirty.push(caller.conn);
        self.world.grant(caller.conn, grants);
        if let Some(task) = work {
            self.start(caller, replies, *task);
        }
        broken
    }

    /// Gives a function to the workers.
    fn start(&mut self, mut caller: Caller, replies: bool, task: Task) {
        let Task { run, job, apply } = task;
        let trusted = self.world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted);
        if let Apply::New = apply {
            // The object was made for this.
            caller.object = self.made;
        }
        let Some(object) = self.objects.get_mut(&caller.object) else { return };
        let run = match run {
            Run::Shipped(trampoline) => ship::trampoline(&trampoline, trusted),
            Run::Known(run) => Ok(run),
        };
        match run {
            Ok(run) => {
                object.busy = true;
                self.world.counts.up(caller.object);
                if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
                    peer.queue(&caller);
                }
                self.workers.run(Call { caller, replies, apply }, run, job);
            }
            Err(text) => {
                object.apply(&apply, job.state);
                self.world.refuse(caller.conn, caller.request, &Trouble::fault(ErrorKind::Refused, text));
                if let Apply::New = apply {
                    self.world.counts.up(caller.object);
                    self.world.counts.down(caller.object, 1);
                }
            }
        }
    }

    /// Takes back what functions have left.
    pub(super) fn take_back(&mut self) {
        for (Call { caller, replies, apply }, done) in self.workers.done() {
            #[cfg(feature = "pool")]
            if let Apply::Pool(call) = apply {
                if let Some(body::Object { body: body::Body::Pool(pool), .. }) =
                    self.objects.get_mut(&caller.object)
                {
                    pool.finished(caller, call, done, &mut self.world);
                }
                continue;
            }
            if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
                peer.unqueue(&caller);
            }
            let ended = matches!(apply, Apply::Object | Apply::New) || done.outcome.is_ok();
            if let Some(object) = self.objects.get_mut(&caller.object) {
                object.busy = false;
                if ended {
                    object.apply(&apply, done.state);
                }
            }
            match done.outcome {
                Ok(value) if replies => {
                    self.world.reply(caller.conn, caller.request, |reply| match apply {
                        Apply::New => reply.lease(caller.object),
                        _ => reply.value(&Value::plain(value)),
                    });
                }
                Err(failure) if replies => {
                    let trouble = trouble::failed(failure);
                    self.world.refuse(caller.conn, caller.request, &trouble);
                }
                _ => {}
            }
            self.run_backlog(caller.object);
            self.world.counts.down(caller.object, 1);
        }
    }

    fn run_backlog(&mut self, number: u64) {
        while let Some(object) = self.objects.get_mut(&number)
            && !object.busy
            && let Some(Deferred { caller, op, replies, payload }) = object.backlog.pop_front()
        {
            let Some(peer) = self.world.peers.get_mut(&caller.conn) else { continue };
            peer.unqueue(&caller);
            if let Err(malformed) = self.request(caller, op, replies, Reader::new(&payload)) {
                self.world.refuse(caller.conn, caller.request, &Trouble::Malformed(malformed));
                self.flush(caller.conn);
                self.end(caller.conn);
            }
        }
    }
}
