//! Functions of several arguments, which travel as one: a tuple.
#![expect(unsafe_code, reason = "turns the address of a function back into a function of the type it was")]

use super::Erased;
use super::call::{Body, Call, Failure, Target, refuse, run};
use super::signature::signature;
use crate::error::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::marker::PhantomData;
use std::mem::transmute;

/// The arguments of a function, as a tuple of two to six.
pub trait Arguments: DeserializeOwned + 'static {
    /// The function that takes them one by one.
    type Function<R>: Copy;

    /// Refers to `function`; see [`Erased::spread`].
    ///
    /// # Errors
    /// As [`Erased::new`].
    fn erase<R>(function: Self::Function<R>) -> Result<Erased, Error>
    where
        R: Serialize + 'static;
}

struct Spread<A, F, R>(F, PhantomData<fn(A) -> R>);

macro_rules! arguments {
    ($($argument:ident $index:tt),+) => {
        impl<$($argument,)+ R> Call for Spread<($($argument,)+), fn($($argument),+) -> R, R>
        where
            $($argument: DeserializeOwned + 'static,)+
            R: Serialize + 'static,
        {
            type Argument = ($($argument,)+);
            type Value = R;
            #[inline(always)]
            fn call(&self, argument: Self::Argument) -> Result<R, Failure> {
                Ok((self.0)($(argument.$index),+))
            }
        }

        impl<$($argument: DeserializeOwned + 'static),+> Arguments for ($($argument,)+) {
            type Function<R> = fn($($argument),+) -> R;

            fn erase<R>(function: Self::Function<R>) -> Result<Erased, Error>
            where
                R: Serialize + 'static,
            {
                fn mark<$($argument: 'static,)+ R: 'static>() -> u64 {
                    signature::<PhantomData<fn($($argument),+) -> R>, ($($argument,)+), R>()
                }
                fn entry<$($argument,)+ R>(target: &Target, body: Body<'_, '_>)
                where
                    $($argument: DeserializeOwned + 'static,)+
                    R: Serialize + 'static,
                {
                    if target.signature != mark::<$($argument,)+ R>() {
                        return refuse::<fn($($argument),+) -> R>(body);
                    }
                    // SAFETY: a target whose signature is this one holds the address of a function of this very type
                    // (invariants 1 and 2 of the module above).
                    let function = unsafe { transmute::<usize, fn($($argument),+) -> R>(target.function) };
                    run(&Spread::<($($argument,)+), _, R>(function, PhantomData), body);
                }
                let name = type_name::<fn($($argument),+) -> R>();
                let mark = mark::<$($argument,)+ R>();
                Erased::here(entry::<$($argument,)+ R>, function as usize, mark, None, name)
            }
        }
    };
}

arguments!(A 0, B 1);
arguments!(A 0, B 1, C 2);
arguments!(A 0, B 1, C 2, D 3);
arguments!(A 0, B 1, C 2, D 3, E 4);
arguments!(A 0, B 1, C 2, D 3, E 4, F 5);
