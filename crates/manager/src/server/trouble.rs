//! Why a request is not done.

use crate::{
    error::ErrorKind,
    proto::{Malformed, Op},
    ship,
};
use procession_parcel::codec;

pub(crate) struct Fault {
    pub(super) kind: ErrorKind,
    pub(super) text: String,
    /// What follows the text in the reply.
    pub(super) more: Option<Vec<u8>>,
}

/// Why a request was not done.
pub(crate) enum Trouble {
    Fault(Box<Fault>),
    /// The connection has lost its place, or its client is no client.
    Malformed(Malformed),
}

impl Trouble {
    pub(super) fn fault(kind: ErrorKind, text: impl Into<String>) -> Trouble {
        Trouble::Fault(Box::new(Fault { kind, text: text.into(), more: None }))
    }

    pub(super) fn no_method(op: Op) -> Trouble {
        Trouble::fault(ErrorKind::WrongType, format!("the object has no method {op:?}"))
    }

    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Trouble::Fault(fault) => fault.kind,
            Trouble::Malformed(_) => ErrorKind::Refused,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Trouble::Fault(fault) => fault.text.clone(),
            Trouble::Malformed(malformed) => format!("the request is malformed: {malformed}"),
        }
    }
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Trouble {
        Trouble::Malformed(malformed)
    }
}

/// What came of a function that gave no value.
pub(super) fn failed(failure: ship::Failure) -> Trouble {
    match failure {
        ship::Failure::Other(kind, text) => Trouble::fault(kind, text),
        ship::Failure::Panicked(panic) => {
            let mut more = Vec::new();
            let more = codec::encode(&panic, &mut more).is_ok().then_some(more);
            let text = panic.to_string();
            Trouble::Fault(Box::new(Fault { kind: ErrorKind::Panicked, text, more }))
        }
    }
}
