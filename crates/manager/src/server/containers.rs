//! What dictionaries, sets, namespaces, lists, arrays and values do.

use super::{
    Answer, Trouble,
    body::{Apply, Run, Task},
    map::{Entry, Full, Map},
    value::{self, Incoming, Value},
    world::{Reply, World},
};
use crate::{
    error::ErrorKind,
    proto::{Op, Reader},
    ship,
};
use std::collections::VecDeque;

/// What a page shows of an entry.
const KEYS: u64 = 1;
const VALUES: u64 = 2;

/// A function that was sent: the trampoline, the function itself, its argument, and whether proxies may be in the data.
fn task(input: &mut Reader<'_>, state: ship::State, apply: Apply) -> Result<Task, Trouble> {
    let trampoline = input.bytes()?.to_vec();
    let (method, args) = (input.bytes()?.to_vec(), input.bytes()?.to_vec());
    input.end()?;
    Ok(Task { run: Run::Shipped(trampoline), job: ship::Job { state, method, args }, apply })
}

fn plain(bytes: &[u8], refs: &[u64]) -> Result<Vec<u8>, Trouble> {
    if refs.is_empty() {
        return Ok(bytes.to_vec());
    }
    Err(Trouble::fault(
        ErrorKind::Invalid,
        "a value that holds proxies cannot be given to a function in the server: use compare_and_swap",
    ))
}

/// Whether a reply that begins there may grow on.
fn bounded(reply: &Reply<'_>, begin: usize, world: &World) -> Result<(), Trouble> {
    if (reply.len() - begin) as u64 <= world.limit {
        return Ok(());
    }
    let text = format!("a reply of more than {} bytes: ask for less at once", world.limit);
    Err(Trouble::fault(ErrorKind::Limit, text))
}

pub(crate) fn map(
    map: &mut Map,
    op: Op,
    input: &mut Reader<'_>,
    reply: &mut Reply<'_>,
    world: &World,
) -> Result<Answer, Trouble> {
    let counts = &world.counts;
    let full = |Full| Trouble::fault(ErrorKind::Limit, "the dictionary has four thousand million entries");
    match op {
        Op::Len => reply.u64(map.len() as u64),
        Op::Clear => map.clear(),
        Op::Get => reply.entry(map.get(value::key(input)?)),
        Op::Contains => {
            let key = value::key(input)?;
            reply.bool(map.get(key).is_some());
        }
        Op::Insert => {
            let (key, value) = (value::key(input)?, Incoming::read(counts, input)?);
            reply.entry(map.insert(key, value).map_err(full)?.as_ref().map(Entry::seen));
        }
        Op::Put => {
            let (key, value) = (value::key(input)?, Incoming::read(counts, input)?);
            map.insert(key, value).map_err(full)?;
        }
        Op::GetOrInsert => {
            let (key, value) = (value::key(input)?, Incoming::read(counts, input)?);
            let inserts = map.get(key).is_none();
            if inserts {
                map.insert(key, value).map_err(full)?;
            }
            reply.bool(inserts);
            if let Some(seen) = map.get(key) {
                reply.seen(&seen);
            }
        }
        Op::Remove => {
            let key = value::key(input)?;
            reply.entry(map.remove(key).as_ref().map(Entry::seen));
        }
        Op::PopItem => {
            let popped = map.pop();
            reply.bool(popped.is_some());
            if let Some(entry) = popped {
                reply.bytes(entry.seen().key);
                reply.seen(&entry.seen());
            }
        }
        Op::GetMany => {
            let begin = reply.len();
            for _ in 0..input.count(8)? {
                reply.entry(map.get(value::key(input)?));
                bounded(reply, begin, world)?;
            }
        }
        Op::InsertMany => {
            // All of them or none.
            let count = input.count(24)?;
            let read = |_| Ok::<_, Trouble>((value::key(input)?, Incoming::read(counts, input)?));
            let entries = (0..count).map(read).collect::<Result<Vec<_>, _>>()?;
            for (key, value) in entries {
                map.insert(key, value).map_err(full)?;
            }
        }
        Op::RemoveMany => {
            let mut removed = 0;
            for _ in 0..input.count(8)? {
                removed += u64::from(map.remove(value::key(input)?).is_some());
            }
            reply.u64(removed);
        }
        Op::Compare => {
            let key = value::key(input)?;
            let expected = if input.u64()? == 0 { None } else { Some(input.bytes()?) };
            let new = if input.u64()? == 0 { None } else { Some(Incoming::read(counts, input)?) };
            let equal = map.get(key).map(|seen| seen.value) == expected;
            if equal {
                match new {
                    Some(new) => drop(map.insert(key, new).map_err(full)?),
                    None => drop(map.remove(key)),
                }
            }
            reply.bool(equal);
        }
        Op::Page => page(map, input, reply, world)?,
        Op::Update => {
            let key = value::key(input)?;
            let state = map.get(key).map(|seen| plain(seen.value, seen.refs)).transpose()?;
            let task = task(input, ship::State::One(state), Apply::Key(key.into()))?;
            return Ok(Answer::Work(Box::new(task)));
        }
        _ => return Err(Trouble::no_method(op)),
    }
    input.end()?;
    Ok(Answer::Now)
}

