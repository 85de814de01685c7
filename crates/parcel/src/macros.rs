//! `task!` and `register!`.

/// Makes a [`Task`](crate::function::Task): a closure whose captured variables are named, and sent as data.
///
/// ```
/// use procession_parcel::{function::Erased, task};
///
/// let n = 3u64;
/// let words = vec!["a".to_owned(), "b".to_owned()];
/// let scaled = task!(move |x: u64| x * n + words.len() as u64; n, words);
/// assert_eq!(scaled.call(10), 32);
/// let erased = Erased::of_task(&scaled)?;
/// # let _ = erased;
/// # Ok::<(), procession_parcel::Error>(())
/// ```
///
/// The variables are moved into the task (clone them before, to keep them). In the body those of `Copy` types are
/// values, the others references. A variable that the body uses but the list does not name is an error of the
/// compiler that points at it. Up to eight variables can be named; several arguments come as a tuple,
/// `|(a, b): (u32, u32)|`.
#[macro_export]
macro_rules! task {
    ($(move)? | $x:ident | $body:expr; $($capture:ident),+ $(,)?) => {
        $crate::__task!(($x) ($body) $($capture)+)
    };
    ($(move)? | $x:ident : $t:ty | $body:expr; $($capture:ident),+ $(,)?) => {
        $crate::__task!(($x: $t) ($body) $($capture)+)
    };
    ($(move)? | mut $x:ident : $t:ty | $body:expr; $($capture:ident),+ $(,)?) => {
        $crate::__task!((mut $x: $t) ($body) $($capture)+)
    };
    ($(move)? | _ : $t:ty | $body:expr; $($capture:ident),+ $(,)?) => {
        $crate::__task!((_: $t) ($body) $($capture)+)
    };
    ($(move)? | ($($p:tt)*) : $t:ty | $body:expr; $($capture:ident),+ $(,)?) => {
        $crate::__task!((($($p)*): $t) ($body) $($capture)+)
    };
    ($(move)? | $p:pat_param | $body:expr; $($capture:ident),+ $(,)?) => {
        $crate::__task!(($p) ($body) $($capture)+)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __task {
    (($($argument:tt)+) ($body:expr) $($capture:ident)+) => {
        $crate::function::Task::new(($($capture,)+), |captures, $($argument)+| {
            $crate::__captures!(captures; $($capture)+);
            $body
        })
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __captures {
    ($from:ident; $a:ident $($rest:ident)*) => {
        $crate::__captures!(@ $from; (0 1 2 3 4 5 6 7); $a $($rest)*)
    };
    (@ $from:ident; ($index:tt $($indices:tt)*); $capture:ident $($rest:ident)*) => {
        #[allow(unused_imports, reason = "one of the two is used for each captured variable")]
        let $capture = {
            use $crate::__private::{ByReference as _, ByValue as _};
            (&$crate::__private::Captured(&$from.$index)).captured()
        };
        $crate::__captures!(@ $from; ($($indices)*); $($rest)*);
    };
    (@ $from:ident; ($($indices:tt)*);) => {};
}

/// Registers functions under names, for peers of other builds and other machines.
///
/// ```
/// use procession_parcel::{function::Function, register};
///
/// fn area((width, height): (u32, u32)) -> u32 {
///     width * height
/// }
///
/// register! {
///     "shapes.area" => area as fn((u32, u32)) -> u32,
/// }
///
/// # fn main() -> Result<(), procession_parcel::Error> {
/// let function = Function::<(u32, u32), u32>::named("shapes.area")?;
/// assert_eq!(function.call((3, 4)), 12);
/// # Ok(())
/// # }
/// ```
///
/// Names are global to the program: prefix them with the crate's. A name that is registered twice is an error
/// when it is looked up. A registered function may be called by any peer that may send parcels.
#[macro_export]
macro_rules! register {
    ($($name:literal => $function:path as fn($argument:ty $(,)?) -> $result:ty),+ $(,)?) => {$(
        const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::function::REGISTRY)]
            #[linkme(crate = $crate::__private::linkme)]
            static REGISTRATION: $crate::function::Registration =
                $crate::function::Registration::new::<$argument, $result>($name, $function);
        };
    )+};
}

/// How a captured variable appears in the body: by value if it is `Copy`, else by reference. Method resolution
/// prefers the trait that needs fewer references.
#[doc(hidden)]
pub mod private {
    pub use linkme;

    #[derive(Debug)]
    pub struct Captured<'a, T>(pub &'a T);

    pub trait ByValue<T> {
        fn captured(&self) -> T;
    }
    impl<T: Copy> ByValue<T> for Captured<'_, T> {
        fn captured(&self) -> T {
            *self.0
        }
    }

    pub trait ByReference<'a, T> {
        fn captured(&self) -> &'a T;
    }
    impl<'a, T> ByReference<'a, T> for &Captured<'a, T> {
        fn captured(&self) -> &'a T {
            self.0
        }
    }
}
