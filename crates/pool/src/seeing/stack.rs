//! Stack dumps of workers that are stuck (feature `stacks`): [`Pool::dump_stack`].
//!
//! # How
//!
//! A worker runs the same program as its pool. So the pool can read its stack with its own tables, and nothing has to run in
//! the worker, which may be stuck in a way that no signal handler survives:
//!
//! 1. A thread that is made for this attaches to one thread of the worker (`PTRACE_SEIZE`, `ptrace(2)`) and stops it.
//! 2. It copies the registers, and up to 1 MiB of the stack.
//! 3. It lets it go on. Until here it is some 100 µs.
//! 4. The copy is unwound by the tables that exceptions use (`.eh_frame`), of this process's own copy of the program and its
//!    libraries, and the addresses get names by its debug information.
//!
//! # What it does to the worker
//!
//! A system call that it waits in is begun again, as after SIGSTOP and SIGCONT; of those some give `EINTR` instead
//! (`signal(7)`, at its end), which good code repeats. A signal that comes at that moment is delivered. A thread that cannot be
//! stopped within two seconds, deep in the kernel, is let go by the end of the thread that attached to it.
//!
//! # When a process dies
//!
//! If this process dies in the middle, the kernel lets the worker go (and then the worker ends, as always). If the worker
//! dies, what was copied is told. A pid that is used anew is not mistaken: the start time of the process is compared
//! after it was stopped.

#[cfg(target_arch = "x86_64")]
#[path = "stack/tracee.rs"]
mod tracee;
#[cfg(not(target_arch = "x86_64"))]
#[path = "stack/elsewhere.rs"]
mod tracee;
#[path = "stack/unwind.rs"]
mod unwind;

use crate::{Error, Pool, Result};
use procession_sys::{Deadline, ProcessId};
use std::{
    fmt::{self, Write as _},
    fs, thread,
    time::Duration,
};
use tracee::Copied;

/// How long all of it may take, and how long a thread has to stop.
const TOTAL: Duration = Duration::from_secs(5);
const STOP: Duration = Duration::from_secs(2);
/// How many threads of a worker are looked at, how many frames of each, and how many bytes of its stack.
const THREADS: usize = 64;
const FRAMES: usize = 256;
const STACK: usize = 1 << 20;

/// What the threads of a worker were doing at one moment each. Made by [`Pool::dump_stack`]. It prints as a report.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StackDump {
    /// The worker's name and pid.
    pub worker: String,
    /// See `worker`.
    pub pid: u32,
    /// Its threads. The first one runs the tasks.
    pub threads: Vec<ThreadDump>,
}

/// What a thread was doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ThreadDump {
    /// Its id and name.
    pub id: u32,
    /// See `id`.
    pub name: String,
    /// Its state, as in `proc_pid_stat(5)`: `R` running, `S` asleep, `D` asleep without being disturbed, `T` stopped…
    pub state: char,
    /// Where in the kernel it sleeps, if it does and the kernel tells.
    pub waits_in: Option<String>,
    /// The frames of its stack, the innermost first.
    pub frames: Vec<Frame>,
    /// Why there are no frames, or no more.
    pub incomplete: Option<String>,
}

/// A frame of a stack: a call that has not returned.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Frame {
    /// The address of the instruction, as it is in this process, where it is known there; otherwise in the worker.
    pub address: u64,
    /// The function.
    pub function: Option<String>,
    /// The source file, where there is debug information.
    pub file: Option<String>,
    /// The line there.
    pub line: Option<u32>,
}

