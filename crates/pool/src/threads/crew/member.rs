//! The life of a thread.

use super::super::task::{Function, Next, Run, Task};
use super::{ATTEND_AGAIN, BATCH, Board, Crew, LONG, LOOK, Life, MAX_FAILED_INITS, RETRY_START};
use crate::{
    TaskError,
    back::{Event, FunctionId},
    records,
    seeing::{Span, log},
    token,
};
use procession_parcel::Outcome;
use procession_sys::{Deadline, Spin};
use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    sync::{Arc, PoisonError, atomic::Ordering},
};

impl Crew {
    /// The whole life of a thread.
    pub(super) fn live(self: &Arc<Crew>, life: &Arc<Life>, index: usize) {
        let current: Rc<RefCell<Option<Arc<Task>>>> = Rc::default();
        let (crew, its, task) = (self.clone(), life.clone(), current.clone());
        let asked = move || {
            let asks = |task: &Arc<Task>| {
                task.guard.as_ref().is_some_and(|guard| guard.asked.load(Ordering::Relaxed))
            };
            crew.terminated.load(Ordering::Relaxed)
                || its.ending.load(Ordering::Relaxed)
                || task.borrow().as_ref().is_some_and(asks)
        };
        token::with_token(Rc::new(asked), || match self.initialize() {
            Ok(()) => {
                let now = Deadline::now();
                if let Some(timeline) = &self.recipe.timeline {
                    timeline.ready(life.track, life.born.as_nanos(), now.as_nanos());
                }
                let mut desk = life.desk();
                (desk.ready, desk.ready_at) = (true, Some(now));
                drop(desk);
                self.board().failed_inits = 0;
                self.work(life, &current);
            }
            Err(why) => self.init_failed(index, life, &why),
        });
        log::ended(&life.name, true, || "the thread has ended".to_owned());
        // Whoever waits for the end looks at it.
        self.ring();
    }

    fn initialize(&self) -> Result<(), String> {
        let Some((function, argument)) = &self.recipe.initializer else { return Ok(()) };
        let argument = argument.try_clone().map_err(|error| error.to_string())?;
        match function.call(argument) {
            Outcome::Value(_) => Ok(()),
            Outcome::Panicked(panic) => Err(panic.to_string()),
            Outcome::Failed(error) => Err(error.to_string()),
            Outcome::BadArguments(why) | Outcome::BadResult(why) => Err(why),
        }
    }

    fn init_failed(self: &Arc<Crew>, index: usize, life: &Arc<Life>, why: &str) {
        let mut board = self.board();
        board.idle -= 1;
        let slot = board.slots.get_mut(index);
        if let Some(slot) =
            slot.filter(|slot| slot.member.as_ref().is_some_and(|m| Arc::ptr_eq(&m.life, life)))
        {
            let member = slot.member.take();
            board.leaving.extend(member);
        }
        board.failed_inits += 1;
        if board.failed_inits >= MAX_FAILED_INITS && !board.broken {
            board.broken = true;
            let why = format!("its initialiser failed {} times: {why}", board.failed_inits);
            board.events.push(Event::Broken { error: TaskError::Broken(why.into()) });
        }
        board.next_start = Deadline::after(RETRY_START);
        self.fill(&mut board);
        drop(board);
        self.ring();
        self.attend();
    }

    fn work(self: &Arc<Crew>, life: &Arc<Life>, current: &RefCell<Option<Arc<Task>>>) {
        let mut hands = Hands {
            out: Vec::new(),
            run: Run::default(),
            spin: Spin::adaptive(),
            pace: Pace { every: 1, unread: 0, read: Deadline::now().as_nanos(), function: None },
        };
        let mut idle = true;
        while let Some(task) = self.next(life, &mut hands, &mut idle) {
            let guarded = task.guard.is_some();
            if guarded {
                life.desk().current = Some(task.clone());
                current.replace(Some(task.clone()));
            }
            let began = self.recipe.timeline.as_ref().map(|_| Deadline::now().as_nanos());
            let stays = self.run(life, &task, &mut hands);
            if let (Some(timeline), Some(began)) = (&self.recipe.timeline, began) {
                // Before what it came to is told.
                let ended = Deadline::now().as_nanos();
                let Task { key, items, .. } = *task;
                let span = Span { function: FunctionId(0), key, first: 0, items, began, ended };
                let remark = if stays { "" } else { "left behind" };
                timeline.named_task(life.track, &span, Some(task.function.name()), remark);
            }
            if guarded {
                current.replace(None);
            }
            if !stays {
                return;
            }
        }
        if idle {
            self.board().idle -= 1;
        }
    }

