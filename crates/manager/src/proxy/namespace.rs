//! Namespaces.

use crate::{
    error::{Error, ErrorKind, Result},
    hosted::hosted,
    lease::plain,
    proto::Op,
};
use serde::{Serialize, de::DeserializeOwned};
use std::any::type_name;

hosted! {
    /// Values of any types in a manager's server, by name. Each is kept with its type's name: it is read as what it was
    /// written as, and otherwise an error.
    Namespace<>, Namespace
}

/// Each of these fails if the server or the object is gone, or something cannot be encoded or decoded.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl Namespace {
    /// Sets an attribute.
    pub fn set<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        const DOING: &str = "set an attribute";
        let request = self.proxy.request(Op::Put).bytes(&plain(DOING, name)?);
        let typed = (type_name::<T>(), value);
        let request = self.proxy.with(DOING, request, &typed)?;
        self.proxy.ask_nothing(DOING, request)
    }

    /// An attribute, if it is there.
    ///
    /// One of another type is [`ErrorKind::WrongType`].
    pub fn get<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<Option<T>> {
        const DOING: &str = "get an attribute";
        let request = self.proxy.request(Op::Get).bytes(&plain(DOING, name)?);
        self.proxy.ask(DOING, request, |answer| {
            if !answer.bool()? {
                return Ok(None);
            }
            answer.typed_value(type_name::<T>())?.map(Some).map_err(|other| {
                let text = format!("`{name}` is a `{other}`, not a `{}`", type_name::<T>());
                Error::new(ErrorKind::WrongType, DOING, text)
            })
        })
    }

    /// Takes an attribute away; false if it was not there.
    pub fn remove(&self, name: &str) -> Result<bool> {
        const DOING: &str = "remove an attribute";
        let request = self.proxy.request(Op::Remove).bytes(&plain(DOING, name)?);
        self.proxy.ask(DOING, request, |answer| answer.bool())
    }

    /// The names of all attributes, in the order in which they came.
    pub fn names(&self) -> Result<Vec<String>> {
        const KEYS: u64 = 1;
        let request = self.proxy.request(Op::Page).u64(0).u64(u64::MAX).u64(u64::MAX).u64(KEYS);
        self.proxy.ask("list attributes", request, |answer| {
            let (_version, _next) = (answer.u64()?, answer.u64()?);
            let count = answer.count(8)?;
            (0..count).map(|_| answer.key()).collect()
        })
    }
}
