//! What goes wrong inside serde: a text, one pointer wide so that the happy path stays in registers.

use std::borrow::Cow;
use std::fmt;

#[derive(Debug)]
pub(crate) struct Fault(Box<Cow<'static, str>>);

impl Fault {
    #[cold]
    #[inline(never)]
    pub(crate) fn new(text: &'static str) -> Fault {
        Fault(Box::new(Cow::Borrowed(text)))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn text(text: String) -> Fault {
        Fault(Box::new(Cow::Owned(text)))
    }

    pub(crate) fn into_text(self) -> String {
        self.0.into_owned()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl serde::ser::Error for Fault {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Fault {
        Fault::text(message.to_string())
    }
}

impl serde::de::Error for Fault {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Fault {
        Fault::text(message.to_string())
    }
}
