//! What is to be sent to a client.
//!
//! Bytes, and large values that are lent: those stay where they are kept, and are sent from there.
//!
//! # Invariants
//! 1. What is lent goes out behind as much of `bytes` as its place says. Places ascend, and none is before `sent`; what is there
//!    at `sent` goes first.
//! 2. A frame's header is in `bytes`, so what is lent in a frame has a place behind the frame's.
//! 3. With `keeps` nothing is lent: what a client has not received is looked through frame by frame (`away`).

use crate::proto::{self, HEADER, Kind};
use bytes::Bytes;
use std::collections::VecDeque;

#[derive(Default)]
pub(crate) struct Out {
    bytes: Vec<u8>,
    /// How much of `bytes` went out.
    sent: usize,
    lent: VecDeque<Lent>,
    /// How much of the first one that is lent went out.
    begun: usize,
    /// How many bytes those have together.
    lent_len: usize,
    /// What was sent stays, until it was received.
    keeps: bool,
}

struct Lent {
    at: usize,
    bytes: Bytes,
}

impl Out {
    /// From now on what was sent stays.
    pub(super) fn keep(&mut self) {
        self.keeps = true;
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Takes what is there: what is said meanwhile comes behind it ([`append`](Out::append)).
    pub(super) fn take(&mut self) -> Out {
        let meanwhile = Out { keeps: self.keeps, ..Out::default() };
        std::mem::replace(self, meanwhile)
    }

    /// Something else that nothing went out of yet.
    pub(super) fn append(&mut self, mut other: Out) {
        self.keeps |= other.keeps;
        if other.len() == 0 {
            return;
        }
        let begin = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.lent_len += other.lent_len;
        self.lent.extend(other.lent.into_iter().map(|lent| Lent { at: begin + lent.at, ..lent }));
    }

    /// How many bytes there are, sent or not.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.lent_len
    }

    pub(super) fn unsent(&self) -> usize {
        self.len() - self.sent - self.begun
    }

    /// Begins a frame: its place.
    pub(super) fn begin(&mut self) -> usize {
        proto::begin(&mut self.bytes)
    }

    /// Ends the frame that began at `at`.
    pub(super) fn end(&mut self, at: usize, status: u16, request: u64, has: u64) {
        let lent: usize =
            self.lent.iter().rev().take_while(|lent| lent.at > at).map(|lent| lent.bytes.len()).sum();
        let len = (self.bytes.len() - at - HEADER + lent) as u64;
        proto::fill(&mut self.bytes[at..], Kind::Reply, status, len, request, has);
    }

    /// Takes a frame back that was begun there.
    pub(super) fn truncate(&mut self, at: usize) {
        self.bytes.truncate(at);
        while let Some(lent) = self.lent.pop_back_if(|lent| lent.at > at) {
            self.lent_len -= lent.bytes.len();
        }
    }

    pub(super) fn put_u64(&mut self, number: u64) {
        proto::put_u64(&mut self.bytes, number);
    }

    pub(super) fn put_bytes(&mut self, bytes: &[u8]) {
        proto::put_bytes(&mut self.bytes, bytes);
    }

    /// A value; `large` is the same bytes, where they can be lent.
    pub(super) fn put_value(&mut self, bytes: &[u8], large: Option<&Bytes>, refs: &[u64]) {
        let Some(large) = large.filter(|_| !self.keeps) else {
            return proto::put_value(&mut self.bytes, bytes, refs);
        };
        self.put_u64(large.len() as u64);
        self.lent_len += large.len();
        self.lent.push_back(Lent { at: self.bytes.len(), bytes: large.clone() });
        proto::put_refs(&mut self.bytes, refs);
    }

    /// A place for a number that is known later.
    pub(super) fn later(&mut self) -> usize {
        self.put_u64(0);
        self.bytes.len() - 8
    }

    pub(super) fn fill(&mut self, at: usize, number: u64) {
        self.bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }

    /// What goes out next; nothing if all of it did.
    pub(super) fn next(&self) -> &[u8] {
        match self.lent.front() {
            Some(lent) if lent.at == self.sent => &lent.bytes[self.begun..],
            Some(lent) => &self.bytes[self.sent..lent.at],
            None => &self.bytes[self.sent..],
        }
    }

