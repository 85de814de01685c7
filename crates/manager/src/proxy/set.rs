//! Sets.

use crate::{error::Result, hosted::hosted, lease::plain, proto::Op};
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Borrow;

hosted! {
    /// A set in a manager's server, in the order of insertion. Members are equal when their encodings are.
    Set<T>, Set
}

/// Each of these fails if the server or the object is gone, or something cannot be encoded or decoded.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl<T> Set<T>
where
    T: Serialize + DeserializeOwned + 'static,
{
    /// Adds a member; false if it was one already.
    pub fn insert(&self, member: &T) -> Result<bool> {
        const DOING: &str = "insert into a set";
        let request = self.proxy.request(Op::GetOrInsert).bytes(&plain(DOING, member)?);
        self.proxy.ask(DOING, self.proxy.with(DOING, request, &())?, |answer| answer.bool())
    }

    /// Adds members, in one round trip and one step. Python's `update`.
    pub fn extend<'a>(&self, members: impl IntoIterator<Item = &'a T>) -> Result<()>
    where
        T: 'a,
    {
        const DOING: &str = "extend a set";
        let mut request = self.proxy.request(Op::InsertMany).u64(0);
        let at = request.out.len() - 8;
        let mut count = 0_u64;
        for member in members {
            request = self.proxy.with(DOING, request.bytes(&plain(DOING, member)?), &())?;
            count += 1;
        }
        request.out[at..at + 8].copy_from_slice(&count.to_le_bytes());
        self.proxy.ask_nothing(DOING, request)
    }

    /// Takes a member out; false if it was none. Python's `discard`.
    pub fn remove<Q: Serialize + ?Sized>(&self, member: &Q) -> Result<bool>
    where
        T: Borrow<Q>,
    {
        const DOING: &str = "remove a member of a set";
        let request = self.proxy.request(Op::Remove).bytes(&plain(DOING, member)?);
        self.proxy.ask(DOING, request, |answer| answer.bool())
    }

    /// Takes members out; tells how many there were. Python's `difference_update`.
    pub fn remove_many<'a>(&self, members: impl IntoIterator<Item = &'a T>) -> Result<usize>
    where
        T: 'a,
    {
        const DOING: &str = "remove members of a set";
        let members: Vec<Vec<u8>> =
            members.into_iter().map(|member| plain(DOING, member)).collect::<Result<_>>()?;
        let mut request = self.proxy.request(Op::RemoveMany).u64(members.len() as u64);
        for member in &members {
            request = request.bytes(member);
        }
        self.proxy.ask(DOING, request, |answer| answer.len())
    }

    /// Takes the member out that was added last.
    pub fn pop(&self) -> Result<Option<T>> {
        self.proxy.ask("pop a member of a set", self.proxy.request(Op::PopItem), |answer| {
            if answer.bool()? { answer.key().map(Some) } else { Ok(None) }
        })
    }

    /// Whether it is a member.
    pub fn contains<Q: Serialize + ?Sized>(&self, member: &Q) -> Result<bool>
    where
        T: Borrow<Q>,
    {
        const DOING: &str = "look for a member of a set";
        let request = self.proxy.request(Op::Contains).bytes(&plain(DOING, member)?);
        self.proxy.ask(DOING, request, |answer| answer.bool())
    }

    /// How many members there are.
    pub fn len(&self) -> Result<usize> {
        self.proxy.ask_number("count the members of a set", Op::Len).map(|len| len as usize)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Takes all members out.
    pub fn clear(&self) -> Result<()> {
        self.proxy.ask_nothing("clear a set", self.proxy.request(Op::Clear))
    }

    /// All members, as they are at one moment.
    pub fn snapshot(&self) -> Result<Vec<T>> {
        const KEYS: u64 = 1;
        let request = self.proxy.request(Op::Page).u64(0).u64(u64::MAX).u64(u64::MAX).u64(KEYS);
        self.proxy.ask("read a set", request, |answer| {
            let (_version, _next) = (answer.u64()?, answer.u64()?);
            let count = answer.count(8)?;
            (0..count).map(|_| answer.key()).collect()
        })
    }
}
