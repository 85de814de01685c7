//! Records: the items of one task, and their results, one after the other in one buffer.
//!
//! A record is its length (`u32`, little endian) and that many bytes. The length makes an item that cannot be decoded
//! that item's error only, and lets a task be cut between two items without knowing their types.
//!
//! Plain numbers need no length: they follow each other, each of the same size. Which of the two it is says the
//! [`Layout`].

use procession_parcel::{codec::plain::Plain, function::Plainly};

/// How the items of a task, or the values of its items, follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Layout(u8);

impl Layout {
    /// One record for each: its length (`u32`, little endian), then what it is, [encoded](procession_parcel::codec).
    pub const RECORDS: Layout = Layout(0);

    /// The bytes of a [plain number](procession_parcel::codec::plain) for each, and nothing between them.
    #[must_use]
    pub fn plain(number: Plain) -> Layout {
        Layout(number.size())
    }

    /// How many bytes there are for each, where they are plain numbers.
    #[must_use]
    pub fn size(self) -> Option<usize> {
        (self.0 > 0).then_some(self.0.into())
    }

    pub(crate) fn is_plain(self) -> bool {
        self.0 > 0
    }

    /// Any byte is one: that of a layout's size, or 0.
    pub(crate) fn from_byte(byte: u8) -> Layout {
        Layout(byte)
    }

    pub(crate) fn to_byte(self) -> u8 {
        self.0
    }

    /// Splits the first one's content off. `None` if it is not there whole.
    #[inline]
    pub(crate) fn split(self, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        match self.size() {
            None => split(bytes),
            Some(size) => bytes.split_at_checked(size),
        }
    }

    /// How many whole ones there are at the start of `bytes`, at most `most`, and how many bytes they take.
    pub(crate) fn whole(self, bytes: &[u8], most: u32) -> (u32, usize) {
        let Some(size) = self.size() else { return whole(bytes, most) };
        let count = (bytes.len() / size).min(most as usize);
        // It is at most `most`.
        (count as u32, count * size)
    }

    /// The position behind the first `count`, or of the last whole one's end if there are fewer.
    pub(crate) fn offset_of(self, bytes: &[u8], count: u32) -> usize {
        self.whole(bytes, count).1
    }

    /// Appends one with this content; false if that is none of a plain number.
    #[must_use]
    pub(crate) fn append(self, buffer: &mut Vec<u8>, content: &[u8]) -> bool {
        match self.size() {
            None => append(buffer, content),
            Some(size) if size != content.len() => return false,
            Some(_) => buffer.extend_from_slice(content),
        }
        true
    }
}

/// Those of a task: of its items, and of their values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Layouts {
    /// Of the items.
    pub items: Layout,
    /// Of the values.
    pub values: Layout,
}

impl Layouts {
    /// The same, as who calls wants to know it.
    pub(crate) fn plainly(self) -> Plainly {
        Plainly { argument: self.items.is_plain(), value: self.values.is_plain() }
    }
}

/// Bytes before each record's content.
pub(crate) const PREFIX: usize = 4;

/// Appends a record whose content `write` appends. If `write` fails, nothing is appended.
pub(crate) fn push<E>(
    buffer: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), PushError<E>> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; PREFIX]);
    if let Err(error) = write(buffer) {
        buffer.truncate(start);
        return Err(PushError::Write(error));
    }
    let length = buffer.len() - start - PREFIX;
    let Ok(length) = u32::try_from(length) else {
        buffer.truncate(start);
        return Err(PushError::TooLarge(length));
    };
    buffer[start..start + PREFIX].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Why [`push`] appended nothing.
#[derive(Debug)]
pub(crate) enum PushError<E> {
    Write(E),
    /// The content has this many bytes, which a `u32` cannot count.
    TooLarge(usize),
}

/// Appends a record with this content, which is shorter than 4 GiB.
pub(crate) fn append(buffer: &mut Vec<u8>, content: &[u8]) {
    debug_assert!(u32::try_from(content.len()).is_ok());
    buffer.extend_from_slice(&(content.len() as u32).to_le_bytes());
    buffer.extend_from_slice(content);
}

/// Buffers of one record that are larger than this are decoded where they lie, if they can be.
pub(crate) const LARGE: usize = 64 * 1024;

/// Makes a record of a buffer by its length over its first bytes; false if it is too long or too short.
pub(crate) fn becomes_one(buffer: &mut [u8]) -> bool {
    let length = buffer.len().checked_sub(PREFIX).and_then(|length| u32::try_from(length).ok());
    match (length, buffer.first_chunk_mut()) {
        (Some(length), Some(prefix)) => {
            *prefix = length.to_le_bytes();
            true
        }
        _ => false,
    }
}

/// Splits the first record's content off `records`. `None` if there is no whole record.
#[inline]
pub(crate) fn split(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = records.split_first_chunk::<PREFIX>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// How many whole records there are at the start of `records`, at most `most`, and how many bytes they take.
pub(crate) fn whole(records: &[u8], most: u32) -> (u32, usize) {
    let (mut rest, mut count) = (records, 0);
    while count < most
        && let Some((_, behind)) = split(rest)
    {
        rest = behind;
        count += 1;
    }
    (count, records.len() - rest.len())
}

/// The position behind the first `count` records, or of the last whole one's end if there are fewer.
pub(crate) fn offset_of(records: &[u8], count: u32) -> usize {
    let mut rest = records;
    for _ in 0..count {
        match split(rest) {
            Some((_, behind)) => rest = behind,
            None => break,
        }
    }
    records.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_and_a_failed_one_leaves_no_trace() {
        let mut buffer = Vec::new();
        append(&mut buffer, b"one");
        assert!(
            push(&mut buffer, |bytes| {
                bytes.extend_from_slice(b"half");
                Err(())
            })
            .is_err()
        );
        push::<()>(&mut buffer, |bytes| {
            bytes.extend_from_slice(b"");
            Ok(())
        })
        .unwrap();
        let (one, rest) = split(&buffer).unwrap();
        assert_eq!((one, offset_of(&buffer, 1)), (&b"one"[..], 7));
        assert_eq!(split(rest), Some((&b""[..], &b""[..])));
    }

    #[test]
    fn plain_numbers_are_cut_by_their_size_alone() {
        let layout = Plain::of::<u32>().map(Layout::plain).unwrap();
        let mut buffer = Vec::new();
        assert!(layout.append(&mut buffer, &[1, 0, 0, 0]) && layout.append(&mut buffer, &[5, 0, 0, 0]));
        assert!(!layout.append(&mut buffer, &[2; 3]) && !layout.append(&mut buffer, &[2; 5]));
        assert_eq!(buffer, [1, 0, 0, 0, 5, 0, 0, 0]);
        buffer.extend_from_slice(&[9; 3]);
        assert_eq!((layout.whole(&buffer, 9), layout.whole(&buffer, 1)), ((2, 8), (1, 4)));
        assert_eq!((layout.offset_of(&buffer, 1), layout.offset_of(&buffer, 9)), (4, 8));
        assert_eq!(layout.split(&buffer).unwrap().0, [1, 0, 0, 0]);
        assert_eq!(layout.split(&buffer[8..]), None);
        // The same bytes as records: one of one byte, and what is none.
        assert_eq!(Layout::RECORDS.whole(&buffer, 9), (1, 5));
    }

    #[test]
    fn a_length_beyond_the_buffer_is_no_record() {
        assert_eq!(split(&[5, 0, 0, 0, 1]), None);
        assert_eq!(split(&[5, 0]), None);
        assert_eq!(offset_of(&[5, 0, 0, 0, 1], 3), 0);
    }
}
