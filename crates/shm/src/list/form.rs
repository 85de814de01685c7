//! How CPython lays a list out, byte for byte. All numbers are native-endian, of 64 bits.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 8 | N, the number of items |
//! | 8 | 8 (N + 1) | where each slot begins, from the start of the data; the last is the length D of the data |
//! | 8 (N + 2) | D | the slots |
//! | 8 (N + 2) + D | 8 N | each item's `struct` format, ASCII, filled up with NULs |
//! | 8 (N + 2) + D + 8 N | N | each item's code: 0 as it is, 1 text, 2 bytes, 3 `None` |
//!
//! | type | format | code | slot |
//! |---|---|---|---|
//! | int | `q` | 0 | 8 bytes |
//! | float | `d` | 0 | 8 bytes |
//! | bool | `xxxxxxx?` | 0 | 8 bytes, the value in the last |
//! | None | `xxxxxx?x` | 3 | 8 bytes of zero |
//! | str, bytes | `Ns` | 1, 2 | N = 8 (length / 8 + 1) bytes, filled up with NULs |
//!
//! CPython 3.8 stores the N slots' sizes where later versions store the N + 1 offsets, and so everything behind them 8
//! bytes earlier. A size is never 0, and the first offset always is, so the two can be told apart, and both are read.
//!
//! Whoever has the segment may write anything into it. What says where something lies is read once, when the list is
//! attached, and checked; formats and codes are checked whenever an item is read.

use super::Item;

pub(super) const WORD: usize = 8;
/// A format is stored in this many bytes.
const FORMAT: usize = 8;

/// Where everything lies.
pub(super) struct Form {
    /// Where the data starts.
    data: usize,
    /// Where each slot begins, from the start of the data, and where the last one ends.
    slots: Vec<usize>,
}

/// Why a segment is no list, or a place in it no item.
pub(super) type Broken = &'static str;

impl Form {
    /// The form of a new list with slots of these sizes. `None` if no address space holds it.
    pub(super) fn of(sizes: impl Iterator<Item = usize>) -> Option<Form> {
        let mut slots = vec![0_usize];
        let mut end = 0_usize;
        for size in sizes {
            end = end.checked_add(size)?;
            slots.push(end);
        }
        let data = slots.len().checked_add(1)?.checked_mul(WORD)?;
        let form = Form { data, slots };
        form.checked_size()?;
        Some(form)
    }

    /// Reads the form of a list in a segment of `size` bytes, whose words `word` gives.
    pub(super) fn read(size: usize, word: impl Fn(usize) -> i64) -> Result<Form, Broken> {
        const SHORT: Broken = "it is too small for the list that it says it is";
        if size < WORD {
            return Err(SHORT);
        }
        let count = usize::try_from(word(0)).map_err(|_| "its number of items is negative")?;
        // Bounds what is read and allocated below by the size of the segment.
        if count > size / WORD {
            return Err(SHORT);
        }
        if count == 0 {
            return Ok(Form { data: 2 * WORD, slots: vec![0] });
        }
        if size < (count + 2) * WORD {
            return Err(SHORT);
        }
        let old = word(1) != 0;
        let mut slots = vec![0_usize];
        for index in 1..=count {
            let number = usize::try_from(word(if old { index } else { index + 1 }));
            let number = number.map_err(|_| "a slot lies before its data")?;
            let start = slots[index - 1];
            let end = if old { start.checked_add(number).ok_or(SHORT)? } else { number };
            if end < start || end - start < WORD {
                return Err("a slot is smaller than any value");
            }
            slots.push(end);
        }
        let form = Form { data: (count + if old { 1 } else { 2 }) * WORD, slots };
        match form.checked_size() {
            Some(needed) if needed <= size => Ok(form),
            _ => Err(SHORT),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - 1
    }

    /// The numbers before the data.
    pub(super) fn head(&self) -> impl Iterator<Item = i64> + '_ {
        std::iter::once(self.len()).chain(self.slots.iter().copied()).map(|number| number as i64)
    }

    fn checked_size(&self) -> Option<usize> {
        let end = self.slots.last().copied()?;
        let count = self.len();
        let tail = count.checked_mul(FORMAT + 1)?;
        self.data.checked_add(end)?.checked_add(tail).filter(|&size| isize::try_from(size).is_ok())
    }

    /// The size of the whole.
    pub(super) fn size(&self) -> usize {
        self.checked_size().unwrap_or(usize::MAX)
    }