impl Pool {
    /// Where a worker is stuck: the stacks of its threads, by its index below [`workers`](Pool::workers). The worker goes on; each
    /// of its threads is stopped for some 100 µs. It takes some seconds at most, and then tells what it has.
    ///
    /// Functions have names as far as the program was not stripped, and lines where it has debug information. How it works and
    /// what it can do to a system call is told in [`seeing::stack`](crate::seeing::stack).
    ///
    /// ```no_run
    /// let pool = procession_pool::Pool::new(1)?;
    /// let stuck = pool.submit(|()| -> () { loop { std::thread::park() } }, ())?;
    /// std::thread::sleep(std::time::Duration::from_secs(1));
    /// println!("{}", pool.dump_stack(0)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there is no such worker now, or workers are no processes. If this process may not look into the worker: where
    /// `/proc/sys/kernel/yama/ptrace_scope` is 2 or 3, where seccomp forbids `ptrace`, or if somebody else, a debugger,
    /// traces it.
    pub fn dump_stack(&self, worker: usize) -> Result<StackDump> {
        let failed = |why: &str| Error::new(format!("dump the stack of worker {worker}"), why);
        let info = self.worker_infos().into_iter().nth(worker).ok_or_else(|| failed("there is none"))?;
        let pid = info.pid.ok_or_else(|| failed("it is not a process, or is about to be replaced"))?;
        let process = ProcessId::of(pid).ok_or_else(|| failed("it has ended, or /proc is not mounted"))?;
        // What is attached to is let go by the kernel when this thread ends, whatever happens in it.
        let thread = thread::Builder::new().name("procession-stack".to_owned());
        let copied = thread
            .spawn(move || copy(process))
            .map_err(|error| failed(&error.to_string()))?
            .join()
            .map_err(|_| failed("it panicked"))?
            .map_err(|why| failed(&why))?;
        let modules = unwind::Modules::of(pid);
        let threads: Vec<ThreadDump> =
            copied.into_iter().map(|(seen, copied)| seen.with_frames(copied, &modules)).collect();
        let refused = |thread: &ThreadDump| thread.frames.is_empty();
        if let Some(first) = threads.first().filter(|_| threads.iter().all(refused)) {
            return Err(failed(first.incomplete.as_deref().unwrap_or("it has ended")));
        }
        Ok(StackDump { worker: info.name, pid, threads })
    }
}

/// A thread and what was copied of it.
type Copies = Vec<(ThreadDump, std::result::Result<Copied, String>)>;

fn copy(process: ProcessId) -> std::result::Result<Copies, String> {
    let until = Deadline::after(TOTAL);
    let mut threads: Vec<u32> = fs::read_dir(format!("/proc/{}/task", process.pid))
        .map_err(|error| error.to_string())?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    threads.sort_unstable_by_key(|id| (*id != process.pid, *id));
    let mut copies = Vec::new();
    for id in threads.into_iter().take(THREADS) {
        // Before it is stopped, which is a state, too.
        let seen = ThreadDump::look(process.pid, id);
        let copied = if until.passed() {
            Err("there was no time left".to_owned())
        } else {
            let still = || ProcessId::of(process.pid) == Some(process);
            tracee::copy(id, Deadline::after(STOP), STACK, still)
        };
        copies.push((seen, copied));
    }
    Ok(copies)
}

impl ThreadDump {
    /// What `/proc` says of it.
    fn look(pid: u32, id: u32) -> ThreadDump {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{id}/{file}")).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
        let waits_in = Some(read("wchan").trim().to_owned()).filter(|name| !name.is_empty() && name != "0");
        let name = read("comm").trim_end().to_owned();
        ThreadDump { id, name, state, waits_in, frames: Vec::new(), incomplete: None }
    }

    fn with_frames(
        mut self,
        copied: std::result::Result<Copied, String>,
        modules: &unwind::Modules,
    ) -> ThreadDump {
        match copied {
            Err(why) => self.incomplete = Some(why),
            Ok(copied) => {
                let (addresses, end) = modules.unwind(&copied, FRAMES);
                for (index, address) in addresses.into_iter().enumerate() {
                    // A call lies before the address that it returns to.
                    modules.name(address, index > 0, &mut self.frames);
                }
                self.incomplete = end;
            }
        }
        self
    }
}

impl fmt::Display for StackDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "worker `{}` (pid {}), {} threads", self.worker, self.pid, self.threads.len())?;
        for thread in &self.threads {
            write!(f, "thread {} `{}`, state {}", thread.id, thread.name, thread.state)?;
            match &thread.waits_in {
                Some(place) => writeln!(f, ", waits in {place}:")?,
                None => writeln!(f, ":")?,
            }
            for (index, frame) in thread.frames.iter().enumerate() {
                writeln!(f, "  {index:>3}: {frame}")?;
            }
            if let Some(why) = &thread.incomplete {
                writeln!(f, "       {why}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.function.clone().unwrap_or_else(|| format!("{:#x}", self.address));
        if let Some(file) = &self.file {
            write!(text, " at {file}")?;
            if let Some(line) = self.line {
                write!(text, ":{line}")?;
            }
        }
        f.write_str(&text)
    }
}
