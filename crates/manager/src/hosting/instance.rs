//! The part of a generated proxy that is the same for all.

use super::{Signature, explained};
use crate::{
    error::Result,
    hosted::{Hosted, sealed::Sealed},
    lease::{self, Form, Proxy, plain},
    proto::{Op, Type, type_number},
};
use serde::{Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::fmt;

/// What a proxy of a hosted type is made of.
#[derive(Clone)]
pub struct Instance {
    proxy: Proxy,
    name: &'static str,
}

/// A proxy that [`#[hosted]`](macro@crate::hosted) has written.
pub trait HostProxy: Sized {
    /// The type's name.
    #[doc(hidden)]
    const NAME: &'static str;
    #[doc(hidden)]
    fn of(object: Instance) -> Self;
    #[doc(hidden)]
    fn instance(&self) -> &Instance;
}

impl Instance {
    /// Calls a method by its name; its types are its signature.
    ///
    /// # Errors
    /// If the server has no such method, has it with other types, is gone, or the method panics.
    pub fn call<A, R>(&self, method: &str, args: &A) -> Result<R>
    where
        A: Serialize + 'static,
        R: DeserializeOwned + 'static,
    {
        const DOING: &str = "call a method";
        let signature = Signature::of::<A, R>();
        let request = self.proxy.request(Op::CallMethod).bytes(method.as_bytes()).u64(signature.number());
        let outcome = self.proxy.ask(DOING, request.bytes(&plain(DOING, args)?), |answer| answer.value());
        outcome.map_err(|error| explained(error, self.name, method, &signature))
    }

    /// Encodes it for a parcel, or a value of its server.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        lease::serialize(&self.proxy, s)
    }
}

impl PartialEq for Instance {
    fn eq(&self, other: &Instance) -> bool {
        self.proxy.is_same(&other.proxy)
    }
}

impl Eq for Instance {}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name, self.proxy)
    }
}

/// Decodes a proxy.
///
/// # Errors
/// If it is one of another type.
pub fn deserialize<'de, P: HostProxy, D: Deserializer<'de>>(d: D) -> Result<P, D::Error> {
    lease::deserialize(P::form(), d).map(P::from_proxy)
}

impl<P: HostProxy> Sealed for P {
    #[allow(private_interfaces, reason = "nobody else implements or calls it")]
    fn form() -> Form {
        Form { kind: Type::Instance, types: type_number(&[P::NAME]) }
    }
    #[allow(private_interfaces, reason = "nobody else implements or calls it")]
    fn proxy(&self) -> &Proxy {
        &self.instance().proxy
    }
    #[allow(private_interfaces, reason = "nobody else implements or calls it")]
    fn from_proxy(proxy: Proxy) -> P {
        P::of(Instance { proxy, name: P::NAME })
    }
}

/// Names and signatures of the methods that the server's object has. Python's `get_methods`.
///
/// # Errors
/// If the server or the object is gone.
pub(crate) fn methods(proxy: &Proxy) -> Result<Vec<(String, String)>> {
    const DOING: &str = "ask for an object's methods";
    proxy.ask(DOING, proxy.request(Op::Methods), |answer| {
        let count = answer.count(16)?;
        answer.each(count, |answer| Ok((answer.text()?, answer.text()?)))
    })
}

impl<P: HostProxy> Hosted for P {
    fn methods(&self) -> Result<Vec<(String, String)>> {
        methods(self.proxy())
    }
}