    /// So much of what was to go out next did.
    pub(super) fn advance(&mut self, by: usize) {
        let Some(lent) = self.lent.front().filter(|lent| lent.at == self.sent) else {
            self.sent += by;
            return;
        };
        self.begun += by;
        if self.begun == lent.bytes.len() {
            self.lent_len -= lent.bytes.len();
            self.begun = 0;
            self.lent.pop_front();
        }
    }

    /// Nothing of it will go out any more.
    pub(super) fn give_up(&mut self) {
        (self.lent, self.lent_len, self.begun) = (VecDeque::new(), 0, 0);
        self.sent = self.bytes.len();
    }

    /// Lets go of what went out, where it does not stay: at once of all, or of what is long.
    pub(super) fn tidy(&mut self, small: usize, long: usize) {
        if self.keeps {
            return;
        }
        if self.unsent() == 0 {
            self.sent = 0;
            if self.bytes.capacity() > small {
                self.bytes = Vec::new();
            }
            self.bytes.clear();
        } else if self.bytes.len() > long && self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.lent.iter_mut().for_each(|lent| lent.at -= self.sent);
            self.sent = 0;
        }
    }

    /// How much went out of what stays.
    pub(super) fn sent(&self) -> &[u8] {
        &self.bytes[..self.sent]
    }

    /// Takes so much of that off the front.
    pub(super) fn received(&mut self, len: usize) {
        self.bytes.drain(..len);
        self.sent -= len;
    }

    /// Whether more than so much stays behind the first frame, be that as long as it likes.
    pub(super) fn is_behind(&self, most: usize) -> bool {
        self.keeps && self.sent > most && proto::skip(&self.bytes, 1).1 + most < self.sent
    }

    /// Counts as much of what stays as sent; tells how much did before.
    pub(super) fn set_sent(&mut self, sent: usize) -> usize {
        std::mem::replace(&mut self.sent, sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of numbers and values, some lent, some taken back, some put behind one that is being written: what goes out is what
    /// would if all were copied.
    #[test]
    fn what_is_lent_goes_out_where_it_would_if_it_were_copied() {
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let large: Vec<Bytes> = (1..9).map(|of| Bytes::from(vec![of; 40 * usize::from(of)])).collect();
        for round in 0..200 {
            let (mut out, mut model, mut went) = (Out::default(), Out::default(), Vec::new());
            if round % 4 == 0 {
                out.keep();
            }
            model.keep();
            for step in 0..100 {
                let taken = (random(3) == 0).then(|| (out.take(), model.take()));
                for both in 0..=usize::from(taken.is_some()) {
                    let at = (out.begin(), model.begin());
                    for _ in 0..random(4) {
                        let value = &large[random(large.len())];
                        let lends = random(2) == 0;
                        out.put_value(value, Some(value).filter(|_| lends), &[3, 4]);
                        model.put_value(value, None, &[3, 4]);
                    }
                    if random(4) == 0 {
                        out.truncate(at.0);
                        model.truncate(at.1);
                    } else {
                        out.end(at.0, both as u16, step, 5);
                        model.end(at.1, both as u16, step, 5);
                    }
                }
                if let Some((first, first_of_model)) = taken {
                    let meanwhile = std::mem::replace(&mut out, first);
                    out.append(meanwhile);
                    let meanwhile = std::mem::replace(&mut model, first_of_model);
                    model.append(meanwhile);
                }
                for _ in 0..random(6) {
                    let next = out.next();
                    let taken = random(next.len().max(1)) + usize::from(!next.is_empty());
                    went.extend_from_slice(&next[..taken.min(next.len())]);
                    out.advance(taken.min(out.next().len()));
                }
                assert_eq!(went.len() + out.unsent(), model.len());
                out.tidy(random(1000), random(1000));
            }
            while !out.next().is_empty() {
                went.extend_from_slice(out.next());
                out.advance(out.next().len());
            }
            assert!(went == model.bytes, "round {round}");
            assert_eq!(out.unsent(), 0);
        }
    }
}