/// Entries from a place on, as many as fit: if no key has come or gone since a version.
fn page(map: &Map, input: &mut Reader<'_>, reply: &mut Reply<'_>, world: &World) -> Result<(), Trouble> {
    let (from, version, most, what) = (input.u64()?, input.u64()?, input.u64()?, input.u64()?);
    if version != u64::MAX && version != map.version() {
        return Err(Trouble::fault(ErrorKind::Changed, "the dictionary changed while it was looked through"));
    }
    reply.u64(map.version());
    let (next, count) = (reply.later(), reply.later());
    reply.fill(next, u64::MAX);
    let begin = reply.len();
    let mut entries = 0;
    for (place, seen) in map.from(usize::try_from(from).unwrap_or(usize::MAX)) {
        if what & KEYS != 0 {
            reply.bytes(seen.key);
        }
        if what & VALUES != 0 {
            reply.seen(&seen);
        }
        entries += 1;
        if (reply.len() - begin) as u64 >= most {
            reply.fill(next, place as u64);
            break;
        }
        bounded(reply, begin, world)?;
    }
    reply.fill(count, entries);
    Ok(())
}

/// A row of values: a list; of fixed length an array, of length one a value.
#[derive(Default)]
pub(crate) struct List {
    pub(crate) items: VecDeque<Value>,
    pub(crate) fixed: bool,
}

impl List {
    fn index(&self, index: u64) -> Result<usize, Trouble> {
        usize::try_from(index).ok().filter(|index| *index < self.items.len()).ok_or_else(|| {
            Trouble::fault(ErrorKind::NotFound, format!("index {index} of {}", self.items.len()))
        })
    }

    fn range(&self, input: &mut Reader<'_>) -> Result<std::ops::Range<usize>, Trouble> {
        let len = self.items.len();
        let start = usize::try_from(input.u64()?).unwrap_or(len).min(len);
        let end = usize::try_from(input.u64()?).unwrap_or(len).min(len);
        Ok(start..end.max(start))
    }

    fn may_change(&self) -> Result<(), Trouble> {
        match self.fixed {
            false => Ok(()),
            true => Err(Trouble::fault(ErrorKind::Invalid, "its length is fixed")),
        }
    }

    pub(crate) fn set(&mut self, index: usize, value: Value) -> Value {
        std::mem::replace(&mut self.items[index], value)
    }
}

