//! What is asked of the server itself.

use super::{
    Answer, Server, Trouble,
    body::{Apply, Object, Run, Task},
    world::{Caller, Reply},
};
use crate::{
    client::TRANSIT,
    error::ErrorKind,
    proto::{Op, PROTOCOL, Reader, Type},
    ship::{Job, State},
};
use procession_parcel::function::image;

impl Server {
    pub(super) fn admin(
        &mut self,
        caller: Caller,
        op: Op,
        input: &mut Reader<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<Answer, Trouble> {
        match op {
            Op::Hello => self.hello(caller, input, reply)?,
            Op::Ping => {}
            Op::Create => return self.create(caller, input, reply),
            Op::Lease => {
                let object = input.u64()?;
                self.check(object, input.u64()?, input.u64()?)?;
                reply.lease(object);
            }
            Op::Release => {
                let (object, times) = (input.u64()?, input.u64()?);
                self.world.revoke(caller.conn, object, times);
            }
            Op::Ticket => {
                let object = input.u64()?;
                self.check(object, input.u64()?, input.u64()?)?;
                let number = self.fresh_number()?;
                self.world.counts.up(object);
                self.tickets.insert(number, (object, caller.conn));
                if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
                    peer.issues = true;
                }
                reply.u64(number);
            }
            Op::Redeem => {
                let number = input.u64()?;
                let Some(&(object, _)) = self.tickets.get(&number) else {
                    let text = "the ticket was redeemed or cancelled, or who issued it is gone";
                    return Err(Trouble::fault(ErrorKind::ObjectGone, text));
                };
                self.check(object, input.u64()?, input.u64()?)?;
                reply.lease(object);
                self.tickets.remove(&number);
                self.world.counts.down(object, 1);
            }
            Op::Cancel => {
                if let Some((object, _)) = self.tickets.remove(&input.u64()?) {
                    self.world.counts.down(object, 1);
                }
            }
            Op::Forget => {
                let request = input.u64()?;
                let parked = self.world.peers.get(&caller.conn).and_then(|peer| peer.parked.get(&request));
                // Otherwise its reply is on its way, or will be.
                if let Some(object) = parked.map(|parked| parked.object)
                    && let Some(target) = self.objects.get_mut(&object)
                {
                    target.give_up(caller.conn, request, object, &mut self.world);
                    let trouble = Trouble::fault(ErrorKind::Timeout, "it was given up");
                    self.world.refuse(caller.conn, request, &trouble);
                }
            }
            Op::Publish => {
                let (name, object) = (input.text()?.to_owned(), input.u64()?);
                self.check_name(caller, &name)?;
                if !self.world.counts.up(object) {
                    return Err(Trouble::fault(ErrorKind::ObjectGone, "the object is not there any more"));
                }
                if let Some(old) = self.names.insert(name, object) {
                    self.world.counts.down(old, 1);
                }
            }
            Op::Find => {
                let name = input.text()?;
                let Some(&object) = self.names.get(name) else {
                    return Err(Trouble::fault(
                        ErrorKind::NotFound,
                        format!("nothing is published as `{name}`"),
                    ));
                };
                self.check(object, input.u64()?, input.u64()?)?;
                reply.lease(object);
            }
            Op::Unpublish => {
                let name = input.text()?;
                self.check_name(caller, name)?;
                let object = self.names.remove(name);
                reply.bool(object.is_some());
                if let Some(object) = object {
                    self.world.counts.down(object, 1);
                }
            }
            Op::Shutdown => {
                if !self.world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted) {
                    return Err(Trouble::fault(
                        ErrorKind::Refused,
                        "the server ends at its owner's word only",
                    ));
                }
                self.over = true;
            }
            Op::Stats => {
                reply.u64(self.world.counts.len() as u64);
                reply.u64(self.conns.len() as u64);
                reply.u64(self.world.peers.values().map(|peer| peer.parked.len() as u64).sum());
                reply.u64(self.names.len() as u64);
                reply.u64(self.world.peers.values().filter(|peer| peer.away.is_some()).count() as u64);
                reply.u64(self.refused);
            }
            Op::Refusals => {
                if !self.world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted) {
                    return Err(Trouble::fault(
                        ErrorKind::Refused,
                        "it is told to processes of its own tree only",
                    ));
                }
                reply.u64(self.refusals.len() as u64);
                self.refusals.iter().for_each(|cause| reply.bytes(cause.as_bytes()));
            }
            _ => return Err(Trouble::no_method(op)),
        }
        input.end()?;
        Ok(Answer::Now)
    }

    fn hello(
        &mut self,
        caller: Caller,
        input: &mut Reader<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<(), Trouble> {
        let (protocol, role, pid) = (input.u64()?, input.u64()?, input.u64()?);
        let build = input.bytes()?;
        if protocol != PROTOCOL {
            let text = format!("the client speaks version {protocol}, this server {PROTOCOL}");
            return Err(Trouble::fault(ErrorKind::Refused, text));
        }
        let asks = if input.is_empty() { None } else { Some((input.u64()?, input.u64()?)) };
        self.admit(caller.conn)?;
        let private = self.conns.get(&caller.conn).is_some_and(|conn| conn.private);
        if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
            peer.greeted = true;
            peer.trusted = private && role != TRANSIT && build == image().build_id().as_bytes();
            if peer.pid == 0 {
                peer.pid = u32::try_from(pid).unwrap_or(0);
            }
            reply.bool(peer.trusted);
        }
        reply.u64(std::process::id().into());
        reply.bytes(&self.identity);
        if let Some((grace, silence)) = asks {
            let (token, grace) = self.promise(caller.conn, role, grace, silence)?;
            reply.bytes(&token);
            reply.u64(grace);
        }
        Ok(())
    }

    /// Whether an object is what a client takes it for.
    fn check(&self, object: u64, kind: u64, types: u64) -> Result<(), Trouble> {
        let Some(target) = self.objects.get(&object) else {
            return Err(Trouble::fault(ErrorKind::ObjectGone, "the object is not there any more"));
        };
        if target.kind as u64 == kind && target.types == types {
            return Ok(());
        }
        let kind = target.kind;
        let text = format!("the object is a {kind:?}, perhaps of other types than it is asked for");
        Err(Trouble::fault(ErrorKind::WrongType, text))
    }

    fn create(
        &mut self,
        caller: Caller,
        input: &mut Reader<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<Answer, Trouble> {
        let (kind, types) = (input.u64()?, input.u64()?);
        let Some(kind) = Type::of(kind) else {
            return Err(Trouble::fault(ErrorKind::Invalid, format!("there is no type {kind}")));
        };
        let mut object = Object::create(kind, types, input, &self.world)?;
        let task = if kind == Type::Custom {
            let trampoline = input.bytes()?.to_vec();
            let job = Job {
                state: State::Object(None),
                method: input.bytes()?.to_vec(),
                args: input.bytes()?.to_vec(),
            };
            Some(Box::new(Task { run: Run::Shipped(trampoline), job, apply: Apply::New }))
        } else if kind == Type::Instance {
            let (name, signature) = (input.text()?, input.u64()?);
            let args = input.bytes()?.to_vec();
            let trusted = self.world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted);
            let entry =
                self.known.find(name, trusted).map_err(|text| Trouble::fault(ErrorKind::NotFound, text))?;
            let run = entry.maker(signature).map_err(|(kind, text)| Trouble::fault(kind, text))?;
            object.entry = Some(entry);
            let job = Job { state: State::Object(None), method: Vec::new(), args };
            Some(Box::new(Task { run: Run::Known(run), job, apply: Apply::New }))
        } else {
            None
        };
        #[cfg(feature = "pool")]
        let task = if kind == Type::Pool {
            if !self.world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted) {
                let text =
                    "pools are made by processes of the manager's own tree only: use one that was published";
                return Err(Trouble::fault(ErrorKind::Refused, text));
            }
            let args = input.bytes()?.to_vec();
            let job = Job { state: State::Object(None), method: Vec::new(), args };
            Some(Box::new(Task { run: Run::Known(super::pool::make), job, apply: Apply::New }))
        } else {
            task
        };
        input.end()?;
        let number = self.fresh_number()?;
        self.made = number;
        self.world.counts.add(number);
        self.objects.insert(number, object);
        match task {
            // Its first reference is the work that makes it.
            Some(task) => Ok(Answer::Work(task)),
            None => {
                reply.lease(number);
                Ok(Answer::Now)
            }
        }
    }

    /// Whether a client may take a name away: its object may end with it, and a pool ends at the word of few only.
    fn check_name(&self, caller: Caller, name: &str) -> Result<(), Trouble> {
        let kind = self.names.get(name).and_then(|object| self.objects.get(object)).map(|object| object.kind);
        let trusted = self.world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted);
        if kind != Some(Type::Pool) || trusted || self.world.public_pool_end {
            return Ok(());
        }
        let text = "the names of pools are taken away by processes of the manager's own tree only";
        Err(Trouble::fault(ErrorKind::Refused, text))
    }
}
