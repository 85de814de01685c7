//! Pools that a manager's server keeps.

use super::nanos;
use crate::{
    client::{Begun, Request},
    error::{Error, ErrorKind, Result},
    hosted::hosted,
    lease::{Answer, Proxy, plain},
    proto::Op,
};
use procession_parcel::{Erased, Parcel};
use procession_sys::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData, time::Duration};

hosted! {
    /// A pool of worker processes in a manager's server, for all of its clients (feature `pool`). Python's `PoolProxy`.
    ///
    /// ```no_run
    /// use procession_manager::Manager;
    ///
    /// let manager = Manager::start()?;
    /// let pool = manager.pool(2)?;
    /// assert_eq!(pool.map(|n: u64| n * n, [1, 2, 3])?, [1, 4, 9]);
    /// let later = pool.submit(|n: u64| n + 1, &1)?;
    /// assert_eq!(later.get()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Functions capture nothing, and are part of this very program; clients of a public address call functions that are
    /// [registered](procession_parcel::register) in the server's program, by their names. Arguments and results are data:
    /// handles and proxies are refused.
    ///
    /// The first failure of a call's items is the call's error: a panic, or [`ErrorKind::Lost`] if a worker died, which is
    /// replaced. A client that dies takes back its calls: what has not begun is not run, what runs is asked to end.
    /// Results that nobody reads wait in the server, up to a bound ([`Builder::max_unread`](crate::Builder::max_unread)).
    /// The workers end with the last proxy.
    PoolProxy<>, Pool
}

const CALL: &str = "call a function in a pool";

/// A call that goes on in a hosted pool. Dropping it takes the call back, as far as it has not begun.
#[must_use = "a call that is dropped is taken back"]
pub struct PoolTask<R> {
    begun: Begun,
    /// The pool lives as long as its calls.
    proxy: Proxy,
    read: fn(&mut Answer<'_>) -> Result<R>,
    result: PhantomData<fn() -> R>,
}

/// What is to be run.
fn packed<A, R>(f: fn(A) -> R) -> Result<Vec<u8>>
where
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let failed = |error| Error::encoding(CALL, error);
    Ok(Parcel::pack(&Erased::new(f).map_err(failed)?).map_err(failed)?.into_parts().0)
}

fn named(name: &str) -> Result<Vec<u8>> {
    let parcel =
        Parcel::pack(&Erased::named_unchecked(name)).map_err(|error| Error::encoding(CALL, error))?;
    Ok(parcel.into_parts().0)
}

fn one<R: DeserializeOwned + 'static>(answer: &mut Answer<'_>) -> Result<R> {
    let only = answer.values::<R>()?.pop();
    only.ok_or_else(|| {
        Error::new(ErrorKind::Encoding, CALL, "the server's reply is malformed: it has no value")
    })
}