    /// Where an item's slot lies, and how large it is.
    pub(super) fn slot(&self, index: usize) -> (usize, usize) {
        (self.data + self.slots[index], self.slots[index + 1] - self.slots[index])
    }

    /// Where an item's format lies.
    pub(super) fn format(&self, index: usize) -> usize {
        self.data + self.slots[self.len()] + index * FORMAT
    }

    /// Where an item's code lies.
    pub(super) fn code(&self, index: usize) -> usize {
        self.format(self.len()) + index
    }
}

/// The slot that CPython gives a value. For text it counts characters instead of bytes, and so cuts off whatever is not
/// ASCII; ours is large enough, and the same where all is ASCII.
pub(super) fn slot_size(item: &Item) -> usize {
    item.bytes().map_or(WORD, |bytes| WORD * (bytes.len() / WORD + 1))
}

/// Format and code of a value in a slot of this size. `None` if the format has more than its 8 characters.
pub(super) fn format(item: &Item, slot: usize) -> Option<([u8; FORMAT], u8)> {
    let (text, code) = match item {
        Item::Int(_) => ("q".to_owned(), 0),
        Item::Float(_) => ("d".to_owned(), 0),
        Item::Bool(_) => ("xxxxxxx?".to_owned(), 0),
        Item::None => ("xxxxxx?x".to_owned(), 3),
        Item::Str(_) => (format!("{slot}s"), 1),
        Item::Bytes(_) => (format!("{slot}s"), 2),
    };
    let mut format = [0; FORMAT];
    format.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some((format, code))
}

/// A value as it lies in its slot.
pub(super) fn encode(item: &Item, slot: usize) -> Vec<u8> {
    match item {
        Item::Int(value) => value.to_ne_bytes().to_vec(),
        Item::Float(value) => value.to_ne_bytes().to_vec(),
        Item::Bool(value) => vec![0, 0, 0, 0, 0, 0, 0, u8::from(*value)],
        Item::None => vec![0; WORD],
        Item::Str(_) | Item::Bytes(_) => {
            let mut bytes = item.bytes().unwrap_or_default().to_vec();
            bytes.resize(slot, 0);
            bytes
        }
    }
}

/// What a format says.
#[derive(PartialEq)]
pub(super) enum Shape {
    Int,
    Float,
    Bool,
    None,
    Bytes(usize),
}

pub(super) fn shape(format: [u8; FORMAT], slot: usize) -> Result<Shape, Broken> {
    let text = trim(&format);
    let shape = match text {
        b"q" => Shape::Int,
        b"d" => Shape::Float,
        b"xxxxxxx?" => Shape::Bool,
        b"xxxxxx?x" => Shape::None,
        [digits @ .., b's'] if digits.iter().all(u8::is_ascii_digit) => {
            let len = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            Shape::Bytes(len.ok_or("an item's format is none of a list's")?)
        }
        _ => return Err("an item's format is none of a list's"),
    };
    match shape {
        Shape::Bytes(len) if len > slot => Err("an item reaches beyond its slot"),
        shape => Ok(shape),
    }
}

/// The value in a slot's bytes.
pub(super) fn decode(shape: &Shape, code: u8, bytes: &[u8]) -> Result<Item, Broken> {
    const CODE: Broken = "an item's code does not go with its format";
    let number = || bytes.first_chunk::<WORD>().copied().unwrap_or_default();
    match (shape, code) {
        (Shape::Int, 0) => Ok(Item::Int(i64::from_ne_bytes(number()))),
        (Shape::Float, 0) => Ok(Item::Float(f64::from_ne_bytes(number()))),
        (Shape::Bool, 0) => Ok(Item::Bool(number()[WORD - 1] != 0)),
        (Shape::None, 3) => Ok(Item::None),
        (Shape::Bytes(_), 1) => match std::str::from_utf8(trim(bytes)) {
            Ok(text) => Ok(Item::Str(text.to_owned())),
            Err(_) => Err("its text is not UTF-8 (CPython cuts off text that is not ASCII)"),
        },
        (Shape::Bytes(_), 2) => Ok(Item::Bytes(trim(bytes).to_vec())),
        _ => Err(CODE),
    }
}

/// Without the NULs at its end: they do not count, since nothing says how long a value is.
fn trim(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// The format as text, for those who want to see it.
pub(super) fn text(format: [u8; FORMAT]) -> String {
    String::from_utf8_lossy(trim(&format)).into_owned()
}
