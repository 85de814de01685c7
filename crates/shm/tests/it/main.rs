//! What a segment promises.

mod attach;
mod contents;
mod limits;
mod members;
mod support;
