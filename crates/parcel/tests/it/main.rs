//! What the crate promises, tested through its public interface.

mod auto_traits;
mod borrowed;
mod carriers;
mod codec;
mod faults;
mod functions;
mod handles;
mod packet;
mod panics;
mod plain;
mod refused;
mod roles;
mod sealed;
mod support;
mod values;
mod wire;
mod wire_hostile;
