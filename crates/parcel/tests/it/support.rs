//! What several files share.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

/// Where the open descriptors of this process that `tag` names lead, to see whether any is left.
///
/// Tests run side by side, so each counts only descriptors of its own object, known by its inode.
pub(crate) fn open_copies(of: impl AsFd) -> usize {
    let wanted = identity(&of);
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let links: Vec<PathBuf> = entries.filter_map(|e| std::fs::read_link(e.ok()?.path()).ok()).collect();
    links.iter().filter(|link| link.as_os_str() == wanted.as_os_str()).count()
}

/// What `/proc` says the descriptor leads to.
pub(crate) fn identity(of: impl AsFd) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", of.as_fd().as_raw_fd())).unwrap()
}

/// An object whose descriptors nobody else has.
pub(crate) fn object() -> OwnedFd {
    std::io::pipe().unwrap().0.into()
}

/// Whether the descriptor is closed on exec.
pub(crate) fn closes_on_exec(fd: impl AsFd) -> bool {
    rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC)
}
