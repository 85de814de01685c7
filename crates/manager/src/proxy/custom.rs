//! Objects of any type.

use crate::{error::Result, hosted::hosted, lease::plain, proto::Op, ship};
use serde::{Serialize, de::DeserializeOwned};

hosted! {
    /// An object of any type, which lives in a manager's server; [`Session::host`](crate::Session::host).
    Custom<T>, Custom
}

impl<T: Send + 'static> Custom<T> {
    /// Calls a function on it, in the server. The function captures nothing; what it needs goes in `arg`.
    ///
    /// Calls of one object run one after the other, in the order in which they come, beside those of other objects. A panic
    /// is this call's error; the object stays as the function left it.
    ///
    /// # Errors
    /// If the function panics ([`Error::panic`](crate::Error::panic)), something cannot be encoded or decoded, the server or
    /// the object is gone, or this process is not of the manager's own tree.
    pub fn call<A, R>(&self, f: fn(&mut T, A) -> R, arg: &A) -> Result<R>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        const DOING: &str = "call an object";
        let (trampoline, method) = ship::for_object(DOING, f)?;
        let request = self.proxy.request(Op::Call).bytes(&trampoline).bytes(&method);
        self.proxy.ask(DOING, request.bytes(&plain(DOING, arg)?), |answer| answer.value())
    }

    /// As [`call`](Custom::call), as a future (feature `async`). One that is dropped leaves the call to itself: it is made, and
    /// nobody has its result.
    ///
    /// # Errors
    /// As [`call`](Custom::call).
    #[cfg(feature = "async")]
    pub async fn call_async<A, R>(&self, f: fn(&mut T, A) -> R, arg: &A) -> Result<R>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        const DOING: &str = "call an object";
        let (trampoline, method) = ship::for_object(DOING, f)?;
        let request = self.proxy.request(Op::Call).bytes(&trampoline).bytes(&method);
        let request = request.bytes(&plain(DOING, arg)?);
        self.proxy.ask_later(DOING, request, None, |answer| answer.value()).await
    }
}
