//! The executable that runs: where it was loaded, where its code lies, which build it is.
#![expect(unsafe_code, reason = "asks the loader for the main program's segments and reads them")]

use serde::{Deserialize, Serialize};
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

/// Which build of a program this is.
///
/// It is the GNU build id that the linker wrote, or else a hash of the program's code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BuildId([u8; 20]);

/// The main program's place in memory.
#[derive(Clone, Debug)]
pub struct Image {
    base: usize,
    code: Vec<Range<usize>>,
    build_id: BuildId,
}

/// The main program, looked up once.
#[must_use]
pub fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(Image::find)
}

impl Image {
    /// What offsets count from: the difference between addresses in memory and in the file (the load bias).
    #[must_use]
    pub fn base(&self) -> usize {
        self.base
    }

    /// The addresses of the executable segments.
    #[must_use]
    pub fn code(&self) -> &[Range<usize>] {
        &self.code
    }

    /// Which build of the program it is.
    #[must_use]
    pub fn build_id(&self) -> BuildId {
        self.build_id
    }

    /// Whether `address` lies in an executable segment of the main program.
    #[must_use]
    pub fn contains(&self, address: usize) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }

    /// The offset of an address of code.
    pub(crate) fn offset_of(&self, address: usize) -> Option<u64> {
        self.contains(address).then(|| address.wrapping_sub(self.base) as u64)
    }

    /// The address of an offset, if code lies there.
    pub(crate) fn address_of(&self, offset: u64) -> Option<usize> {
        let address = usize::try_from(offset).ok()?.wrapping_add(self.base);
        self.contains(address).then_some(address)
    }

    fn find() -> Image {
        let mut found = Found::default();
        // SAFETY: the callback has the required signature and is given a live `Found` as its data.
        unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut found).cast::<c_void>()) };
        let note = found.notes.iter().find_map(|note| {
            // SAFETY: `first` kept only notes that lie within a readable loaded segment of the main program,
            // which is never unloaded.
            let bytes = unsafe { std::slice::from_raw_parts(note.start as *const u8, note.len()) };
            gnu_build_id(bytes)
        });
        let build_id = note.unwrap_or_else(|| {
            let mut hash = Hash160::default();
            for range in found.code.iter().filter(|range| found.readable.contains(range)) {
                // SAFETY: a readable loaded segment of the main program, which is never unloaded or written.
                hash.update(unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) });
            }
            BuildId(hash.finish())
        });
        Image { base: found.base, code: found.code, build_id }
    }
}

#[derive(Default)]
struct Found {
    base: usize,
    code: Vec<Range<usize>>,
    readable: Vec<Range<usize>>,
    notes: Vec<Range<usize>>,
}

/// Notes down the first object, which is the main program, and stops.
extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: the loader passes a valid description for the length of this call.
    let info = unsafe { &*info };
    // SAFETY: `Image::find` passes its `Found`, which nobody else uses meanwhile.
    let found = unsafe { &mut *data.cast::<Found>() };
    // SAFETY: the description names the object's program headers, which stay loaded.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let range = |header: &libc::Elf64_Phdr, size: u64| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        start..start.wrapping_add(size as usize)
    };
    found.base = base;
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD) {
        if header.p_flags & libc::PF_X != 0 {
            found.code.push(range(header, header.p_memsz));
        }
        if header.p_flags & libc::PF_R != 0 {
            found.readable.push(range(header, header.p_memsz));
        }
    }
    for header in headers.iter().filter(|header| header.p_type == libc::PT_NOTE) {
        let note = range(header, header.p_filesz);
        if found.readable.iter().any(|r| r.start <= note.start && note.end <= r.end && !note.is_empty()) {
            found.notes.push(note);
        }
    }
    1
}

/// The build id among ELF notes: `{name size, description size, type}`, name and description padded to 4 bytes.
fn gnu_build_id(mut notes: &[u8]) -> Option<BuildId> {
    while let Some((head, rest)) = notes.split_first_chunk::<12>() {
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (name_size, size, kind) = (word(0), word(4), word(8));
        let name = rest.get(..name_size)?;
        let rest = rest.get(name_size.checked_next_multiple_of(4)?..)?;
        let description = rest.get(..size)?;
        if kind == 3 && name == b"GNU\0" && !description.is_empty() {
            // Shorter and longer ids exist (`--build-id=md5`, or given by hand).
            if let Ok(id) = <[u8; 20]>::try_from(description) {
                return Some(BuildId(id));
            }
            let mut hash = Hash160::default();
            hash.update(description);
            return Some(BuildId(hash.finish()));
        }
        notes = rest.get(size.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// Three lanes of a multiplying hash: no cryptography, as nobody gains by a build id of his own.
struct Hash160([u64; 3]);

impl Default for Hash160 {
    fn default() -> Hash160 {
        Hash160([0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93])
    }
}

impl Hash160 {
    fn update(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.word(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    fn word(&mut self, word: u64) {
        let [a, b, c] = &mut self.0;
        *a = (*a ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        *b = (b.rotate_left(29) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        *c = (c.rotate_left(41) ^ word).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    }

    fn finish(mut self) -> [u8; 20] {
        self.word(0x5851_f42d_4c95_7f2d);
        let mut id = [0; 20];
        id[..8].copy_from_slice(&self.0[0].to_le_bytes());
        id[8..16].copy_from_slice(&self.0[1].to_le_bytes());
        id[16..].copy_from_slice(&self.0[2].to_le_bytes()[4..]);
        id
    }
}

impl BuildId {
    /// The id's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}
