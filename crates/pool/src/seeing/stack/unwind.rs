//! Unwinds a copied stack by the tables of this process's own program and libraries, and gives names to addresses.
#![expect(unsafe_code, reason = "copies the unwind tables of loaded modules")]

use super::{Frame, tracee::Copied};
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, Pointer, Register, RegisterRule,
    UnwindContext, UnwindSection,
};
use std::{collections::HashMap, ffi::c_void, fs, ops::Range};

const RBP: usize = 6;
const RSP: usize = 7;
const RIP: usize = 16;
/// What a function gives back as it found it (System V ABI): rbx, rbp, r12 to r15.
const PRESERVED: [usize; 6] = [3, RBP, 12, 13, 14, 15];

/// Where the program's and its libraries' code lies, here and in another process that runs the same.
#[derive(Debug)]
pub(super) struct Modules {
    /// Ranges of addresses there, and what is to be added to get the ones here; `None` where it is not mapped here.
    ranges: Vec<(Range<u64>, Option<u64>)>,
    tables: Vec<Table>,
}

/// A copy of the segment of a module in which its unwind tables lie.
#[derive(Debug, Default)]
struct Table {
    /// The addresses of its code.
    code: Vec<Range<u64>>,
    /// The segment, where it begins, and where in it the header begins.
    start: u64,
    bytes: Vec<u8>,
    header: u64,
}

/// A line of `/proc/PID/maps`: range, and which file it is of, if any.
fn mappings(pid: &str) -> Vec<(Range<u64>, Option<String>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let one = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        let (device, inode) = (fields.nth(2)?, fields.next()?);
        let file = match fields.next() {
            _ if inode != "0" => Some(format!("{device} {inode}")),
            Some("[vdso]") => Some("vdso".to_owned()),
            _ => None,
        };
        Some((range, file))
    };
    text.lines().filter_map(one).collect()
}

impl Modules {
    /// Of the process with this pid, by the files that both have mapped.
    pub(super) fn of(pid: u32) -> Modules {
        let mut bases: HashMap<String, u64> = HashMap::new();
        for (range, file) in mappings("self") {
            if let Some(file) = file {
                bases.entry(file).or_insert(range.start);
            }
        }
        let mut theirs: HashMap<String, u64> = HashMap::new();
        let mut ranges = Vec::new();
        for (range, file) in mappings(&pid.to_string()) {
            let Some(file) = file else { continue };
            let base = *theirs.entry(file.clone()).or_insert(range.start);
            let shift = bases.get(&file).map(|ours| ours.wrapping_sub(base));
            ranges.push((range, shift));
        }
        Modules { ranges, tables: tables() }
    }

    /// The address here of what is at `address` there.
    fn here(&self, address: u64) -> Option<u64> {
        let (_, shift) = self.ranges.iter().find(|(range, _)| range.contains(&address))?;
        Some(address.wrapping_add((*shift)?))
    }

    /// The addresses of the calls on a stack, the innermost first, and why they end before the stack does.
    pub(super) fn unwind(&self, copied: &Copied, most: usize) -> (Vec<u64>, Option<String>) {
        let mut registers = copied.registers;
        let mut found = Vec::new();
        while found.len() < most {
            let Some(address) = registers[RIP].filter(|address| *address != 0) else { return (found, None) };
            let first = found.is_empty();
            found.push(address);
            let next = self.step(copied, &registers, !first).or_else(|| by_frame_pointer(copied, &registers));
            match next {
                Some(next) if next[RSP] > registers[RSP] || first => registers = next,
                // The outermost function says that nobody has called it.
                _ if self.is_outermost(&registers, !first) => return (found, None),
                _ => return (found, Some("the rest cannot be unwound".to_owned())),
            }
        }
        (found, Some("there are more".to_owned()))
    }

    fn rules<T>(
        &self,
        registers: &[Option<u64>; 17],
        returned: bool,
        each: impl FnOnce(&gimli::UnwindTableRow<usize>) -> T,
    ) -> Option<T> {
        let address = self.here(registers[RIP]?.checked_sub(u64::from(returned))?)?;
        let table = self.tables.iter().find(|table| table.code.iter().any(|code| code.contains(&address)))?;
        table.row(address, each)
    }

    fn is_outermost(&self, registers: &[Option<u64>; 17], returned: bool) -> bool {
        let undefined = |row: &gimli::UnwindTableRow<usize>| {
            matches!(row.register(Register(16)), Some(RegisterRule::Undefined) | None)
        };
        self.rules(registers, returned, undefined).unwrap_or(false)
    }

