//! Bodies in sealed memfds.

use crate::error::{Error, Kind};
use rustix::buffer::spare_capacity;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{Errno, pread, write};
use rustix::process::{Resource, getrlimit};
use std::os::fd::{AsFd, OwnedFd};

/// What a receiver insists on: then nobody can change what it reads.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE);

/// A sealed memfd with all `parts`, or nothing where there can be none.
pub(super) fn write_out(parts: &[&[u8]]) -> Result<Option<OwnedFd>, Error> {
    let size: u64 = parts.iter().map(|part| part.len() as u64).sum();
    // Beyond this limit a write does not fail, it kills.
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < size) {
        return Ok(None);
    }
    let facts = || format!("{size} bytes");
    let fd = match create() {
        Ok(fd) => fd,
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => return Ok(None),
        Err(errno) => return Err(Error::io("create a memfd for a parcel", facts(), errno)),
    };
    for mut rest in parts.iter().copied() {
        while !rest.is_empty() {
            match write(&fd, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("write a parcel into a memfd", facts(), errno)),
            }
        }
    }
    fcntl_add_seals(&fd, SEALS | SealFlags::SEAL)
        .map_err(|errno| Error::io("seal the memfd of a parcel", facts(), errno))?;
    Ok(Some(fd))
}

fn create() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("procession-parcel", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create("procession-parcel", flags),
        other => other,
    }
}

/// The `size` bytes of a memfd that the sender may still hold: checked, then copied.
pub(super) fn read_in(fd: impl AsFd, size: u64) -> Result<Vec<u8>, Error> {
    let seals = fcntl_get_seals(&fd).map_err(|_| Error::malformed("its body is in no memfd"))?;
    if !seals.contains(SEALS) {
        return Err(Error::malformed("the memfd with its body is not sealed against writing and resizing"));
    }
    let stat = fstat(&fd).map_err(|errno| Error::io("inspect the memfd of a parcel", "", errno))?;
    if u64::try_from(stat.st_size) != Ok(size) {
        return Err(Error::malformed(format!(
            "the memfd with its body has {} bytes, it announces {size}",
            stat.st_size
        )));
    }
    // A hole costs its sender nothing and its receiver memory.
    if u64::try_from(stat.st_blocks).is_ok_and(|blocks| blocks.saturating_mul(512) < size) {
        return Err(Error::malformed("the memfd with its body has holes"));
    }
    let mut bytes = Vec::new();
    let fits = usize::try_from(size).ok().filter(|size| bytes.try_reserve_exact(*size).is_ok());
    let size = fits.ok_or(Kind::TooLarge { what: "bytes", got: size, limit: isize::MAX as u64 })?;
    while bytes.len() < size {
        let at = bytes.len() as u64;
        match pread(&fd, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(Error::malformed("the memfd with its body ends early")),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::io("read a parcel from a memfd", format!("{size} bytes"), errno));
            }
        }
    }
    bytes.truncate(size);
    Ok(bytes)
}
