//! Lists.

use super::{PAGE, bounds};
use crate::{
    client::malformed,
    error::{Error, ErrorKind, Result},
    hosted::hosted,
    lease::{self, Lease, plain},
    proto::{Op, Reader},
    ship,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::VecDeque, ops::RangeBounds};

hosted! {
    /// A list in a manager's server. Every call is atomic.
    List<T>, List
}

/// What an item is compared with: its encoding.
pub(crate) fn encoding<T: Serialize>(doing: &'static str, lease: &Lease, item: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    lease::put(doing, &lease.site, item, &mut bytes)?;
    let mut input = Reader::new(&bytes);
    let (encoded, _) = input.value().map_err(|error| malformed(doing, error))?;
    Ok(encoded.to_vec())
}

pub(crate) fn compare<T: Serialize>(lease: &Lease, index: usize, expected: &T, new: &T) -> Result<bool> {
    const DOING: &str = "compare and swap an item";
    let request = lease.request(Op::Compare).u64(index as u64).bytes(&encoding(DOING, lease, expected)?);
    lease.ask(DOING, lease.with(DOING, request, new)?, |answer| answer.bool())
}

pub(crate) fn update<T, A, R>(lease: &Lease, index: usize, f: fn(&mut T, A) -> R, arg: &A) -> Result<R>
where
    T: Serialize + DeserializeOwned + 'static,
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    const DOING: &str = "update an item";
    let (trampoline, method) = ship::for_value(DOING, f)?;
    let request = lease.request(Op::Update).u64(index as u64).bytes(&trampoline).bytes(&method);
    lease.ask(DOING, request.bytes(&plain(DOING, arg)?), |answer| answer.value())
}

pub(crate) fn read<T: DeserializeOwned + 'static>(
    lease: &Lease,
    range: impl RangeBounds<usize>,
    most: u64,
) -> Result<Vec<T>> {
    const DOING: &str = "read items";
    let (start, end) = bounds(range);
    let request = lease.request(Op::Range).u64(start).u64(end).u64(most);
    lease.ask(DOING, request, |answer| answer.values())
}

