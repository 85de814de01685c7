//! Arguments that are lent: they encode as the owned type that the receiver decodes.

use serde::Serialize;

/// A value that encodes exactly as an `A` does: `&str` as `String`, `&[T]` as `Vec<T>`, `&T` as `T`.
///
/// So a function that takes a `String` can be called in another process with a `&str`, without a copy here.
/// Implement it only where that holds, byte for byte; the receiver decodes an `A`.
pub trait EncodeAs<A: ?Sized>: Serialize {}

impl<T: Serialize> EncodeAs<T> for T {}
impl<T: Serialize> EncodeAs<T> for &T {}
impl EncodeAs<String> for &str {}
impl<T: Serialize> EncodeAs<Vec<T>> for &[T] {}

/// A tuple of arguments, each of which encodes as the receiver's argument at its place.
pub trait EncodeArgs<A: ?Sized>: Serialize {}

macro_rules! tuples {
    ($($lent:ident $owned:ident)*) => {
        tuples!(@ [] $($lent $owned)*);
    };
    (@ [$($lent:ident $owned:ident)*] $next_lent:ident $next_owned:ident $($rest:ident)*) => {
        impl<$($lent, $owned,)* $next_lent, $next_owned> EncodeArgs<($($owned,)* $next_owned,)>
            for ($($lent,)* $next_lent,)
        where
            $($lent: EncodeAs<$owned>,)*
            $next_lent: EncodeAs<$next_owned>,
        {
        }
        tuples!(@ [$($lent $owned)* $next_lent $next_owned] $($rest)*);
    };
    (@ [$($done:ident)*]) => {};
}

impl EncodeArgs<()> for () {}
tuples!(X1 A1 X2 A2 X3 A3 X4 A4 X5 A5 X6 A6 X7 A7 X8 A8 X9 A9 X10 A10 X11 A11 X12 A12);
