//! Looks through a pickle before anything is made of it.
//!
//! # What is let through
//!
//! A pickle is a program for a small stack machine, some of whose instructions name functions and call them. This reads the
//! instructions one by one, as a table of what each takes and leaves, and lets through those that make plain values: None,
//! booleans, numbers, strings, bytes, lists, tuples, dictionaries, sets. Every other one is an error: names of classes and
//! functions (`GLOBAL`, `STACK_GLOBAL`, `INST`, `EXT`), calls (`REDUCE`, `NEWOBJ`, `OBJ`, `BUILD`), references to objects and
//! buffers elsewhere (`PERSID`, `NEXT_BUFFER`). So nothing is looked up and nothing is called, whatever reads it afterwards.
//!
//! # What is bounded
//!
//! A value that nests deeper than [`DEPTH`] would overflow the stack of whoever walks over it. A value may be referred to
//! many times, so that a short pickle stands for an enormous one: the size of what it expands to is added up, and bounded.
//! So is the number of items, which take memory here. For that sum to hold, nothing may grow once it is part of something
//! else, which rules out values that contain themselves.
//!
//! # What comes out
//!
//! The same pickle, if nothing in it is referred to; otherwise one that says the same without references. (The reader counts
//! the references that it meets, and takes a value that is shared inside of a shared one for its own part.)

use std::{borrow::Cow, collections::HashMap, ops::Range};

/// How deep a value may nest.
pub(super) const DEPTH: u32 = 128;
/// A value may take so many bytes for each byte of its pickle, or [`ROOM`], whichever is more.
const EXPANSION: u64 = 64;
const ROOM: u64 = 16 << 20;
/// Beyond the length of its pickle, no value takes more, in bytes.
const MOST: u64 = 1 << 30;
/// How many items a pickle may have: each takes memory here, and in the value.
const ITEMS: usize = 8 << 20;
/// What an item takes beside its bytes.
const ITEM: u64 = 16;
/// The longest number as text, whose conversion is not linear.
const DIGITS: usize = 4096;

enum Sort {
    /// The instruction that makes it.
    Leaf(Range<usize>),
    List,
    Tuple,
    Dict,
    Set,
    FrozenSet,
}

struct Node {
    sort: Sort,
    items: Vec<usize>,
    depth: u32,
    /// Spread out, in bytes.
    size: u64,
    /// Part of something else.
    used: bool,
    remembered: bool,
}

struct Machine {
    nodes: Vec<Node>,
    /// Indices of nodes.
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: HashMap<u64, usize>,
    /// Whether something was referred to.
    shared: bool,
    max_items: usize,
    limit: u64,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: u64) -> Result<&'a [u8], String> {
        let taken = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let (bytes, rest) = taken
            .ok_or_else(|| format!("an item of {count} bytes, and {} bytes are left", self.rest.len()))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, count: u64) -> Result<u64, String> {
        let bytes = self.bytes(count)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or("a line without an end")?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(line)
    }

    fn key(&mut self) -> Result<u64, String> {
        let line = self.line()?;
        let key = std::str::from_utf8(line).ok().and_then(|text| text.trim().parse().ok());
        key.ok_or_else(|| format!("`{}` as a number in its memo", line.escape_ascii()))
    }
}

impl Machine {
    fn node(&mut self, sort: Sort, size: u64) -> Result<usize, String> {
        if self.nodes.len() >= self.max_items {
            return Err(format!("more than {} items", self.max_items));
        }
        let size = size.saturating_add(ITEM);
        self.nodes.push(Node { sort, items: Vec::new(), depth: 0, size, used: false, remembered: false });
        Ok(self.nodes.len() - 1)
    }

