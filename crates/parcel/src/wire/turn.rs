//! Whose turn it is to take a message, among the threads of this process.
//!
//! To receive a packet takes two system calls: a look, which may wait, and the take. What another receiver takes in between is
//! not what is taken then.
//!
//! # Protocol
//!
//! * Each socket has a [`Turn`], by its inode, whatever descriptor it is reached through: a lock, and a count of takes. (Sockets
//!   may share one.)
//! * A receiver reads the count; looks, under no lock; takes the lock; if the count is what it was, takes the message and
//!   counts that; else it lets go and looks anew.
//! * Where a message brings descriptors, see that there is room for them, and take it, under one more lock, which all sockets
//!   share: what room there was for one message is not used up by another.
//!
//! # Invariants
//!
//! 1. A take is counted after it was made, and under the lock. So who finds the count unchanged since before its look looked
//!    at what it takes: a take before the look was counted before the count was read, or changes it; one after it changes it.
//! 2. Under these locks nothing waits, and no code of a user runs. Who holds a turn may wait for the room, not the other way round.
//!
//! # When a process dies
//!
//! They are this process's own. A forked copy finds them free: they are held over the fork.

use procession_sys::{
    OverFork,
    hooks::{ForkHooks, around_fork},
};
use rustix::fs::fstat;
use std::os::fd::AsFd;
use std::sync::{MutexGuard, Once};

const TURNS: usize = 16;

/// How many messages were taken, each.
static PLACES: [OverFork<u64>; TURNS] = [const { OverFork::new(0) }; TURNS];
static ROOM: OverFork<()> = OverFork::new(());

/// The order among this process's receivers on one socket: of what one of them has looked at, it takes no other message instead.
///
/// All descriptors of a socket have the same. Other processes that receive on the socket are not in it.
#[derive(Clone, Copy)]
pub struct Turn(&'static OverFork<u64>);

/// A turn that is being taken.
pub(super) struct Taking(MutexGuard<'static, u64>);

fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        around_fork(ForkHooks {
            before: Some(|| {
                PLACES.iter().for_each(OverFork::hold);
                ROOM.hold();
            }),
            in_parent: Some(|| {
                ROOM.release();
                PLACES.iter().for_each(OverFork::release);
            }),
            in_child: Some(|| {
                ROOM.reset(|()| ());
                PLACES.iter().for_each(|place| place.reset(|_| ()));
            }),
        });
    });
}

impl Turn {
    /// That of a socket.
    pub fn of(socket: impl AsFd) -> Turn {
        watch_forks();
        // What cannot be told apart shares one.
        let inode = fstat(socket).map_or(0, |stat| stat.st_ino);
        Turn(&PLACES[(inode % TURNS as u64) as usize])
    }

    /// How many messages were taken.
    pub(super) fn takes(self) -> u64 {
        *self.0.lock()
    }

    /// The turn, if none was taken since there were so many.
    pub(super) fn since(self, takes: u64) -> Option<Taking> {
        let taking = self.0.lock();
        (*taking == takes).then_some(Taking(taking))
    }
}

/// Taken, or not, after all: counted, so that others look anew.
impl Drop for Taking {
    fn drop(&mut self) {
        *self.0 = self.0.wrapping_add(1);
    }
}

/// Keeps the room for descriptors that there is from other receivers of this process.
pub(super) fn room() -> MutexGuard<'static, ()> {
    watch_forks();
    ROOM.lock()
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looked_before_another_one_took_has_to_look_again() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let (turn, copy) = (Turn::of(&a), Turn::of(a.try_clone().unwrap()));
        let seen = turn.takes();
        let other = copy.takes();
        drop(copy.since(other).unwrap());
        assert!(turn.since(seen).is_none());
        assert!(turn.since(turn.takes()).is_some());
        drop(b);
    }
}
