//! The project's own commands, run as `cargo xtask COMMAND`. A library, so that `cargo test` runs `tidy` too.
#![forbid(unsafe_code)]

pub mod bench;
pub mod ci;
pub mod crash;
pub mod fuzz;
mod leftovers;
pub mod loom;
pub mod newcomer;
mod shell;
pub mod soak;
pub mod tidy;
mod workspace;

pub use workspace::root;

/// What a command ends with: nothing, or a line for the user.
pub type Outcome = Result<(), String>;
