//! Whether the deserialiser at work may honour references to functions by offset.
//!
//! The permission is handed over in a thread-local that is set only between our deserialiser's call of a
//! visitor and that visitor's first line, so that another format's deserialiser, used meanwhile, does not have it by
//! accident. On purpose it can be had: a deserialiser that runs ours for the sake of the mark passes it on. No harm
//! comes of that, since a reference needs an intact seal besides (`function::seal`).

use serde::de::{Deserialize, Deserializer, Visitor};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

/// The name by which our deserialiser knows that the question is asked.
pub(crate) const MARK: &str = "procession_parcel::trust";

thread_local! {
    static TRUSTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `visit` with the permission set to `trusted` for whoever asks first.
pub(crate) fn grant<T>(trusted: bool, visit: impl FnOnce() -> T) -> T {
    TRUSTED.set(trusted);
    let result = visit();
    TRUSTED.set(false);
    result
}

/// Deserialises a `W`, and tells whether the source is trusted. `W` was serialised within a newtype struct.
pub(crate) fn deserialize<'de, W: Deserialize<'de>, D: Deserializer<'de>>(
    d: D,
) -> Result<(W, bool), D::Error> {
    struct Ask<W>(PhantomData<W>);
    impl<'de, W: Deserialize<'de>> Visitor<'de> for Ask<W> {
        type Value = (W, bool);
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value of this crate")
        }
        fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            let trusted = TRUSTED.replace(false);
            Ok((W::deserialize(d)?, trusted))
        }
    }
    TRUSTED.set(false);
    d.deserialize_newtype_struct(MARK, Ask(PhantomData))
}