/// Each of these fails if the server or the object is gone, something cannot be encoded or decoded, or there is no such index
/// ([`ErrorKind::NotFound`]), unless it says otherwise.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl<T> List<T>
where
    T: Serialize + DeserializeOwned + 'static,
{
    /// The item at an index, if there is one.
    pub fn get(&self, index: usize) -> Result<Option<T>> {
        let request = self.proxy.request(Op::At).u64(index as u64);
        self.proxy.ask("get an item of a list", request, |answer| answer.option())
    }

    /// Replaces an item, and gives the old one.
    pub fn set(&self, index: usize, item: &T) -> Result<T> {
        const DOING: &str = "set an item of a list";
        let request = self.proxy.request(Op::SetAt).u64(index as u64);
        self.proxy.ask(DOING, self.proxy.with(DOING, request, item)?, |answer| answer.value())
    }

    /// Adds an item at the end. Python's `append`.
    pub fn push(&self, item: &T) -> Result<()> {
        const DOING: &str = "push to a list";
        self.proxy.ask_nothing(DOING, self.proxy.with(DOING, self.proxy.request(Op::Push), item)?)
    }

    /// Takes the last item out, if there is one.
    pub fn pop(&self) -> Result<Option<T>> {
        let request = self.proxy.request(Op::Pop).u64(u64::MAX);
        self.proxy.ask("pop an item of a list", request, |answer| answer.option())
    }

    /// Takes an item out. Python's `pop(index)` and `del list[index]`.
    pub fn remove(&self, index: usize) -> Result<T> {
        const DOING: &str = "remove an item of a list";
        let request = self.proxy.request(Op::Pop).u64((index as u64).min(u64::MAX - 1));
        self.proxy.ask(DOING, request, |answer| {
            answer.option()?.ok_or_else(|| Error::new(ErrorKind::NotFound, DOING, "no such index"))
        })
    }

    /// Takes the first item out that is equal to this one; false if none is. Python's `remove`.
    pub fn remove_item(&self, item: &T) -> Result<bool> {
        const DOING: &str = "remove an item of a list";
        let request = self.proxy.request(Op::RemoveValue).bytes(&encoding(DOING, &self.proxy, item)?);
        self.proxy.ask(DOING, request, |answer| answer.bool())
    }

    /// Puts an item before the one at an index; at the end, if there is none.
    pub fn insert(&self, index: usize, item: &T) -> Result<()> {
        const DOING: &str = "insert into a list";
        let request = self.proxy.request(Op::InsertAt).u64(index as u64);
        self.proxy.ask_nothing(DOING, self.proxy.with(DOING, request, item)?)
    }

    /// Adds items at the end, in one round trip and one step.
    pub fn extend<'a>(&self, items: impl IntoIterator<Item = &'a T>) -> Result<()>
    where
        T: 'a,
    {
        const DOING: &str = "extend a list";
        self.proxy.ask_nothing(DOING, self.proxy.with_all(DOING, self.proxy.request(Op::Extend), items)?)
    }

    /// The items of a range, as far as there are any. Python's slices.
    pub fn range(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>> {
        read(&self.proxy, range, u64::MAX)
    }

    /// All items, as they are at one moment.
    pub fn snapshot(&self) -> Result<Vec<T>> {
        self.range(..)
    }

    /// Replaces a range by other items, and gives the old ones.
    pub fn splice<'a>(
        &self,
        range: impl RangeBounds<usize>,
        items: impl IntoIterator<Item = &'a T>,
    ) -> Result<Vec<T>>
    where
        T: 'a,
    {
        const DOING: &str = "splice a list";
        let (start, end) = bounds(range);
        let request = self.proxy.request(Op::Splice).u64(start).u64(end);
        self.proxy.ask(DOING, self.proxy.with_all(DOING, request, items)?, |answer| answer.values())
    }

    /// How many items there are.
    pub fn len(&self) -> Result<usize> {
        self.proxy.ask_number("count the items of a list", Op::Len).map(|len| len as usize)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Takes all items out.
    pub fn clear(&self) -> Result<()> {
        self.proxy.ask_nothing("clear a list", self.proxy.request(Op::Clear))
    }

    /// Where an item is first. Items are compared by their encodings.
    pub fn position(&self, item: &T) -> Result<Option<usize>> {
        self.position_in(item, ..)
    }

    /// Where an item is first, within a range. Python's `index`.
    pub fn position_in(&self, item: &T, range: impl RangeBounds<usize>) -> Result<Option<usize>> {
        const DOING: &str = "look for an item of a list";
        let (start, end) = bounds(range);
        let request = self.proxy.request(Op::Index).bytes(&encoding(DOING, &self.proxy, item)?);
        self.proxy.ask(DOING, request.u64(start).u64(end), |answer| {
            let (found, index) = (answer.bool()?, answer.len()?);
            Ok(found.then_some(index))
        })
    }

    /// Whether an item is in it.
    pub fn contains(&self, item: &T) -> Result<bool> {
        self.position(item).map(|found| found.is_some())
    }

    /// How often an item is in it.
    pub fn count(&self, item: &T) -> Result<usize> {
        const DOING: &str = "count items of a list";
        let request = self.proxy.request(Op::Count).bytes(&encoding(DOING, &self.proxy, item)?);
        self.proxy.ask(DOING, request, |answer| answer.len())
    }

    /// Turns the order around.
    pub fn reverse(&self) -> Result<()> {
        self.proxy.ask_nothing("reverse a list", self.proxy.request(Op::Reverse))
    }

    /// Exchanges two items.
    pub fn swap(&self, a: usize, b: usize) -> Result<()> {
        let request = self.proxy.request(Op::Swap).u64(a as u64).u64(b as u64);
        self.proxy.ask_nothing("swap items of a list", request)
    }

    /// Makes it as long as so many of it. Python's `*=`.
    pub fn repeat(&self, times: usize) -> Result<()> {
        self.proxy.ask_nothing("repeat a list", self.proxy.request(Op::Repeat).u64(times as u64))
    }

    /// Sorts it, in the server. Only processes of the manager's own tree may; another order goes by
    /// [`update_all`](List::update_all).
    pub fn sort(&self) -> Result<()>
    where
        T: Ord,
    {
        self.update_all(|items: &mut Vec<T>, ()| items.sort(), &())
    }

    /// Replaces an item, if it is still `expected`. Tells whether it did.
    pub fn compare_and_swap(&self, index: usize, expected: &T, new: &T) -> Result<bool> {
        compare(&self.proxy, index, expected, new)
    }

    /// Changes an item by a function that is sent to the server; see [`Dict::update`](crate::Dict::update).
    pub fn update<A, R>(&self, index: usize, f: fn(&mut T, A) -> R, arg: &A) -> Result<R>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        update(&self.proxy, index, f, arg)
    }

    /// Changes the whole list by a function that is sent to the server.
    pub fn update_all<A, R>(&self, f: fn(&mut Vec<T>, A) -> R, arg: &A) -> Result<R>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        const DOING: &str = "update a list";
        let (trampoline, method) = ship::for_row(DOING, f)?;
        let request = self.proxy.request(Op::UpdateAll).bytes(&trampoline).bytes(&method);
        self.proxy.ask(DOING, request.bytes(&plain(DOING, arg)?), |answer| answer.value())
    }

    /// Goes through the items by index, some hundred thousand bytes at a time: as Python's, it sees what is changed ahead of
    /// it.
    #[must_use]
    pub fn iter(&self) -> ListIter<T> {
        ListIter { list: self.clone(), next: Some(0), page: VecDeque::new() }
    }
}

/// Goes through a list; [`List::iter`].
#[derive(Debug)]
pub struct ListIter<T> {
    list: List<T>,
    next: Option<usize>,
    page: VecDeque<T>,
}

impl<T> Iterator for ListIter<T>
where
    T: Serialize + DeserializeOwned + 'static,
{
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        if let Some(item) = self.page.pop_front() {
            return Some(Ok(item));
        }
        let from = self.next.take()?;
        match read(&self.list.proxy, from.., PAGE) {
            Ok(page) => {
                self.page = page.into();
                let item = self.page.pop_front()?;
                self.next = Some(from + self.page.len() + 1);
                Some(Ok(item))
            }
            Err(error) => Some(Err(error)),
        }
    }
}
