//! What a worker gives up before its first task, for good.

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Display, path::PathBuf};

/// What workers must not do, so that they may parse untrusted input. For [`Builder::sandbox`](crate::Builder::sandbox).
///
/// A worker enters it after its initialiser and its state are done, so these may still open what tasks need. What was open
/// before stays usable; so do the lanes to the pool. A forbidden call fails with EPERM or EACCES, as an ordinary error in
/// the task: nobody is killed. There is no way back, and the threads that a task starts are bound too.
///
/// In any sandbox a worker cannot trace or signal other processes, read or write their memory, or use io_uring. The memory
/// of processes of the same user is a file in `/proc` as well: bar that by [`files`](Sandbox::files), unless the kernel
/// does already (Yama).
///
/// It is made of Landlock (files) and seccomp (the rest), and is no virtual machine: names, sizes and dates of files
/// (`stat(2)`) can still be read, and the kernel itself is open to attack by all other system calls.
///
/// ```no_run
/// use procession_pool::{Pool, Sandbox};
///
/// let sandbox = Sandbox::new().no_network().no_new_processes().files().read("/usr/share/fonts");
/// let pool = Pool::builder().sandbox(sandbox).build()?;
/// # Ok::<(), procession_pool::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[must_use = "a sandbox binds nobody until a pool is built with it"]
pub struct Sandbox {
    network: bool,
    processes: bool,
    files: Option<Files>,
}

#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Files {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// What every kernel with Landlock (5.13) can forbid, and what is forbidden besides where the kernel can.
const LEAST: ABI = ABI::V1;
const MOST: ABI = ABI::V5;

impl Sandbox {
    /// Forbids nothing yet, but what is forbidden in any sandbox.
    pub fn new() -> Sandbox {
        Sandbox::default()
    }

    /// No network, no new processes, no files.
    pub fn strict() -> Sandbox {
        Sandbox::new().no_network().no_new_processes().files()
    }

    /// No sockets are made, connected or bound, of any family. Pairs of sockets (`socketpair(2)`) can be made, and those
    /// that are open be used.
    pub fn no_network(mut self) -> Sandbox {
        self.network = true;
        self
    }

    /// No processes are started and no programs executed. Threads are.
    pub fn no_new_processes(mut self) -> Sandbox {
        self.processes = true;
        self
    }

    /// No files are opened, made, renamed or removed, but those that [`read`](Sandbox::read) and
    /// [`write`](Sandbox::write) allow.
    pub fn files(mut self) -> Sandbox {
        self.files.get_or_insert_default();
        self
    }

    /// Allows to read and execute a file, or everything below a directory, and to list it; all else is forbidden as by
    /// [`files`](Sandbox::files). It must exist when the pool is built.
    pub fn read(mut self, path: impl Into<PathBuf>) -> Sandbox {
        self.files.get_or_insert_default().read.push(path.into());
        self
    }

    /// As [`read`](Sandbox::read), and allows to write, make, rename and remove files there.
    pub fn write(mut self, path: impl Into<PathBuf>) -> Sandbox {
        self.files.get_or_insert_default().write.push(path.into());
        self
    }

    /// Whether this kernel can do it; in the parent, so that a pool is not made in vain.
    pub(super) fn check(&self) -> Result<(), String> {
        self.rules()?;
        filters(self)?;
        Ok(())
    }

    /// Binds this process.
    pub(super) fn enter(&self) -> Result<(), String> {
        let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
        if !matches!(threads, Ok(1)) {
            return Err("the initialiser has started threads, which would not be bound by it".to_owned());
        }
        if let Some(rules) = self.rules()? {
            rules.restrict_self().map_err(|error| no_landlock(&error))?;
        }
        for filter in filters(self)? {
            seccompiler::apply_filter(&filter)
                .map_err(|error| format!("this kernel takes no seccomp filter: {error}"))?;
        }
        Ok(())
    }

    fn rules(&self) -> Result<Option<RulesetCreated>, String> {
        let Some(files) = &self.files else { return Ok(None) };
        let made = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(LEAST))
            .and_then(|rules| {
                rules.set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(MOST))
            })
            .and_then(Ruleset::create);
        let mut rules = made.map_err(|error| no_landlock(&error))?;
        for (paths, access) in
            [(&files.read, AccessFs::from_read(MOST)), (&files.write, AccessFs::from_all(MOST))]
        {
            for path in paths {
                let failed = |error: &dyn Display| format!("cannot allow `{}`: {error}", path.display());
                let fd = PathFd::new(path).map_err(|error| failed(&error))?;
                // A file has fewer rights than a directory.
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(MOST) };
                rules = rules.add_rule(PathBeneath::new(fd, access)).map_err(|error| failed(&error))?;
            }
        }
        Ok(Some(rules))
    }
}

fn no_landlock(error: &dyn Display) -> String {
    format!("this kernel has no Landlock (Linux 5.13, with `landlock` among its security modules): {error}")
}

/// The filters: one per error that forbidden calls give.
fn filters(sandbox: &Sandbox) -> Result<Vec<BpfProgram>, String> {
    let failed = |error: &dyn Display| format!("cannot make a seccomp filter: {error}");
    let condition = |length, operator, value| {
        let condition = SeccompCondition::new(0, length, operator, value).map_err(|error| failed(&error))?;
        SeccompRule::new(vec![condition]).map_err(|error| failed(&error))
    };
    let mut calls = vec![
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        // By the number of a thread, of any process.
        libc::SYS_tkill,
        libc::SYS_process_madvise,
        libc::SYS_kcmp,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
    ];
    if sandbox.network {
        calls.extend([libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_listen]);
    }
    if sandbox.processes {
        calls.extend([libc::SYS_execve, libc::SYS_execveat]);
        #[cfg(target_arch = "x86_64")]
        calls.extend([libc::SYS_fork, libc::SYS_vfork]);
    }
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        calls.into_iter().map(|call| (call, Vec::new())).collect();
    if sandbox.processes {
        // What is no thread.
        let flag = libc::CLONE_THREAD as u64;
        let process = condition(SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), 0)?;
        rules.insert(libc::SYS_clone, vec![process]);
    }
    // Signals, but to itself: an abort is one.
    let own = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
        rules.insert(call, vec![condition(SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own)?]);
    }
    let program = |rules, errno: i32| {
        let arch = std::env::consts::ARCH.try_into().map_err(|error| failed(&error))?;
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)
            .and_then(BpfProgram::try_from)
            .map_err(|error| failed(&error))
    };
    let mut programs = vec![program(rules, libc::EPERM)?];
    if sandbox.processes {
        // Its flags lie in memory, where no filter sees them. Without it, the C library starts threads by `clone`.
        programs.push(program(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?);
    }
    Ok(programs)
}