/// Each of these fails if the server or the pool is gone or closed, something cannot be encoded or decoded, the function
/// panics ([`Error::panic`]) or its worker dies ([`ErrorKind::Lost`]).
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
impl PoolProxy {
    fn request<'a, A: Serialize + 'a>(
        &self,
        function: &[u8],
        chunk: usize,
        items: impl IntoIterator<Item = &'a A>,
    ) -> Result<Request<'a>> {
        let mut request = self.proxy.request(Op::PoolRun).bytes(function).u64(chunk as u64).u64(0);
        let at = request.out.len() - 8;
        let mut count = 0_u64;
        for item in items {
            request = request.bytes(&plain(CALL, item)?);
            count += 1;
        }
        request.out[at..at + 8].copy_from_slice(&count.to_le_bytes());
        Ok(request)
    }

    fn begin<R>(&self, request: Request<'_>, read: fn(&mut Answer<'_>) -> Result<R>) -> Result<PoolTask<R>> {
        let begun = self.proxy.client(CALL)?.begin(CALL, request, None)?;
        Ok(PoolTask { begun, proxy: self.proxy.clone(), read, result: PhantomData })
    }

    /// Calls a function once, and waits for what it returns.
    pub fn apply<A, R>(&self, f: fn(A) -> R, arg: &A) -> Result<R>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.submit(f, arg)?.get()
    }

    /// Calls a function once, and does not wait. Python's `apply_async`.
    pub fn submit<A, R>(&self, f: fn(A) -> R, arg: &A) -> Result<PoolTask<R>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.begin(self.request(&packed(f)?, 0, [arg])?, one)
    }

    /// Calls a function on each item, and waits for all results, in the order of the items.
    pub fn map<A, R>(&self, f: fn(A) -> R, items: impl IntoIterator<Item = A>) -> Result<Vec<R>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.map_async(f, items)?.get()
    }

    /// As [`map`](PoolProxy::map), and does not wait.
    pub fn map_async<A, R>(
        &self,
        f: fn(A) -> R,
        items: impl IntoIterator<Item = A>,
    ) -> Result<PoolTask<Vec<R>>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.map_chunks(f, items, 0)
    }

    /// As [`map_async`](PoolProxy::map_async), with so many items travelling to a worker together; 0 is as many as suit.
    pub fn map_chunks<A, R>(
        &self,
        f: fn(A) -> R,
        items: impl IntoIterator<Item = A>,
        chunk: usize,
    ) -> Result<PoolTask<Vec<R>>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let items: Vec<A> = items.into_iter().collect();
        self.begin(self.request(&packed(f)?, chunk, &items)?, |answer| answer.values())
    }

    /// Calls the function that is [registered](procession_parcel::register) under this name in the server's program, on each
    /// item: the way for clients of a public address.
    pub fn map_named<A, R>(&self, name: &str, items: impl IntoIterator<Item = A>) -> Result<PoolTask<Vec<R>>>
    where
        A: Serialize + 'static,
        R: DeserializeOwned + 'static,
    {
        let items: Vec<A> = items.into_iter().collect();
        self.begin(self.request(&named(name)?, 0, &items)?, |answer| answer.values())
    }

    /// As [`map_named`](PoolProxy::map_named), once.
    pub fn submit_named<A, R>(&self, name: &str, arg: &A) -> Result<PoolTask<R>>
    where
        A: Serialize + 'static,
        R: DeserializeOwned + 'static,
    {
        self.begin(self.request(&named(name)?, 0, [arg])?, one)
    }

    /// Goes through the results in the order of the items, which are read as the results are taken: no more than `window` of
    /// them are under way. An item's failure is its own, and the others go on.
    pub fn imap<'a, A, R, I>(
        &'a self,
        f: fn(A) -> R,
        items: I,
        window: usize,
    ) -> impl Iterator<Item = Result<R>> + 'a
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        I: IntoIterator<Item = A>,
        I::IntoIter: 'a,
    {
        let mut items = items.into_iter().fuse();
        let mut under_way = std::collections::VecDeque::new();
        std::iter::from_fn(move || {
            while under_way.len() < window.max(1)
                && let Some(item) = items.next()
            {
                under_way.push_back(self.submit(f, &item));
            }
            under_way.pop_front().map(|task: Result<PoolTask<R>>| task?.get())
        })
    }

    /// The pids of its workers.
    pub fn worker_pids(&self) -> Result<Vec<u32>> {
        self.proxy.ask("look at a pool", self.proxy.request(Op::PoolInfo), |answer| {
            let count = answer.count(8)?;
            answer.each(count, |answer| Ok(answer.u64()? as u32))
        })
    }

    /// Takes no more calls, from nobody. Those that were made go on. [`ErrorKind::Refused`] for clients of a public address, unless
    /// the manager allows it ([`Builder::public_pool_end`](crate::Builder::public_pool_end)).
    pub fn close(&self) -> Result<()> {
        self.proxy.ask_nothing("close a pool", self.proxy.request(Op::PoolClose))
    }

    /// Waits until all calls are done, for so long if a time is given; tells whether they are. A pool that was not
    /// [closed](PoolProxy::close) is [`ErrorKind::Invalid`].
    pub fn join(&self, timeout: Option<Duration>) -> Result<bool> {
        let request = self.proxy.request(Op::PoolJoin).u64(nanos(timeout));
        self.proxy.ask_late("wait for a pool", request, timeout, None, |answer| answer.bool())
    }

    /// Ends the workers, in the middle of work. Calls that have no result get an error, whoever made them. Clients of a public
    /// address may do it where they may [close](PoolProxy::close) it.
    pub fn terminate(&self) -> Result<()> {
        self.proxy.ask_nothing("end a pool", self.proxy.request(Op::PoolEnd))
    }
}

impl<R> PoolTask<R> {
    fn read(&self, frame: crate::client::Frame) -> Result<R> {
        let (site, client) = (&self.proxy.site, &self.begun.client);
        (self.read)(&mut Answer::new(CALL, site, client, frame.payload, self.begun.number))
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// As the call's.
    pub fn get(mut self) -> Result<R> {
        match self.begun.wait(None) {
            Some(reply) => self.read(reply?),
            None => Err(Error::new(ErrorKind::Timeout, CALL, "no reply came")),
        }
    }

    /// Waits for the result for so long; gives itself back, if there is none.
    ///
    /// # Errors
    /// Itself. The inner error is the call's.
    pub fn get_timeout(mut self, timeout: Duration) -> std::result::Result<Result<R>, PoolTask<R>> {
        match self.begun.wait(Some(Deadline::after(timeout))) {
            Some(reply) => Ok(reply.and_then(|reply| self.read(reply))),
            None => Err(self),
        }
    }

    /// Takes the call back: what has not begun is not run, and what runs is asked to end
    /// ([`cancelled`](procession_pool::cancelled)).
    pub fn cancel(self) {}
}

/// The result, for any executor (feature `async`).
#[cfg(feature = "async")]
impl<R: 'static> IntoFuture for PoolTask<R> {
    type Output = Result<R>;
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = Result<R>> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let frame = std::future::poll_fn(|context| self.begun.poll(context.waker())).await?;
            self.read(frame)
        })
    }
}

impl<R> fmt::Debug for PoolTask<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} of {:?}", self.begun.number, self.proxy)
    }
}

impl crate::Session {
    /// A pool of so many worker processes, children of the server's (feature `pool`); 0 is as many as there are processors.
    ///
    /// # Errors
    /// If the workers cannot be started, the server is gone, or was built without the feature; [`ErrorKind::Refused`] for clients of
    /// a public address, which may use those that were published.
    pub fn pool(&self, workers: usize) -> Result<PoolProxy> {
        let args = plain("make a pool", &(workers as u64))?;
        self.make(|request| Ok(request.bytes(&args)))
    }
}
