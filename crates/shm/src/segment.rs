//! [`Segment`]: memory that processes share, by descriptor.
#![expect(unsafe_code, reason = "the header is written and read through pointers into the mapping")]

use crate::{
    Error, Kind,
    error::Cause,
    layout::{Header, MAGIC, PAGE, PAYLOAD, VERSION},
    mapping::Mapping,
    members::Membership,
};
use core::sync::atomic::{AtomicU32, Ordering};
use rustix::{
    fs::{FallocateFlags, MemfdFlags, SealFlags},
    io::Errno,
    process::Resource,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    fmt,
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
};

/// Memory that processes share, known by a descriptor and by no name.
///
/// It is a memory file (`memfd_create(2)`) that cannot change its size any more. Clones are cheap and stand for the
/// same memory; a process maps a segment once, however often it attaches it, and unmaps it with the last clone.
/// New memory reads as zero, and takes room when it is first touched.
///
/// # Across processes
///
/// A segment goes to another process inside a parcel (it implements `Serialize` and `Deserialize`), or by handing
/// over [`fd`](Segment::fd). The kernel frees the memory when the last process that has it lets go of it or dies.
/// What is in it may be written by any holder at any time: never make a `&[u8]` of it; use atomics, or copy out.
#[derive(Clone)]
pub struct Segment {
    mapping: Arc<Mapping>,
}

