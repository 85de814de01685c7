//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_sync::{
    Array, ArrayChunk, ArrayGuard, ArrayPart, Barrier, BoundedSemaphore, Condition, ConditionGuard, Deadline,
    Error, Event, Lock, LockError, LockGuard, Once, OnceValue, Permit, RLock, RLockGuard, RawArray, RawValue,
    ReadGuard, RwLock, Semaphore, Value, ValueGuard, WriteGuard,
};
use procession_testkit::{not_send, send, send_and_sync};

#[test]
fn handles_and_permits_go_to_other_threads() {
    send_and_sync!(
        Lock,
        RLock,
        RwLock,
        Condition,
        Event,
        Barrier,
        Once,
        OnceValue<u8>,
        Semaphore,
        BoundedSemaphore
    );
    send_and_sync!(
        Value<u8>,
        Array<u8>,
        RawValue<u64>,
        RawArray<u64>,
        ArrayPart<u8>,
        Deadline,
        Error,
        LockError
    );
    send!(Permit<'static>, ArrayChunk<u8>);
}

#[test]
fn a_guard_belongs_to_its_thread() {
    not_send!(LockGuard<'static>, RLockGuard<'static>, ConditionGuard<'static>);
    not_send!(ReadGuard<'static>, WriteGuard<'static>, ValueGuard<'static, u8>, ArrayGuard<'static, u8>);
}
