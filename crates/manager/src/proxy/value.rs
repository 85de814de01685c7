//! One value.

use super::list::{compare, update};
use crate::{
    error::{Error, ErrorKind, Result},
    hosted::hosted,
    proto::Op,
};
use serde::{Serialize, de::DeserializeOwned};

hosted! {
    /// One value in a manager's server.
    Value<T>, Value
}

/// Each of these fails if the server or the object is gone, or something cannot be encoded or decoded.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl<T> Value<T>
where
    T: Serialize + DeserializeOwned + 'static,
{
    /// What it is now.
    pub fn get(&self) -> Result<T> {
        const DOING: &str = "get a value";
        self.proxy.ask(DOING, self.proxy.request(Op::At).u64(0), |answer| {
            answer.option()?.ok_or_else(|| Error::new(ErrorKind::NotFound, DOING, "there is none"))
        })
    }

    /// Sets it.
    pub fn set(&self, value: &T) -> Result<()> {
        self.replace(value).map(drop)
    }

    /// Sets it, and gives what it was.
    pub fn replace(&self, value: &T) -> Result<T> {
        const DOING: &str = "set a value";
        let request = self.proxy.with(DOING, self.proxy.request(Op::SetAt).u64(0), value)?;
        self.proxy.ask(DOING, request, |answer| answer.value())
    }

    /// Sets it, if it is still `expected`. Tells whether it did.
    pub fn compare_and_swap(&self, expected: &T, new: &T) -> Result<bool> {
        compare(&self.proxy, 0, expected, new)
    }

    /// Changes it by a function that is sent to the server; see [`Dict::update`](crate::Dict::update).
    pub fn update<A, R>(&self, f: fn(&mut T, A) -> R, arg: &A) -> Result<R>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        update(&self.proxy, 0, f, arg)
    }
}
