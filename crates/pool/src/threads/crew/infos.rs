//! What the threads do, for who wants to know.

use super::{Crew, Member, since_then};
use crate::back::{WorkerInfo, WorkerState};
use std::time::Duration;

impl Crew {
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
                info.queued = desk.tasks.len() + usize::from(desk.busy.is_some());
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
