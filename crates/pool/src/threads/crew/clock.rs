//! What is due: items that are out of time, and starts that were put off. A thread of its own looks after it, started when
//! something is due for the first time; so limits are kept though nobody waits.

use super::{
    super::task::{GivenUp, Guard, Task},
    Board, Crew, Life, NEVER, locked,
};
use crate::{Cause, Death};
use procession_process::ExitStatus;
use procession_sys::Deadline;
use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    thread,
};

impl Crew {
    /// Something is to be looked after at this time.
    pub(in crate::threads) fn due_at(self: &Arc<Crew>, at: Deadline) {
        if self.clock.due.fetch_min(at.as_nanos(), Ordering::Relaxed) > at.as_nanos() {
            self.clock.thread.get_or_init(|| {
                let crew = self.clone();
                // Without a thread, it is looked after when somebody waits.
                let name = format!("{}-clock", self.recipe.name);
                thread::Builder::new().name(name).spawn(move || crew.keep_time()).ok()
            });
            drop(locked(&self.clock.lock));
            self.clock.changed.notify_one();
        }
    }

    /// Whether something should have been looked after.
    pub(in crate::threads) fn is_late(&self) -> bool {
        let due = self.clock.due.load(Ordering::Relaxed);
        due != NEVER && Deadline::from_nanos(due).passed()
    }

    /// Gives up items that are out of time, and starts threads whose start was put off.
    pub(in crate::threads) fn look_after(self: &Arc<Crew>) {
        self.clock.due.store(NEVER, Ordering::Relaxed);
        let mut board = self.board();
        let mut next: Option<Deadline> = None;
        let members = board.slots.iter().filter_map(|slot| slot.member.as_ref()).chain(&board.leaving);
        for life in members.map(|member| member.life.clone()).collect::<Vec<_>>() {
            let current = life.desk().current.clone();
            let Some(task) = current else { continue };
            if self.give_up(&life, &task, &mut board) {
                board.leave_behind(&life);
            } else {
                let due = task.guard.as_ref().and_then(Guard::due);
                next = [next, due].into_iter().flatten().min();
            }
        }
        self.fill(&mut board);
        drop(board);
        if let Some(next) = next {
            self.due_at(next);
        }
    }

    /// If the item that `life` runs is out of time, it is told so, and what is on its desk goes back to the queue.
    fn give_up(&self, life: &Life, task: &Arc<Task>, board: &mut Board) -> bool {
        let Some(guard) = &task.guard else { return false };
        let Some(why) = guard.give_up() else { return false };
        let cause = match why {
            GivenUp::Limit(limit) => Cause::TimeLimit(limit),
            GivenUp::Cancelled => Cause::Cancelled,
        };
        let death = Arc::new(Death {
            worker: life.name.clone(),
            pid: 0,
            exit: ExitStatus::Unknown,
            cause,
            peak_memory: None,
        });
        let mut desk = life.desk();
        board.events.append(&mut desk.out);
        board.finished.append(&mut desk.finished);
        guard.end_of(task.key, death, &mut board.events);
        board.finished.push(task.key);
        self.return_tasks(board, &mut desk);
        drop(desk);
        self.ring();
        true
    }

    fn keep_time(self: Arc<Crew>) {
        let mut lock = locked(&self.clock.lock);
        while !self.terminated.load(Ordering::Relaxed) {
            let due = self.clock.due.load(Ordering::Relaxed);
            if due == NEVER {
                lock = self.clock.changed.wait(lock).unwrap_or_else(PoisonError::into_inner);
            } else if Deadline::from_nanos(due).passed() {
                drop(lock);
                self.look_after();
                if self.has_news() {
                    self.attend();
                }
                lock = locked(&self.clock.lock);
            } else {
                let time = Deadline::from_nanos(due).remaining();
                lock = self.clock.changed.wait_timeout(lock, time).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}
