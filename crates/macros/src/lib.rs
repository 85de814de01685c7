//! Attributes of `procession`. The crates that they are for re-export them, with the documentation of what they do there.
#![forbid(unsafe_code)]

mod hosted;

use proc_macro::TokenStream;

/// `#[hosted]`, as `procession-manager` exports it.
#[proc_macro_attribute]
pub fn hosted(attribute: TokenStream, item: TokenStream) -> TokenStream {
    hosted::expand(attribute.into(), item.into(), "::procession_manager").into()
}

/// `#[hosted]`, as the facade exports it: its users need not depend on `procession-manager`.
#[proc_macro_attribute]
pub fn hosted_by_facade(attribute: TokenStream, item: TokenStream) -> TokenStream {
    hosted::expand(attribute.into(), item.into(), "::procession::manager").into()
}
