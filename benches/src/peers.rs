//! The rivals, and the limits that the system sets.

pub mod boot;
pub mod c_fork_server;
pub mod cpython;
pub mod crossbeam;
pub mod events;
pub mod forked;
pub mod iceoryx;
pub mod ipc_channel;
pub mod mutexes;
pub mod ping_pong;
pub mod posix_spawn;
pub mod procspawn;
pub mod rayon;
pub mod sem_t;
pub mod unix_socket;