pub(crate) fn list(
    list: &mut List,
    op: Op,
    input: &mut Reader<'_>,
    reply: &mut Reply<'_>,
    world: &World,
) -> Result<Answer, Trouble> {
    let counts = &world.counts;
    match op {
        Op::Len => reply.u64(list.items.len() as u64),
        Op::At => {
            let item = usize::try_from(input.u64()?).ok().and_then(|index| list.items.get(index));
            reply.option(item);
        }
        Op::SetAt => {
            let index = list.index(input.u64()?)?;
            let value = Value::read(counts, input)?;
            reply.value(&list.set(index, value));
        }
        Op::Compare => {
            let index = list.index(input.u64()?)?;
            let (expected, new) = (input.bytes()?, Value::read(counts, input)?);
            let equal = &*list.items[index].bytes == expected;
            if equal {
                list.set(index, new);
            }
            reply.bool(equal);
        }
        Op::Swap => {
            let (a, b) = (list.index(input.u64()?)?, list.index(input.u64()?)?);
            list.items.swap(a, b);
        }
        Op::Range => {
            let (range, most) = (list.range(input)?, input.u64()?);
            let count = reply.later();
            let (begin, mut items) = (reply.len(), 0);
            for value in list.items.range(range) {
                reply.value(value);
                items += 1;
                if (reply.len() - begin) as u64 >= most {
                    break;
                }
                bounded(reply, begin, world)?;
            }
            reply.fill(count, items);
        }
        Op::Index => {
            let bytes = input.bytes()?;
            let range = list.range(input)?;
            let found = list.items.range(range.clone()).position(|value| &*value.bytes == bytes);
            reply.bool(found.is_some());
            reply.u64(found.map_or(0, |at| (range.start + at) as u64));
        }
        Op::Count => {
            let bytes = input.bytes()?;
            reply.u64(list.items.iter().filter(|value| &*value.bytes == bytes).count() as u64);
        }
        Op::Reverse => list.items.make_contiguous().reverse(),
        Op::Splice => {
            let range = list.range(input)?;
            let new = Value::read_many(counts, input)?;
            if new.len() != range.len() {
                list.may_change()?;
            }
            let long: u64 = list.items.range(range.clone()).map(Value::weight).sum();
            if long > world.limit {
                let text = format!("a reply of more than {} bytes: take less out at once", world.limit);
                return Err(Trouble::fault(ErrorKind::Limit, text));
            }
            let rest = list.items.split_off(range.end);
            let old = list.items.split_off(range.start);
            list.items.extend(new);
            list.items.extend(rest);
            reply.u64(old.len() as u64);
            old.iter().for_each(|value| reply.value(value));
        }
        Op::Update => {
            let index = list.index(input.u64()?)?;
            let value = &list.items[index];
            let state = ship::State::One(Some(plain(&value.bytes, value.ids())?));
            return Ok(Answer::Work(Box::new(task(input, state, Apply::Index(index))?)));
        }
        Op::UpdateAll => {
            list.may_change()?;
            let all = list.items.iter().map(|value| plain(&value.bytes, value.ids()));
            let state = ship::State::Many(all.collect::<Result<_, _>>()?);
            return Ok(Answer::Work(Box::new(task(input, state, Apply::All)?)));
        }
        _ => {
            list.may_change()?;
            change(list, op, input, reply, world)?;
        }
    }
    input.end()?;
    Ok(Answer::Now)
}

/// What changes a list's length.
fn change(
    list: &mut List,
    op: Op,
    input: &mut Reader<'_>,
    reply: &mut Reply<'_>,
    world: &World,
) -> Result<(), Trouble> {
    let counts = &world.counts;
    match op {
        Op::Clear => list.items.clear(),
        Op::Push => list.items.push_back(Value::read(counts, input)?),
        Op::Pop => {
            // Beyond every index: the last one.
            let index = input.u64()?;
            let popped = if index == u64::MAX {
                list.items.pop_back()
            } else {
                let index = list.index(index)?;
                list.items.remove(index)
            };
            reply.option(popped.as_ref());
        }
        Op::InsertAt => {
            let index = usize::try_from(input.u64()?).unwrap_or(usize::MAX).min(list.items.len());
            list.items.insert(index, Value::read(counts, input)?);
        }
        Op::Extend => list.items.extend(Value::read_many(counts, input)?),
        Op::RemoveValue => {
            let bytes = input.bytes()?;
            let found = list.items.iter().position(|value| &*value.bytes == bytes);
            found.map(|at| list.items.remove(at));
            reply.bool(found.is_some());
        }
        Op::Repeat => {
            let times = input.u64()?;
            let len = list.items.len() as u64;
            if len == 0 {
                return input.end().map_err(Trouble::from);
            }
            // An item takes some room beside its bytes.
            let one: u64 = list.items.iter().map(|item| item.bytes.len() as u64 + 64).sum();
            if times > 1 && times.saturating_mul(one) > world.limit {
                let text = format!("{times} times {len} items are more than {} bytes", world.limit);
                return Err(Trouble::fault(ErrorKind::Limit, text));
            }
            if times == 0 {
                list.items.clear();
            }
            for _ in 1..times {
                for at in 0..len as usize {
                    let copy = list.items[at].try_clone(counts)?;
                    list.items.push_back(copy);
                }
            }
        }
        _ => return Err(Trouble::no_method(op)),
    }
    Ok(())
}
