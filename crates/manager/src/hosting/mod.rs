//! Hosted types of the user's: known by a name, their methods by name and signature.
//!
//! `#[hosted]` puts a [`TypeEntry`] into a list that the linker completes: the constructor and each public method, as functions
//! that take their arguments encoded. A server finds the type by its name, and the method by its name; what a client sends
//! besides is the number of the signature, made of the names of its types. So nothing depends on where a function lies: both
//! may be of different builds.
//!
//! # Who may make what
//! Clients of the manager's own tree: every hosted type of the server's program. Clients of a public address: those that were
//! registered ([`Builder::register`](crate::Builder::register)). Whoever has a proxy may call its methods.
//!
//! # Invariants
//! 1. An object that has an entry was made by that entry's constructor, or not at all (`None`): its type is the entry's.
//! 2. A method is called only if the number of its signature is the caller's.

mod instance;

use crate::{
    error::{Error, ErrorKind, Result},
    lease::plain,
    proto::type_number,
    ship::{Done, Failure, Job, State, caught, encoding},
};
pub use instance::{HostProxy, Instance, deserialize};
use procession_parcel::codec;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    any::{Any, type_name},
    collections::HashMap,
    fmt,
};

/// A type whose objects a manager's server makes and keeps; written by [`#[hosted]`](macro@crate::hosted).
pub trait Host: Sized + Send + 'static {
    /// Its name, the same in every program that uses it.
    const NAME: &'static str;
    /// The constructor's arguments, a tuple.
    type Args: Serialize + DeserializeOwned + 'static;
    /// The proxy of its objects.
    type Proxy: HostProxy;
}

/// All hosted types of this program, put together by the linker.
#[linkme::distributed_slice]
pub static TYPES: [TypeEntry];

type Run = fn(Job) -> Done;

/// A hosted type.
pub struct TypeEntry {
    pub(crate) name: &'static str,
    pub(crate) rust_name: fn() -> &'static str,
    make: MethodEntry,
    methods: &'static [MethodEntry],
}

/// A method.
pub struct MethodEntry {
    name: &'static str,
    types: fn() -> Signature,
    run: Run,
}

impl TypeEntry {
    /// For `#[hosted]` alone.
    #[must_use]
    pub const fn new<T: Host>(make: Run, methods: &'static [MethodEntry]) -> TypeEntry {
        TypeEntry {
            name: T::NAME,
            rust_name: type_name::<T>,
            make: MethodEntry { name: "new", types: Signature::of::<T::Args, ()>, run: make },
            methods,
        }
    }

    /// What its objects are made by, for a caller that knows the constructor by this signature.
    pub(crate) fn maker(&self, signature: u64) -> Result<Run, (ErrorKind, String)> {
        self.fitting(&self.make, signature)
    }

    pub(crate) fn method(&self, name: &str, signature: u64) -> Result<Run, (ErrorKind, String)> {
        let Some(method) = self.methods.iter().find(|method| method.name == name) else {
            let text = format!("the server's `{}` has no method `{name}`: it has {}", self.name, self.all());
            return Err((ErrorKind::NotFound, text));
        };
        self.fitting(method, signature)
    }

    fn fitting(&self, method: &MethodEntry, signature: u64) -> Result<Run, (ErrorKind, String)> {
        let types = (method.types)();
        if types.number() == signature {
            return Ok(method.run);
        }
        let text = format!("`{}::{}` is `{types}` at the server", self.name, method.name);
        Err((ErrorKind::WrongType, text))
    }

    fn all(&self) -> String {
        let names: Vec<String> = self.methods.iter().map(|method| format!("`{}`", method.name)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// Names and signatures.
    pub(crate) fn describe(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.methods.iter().map(|method| (method.name, (method.types)().to_string()))
    }
}

impl fmt::Debug for TypeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, (self.rust_name)())
    }
}

impl MethodEntry {
    /// For `#[hosted]` alone.
    #[must_use]
    pub const fn new<A, R>(name: &'static str, run: Run) -> MethodEntry {
        MethodEntry { name, types: Signature::of::<A, R>, run }
    }
}

impl fmt::Debug for MethodEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, (self.types)())
    }
}

/// The names of a method's types.
pub(crate) struct Signature {
    arguments: &'static str,
    result: &'static str,
}

impl Signature {
    pub(crate) fn of<A, R>() -> Signature {
        Signature { arguments: type_name::<A>(), result: type_name::<R>() }
    }

    /// The same in every build that names the types alike.
    pub(crate) fn number(&self) -> u64 {
        type_number(&[self.arguments, self.result])
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A tuple of one is written with a comma.
        let arguments = self.arguments.strip_suffix(",)").map(|all| format!("{all})"));
        write!(f, "fn{}", arguments.as_deref().unwrap_or(self.arguments))?;
        if self.result != "()" {
            write!(f, " -> {}", self.result)?;
        }
        Ok(())
    }
}

/// What a constructor gives: an object, or why there is none.
pub trait Made<T> {
    /// The object.
    ///
    /// # Errors
    /// Why there is none.
    fn made(self) -> Result<T, String>;
}

impl<T> Made<T> for T {
    fn made(self) -> Result<T, String> {
        Ok(self)
    }
}