    /// Runs a task; false if this thread was left behind meanwhile.
    fn run(self: &Arc<Crew>, life: &Life, task: &Arc<Task>, hands: &mut Hands) -> bool {
        let mut rest = &task.arguments[..];
        hands.run.reset();
        hands.pace.turn_to(&task.function);
        for item in 0..task.items {
            if self.terminated.load(Ordering::Relaxed) {
                break;
            }
            let split = records::split(rest);
            rest = split.map_or(&[], |(_, behind)| behind);
            let argument = split.map(|(argument, _)| argument);
            let mut tell = false;
            if let Some(guard) = &task.guard {
                match guard.start() {
                    Next::Run(due) => due.into_iter().for_each(|due| self.due_at(due)),
                    Next::Over => break,
                    Next::Left => return false,
                }
                task.run(item, argument, &mut hands.run);
                let behind = hands.pace.step();
                tell = behind;
                if !guard.end(task.key, &mut hands.run, behind.then_some(&mut hands.out)) {
                    return false;
                }
            } else {
                task.run(item, argument, &mut hands.run);
                if hands.pace.step() && item + 1 < task.items {
                    hands.run.take(task.key, &mut hands.out);
                    tell = true;
                }
            }
            if tell {
                life.desk().out.append(&mut hands.out);
                self.ring();
            }
        }
        match &task.guard {
            Some(guard) => guard.finish(&mut hands.out),
            None => hands.run.take(task.key, &mut hands.out),
        }
        let mut desk = life.desk();
        desk.items += u64::from(task.items);
        desk.jobs += 1;
        desk.bytes_out += mem::take(&mut hands.run.bytes);
        desk.bytes_in += task.arguments.len() as u64;
        desk.current = None;
        if task.guard.is_some() {
            desk.finished.push(task.key);
        }
        true
    }
}

/// What a thread works with.
struct Hands {
    out: Vec<Event>,
    run: Run,
    spin: Spin,
    pace: Pace,
}

/// How long items take, read as seldom as possible.
struct Pace {
    /// How many items there are between two readings, and since the last.
    every: u32,
    unread: u32,
    read: u64,
    function: Option<Arc<Function>>,
}

impl Pace {
    /// An item has ended. Whether it is time to tell what there is.
    fn step(&mut self) -> bool {
        self.unread += 1;
        if self.unread < self.every {
            return false;
        }
        let now = Deadline::now().as_nanos();
        let took = now.saturating_sub(self.read);
        if let Some(function) = &self.function {
            function.measured(self.unread, took);
        }
        (self.unread, self.read) = (0, now);
        if took < LOOK {
            self.every = (self.every * 2).min(1024);
        } else if took > 2 * LOOK {
            self.every = (self.every / 2).max(1);
        }
        took > 4 * LOOK
    }

    /// What comes calls this function.
    fn turn_to(&mut self, function: &Arc<Function>) {
        if self.function.as_ref().is_some_and(|last| Arc::ptr_eq(last, function)) {
            return;
        }
        if let Some(last) = self.function.replace(function.clone())
            && self.unread > 0
        {
            let now = Deadline::now().as_nanos();
            last.measured(self.unread, now.saturating_sub(self.read));
            (self.unread, self.read) = (0, now);
        }
        self.every = 1;
    }

    /// Nothing runs for a while.
    fn pause(&mut self) {
        if let Some(function) = &self.function
            && self.unread > 0
        {
            function.measured(self.unread, Deadline::now().as_nanos().saturating_sub(self.read));
            self.unread = 0;
        }
    }
}

impl Crew {
    /// The next task for this thread, which then is not idle; `None` if it is to end. Tells what the last one came to.
    fn next(self: &Arc<Crew>, life: &Arc<Life>, hands: &mut Hands, idle: &mut bool) -> Option<Arc<Task>> {
        if !*idle {
            let told = !hands.out.is_empty();
            let mut desk = life.desk();
            desk.out.append(&mut hands.out);
            let task = desk.tasks.pop_front();
            drop(desk);
            if told {
                self.ring();
            }
            if task.is_some() {
                return task;
            }
        }
        let mut attended = false;
        loop {
            let mut board = self.board();
            if life.ending.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(task) = self.find(&mut board, life) {
                if mem::replace(idle, false) {
                    board.idle -= 1;
                    drop(board);
                    let now = Deadline::now();
                    life.desk().busy = Some(now);
                    hands.pace.read = now.as_nanos();
                }
                return Some(task);
            }
            if board.closed {
                return None;
            }
            if !mem::replace(idle, true) {
                self.has_become_idle(&mut board);
                hands.pace.pause();
                life.desk().pause();
            }
            if !mem::replace(&mut attended, true) {
                drop(board);
                // There is room for tasks now, and perhaps nobody else who hands them out.
                self.attend();
                hands.spin.until(None, || self.queued.load(Ordering::Relaxed) > 0);
                continue;
            }
            // There is nothing to do, and nothing comes as long as the lock is held.
            board.sleepers += 1;
            let mut board = if self.is_unheard() {
                self.work.wait_timeout(board, ATTEND_AGAIN).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.work.wait(board).unwrap_or_else(PoisonError::into_inner)
            };
            board.sleepers -= 1;
            drop(board);
            attended = !self.is_unheard();
        }
    }

    /// Whether there are events, and nobody waits for them.
    fn is_unheard(&self) -> bool {
        self.has_news() && self.bell.drivers.load(Ordering::SeqCst) == 0 && self.attendant.get().is_some()
    }

    /// A task for this thread.
    fn find(&self, board: &mut Board, life: &Arc<Life>) -> Option<Arc<Task>> {
        let Board { queue, slots, leaving, sleepers, .. } = board;
        if let Some(task) = queue.pop_front() {
            let share = queue.len() / (2 * slots.len().max(1));
            if share > 0 && *sleepers == 0 && task.time().is_some_and(|time| time < LONG) {
                life.desk().tasks.extend(queue.drain(..share.min(BATCH)));
            }
            self.queued.store(queue.len(), Ordering::Relaxed);
            return Some(task);
        }
        let members = slots.iter().filter_map(|slot| slot.member.as_ref()).chain(leaving.iter());
        members
            .filter(|member| !Arc::ptr_eq(&member.life, life))
            .find_map(|member| member.life.desk().tasks.pop_front())
    }
}
