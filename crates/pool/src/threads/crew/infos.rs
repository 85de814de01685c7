//! What the threads do, for who wants to know.

use super::{Crew, Life, Member, since_then};
use crate::back::{Gone, WorkerInfo, WorkerState};
use std::time::Duration;

/// Takes note of what a thread did that is gone.
pub(super) fn add(gone: &mut Gone, life: &Life) {
    let desk = life.desk();
    gone.workers += 1;
    gone.tasks += desk.jobs;
    gone.items += desk.items;
    gone.age += since_then(life.born);
    gone.busy += desk.worked + desk.busy.map_or(Duration::ZERO, since_then);
    gone.bytes_in += desk.bytes_in;
    gone.bytes_out += desk.bytes_out;
}

impl Crew {
    /// And how many tasks are in the queue.
    pub(in crate::threads) fn gone(&self) -> (Gone, usize) {
        let board = self.board();
        let mut gone = board.gone;
        // As long as they end, they have no place among the infos.
        for member in board.leaving.iter().chain(&board.left) {
            add(&mut gone, &member.life);
        }
        (gone, board.queue.len())
    }

    pub(in crate::threads) fn infos(&self) -> Vec<WorkerInfo> {
        let board = self.board();
        let infos = board.slots.iter().enumerate().map(|(index, slot)| {
            let mut info = WorkerInfo::new(index, "");
            (info.restarts, info.left_behind) = (slot.restarts, slot.left_behind);
            info.state = WorkerState::Absent;
            if let Some(Member { life, .. }) = &slot.member {
                let desk = life.desk();
                info.name.clone_from(&life.name);
                (info.items, info.bytes_in, info.bytes_out) = (desk.items, desk.bytes_in, desk.bytes_out);
                info.in_hand = usize::from(desk.busy.is_some());
                (info.queued, info.tasks) = (desk.tasks.len() + info.in_hand, desk.jobs);
                let born = life.born.as_nanos();
                info.start_up =
                    desk.ready_at.map(|at| Duration::from_nanos(at.as_nanos().saturating_sub(born)));
                info.age = since_then(life.born);
                info.busy = desk.worked + desk.busy.map_or(Duration::ZERO, since_then);
                info.state = match desk.busy {
                    _ if !desk.ready => WorkerState::Starting,
                    _ if board.closed => WorkerState::Ending,
                    Some(_) => WorkerState::Busy,
                    None => WorkerState::Idle,
                };
            }
            info
        });
        infos.collect()
    }
}
