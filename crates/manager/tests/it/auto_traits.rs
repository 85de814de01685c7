//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_manager::{
    Array, Barrier, BoundedSemaphore, Builder, Condition, Connector, Custom, Dict, Error, Event, Guard,
    JoinableQueue, List, LocalServer, Lock, LockError, Manager, Namespace, Permit, Queue, RGuard, RLock,
    Semaphore, Session, Set, Stats, Stopper, Ticket, Value,
};
use procession_testkit::{not_send, send, send_and_sync};

#[test]
fn managers_sessions_and_proxies_are_shared_by_threads() {
    send_and_sync!(Manager, Session, Connector, Stats, Stopper, Error, LockError<()>, Permit);
    send_and_sync!(Dict<u8, u8>, List<u8>, Set<u8>, Namespace, Value<u8>, Array<u8>, Custom<u8>);
    send_and_sync!(Queue<u8>, JoinableQueue<u8>, Lock, RLock, Condition, Semaphore, BoundedSemaphore, Event);
    send_and_sync!(Barrier, Ticket<Value<u8>>);
    send!(Builder, LocalServer);
}

#[test]
fn a_reentrant_locks_guard_belongs_to_its_thread_and_a_locks_does_not() {
    send!(Guard, LockError<Guard>);
    not_send!(RGuard);
}
