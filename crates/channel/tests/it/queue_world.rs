//! What holds for a queue after any death.

use procession_channel::queue::{GetError, Queue};

/// An item: a number, and bytes that belong to it.
pub(crate) type Item = (u64, Vec<u8>);

/// What a test queue's memory is: 16 chunks and one.
pub(crate) const MEMORY: usize = 1 << 20;

pub(crate) fn item(n: u64, len: usize) -> Item {
    (n, crate::support::pattern(n, len))
}

/// Whether the bytes are those of the number.
pub(crate) fn is_whole((n, bytes): &Item) -> bool {
    *bytes == crate::support::pattern(*n, bytes.len())
}

/// Takes what is there, and checks that it is whole.
#[track_caller]
pub(crate) fn drain(queue: &Queue<Item>) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        match queue.try_get() {
            Ok(item) => {
                assert!(is_whole(&item), "item {} is torn", item.0);
                numbers.push(item.0);
            }
            Err(GetError::Empty | GetError::Closed) => return numbers,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Fills the queue's memory twice over, so that a chunk that was lost, or is used twice, shows.
#[track_caller]
pub(crate) fn all_memory_is_there(queue: &Queue<Item>) {
    for round in 0..2 {
        // With number, length and header some bytes less than a quarter of a chunk.
        let fits =
            (0..200).take_while(|n| queue.try_put(item(round * 1000 + n, 16_300)).is_ok()).count() as u64;
        assert!((64..=68).contains(&fits), "{fits} items of 16 KiB fit into 1 MiB and a chunk");
        assert_eq!(drain(queue), (round * 1000..round * 1000 + fits).collect::<Vec<_>>());
    }
}
