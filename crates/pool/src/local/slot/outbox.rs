//! What goes to a worker: messages, at once or as soon as there is room.

use super::{Given, Slot};
use crate::{
    back::{Envelope, FunctionId, Key},
    local::wire::{self, PIECE, TaskHeader},
    records::{self, Layout},
};
use procession_channel::lane::{RawSender, TrySendError};
use procession_parcel::{Parcel, wire::packet::Packet};
use std::{os::fd::AsFd, sync::Arc};

#[derive(Debug)]
pub(super) enum Outgoing {
    /// The rest of a task: its next items and their records, from `at`; how many of them make the next piece, and
    /// where that ends, if it was tried before.
    Items { head: Head, records: Vec<u8>, at: usize, piece: Option<(u32, usize)> },
    /// A function with descriptors, for this task.
    Parcel { id: FunctionId, key: Key, parcel: Arc<Parcel> },
    /// The rest of one message, in fragments: its head, then its body, from `at`.
    Fragments { head: Vec<u8>, body: Vec<u8>, at: usize, carries: Carries },
}

/// The head of a piece of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    header: TaskHeader,
    /// For its first item.
    watched: Option<wire::Watched>,
}

impl Head {
    /// Room for the longest one.
    const SIZE: usize = TaskHeader::SIZE + wire::Watched::SIZE;

    /// Its bytes.
    fn encode(&self) -> ([u8; Head::SIZE], usize) {
        let mut bytes = [0; Head::SIZE];
        bytes[..TaskHeader::SIZE].copy_from_slice(&self.header.encode());
        let Some(watched) = &self.watched else { return (bytes, TaskHeader::SIZE) };
        bytes[1] |= wire::WATCHED;
        bytes[TaskHeader::SIZE..].copy_from_slice(&watched.encode());
        (bytes, Head::SIZE)
    }

    /// Of the next `count` items.
    fn of_next(&self, count: u32, flags: u8) -> Head {
        Head { header: TaskHeader { flags, items: count, ..self.header }, watched: self.watched }
    }

    /// Of those behind them.
    fn pass(&mut self, count: u32) {
        self.header.first += count;
        self.header.items -= count;
        if let Some(watched) = &mut self.watched {
            watched.number += u64::from(count);
        }
    }
}

/// What a message in fragments is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carries {
    /// One item of this task, the last one before this index.
    Item(Key, u32),
    /// A function, for the task behind it.
    Function(FunctionId, Key),
    Other,
}

/// The message `kind` about a function.
fn about(kind: u8, id: FunctionId, more: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(5 + more.len());
    message.push(kind);
    message.extend_from_slice(&id.0.to_le_bytes());
    message.extend_from_slice(more);
    message
}

impl Slot {
    /// Gives it a task, which should take `time` nanoseconds. What there is no room for is kept and sent on later.
    pub(in crate::local) fn give(
        &mut self,
        task: &Envelope<'_>,
        records: &[u8],
        function: &Arc<Parcel>,
        time: u64,
    ) {
        if self.last != Some(task.function) {
            if self.functions.insert(task.function) {
                self.define(task.function, task.key, function);
            }
            // Not one that could not be sent.
            self.last = self.functions.contains(&task.function).then_some(task.function);
        }
        self.load = self.load.saturating_add(time);
        let watched = self.watched(task);
        let head =
            Head { header: TaskHeader::of(task), watched: watched.as_ref().map(|watched| watched.head(0)) };
        self.tally.tasks_given += 1;
        self.tally.items_given += u64::from(task.items);
        self.given.push_back(Given {
            key: task.key,
            items: task.items,
            done: 0,
            time,
            whole: None,
            pieces: Vec::new(),
            watched,
            layout: task.layouts.values,
        });
        if self.outbox.is_empty() && Head::SIZE + records.len() <= PIECE && self.send_head(&head, records) {
            self.sent_items(task.key, task.items);
            return;
        }
        self.outbox.push_back(Outgoing::Items { head, records: records.to_vec(), at: 0, piece: None });
        self.flush();
    }

    /// Tells it of a function, for the sake of a task.
    fn define(&mut self, id: FunctionId, key: Key, parcel: &Arc<Parcel>) {
        if parcel.fds().is_empty() {
            let message = about(wire::DEFINE, id, parcel.bytes());
            return self.send_message(message, Carries::Function(id, key));
        }
        self.outbox.push_back(Outgoing::Parcel { id, key, parcel: parcel.clone() });
        self.flush();
    }

    /// Sends a function with descriptors, and then the message that tells of it, if there is room.
    fn send_parcel(&mut self, id: FunctionId, key: Key, parcel: Arc<Parcel>) -> Option<Outgoing> {
        let tail = id.0.to_le_bytes();
        let packet = Packet::new(&[parcel.bytes(), &tail], parcel.fds());
        let message = match packet.and_then(|mut packet| packet.try_send(self.socket.as_fd())) {
            Ok(false) => return Some(Outgoing::Parcel { id, key, parcel }),
            Ok(true) => {
                parcel.mark_delivered();
                about(wire::DEFINE_PARCEL, id, &[])
            }
            // Where the worker has ended, this goes nowhere. The next task tries again.
            Err(error) => {
                self.functions.remove(&id);
                self.last = None;
                about(wire::REFUSE, id, error.to_string().as_bytes())
            }
        };
        let carries = Carries::Function(id, key);
        self.flush_one(Outgoing::Fragments { head: Vec::new(), body: message, at: 0, carries })
    }

    pub(in crate::local) fn undefine(&mut self, id: FunctionId) {
        self.last = None;
        if self.functions.remove(&id) {
            self.send_message(about(wire::UNDEFINE, id, &[]), Carries::Other);
            self.ring();
        }
    }