impl<T, E: fmt::Display> Made<T> for Result<T, E> {
    fn made(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// A constructor, without its types. For `#[hosted]` alone.
pub fn make<T, A, M>(job: Job, make: fn(A) -> M) -> Done
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    M: Made<T>,
{
    let made = caught(|| {
        let args: A = codec::decode(&job.args).map_err(encoding)?;
        let made = make(args).made();
        made.map(|object| Box::new(object) as Box<dyn Any + Send>)
            .map_err(|text| Failure::Other(ErrorKind::Refused, text))
    });
    match made {
        Ok(object) => Done { state: State::Object(Some(object)), outcome: Ok(Vec::new()) },
        Err(failure) => Done { state: State::Object(None), outcome: Err(failure) },
    }
}

/// A method, without its types. For `#[hosted]` alone.
pub fn call<T, A, R>(job: Job, method: fn(&mut T, A) -> R) -> Done
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let Job { state: State::Object(Some(mut object)), args, .. } = job else {
        let text = "the object was not made".to_owned();
        return Done { state: job.state, outcome: Err(Failure::Other(ErrorKind::ObjectGone, text)) };
    };
    let outcome = match object.downcast_mut::<T>() {
        Some(target) => caught(|| {
            let args: A = codec::decode(&args).map_err(encoding)?;
            let mut bytes = Vec::new();
            codec::encode(&method(target, args), &mut bytes).map_err(encoding)?;
            Ok(bytes)
        }),
        None => Err(Failure::Other(ErrorKind::WrongType, "the object is of another type".to_owned())),
    };
    Done { state: State::Object(Some(object)), outcome }
}

/// The hosted types that a server knows.
#[derive(Default, Debug)]
pub(crate) struct Known {
    registered: HashMap<String, &'static TypeEntry>,
}

/// A type under a name: that name, the type's own, and Rust's.
pub(crate) type Registered = (String, String, String);

pub(crate) fn registered<T: Host>(name: &str) -> Registered {
    (name.to_owned(), T::NAME.to_owned(), type_name::<T>().to_owned())
}

impl Known {
    pub(crate) fn new(registered: Vec<Registered>) -> Result<Known, String> {
        let mut known = Known::default();
        for (name, own, rust) in registered {
            let entry = TYPES.iter().find(|entry| entry.name == own && (entry.rust_name)() == rust);
            let entry = entry.ok_or_else(|| format!("the type `{rust}` is not in the server's program"))?;
            if let Some(other) = known.registered.insert(name.clone(), entry) {
                return Err(format!("two types are registered as `{name}`: {other:?} and {entry:?}"));
            }
        }
        Ok(known)
    }

    /// The type of this name, for a client of the tree or of a public address.
    pub(crate) fn find(&self, name: &str, trusted: bool) -> Result<&'static TypeEntry, String> {
        if let Some(entry) = self.registered.get(name) {
            return Ok(entry);
        }
        let mut all = TYPES.iter().filter(|entry| trusted && entry.name == name);
        match (all.next(), all.next()) {
            (Some(entry), None) => Ok(entry),
            (Some(one), Some(other)) => {
                Err(format!("two hosted types are called `{name}`: {one:?}, {other:?}"))
            }
            (None, _) if trusted => Err(format!("no hosted type of the server's program is called `{name}`")),
            (None, _) => Err(format!("no type is registered as `{name}` for clients of a public address")),
        }
    }
}

/// The name, signature and arguments of a constructor's call.
pub(crate) fn creation<T: Host>(doing: &'static str, args: &T::Args) -> Result<(u64, Vec<u8>)> {
    Ok((Signature::of::<T::Args, ()>().number(), plain(doing, args)?))
}

/// A refusal that says what was called here.
fn explained(error: Error, name: &str, method: &str, signature: &Signature) -> Error {
    match error.kind() {
        ErrorKind::WrongType => {
            error.and(&format!("it is called as `{name}::{method}`, `{signature}`, here"))
        }
        _ => error,
    }
}

impl crate::Session {
    /// Makes an object of a hosted type in the server, by its constructor; `args` is a tuple. Python's
    /// `manager.Counter(1)`.
    ///
    /// ```no_run
    /// use procession_manager::{Manager, hosted};
    ///
    /// struct Counter(i64);
    ///
    /// #[hosted]
    /// impl Counter {
    ///     pub fn new(first: i64) -> Counter {
    ///         Counter(first)
    ///     }
    ///     pub fn add(&mut self, n: i64) -> i64 {
    ///         self.0 += n;
    ///         self.0
    ///     }
    /// }
    ///
    /// let manager = Manager::start()?;
    /// let counter: CounterProxy = manager.create::<Counter>((1,))?;
    /// assert_eq!(counter.add(4)?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the server does not know the type, or not for this client;
    /// [`ErrorKind::WrongType`] if its constructor has other arguments there; the constructor's own error
    /// ([`ErrorKind::Refused`]) or panic; and if the server is gone.
    pub fn create<T: Host>(&self, args: T::Args) -> Result<T::Proxy> {
        self.create_named::<T>(T::NAME, args)
    }

    /// As [`create`](crate::Session::create), of the type that was registered under another name than its own.
    ///
    /// # Errors
    /// As [`create`](crate::Session::create).
    pub fn create_named<T: Host>(&self, name: &str, args: T::Args) -> Result<T::Proxy> {
        let (signature, args) = creation::<T>("create an object", &args)?;
        let made = self.make(|request| Ok(request.bytes(name.as_bytes()).u64(signature).bytes(&args)));
        made.map_err(|error| explained(error, name, "new", &Signature::of::<T::Args, ()>()))
    }
}
