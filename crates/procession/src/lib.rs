#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

#[doc(inline)]
pub use procession_channel as channel;
#[cfg(feature = "manager")]
#[doc(inline)]
pub use procession_manager as manager;
#[doc(inline)]
pub use procession_parcel as parcel;
#[cfg(feature = "pool")]
#[doc(inline)]
pub use procession_pool as pool;
#[doc(inline)]
pub use procession_process as process;
#[doc(inline)]
pub use procession_shm as shm;
#[cfg(feature = "sync")]
#[doc(inline)]
pub use procession_sync as sync;

#[cfg(feature = "testing")]
pub mod testing;

pub use procession_channel::queue::{Claim, Policy};
pub use procession_channel::{
    ChannelBuilder, Connection, ConnectionError, JoinableQueue, Pipe, Queue, ReceiveError, Receiver, Sender,
    SimpleQueue, Unsent, Waitable, channel, channel_on, wait, wait_deadline,
};
/// Methods by name: as [`manager::hosted`](macro@procession_manager::hosted), for those who depend on this crate alone.
#[cfg(feature = "manager")]
pub use procession_macros::hosted_by_facade as hosted;
#[cfg(feature = "manager")]
pub use procession_manager::Manager;
pub use procession_parcel::{Bytes, Fd, Function, Parcel, Pod, RemoteError, Task, register, task};
#[cfg(feature = "pool")]
pub use procession_pool::{Pool, TaskError};
pub use procession_process::{
    Builder, Context, Error, ExitStatus, Interrupts, JoinError, Process, Resource, Run, Scope, StartMethod,
    Stdio, active_children, at_exit, cpu_count, current_process, fork_server_preload, handle_interrupts,
    init, interrupted, join_at_exit, on_child_start, parent_process, scope, set_exit_bound, spawn,
};
pub use procession_shm::{
    Heap, ShareableList, SharedBox, SharedMemory, SharedMemoryManager, SharedSlice, SharedStr, SharedVec,
};
#[cfg(feature = "sync")]
#[doc(no_inline)]
pub use procession_sync::bytemuck;
#[cfg(feature = "sync")]
pub use procession_sync::{
    Array, ArrayChunk, ArrayPart, Barrier, BoundedSemaphore, Condition, Event, Lock, LockError, Once,
    OnceValue, RLock, RawArray, RawValue, RwLock, Semaphore, Value,
};

/// The examples of the repository's own page are tests too.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[derive(Debug)]
pub struct RepositoryReadme;

/// And those of the guide.
#[cfg(all(doctest, feature = "manager", feature = "pool", feature = "sync"))]
#[doc = include_str!("../../../docs/guide.md")]
#[derive(Debug)]
pub struct Guide;

/// Everything that most programs need.
pub mod prelude {
    #[cfg(feature = "manager")]
    pub use crate::Manager;
    #[cfg(feature = "sync")]
    pub use crate::{
        Array, ArrayPart, Barrier, BoundedSemaphore, Condition, Event, Lock, LockError, RLock, RawArray,
        RawValue, RwLock, Semaphore, Value,
    };
    pub use crate::{
        Connection, Context, ExitStatus, Fd, JoinError, JoinableQueue, Pipe, Process, Queue, RemoteError,
        Resource, Run, SimpleQueue, StartMethod, active_children, at_exit, cpu_count, current_process,
        fork_server_preload, on_child_start, parent_process, scope, spawn, task, wait,
    };
    #[cfg(feature = "pool")]
    pub use crate::{Pool, TaskError};
}
