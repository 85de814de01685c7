//! What a ring carries besides bytes.
//!
//! A ring has no place for descriptors. It may be made on something that both of its sides know already, though, such as a
//! heap in shared memory, so that a value needs only a number to say what of it is meant. A *carrier* is what a ring brings
//! along for that: a value of a type that those who pack into it know ([`codec::encode_with`](crate::codec::encode_with)).
//!
//! A type that can use one implements `Serialize` by [`serialize`] and `Deserialize` by [`deserialize`], of values whose
//! implementations ask for the carrier first of all ([`offered`]). With any other format, and in a parcel, there is none.
//!
//! As with descriptors (see [`handle`](crate::handle)), the carrier belongs to the very (de)serialiser at work, and is laid
//! down in a thread-local for one call only: a parcel that is packed while a ring's message is has no carrier.

use serde::{Deserializer, Serialize, Serializer, de::Visitor};
use std::{any::Any, cell::Cell, fmt, sync::Arc};

/// The name by which our (de)serialiser knows who asks for a carrier.
pub(crate) const MARK: &str = "procession_parcel::carrier";

/// What a ring brings along.
pub type Carrier = Arc<dyn Any + Send + Sync>;

/// A carrier, as it is offered to a value.
pub struct Offered {
    /// The carrier.
    pub carrier: Carrier,
    /// Whether the value is written. An encoding makes a pass before that in which it is only counted; both passes must
    /// take the same number of bytes. False where it is read.
    pub writes: bool,
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offered").field("writes", &self.writes).finish_non_exhaustive()
    }
}

thread_local! {
    static OFFERED: Cell<Option<Offered>> = const { Cell::new(None) };
}

/// Serialises `value`, which is offered the carrier.
///
/// # Errors
///
/// The serialiser's.
pub fn serialize<T: Serialize, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_newtype_struct(MARK, value)
}

/// Deserialises by a visitor, whose `visit_newtype_struct` is offered the carrier.
///
/// # Errors
///
/// The deserialiser's.
pub fn deserialize<'de, V: Visitor<'de>, D: Deserializer<'de>>(
    visitor: V,
    d: D,
) -> Result<V::Value, D::Error> {
    d.deserialize_newtype_struct(MARK, visitor)
}

/// The carrier, to be taken before anything else is done; `None` where there is none.
#[must_use]
pub fn offered() -> Option<Offered> {
    OFFERED.take()
}

/// Called by our (de)serialiser: lays the carrier down while `visit` runs.
pub(crate) fn offer<R>(carrier: Option<&Carrier>, writes: bool, visit: impl FnOnce() -> R) -> R {
    struct Withdraw;
    impl Drop for Withdraw {
        fn drop(&mut self) {
            OFFERED.set(None);
        }
    }
    let withdraw = Withdraw;
    OFFERED.set(carrier.map(|carrier| Offered { carrier: carrier.clone(), writes }));
    let result = visit();
    drop(withdraw);
    result
}
