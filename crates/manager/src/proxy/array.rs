//! Rows of fixed length.

use super::{
    bounds,
    list::{compare, read, update},
};
use crate::{
    error::{Error, ErrorKind, Result},
    hosted::hosted,
    proto::Op,
};
use serde::{Serialize, de::DeserializeOwned};
use std::ops::RangeBounds;

hosted! {
    /// A row of values in a manager's server, of fixed length.
    Array<T>, Array
}

/// Each of these fails if the server or the object is gone, something cannot be encoded or decoded, or there is no such index
/// ([`ErrorKind::NotFound`]).
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl<T> Array<T>
where
    T: Serialize + DeserializeOwned + 'static,
{
    /// How many there are.
    pub fn len(&self) -> Result<usize> {
        self.proxy.ask_number("count the items of an array", Op::Len).map(|len| len as usize)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// The item at an index.
    pub fn get(&self, index: usize) -> Result<T> {
        const DOING: &str = "get an item of an array";
        self.proxy.ask(DOING, self.proxy.request(Op::At).u64(index as u64), |answer| {
            answer.option()?.ok_or_else(|| Error::new(ErrorKind::NotFound, DOING, format!("index {index}")))
        })
    }

    /// Replaces an item, and gives the old one.
    pub fn set(&self, index: usize, item: &T) -> Result<T> {
        const DOING: &str = "set an item of an array";
        let request = self.proxy.with(DOING, self.proxy.request(Op::SetAt).u64(index as u64), item)?;
        self.proxy.ask(DOING, request, |answer| answer.value())
    }

    /// The items of a range, as far as there are any.
    pub fn read(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>> {
        read(&self.proxy, range, u64::MAX)
    }

    /// All items, as they are at one moment.
    pub fn snapshot(&self) -> Result<Vec<T>> {
        self.read(..)
    }

    /// Replaces as many items from an index on, in one round trip and one step.
    pub fn write(&self, index: usize, items: &[T]) -> Result<()> {
        const DOING: &str = "write items of an array";
        let (start, end) = bounds(index..index.saturating_add(items.len()));
        let request = self.proxy.request(Op::Splice).u64(start).u64(end);
        self.proxy.ask_nothing(DOING, self.proxy.with_all(DOING, request, items)?)
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
}