impl Segment {
    /// Makes a segment of `len` zero bytes.
    ///
    /// # Errors
    ///
    /// * `len` is zero, or too large for the address space;
    /// * `RLIMIT_FSIZE` is smaller (an attempt would end the process with SIGXFSZ, so there is none);
    /// * no descriptors, no memory or address space;
    /// * a kernel or sandbox without `memfd_create`.
    #[doc(alias = "memfd_create")]
    pub fn anonymous(kind: Kind, len: usize) -> Result<Segment, Error> {
        const CREATE: &str = "create";
        let object = || format!("`{}` ({len} bytes)", kind.name);
        let invalid = |what: &str| Error::new(CREATE, object(), Cause::Invalid { what: what.to_owned() });
        if len == 0 {
            return Err(invalid("it would be empty"));
        }
        let size = len
            .checked_next_multiple_of(PAGE)
            .and_then(|len| len.checked_add(PAYLOAD))
            .filter(|&size| isize::try_from(size).is_ok())
            .ok_or_else(|| invalid("it would be larger than the address space"))?;
        if let Some(limit) = rustix::process::getrlimit(Resource::Fsize).current
            && limit < size as u64
        {
            return Err(Error::new(CREATE, object(), Cause::Limit { name: "RLIMIT_FSIZE", limit }));
        }
        let os = |call, errno| Error::os(CREATE, object(), call, errno);
        let fd = memory_file(kind).map_err(|errno| os("memfd_create", errno))?;
        rustix::fs::ftruncate(&fd, size as u64).map_err(|errno| os("ftruncate", errno))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(|errno| os("fcntl(F_ADD_SEALS)", errno))?;
        let mapping = Mapping::of(fd, size).map_err(|(call, errno)| os(call, errno))?;
        let segment = Segment { mapping };
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            kind: kind.id,
            layout: kind.layout,
            ready: 0,
            size: size as u64,
            reserved: [0; 32],
        };
        // SAFETY: the mapping starts with room for a header, at a page's alignment; nobody else has the descriptor.
        unsafe { segment.header().write(header) };
        // Pairs with the Acquire in `check_header`.
        segment.ready().store(1, Ordering::Release);
        Ok(segment)
    }

    /// Attaches the segment behind `fd`, which must be of this kind.
    ///
    /// # Errors
    ///
    /// * the object is no segment, or its size is not sealed (another process could cut it off under our feet);
    /// * version, kind, layout or size differ: the error says which;
    /// * no memory or address space.
    pub fn attach(fd: OwnedFd, kind: Kind) -> Result<Segment, Error> {
        let object = format!("`{}` (fd {})", kind.name, fd.as_raw_fd());
        Segment::attach_object(fd, Some(kind), object)
    }

    /// Attaches the segment behind `fd`, of whatever kind. See [`check`](Segment::check).
    ///
    /// # Errors
    ///
    /// As [`attach`](Segment::attach), but for kind and layout.
    pub fn attach_any(fd: OwnedFd) -> Result<Segment, Error> {
        let object = format!("(fd {})", fd.as_raw_fd());
        Segment::attach_object(fd, None, object)
    }

    fn attach_object(fd: OwnedFd, kind: Option<Kind>, object: String) -> Result<Segment, Error> {
        const ATTACH: &str = "attach";
        let fail = |cause| Error::new(ATTACH, object.clone(), cause);
        let seals = rustix::fs::fcntl_get_seals(&fd)
            .map_err(|_| fail(Cause::Foreign { what: "it is no memory file that can be sealed" }))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(fail(Cause::Foreign { what: "it is not sealed against shrinking and growing" }));
        }
        let stat =
            rustix::fs::fstat(&fd).map_err(|errno| Error::os(ATTACH, object.clone(), "fstat", errno))?;
        let size = usize::try_from(stat.st_size).unwrap_or(0);
        if size <= PAYLOAD {
            return Err(fail(Cause::Foreign { what: "it is too small for a segment" }));
        }
        let mapping =
            Mapping::of(fd, size).map_err(|(call, errno)| Error::os(ATTACH, object.clone(), call, errno))?;
        let segment = Segment { mapping };
        segment.check_header(kind).map_err(fail)?;
        Ok(segment)
    }

    /// Checks that this segment is of `kind`, for one that came by [`attach_any`](Segment::attach_any) or inside a
    /// parcel.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn check(&self, kind: Kind) -> Result<(), Error> {
        let object = format!("`{}` (fd {})", kind.name, self.fd().as_raw_fd());
        self.check_header(Some(kind)).map_err(|cause| Error::new("use", object, cause))
    }

    fn check_header(&self, kind: Option<Kind>) -> Result<(), Cause> {
        // Pairs with the Release in `anonymous`.
        let ready = self.ready().load(Ordering::Acquire);
        // SAFETY: the mapping starts with room for a header, all of whose fields are integers. Another process may
        // be writing to it: it is read once, and each field is only compared.
        let header = unsafe { self.header().read_volatile() };
        let compare = |what, found: u64, expected: u64| {
            if found == expected { Ok(()) } else { Err(Cause::Differs { what, found, expected }) }
        };
        if header.magic != MAGIC {
            return Err(Cause::Foreign { what: "it does not start as a segment does" });
        }
        compare("version", header.version.into(), VERSION.into())?;
        compare("ready mark", ready.into(), 1)?;
        compare("size", header.size, self.mapping.size() as u64)?;
        if let Some(kind) = kind {
            compare("kind", header.kind.into(), kind.id.into())?;
            compare("layout", header.layout.into(), kind.layout.into())?;
        }
        Ok(())
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.mapping.membership()
    }

    pub(crate) fn object_start(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    /// Has `in_use` asked before the mapping ends, with the payload's place and length: if it gives true, the memory
    /// stays mapped until this process ends.
    ///
    /// For structures that the kernel knows by address: it walks a thread's list of robust mutexes when the thread
    /// ends, and an entry in memory that is gone cuts the walk short (`get_robust_list(2)`). The first function that
    /// is given stays.
    pub fn keep_while(&self, in_use: fn(NonNull<u8>, usize) -> bool) {
        self.mapping.keep_while(in_use);
    }

    fn header(&self) -> *mut Header {
        self.mapping.start().as_ptr().cast()
    }

    fn ready(&self) -> &AtomicU32 {
        // SAFETY: the field lies within the mapping's first page, and every process accesses it as an atomic.
        let ready = unsafe { &raw mut (*self.header()).ready };
        // SAFETY: it is aligned, and the mapping lives as long as `self`.
        unsafe { AtomicU32::from_ptr(ready) }
    }

    /// Where the payload starts, aligned to 4096 bytes.
    ///
    /// The pointer is good for [`len`](Segment::len) bytes, as long as a clone of the segment lives.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        // SAFETY: every mapping is larger than `PAYLOAD`.
        unsafe { self.mapping.start().add(PAYLOAD) }
    }

    /// The payload's length in bytes: what was asked for, rounded up to 4096.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.size() - PAYLOAD
    }

    /// Never: a segment without a payload is neither made nor attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The descriptor by which another process can attach this segment.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mapping.as_fd()
    }

    /// Whether both stand for the same memory.
    #[must_use]
    pub fn same(&self, other: &Segment) -> bool {
        Arc::ptr_eq(&self.mapping, &other.mapping)
    }

    /// Takes the memory for `range` (in bytes of the payload) now, so that no later access can fail for lack of it.
    ///
    /// Without it, memory is taken on first touch, and a lack of it is a SIGBUS or the OOM killer.
    ///
    /// # Errors
    ///
    /// * the range is not within the payload;
    /// * no room for the pages.
    #[doc(alias = "fallocate")]
    pub fn reserve(&self, range: Range<usize>) -> Result<(), Error> {
        self.allocate("reserve", range, FallocateFlags::empty())
    }

    /// Gives the memory of `range` (in bytes of the payload) back; it reads as zero then.
    ///
    /// Other processes may be reading or writing meanwhile. Only whole pages are given back, but all of the range
    /// becomes zero.
    ///
    /// # Errors
    ///
    /// The range is not within the payload; or what lies there is asked for before the mapping ends
    /// ([`keep_while`](Segment::keep_while)).
    pub fn discard(&self, range: Range<usize>) -> Result<(), Error> {
        if self.mapping.is_kept() {
            let what = "structures lie in it whose owner alone may discard them".to_owned();
            return Err(Error::new("discard a part of", self.part(&range), Cause::Invalid { what }));
        }
        self.allocate("discard a part of", range, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }

    fn allocate(
        &self,
        operation: &'static str,
        range: Range<usize>,
        flags: FallocateFlags,
    ) -> Result<(), Error> {
        let Range { start, end } = self.within(operation, range)?;
        if start == end {
            return Ok(());
        }
        loop {
            let result =
                rustix::fs::fallocate(self.fd(), flags, (PAYLOAD + start) as u64, (end - start) as u64);
            match result {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::os(operation, self.part(&(start..end)), "fallocate", errno));
                }
            }
        }
    }

    /// Touches the pages of `range` (in bytes of the payload), so that the first real access finds them mapped.
    ///
    /// About twice as fast as touching them one by one. Does nothing on kernels before 5.14.
    ///
    /// # Errors
    ///
    /// * the range is not within the payload;
    /// * no memory.
    #[doc(alias = "MADV_POPULATE_WRITE")]
    pub fn prefault(&self, range: Range<usize>) -> Result<(), Error> {
        let Range { start, end } = self.within("prefault", range)?;
        if start == end {
            return Ok(());
        }
        let page = rustix::param::page_size();
        let from = (PAYLOAD + start) / page * page;
        let until = (PAYLOAD + end).next_multiple_of(page).min(self.mapping.size());
        loop {
            match self.mapping.populate(from, until - from) {
                // EINVAL: the kernel does not know the advice.
                Ok(()) | Err(Errno::INVAL) => return Ok(()),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // EFAULT is what a fault that ends in SIGBUS gives here.
                Err(Errno::FAULT) => {
                    return Err(Error::new("prefault", self.part(&(start..end)), Cause::NoSpace));
                }
                Err(errno) => {
                    return Err(Error::os("prefault", self.part(&(start..end)), "madvise", errno));
                }
            }
        }
    }

    /// Asks for huge pages behind this process's view of the payload: a hint, to be given before the memory is touched.
    ///
    /// Where the kernel gives huge pages to shared memory (`/sys/kernel/mm/transparent_hugepage/shmem_enabled` is `advise`
    /// or more; many systems leave it at `never`, and there nothing changes), the first touch of each whole 2 MiB (on
    /// x86-64) takes a huge page, zeroed at once: fewer faults, and fewer misses when its addresses are looked up. So a
    /// sparse segment takes more memory than it would otherwise. Small pages remain at the segment's end, where no memory
    /// is in one piece, and, until the kernel comes by, where there were some before. `ShmemPmdMapped` in
    /// `/proc/self/smaps` tells what was given. Reserved huge pages (`hugetlbfs`) are never used.
    #[doc(alias = "MADV_HUGEPAGE")]
    pub fn advise_huge_pages(&self) {
        self.mapping.advise_huge_pages();
    }

    fn within(&self, operation: &'static str, range: Range<usize>) -> Result<Range<usize>, Error> {
        if range.start <= range.end && range.end <= self.len() {
            return Ok(range);
        }
        let what = format!("the range is not within its {} bytes", self.len());
        Err(Error::new(operation, self.part(&range), Cause::Invalid { what }))
    }

    fn part(&self, range: &Range<usize>) -> String {
        format!("(fd {}, bytes {} to {})", self.fd().as_raw_fd(), range.start, range.end)
    }
}

/// A memory file that cannot be executed, where the kernel knows that.
fn memory_file(kind: Kind) -> Result<OwnedFd, Errno> {
    let name = format!("procession:{}", kind.name);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(&name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => rustix::fs::memfd_create(&name, flags),
        other => other,
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// Only inside a parcel: the descriptor travels beside the bytes, once per parcel and segment.
impl Serialize for Segment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        procession_parcel::handle::serialize_shared(self.fd(), self.mapping.object(), serializer)
    }
}

/// Attaches, as [`Segment::attach_any`] does: what knows the kind calls [`Segment::check`].
impl<'de> Deserialize<'de> for Segment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Segment, D::Error> {
        let fd = procession_parcel::handle::deserialize_shared(deserializer)?;
        Segment::attach_any(fd).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("fd", &self.fd().as_raw_fd())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