    pub(super) fn send_message(&mut self, message: Vec<u8>, carries: Carries) {
        if self.outbox.is_empty() && message.len() <= PIECE && self.send(&[&message]) {
            return;
        }
        self.outbox.push_back(Outgoing::Fragments { head: Vec::new(), body: message, at: 0, carries });
    }

    /// Sends one message, without waking the worker; false if there is no room, or never will be. A worker that was told
    /// to end takes anything.
    fn send(&mut self, parts: &[&[u8]]) -> bool {
        let Some(tasks) = &mut self.tasks else { return true };
        match tasks.send_quiet(parts) {
            Ok(()) => {
                self.tally.bytes_in += parts.iter().map(|part| part.len() as u64).sum::<u64>();
                true
            }
            Err(TrySendError::Full) => false,
            // It has left, and said so before: what it was not given is found so after its end.
            Err(TrySendError::Disconnected) => {
                self.suspect = !self.leaving;
                false
            }
            Err(_) => {
                self.end_damaged();
                false
            }
        }
    }

    fn send_head(&mut self, head: &Head, records: &[u8]) -> bool {
        if head.watched.is_none() {
            return self.send(&[&head.header.encode(), records]);
        }
        let (bytes, len) = head.encode();
        self.send(&[&bytes[..len], records])
    }

    /// The last message had the items of `key` up to `end`.
    fn sent_items(&mut self, key: Key, end: u32) {
        let ticket = self.tasks.as_ref().map_or(0, RawSender::sent);
        if let Some(given) = self.given.iter_mut().rev().find(|given| given.key == key) {
            if given.pieces.is_empty() && end == given.items {
                given.whole = Some(ticket);
            } else {
                given.pieces.push((end, ticket));
            }
        }
    }

    /// Wakes the worker if it sleeps.
    pub(in crate::local) fn ring(&self) {
        if let Some(tasks) = &self.tasks {
            tasks.ring();
        }
    }

    /// Sends on what there was no room for.
    pub(in crate::local) fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        while let Some(next) = self.outbox.pop_front() {
            if let Some(rest) = self.flush_one(next) {
                self.outbox.push_front(rest);
                break;
            }
        }
        self.ring();
    }

    /// Sends what it can of `next`, and gives back the rest.
    fn flush_one(&mut self, next: Outgoing) -> Option<Outgoing> {
        match next {
            Outgoing::Parcel { id, key, parcel } => self.send_parcel(id, key, parcel),
            Outgoing::Fragments { head, body, mut at, carries } => {
                let len = head.len() + body.len();
                while at < len {
                    let end = len.min(at + PIECE - 1);
                    let kind = if end == len { wire::LAST_FRAGMENT } else { wire::FRAGMENT };
                    let of_head = &head[at.min(head.len())..end.min(head.len())];
                    let of_body = &body[at.saturating_sub(head.len())..end.saturating_sub(head.len())];
                    if !self.send(&[&[kind], of_head, of_body]) {
                        return Some(Outgoing::Fragments { head, body, at, carries });
                    }
                    // The ticket that counts is the first fragment's.
                    match carries {
                        _ if at > 0 => {}
                        Carries::Item(key, end) => self.sent_items(key, end),
                        Carries::Function(id, key) => {
                            self.large = Some((id, key, self.tasks.as_ref().map_or(0, RawSender::sent)));
                        }
                        Carries::Other => {}
                    }
                    at = end;
                }
                None
            }
            Outgoing::Items { mut head, records, mut at, mut piece } => {
                let key = head.header.key;
                while head.header.items > 0 {
                    let (count, end) = piece.take().unwrap_or_else(|| fitting(&records, at, &head.header));
                    if count == 0 {
                        // One item that is larger than a piece.
                        let end = at + records::offset_of(&records[at..], 1);
                        let (bytes, len) = head.of_next(1, head.header.flags).encode();
                        head.pass(1);
                        let carries = Carries::Item(key, head.header.first);
                        let first = bytes[..len].to_vec();
                        let body = if head.header.items == 0 && at == 0 {
                            records
                        } else {
                            let body = records[at..end].to_vec();
                            self.outbox.push_front(Outgoing::Items { head, records, at: end, piece: None });
                            body
                        };
                        return self.flush_one(Outgoing::Fragments { head: first, body, at: 0, carries });
                    }
                    let more = if count < head.header.items { wire::MORE } else { 0 };
                    let (bytes, len) = head.of_next(count, more).encode();
                    if !self.send(&[&bytes[..len], &records[at..end]]) {
                        return Some(Outgoing::Items { head, records, at, piece: Some((count, end)) });
                    }
                    at = end;
                    head.pass(count);
                    self.sent_items(key, head.header.first);
                }
                None
            }
        }
    }
}

/// How many of the items that are left, from `at`, go into one piece, and where they end.
fn fitting(records: &[u8], at: usize, left: &TaskHeader) -> (u32, usize) {
    let (room, items) = (PIECE - Head::SIZE, left.items);
    if records.len() - at <= room {
        return (items, records.len());
    }
    if left.layouts.items != Layout::RECORDS {
        let (count, len) = left.layouts.items.whole(&records[at..at + room], items);
        return (count, at + len);
    }
    let (mut count, mut end) = (0, at);
    while count < items {
        match records::split(&records[end..]) {
            Some((_, behind)) if records.len() - behind.len() - at <= room => {
                end = records.len() - behind.len();
                count += 1;
            }
            _ => break,
        }
    }
    (count, end)
}