    /// The registers of the caller.
    fn step(&self, copied: &Copied, old: &[Option<u64>; 17], returned: bool) -> Option<[Option<u64>; 17]> {
        self.rules(old, returned, |row| {
            let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
            let cfa = (*old.get(usize::from(register.0))?)?.wrapping_add_signed(*offset);
            let mut new = [None; 17];
            for index in PRESERVED {
                new[index] = old[index];
            }
            for (register, rule) in row.registers() {
                let Some(place) = new.get_mut(usize::from(register.0)) else { continue };
                *place = match rule {
                    RegisterRule::SameValue => old[usize::from(register.0)],
                    RegisterRule::Offset(offset) => copied.word(cfa.wrapping_add_signed(*offset)),
                    RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(*offset)),
                    RegisterRule::Register(other) => old.get(usize::from(other.0)).copied().flatten(),
                    _ => None,
                };
            }
            new[RSP] = Some(cfa);
            new[RIP].map(|_| new)
        })?
    }

    /// Adds the functions that `address` is in, with those that were put into each other by the compiler.
    pub(super) fn name(&self, address: u64, returned: bool, frames: &mut Vec<Frame>) {
        let before = frames.len();
        let here = self.here(address);
        if let Some(here) = here {
            // What is asked for is a call before the address.
            let at = here.saturating_add(u64::from(!returned)) as *mut c_void;
            backtrace::resolve(at, |symbol| {
                frames.push(Frame {
                    address: here,
                    function: symbol.name().map(|name| format!("{name:#}")),
                    file: symbol.filename().map(|path| path.display().to_string()),
                    line: symbol.lineno(),
                });
            });
        }
        if frames.len() == before {
            frames.push(Frame { address: here.unwrap_or(address), function: None, file: None, line: None });
        }
    }
}

impl Copied {
    /// The word at an address of the stack.
    fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.stack.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
    }
}

/// The caller, where code has no tables but keeps frame pointers.
fn by_frame_pointer(copied: &Copied, old: &[Option<u64>; 17]) -> Option<[Option<u64>; 17]> {
    let frame = old[RBP].filter(|frame| Some(*frame) >= old[RSP])?;
    let mut new = [None; 17];
    new[RBP] = copied.word(frame);
    new[RIP] = copied.word(frame.checked_add(8)?);
    new[RSP] = frame.checked_add(16);
    new[RIP].map(|_| new)
}

impl Table {
    fn row<T>(&self, address: u64, each: impl FnOnce(&gimli::UnwindTableRow<usize>) -> T) -> Option<T> {
        let from = |at: u64| self.bytes.get(usize::try_from(at.checked_sub(self.start)?).ok()?..);
        let bases = BaseAddresses::default().set_eh_frame_hdr(self.header);
        let header = EhFrameHdr::new(from(self.header)?, NativeEndian).parse(&bases, 8).ok()?;
        let Pointer::Direct(frames) = header.eh_frame_ptr() else { return None };
        let bases = bases.set_eh_frame(frames);
        let section: EhFrame<EndianSlice<'_, NativeEndian>> = EhFrame::new(from(frames)?, NativeEndian);
        let mut context = UnwindContext::new();
        let row = header
            .table()?
            .unwind_info_for_address(&section, &bases, &mut context, address, EhFrame::cie_from_offset)
            .ok()?;
        Some(each(row))
    }
}

/// The tables of all modules of this process.
fn tables() -> Vec<Table> {
    unsafe extern "C" fn add(
        module: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        list: *mut c_void,
    ) -> libc::c_int {
        // SAFETY: the loader gives a module that is loaded as long as this runs.
        let module = unsafe { &*module };
        // SAFETY: it is the vector that `tables` gave, which nobody else uses meanwhile.
        let list = unsafe { &mut *list.cast::<Vec<Table>>() };
        // SAFETY: the loader says where the headers are, and how many.
        let headers = unsafe { std::slice::from_raw_parts(module.dlpi_phdr, usize::from(module.dlpi_phnum)) };
        let range = |header: &libc::Elf64_Phdr| {
            let start = module.dlpi_addr.wrapping_add(header.p_vaddr);
            start..start.wrapping_add(header.p_filesz)
        };
        let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let Some(header) = headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME) else {
            return 0;
        };
        let header = range(header).start;
        let readable = |it: &&libc::Elf64_Phdr| it.p_flags & libc::PF_R != 0 && it.p_flags & libc::PF_W == 0;
        let Some(segment) = loaded().filter(readable).map(range).find(|it| it.contains(&header)) else {
            return 0;
        };
        let length = (segment.end - segment.start) as usize;
        // SAFETY: a segment that is loaded, readable and never written to lies there.
        let bytes = unsafe { std::slice::from_raw_parts(segment.start as *const u8, length) };
        let code = loaded().filter(|it| it.p_flags & libc::PF_X != 0).map(range).collect();
        list.push(Table { code, start: segment.start, bytes: bytes.to_vec(), header });
        0
    }
    let mut list: Vec<Table> = Vec::new();
    // SAFETY: the function takes what is given beside it, and neither unwinds nor keeps it.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut list).cast()) };
    list
}