    fn push(&mut self, sort: Sort) -> Result<(), String> {
        let size = if let Sort::Leaf(range) = &sort { range.len() as u64 } else { 0 };
        let node = self.node(sort, size)?;
        self.stack.push(node);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), String> {
        // A reader makes room for the items above each mark.
        if self.marks.len() > DEPTH as usize {
            return Err(format!("values nested deeper than {DEPTH}"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop(&mut self) -> Result<usize, String> {
        // What lies below a mark belongs to somebody else.
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(empty),
            false => Err(empty()),
        }
    }

    fn top(&self) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor.min(self.stack.len())..].last().copied().ok_or_else(empty)
    }

    /// Everything above the last mark.
    fn above_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().ok_or("an end without a beginning")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn add(&mut self, container: usize, items: &[usize]) -> Result<(), String> {
        if self.nodes[container].used {
            return Err(
                "a value that changes after it became part of another, or that contains itself".into()
            );
        }
        for &item in items {
            self.nodes[item].used = true;
            let Node { depth, size, .. } = self.nodes[item];
            let node = &mut self.nodes[container];
            node.depth = node.depth.max(depth + 1);
            node.size = node.size.saturating_add(size);
            node.items.push(item);
        }
        // An item that is its own container is used only now.
        if self.nodes[container].used {
            return Err("a value that contains itself".into());
        }
        let Node { depth, size, .. } = self.nodes[container];
        if depth > DEPTH {
            return Err(format!("values nested deeper than {DEPTH}"));
        }
        if size > self.limit {
            return Err(format!("more than {} bytes, spread out: its parts refer to each other", self.limit));
        }
        Ok(())
    }

    fn make(&mut self, sort: Sort, items: &[usize]) -> Result<(), String> {
        let node = self.node(sort, 0)?;
        self.add(node, items)?;
        self.stack.push(node);
        Ok(())
    }

    fn extend(&mut self, items: &[usize]) -> Result<(), String> {
        let container = self.top()?;
        self.add(container, items)
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let node = self.top()?;
        // CPython does neither, and readers disagree about what it means.
        if std::mem::replace(&mut self.nodes[node].remembered, true) || self.memo.insert(key, node).is_some()
        {
            return Err(format!("item {key} of its memo twice"));
        }
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let node =
            *self.memo.get(&key).ok_or_else(|| format!("item {key} of its memo, which is not there"))?;
        // References take place too.
        if self.stack.len() >= self.max_items {
            return Err(format!("more than {} items", self.max_items));
        }
        self.stack.push(node);
        self.shared = true;
        Ok(())
    }

    /// The last items of the stack, in their order.
    fn last<const N: usize>(&mut self) -> Result<[usize; N], String> {
        let mut items = [0; N];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        Ok(items)
    }

    fn tuple<const N: usize>(&mut self) -> Result<(), String> {
        let items = self.last::<N>()?;
        self.make(Sort::Tuple, &items)
    }

    /// Writes a value without references. It nests no deeper than [`DEPTH`].
    fn write(&self, node: usize, pickle: &[u8], out: &mut Vec<u8>) {
        let Node { sort, items, .. } = &self.nodes[node];
        let (before, after): (&[u8], u8) = match sort {
            Sort::Leaf(range) => return out.extend_from_slice(&pickle[range.clone()]),
            Sort::List => (b"](", b'e'),
            Sort::Tuple => (b"(", b't'),
            Sort::Dict => (b"}(", b'u'),
            Sort::Set => (b"\x8f(", 0x90),
            Sort::FrozenSet => (b"(", 0x91),
        };
        out.extend_from_slice(before);
        items.iter().for_each(|item| self.write(*item, pickle, out));
        out.push(after);
    }
}

fn empty() -> String {
    "an instruction that takes more than is there".into()
}

/// Checks that a pickle is one plain value, to its last byte, and gives one of the same value without references.
pub(super) fn inspect(pickle: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    inspect_up_to(ITEMS, pickle)
}

fn inspect_up_to(max_items: usize, pickle: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let mut from = Reader { rest: pickle };
    let mut to = Machine {
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        shared: false,
        max_items,
        limit: {
            let len = pickle.len() as u64;
            ROOM.max(len.saturating_mul(EXPANSION).min(len.saturating_add(MOST)))
        },
    };
    loop {
        let at = pickle.len() - from.rest.len();
        let op = from.number(1)? as u8;
        if let Some(whole) = leaf(op, &mut from)? {
            let end = pickle.len() - from.rest.len();
            if whole {
                to.push(Sort::Leaf(at..end))?;
            }
            continue;
        }
        match op {
            b']' => to.push(Sort::List)?,
            b')' => to.push(Sort::Tuple)?,
            b'}' => to.push(Sort::Dict)?,
            0x8f => to.push(Sort::Set)?,
            b'(' => to.mark()?,
            b'l' | b't' | b'd' | 0x91 => {
                let items = to.above_mark()?;
                let sort = match op {
                    b'l' => Sort::List,
                    b't' => Sort::Tuple,
                    b'd' => Sort::Dict,
                    _ => Sort::FrozenSet,
                };
                to.make(sort, &items)?;
            }
            0x85 => to.tuple::<1>()?,
            0x86 => to.tuple::<2>()?,
            0x87 => to.tuple::<3>()?,
            b'a' => {
                let item = to.last::<1>()?;
                to.extend(&item)?;
            }
            b's' => {
                let pair = to.last::<2>()?;
                to.extend(&pair)?;
            }
            // APPENDS, SETITEMS, ADDITEMS
            b'e' | b'u' | 0x90 => {
                let items = to.above_mark()?;
                to.extend(&items)?;
            }
            b'0' => drop(to.pop()?),
            b'1' => drop(to.above_mark()?),
            b'p' => to.remember(from.key()?)?,
            b'q' => to.remember(from.number(1)?)?,
            b'r' => to.remember(from.number(4)?)?,
            0x94 => to.remember(to.memo.len() as u64)?,
            b'g' => to.recall(from.key()?)?,
            b'h' => to.recall(from.number(1)?)?,
            b'j' => to.recall(from.number(4)?)?,
            b'.' => match (to.stack.as_slice(), to.marks.len(), from.rest.len()) {
                ([value], 0, 0) if to.shared => {
                    let mut out = Vec::new();
                    to.write(*value, pickle, &mut out);
                    out.push(b'.');
                    return Ok(Cow::Owned(out));
                }
                ([_], 0, 0) => return Ok(Cow::Borrowed(pickle)),
                ([_], 0, left) => return Err(format!("{left} bytes behind its end")),
                _ => return Err("an end in the middle of a value".into()),
            },
            b'c' | 0x93 | b'i' | 0x82..=0x84 => {
                return Err(format!(
                    "the name of a class or function at byte {at}: only plain values are loaded"
                ));
            }
            b'R' | 0x81 | 0x92 | b'o' | b'b' => {
                return Err(format!("a call at byte {at}: only plain values are loaded"));
            }
            b'P' | b'Q' | 0x97 | 0x98 => {
                return Err(format!("a reference to something elsewhere at byte {at}"));
            }
            other => return Err(format!("{other:#04x} at byte {at}, which is no instruction of CPython's")),
        }
    }
}

/// Reads what an instruction has behind it if it makes a value by itself, or (`false`) says nothing about the value.
fn leaf(op: u8, from: &mut Reader<'_>) -> Result<Option<bool>, String> {
    let width = match op {
        // PROTO and FRAME
        0x80 => return from.bytes(1).map(|_| Some(false)),
        0x95 => return from.bytes(8).map(|_| Some(false)),
        b'N' | 0x88 | 0x89 => return Ok(Some(true)),
        b'K' => 1,
        b'M' => 2,
        b'J' => 4,
        b'G' => 8,
        b'I' | b'L' | b'F' => match from.line()?.len() {
            len if len <= DIGITS => return Ok(Some(true)),
            len => return Err(format!("a number of {len} digits")),
        },
        b'S' | b'V' => return from.line().map(|_| Some(true)),
        // LONG1, SHORT_BINSTRING, SHORT_BINBYTES, SHORT_BINUNICODE
        0x8a | b'U' | b'C' | 0x8c => from.number(1)?,
        // LONG4, BINSTRING, BINBYTES, BINUNICODE
        0x8b | b'T' | b'B' | b'X' => from.number(4)?,
        // BINUNICODE8, BINBYTES8, BYTEARRAY8
        0x8d | 0x8e | 0x96 => from.number(8)?,
        _ => return Ok(None),
    };
    from.bytes(width).map(|_| Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_counted_before_they_take_memory() {
        let listed = |count| [b"](".as_slice(), &vec![b'N'; count], b"e."].concat();
        assert!(inspect_up_to(1000, &listed(999)).is_ok());
        assert!(inspect_up_to(1000, &listed(1000)).unwrap_err().contains("1000 items"));
        // Thrown away again, and the same one over and over.
        assert!(inspect_up_to(1000, &b"N0".repeat(1001)).unwrap_err().contains("1000 items"));
        let again = [b"Nq\0".as_slice(), &b"h\0".repeat(1000)].concat();
        assert!(inspect_up_to(1000, &again).unwrap_err().contains("1000 items"));
    }
}
