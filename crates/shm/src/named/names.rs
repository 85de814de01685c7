//! Names: what is a valid one, and where it lies.

use crate::{Error, error::Cause};

/// Where POSIX shared memory lies on Linux, by glibc, musl and rustix alike (`shm_overview(7)`).
pub(super) const FOLDER: &str = "/dev/shm";
/// What names of our own start with, in [`FOLDER`]; users' names may not.
const OWNER: &str = "procession-owner-";
/// A segment that is being made. 16 hexadecimal digits follow.
const MAKING: &str = "procession-new-";
/// What the kernel allows (`NAME_MAX`).
const LONGEST: usize = 255;

/// Checks a name that a user gave, and takes a leading slash off, as CPython's `SharedMemory.name` does.
pub(super) fn check<'a>(operation: &'static str, name: &'a str) -> Result<&'a str, Error> {
    let short = name.strip_prefix('/').unwrap_or(name);
    let what = if short.is_empty() {
        "the name is empty".to_owned()
    } else if short.contains('/') {
        "the name has a slash in it".to_owned()
    } else if short.contains('\0') {
        "the name has a NUL in it".to_owned()
    } else if short == "." || short == ".." {
        "the name means a folder".to_owned()
    } else if short.len() > LONGEST {
        format!("the name has {} bytes, at most {LONGEST} are possible", short.len())
    } else if short.starts_with(OWNER) || short.starts_with(MAKING) {
        format!("names that start with `{OWNER}` or `{MAKING}` are for the library's own use")
    } else {
        return Ok(short);
    };
    Err(Error::new(operation, object(name), Cause::Invalid { what }))
}

/// How messages call a segment.
pub(super) fn object(name: &str) -> String {
    const SHOWN: usize = 80;
    match name.char_indices().nth(SHOWN) {
        None => format!("`{}`", name.escape_debug()),
        Some((end, _)) => format!("`{}…`", name[..end].escape_debug()),
    }
}

/// The file behind a name.
pub(super) fn path(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// The name of the record beside the segment of this name.
pub(super) fn record(name: &str) -> String {
    if OWNER.len() + name.len() <= LONGEST {
        return format!("{OWNER}{name}");
    }
    // Two names that come to share a record exclude each other, which is all that happens.
    let digest = format!("{:016x}{:016x}", hash(0, name), hash(1, name));
    let kept = name.floor_char_boundary(LONGEST - OWNER.len() - digest.len() - 1);
    format!("{OWNER}{}~{digest}", &name[..kept])
}

/// FNV-1a.
fn hash(salt: u8, name: &str) -> u64 {
    std::iter::once(salt).chain(name.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

pub(super) fn is_record(file: &str) -> bool {
    file.starts_with(OWNER)
}

/// Whether a name that was read from a record may be one that we made for a segment in the making.
pub(super) fn is_making(name: &str) -> bool {
    name.strip_prefix(MAKING)
        .is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A name that nobody else draws: for a segment in the making.
pub(super) fn making() -> Result<String, rustix::io::Errno> {
    Ok(format!("{MAKING}{:016x}", u64::from_ne_bytes(random()?)))
}

/// A name such as CPython draws: `psm_` and 8 hexadecimal digits.
pub(super) fn fresh() -> Result<String, rustix::io::Errno> {
    Ok(format!("psm_{:08x}", u32::from_ne_bytes(random()?)))
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], rustix::io::Errno> {
    let mut bytes = [0; N];
    let count = rustix::io::retry_on_intr(|| {
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
    })?;
    // Fewer than 256 bytes come whole (`getrandom(2)`).
    if count == N { Ok(bytes) } else { Err(rustix::io::Errno::IO) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_different_names_have_different_names_that_fit() {
        let long = |last: &str| format!("{}{last}", "é".repeat(120));
        let names = ["a".to_owned(), "b".repeat(238), "b".repeat(239), "b".repeat(255), long("1"), long("2")];
        let records: std::collections::BTreeSet<String> = names.iter().map(|name| record(name)).collect();
        assert_eq!(records.len(), names.len());
        for record in records {
            assert!(record.len() <= LONGEST && is_record(&record), "{record}");
        }
    }
}
