//! Dictionaries.

use super::PAGE;
use crate::{
    error::{Error, Result},
    hosted::hosted,
    lease::plain,
    proto::Op,
    ship,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{borrow::Borrow, collections::VecDeque};

hosted! {
    /// A dictionary in a manager's server, in the order of insertion.
    ///
    /// The server keeps encoded keys and values: keys are equal when their encodings are. For a `f64` that means that 0.0 and
    /// -0.0 are two keys and a NaN is equal to itself; a `HashMap` as key has no one encoding.
    ///
    /// Every call is atomic; [`update`](Dict::update) and [`compare_and_swap`](Dict::compare_and_swap) are for what reads
    /// and writes.
    Dict<K, V>, Dict
}

const SNAPSHOT: u64 = u64::MAX;
const KEYS: u64 = 1;
const VALUES: u64 = 2;

/// Each of these fails if the server or the object is gone, or something cannot be encoded or decoded.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// The value of a key.
    pub fn get<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
    {
        const DOING: &str = "get a value of a dictionary";
        let request = self.proxy.request(Op::Get).bytes(&plain(DOING, key)?);
        self.proxy.ask(DOING, request, |answer| answer.option())
    }

    /// Puts a value, and gives the one that was there.
    pub fn insert(&self, key: &K, value: &V) -> Result<Option<V>> {
        const DOING: &str = "insert into a dictionary";
        let request = self.proxy.request(Op::Insert).bytes(&plain(DOING, key)?);
        self.proxy.ask(DOING, self.proxy.with(DOING, request, value)?, |answer| answer.option())
    }

    /// Puts a value; what was there does not come back.
    pub fn set(&self, key: &K, value: &V) -> Result<()> {
        const DOING: &str = "set a value of a dictionary";
        let request = self.proxy.request(Op::Put).bytes(&plain(DOING, key)?);
        self.proxy.ask_nothing(DOING, self.proxy.with(DOING, request, value)?)
    }

    /// The value of a key, which is `value` if there was none. Python's `setdefault`.
    pub fn get_or_insert(&self, key: &K, value: &V) -> Result<V> {
        const DOING: &str = "get or insert a value of a dictionary";
        let request = self.proxy.request(Op::GetOrInsert).bytes(&plain(DOING, key)?);
        self.proxy.ask(DOING, self.proxy.with(DOING, request, value)?, |answer| {
            answer.bool()?;
            answer.value()
        })
    }

    /// Takes a key out, and gives its value. Python's `pop` and `del`.
    pub fn remove<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
    {
        const DOING: &str = "remove a key of a dictionary";
        let request = self.proxy.request(Op::Remove).bytes(&plain(DOING, key)?);
        self.proxy.ask(DOING, request, |answer| answer.option())
    }

    /// Takes the entry out that was inserted last.
    pub fn pop_item(&self) -> Result<Option<(K, V)>> {
        const DOING: &str = "pop an item of a dictionary";
        self.proxy.ask(DOING, self.proxy.request(Op::PopItem), |answer| {
            if !answer.bool()? {
                return Ok(None);
            }
            answer.entry().map(Some)
        })
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Serialize + ?Sized>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
    {
        const DOING: &str = "look for a key of a dictionary";
        let request = self.proxy.request(Op::Contains).bytes(&plain(DOING, key)?);
        self.proxy.ask(DOING, request, |answer| answer.bool())
    }

    /// How many entries there are.
    pub fn len(&self) -> Result<usize> {
        self.proxy.ask_number("count the entries of a dictionary", Op::Len).map(|len| len as usize)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Takes all entries out.
    pub fn clear(&self) -> Result<()> {
        self.proxy.ask_nothing("clear a dictionary", self.proxy.request(Op::Clear))
    }

    /// The values of several keys, in one round trip.
    pub fn get_many<'a, Q: Serialize + 'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> Result<Vec<Option<V>>>
    where
        K: Borrow<Q>,
    {
        const DOING: &str = "get values of a dictionary";
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| plain(DOING, key)).collect::<Result<_>>()?;
        let mut request = self.proxy.request(Op::GetMany).u64(keys.len() as u64);
        for key in &keys {
            request = request.bytes(key);
        }
        self.proxy.ask(DOING, request, |answer| answer.each(keys.len(), |answer| answer.option()))
    }

    /// Puts several entries, in one round trip and one step. Python's `update`.
    pub fn extend<'a>(&self, entries: impl IntoIterator<Item = (&'a K, &'a V)>) -> Result<()>
    where
        K: 'a,
        V: 'a,
    {
        const DOING: &str = "extend a dictionary";
        let mut request = self.proxy.request(Op::InsertMany).u64(0);
        let at = request.out.len() - 8;
        let mut count = 0_u64;
        for (key, value) in entries {
            request = self.proxy.with(DOING, request.bytes(&plain(DOING, key)?), value)?;
            count += 1;
        }
        request.out[at..at + 8].copy_from_slice(&count.to_le_bytes());
        self.proxy.ask_nothing(DOING, request)
    }

    /// Takes several keys out; tells how many were there.
    pub fn remove_many<'a, Q: Serialize + 'a>(&self, keys: impl IntoIterator<Item = &'a Q>) -> Result<usize>
    where
        K: Borrow<Q>,
    {
        const DOING: &str = "remove keys of a dictionary";
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| plain(DOING, key)).collect::<Result<_>>()?;
        let mut request = self.proxy.request(Op::RemoveMany).u64(keys.len() as u64);
        for key in &keys {
            request = request.bytes(key);
        }
        self.proxy.ask(DOING, request, |answer| answer.u64()).map(|removed| removed as usize)
    }

    fn page<R>(
        &self,
        what: u64,
        entry: impl Fn(&mut crate::lease::Answer<'_>) -> Result<R>,
    ) -> Result<Vec<R>> {
        const DOING: &str = "read a dictionary";
        let request = self.proxy.request(Op::Page).u64(0).u64(u64::MAX).u64(SNAPSHOT).u64(what);
        self.proxy.ask(DOING, request, |answer| {
            let (_version, _next) = (answer.u64()?, answer.u64()?);
            let count = answer.count(8)?;
            answer.each(count, entry)
        })
    }

    /// All entries as they are at one moment, in the order of insertion. Python's `copy` and `items`.
    pub fn snapshot(&self) -> Result<Vec<(K, V)>> {
        self.page(KEYS | VALUES, |answer| answer.entry())
    }

    /// All keys as they are at one moment.
    pub fn keys(&self) -> Result<Vec<K>> {
        self.page(KEYS, |answer| answer.key())
    }

    /// All values as they are at one moment.
    pub fn values(&self) -> Result<Vec<V>> {
        self.page(VALUES, |answer| answer.value())
    }

    /// Goes through the entries, some hundred thousand bytes at a time. If a key comes or goes meanwhile, that is an error
    /// ([`ErrorKind::Changed`](crate::ErrorKind)), after which nothing comes.
    #[must_use]
    pub fn iter(&self) -> DictIter<K, V> {
        DictIter { dict: self.clone(), version: u64::MAX, next: Some(0), page: VecDeque::new() }
    }

    /// Replaces the value of a key, if it is still `expected`; `None` stands for no value. Tells whether it did.
    ///
    /// Values are compared by their encodings. This works from everywhere, over a network and for other builds too.
    pub fn compare_and_swap(&self, key: &K, expected: Option<&V>, new: Option<&V>) -> Result<bool> {
        const DOING: &str = "compare and swap a value of a dictionary";
        let mut request = self.proxy.request(Op::Compare).bytes(&plain(DOING, key)?);
        request = match expected {
            None => request.u64(0),
            Some(expected) => {
                let mut bytes = Vec::new();
                crate::lease::put(DOING, &self.proxy.site, expected, &mut bytes)?;
                let mut input = crate::proto::Reader::new(&bytes);
                let (encoded, _) = input.value().map_err(|error| crate::client::malformed(DOING, error))?;
                request.u64(1).bytes(encoded)
            }
        };
        request = match new {
            None => request.u64(0),
            Some(new) => self.proxy.with(DOING, request.u64(1), new)?,
        };
        self.proxy.ask(DOING, request, |answer| answer.bool())
    }

    /// Changes the value of a key by a function that is sent to the server: nobody sees it in between. `None` is no value,
    /// before and after.
    ///
    /// The function captures nothing; what it needs goes in `arg`. Other calls of this dictionary wait for it. Should it
    /// panic, that is this call's error, and nothing has changed. Only processes of the manager's own tree may send
    /// functions.
    pub fn update<A, R>(&self, key: &K, f: fn(&mut Option<V>, A) -> R, arg: &A) -> Result<R>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        const DOING: &str = "update a value of a dictionary";
        let (trampoline, method) = ship::for_option(DOING, f)?;
        let request = self.proxy.request(Op::Update).bytes(&plain(DOING, key)?);
        let request = request.bytes(&trampoline).bytes(&method).bytes(&plain(DOING, arg)?);
        self.proxy.ask(DOING, request, |answer| answer.value())
    }
}

/// Goes through a dictionary; [`Dict::iter`].
#[derive(Debug)]
pub struct DictIter<K, V> {
    dict: Dict<K, V>,
    version: u64,
    /// Where the next page begins.
    next: Option<u64>,
    page: VecDeque<(K, V)>,
}

impl<K, V> DictIter<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    fn fetch(&mut self, from: u64) -> Result<(), Error> {
        const DOING: &str = "go through a dictionary";
        let proxy = &self.dict.proxy;
        let request = proxy.request(Op::Page).u64(from).u64(self.version).u64(PAGE).u64(KEYS | VALUES);
        let (version, next, page) = proxy.ask(DOING, request, |answer| {
            let (version, next) = (answer.u64()?, answer.u64()?);
            let count = answer.count(8)?;
            Ok((version, next, answer.each(count, |answer| answer.entry())?.into()))
        })?;
        self.version = version;
        self.next = (next != u64::MAX).then_some(next);
        self.page = page;
        Ok(())
    }
}

impl<K, V> Iterator for DictIter<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                return Some(Ok(entry));
            }
            let from = self.next.take()?;
            if let Err(error) = self.fetch(from) {
                return Some(Err(error));
            }
        }
    }
}
