//! Records: the items of one task, and their results, one after the other in one buffer.
//!
//! A record is its length (`u32`, little endian) and that many bytes. The length makes an item that cannot be decoded
//! that item's error only, and lets a task be cut between two items without knowing their types.

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
    fn a_length_beyond_the_buffer_is_no_record() {
        assert_eq!(split(&[5, 0, 0, 0, 1]), None);
        assert_eq!(split(&[5, 0]), None);
        assert_eq!(offset_of(&[5, 0, 0, 0, 1], 3), 0);
    }
}
