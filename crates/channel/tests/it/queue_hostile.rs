//! A process that writes anything it likes into a queue's memory.

use procession_channel::queue::{GetError, Policy, PutError, Queue};
use procession_parcel::Parcel;
use procession_shm::{Heap, HeapRing, Segment, SharedBox};
use procession_testkit::{storm::Rng, watchdog};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const SHAPE: usize = 0;
const PRODUCERS: usize = 128;
const CHUNKS: usize = 256;
const TAIL: usize = 384;
const CONSUMERS: usize = 512;
const HEAD: usize = 640;
const RECORDS: usize = 4096;
const TABLES: usize = RECORDS + 16_384 * 64;
/// The size of a mutex, which is left alone: what the C library does with nonsense there is its business.
const MUTEX: usize = 40;

struct Victim {
    segment: Segment,
    queue: Queue<Vec<u8>>,
}

impl Victim {
    fn new(policy: Policy) -> Victim {
        let queue = Queue::builder().capacity(50).memory(1 << 18).policy(policy).build().unwrap();
        let (segment, heap): (Segment, Option<HeapRing>) = Parcel::pack(&queue).unwrap().unpack().unwrap();
        assert!(heap.is_none());
        Victim { segment, queue }
    }

    fn poke(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.segment.len());
        // SAFETY: the offset lies within the payload.
        let word = unsafe { self.segment.as_ptr().add(offset) };
        // SAFETY: it is aligned and mapped as long as the segment lives.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }.store(value, Ordering::Release);
    }

    fn attach(&self) -> Result<Queue<Vec<u8>>, String> {
        Parcel::pack(&(&self.segment, None::<HeapRing>)).unwrap().unpack().map_err(|error| error.to_string())
    }
}

#[test]
fn a_shape_that_its_segment_has_no_room_for_is_refused() {
    let _watchdog = watchdog!();
    for (offset, value) in [
        (SHAPE, 0),
        (SHAPE, 16),
        (SHAPE, 16 | 1 << 32),
        (SHAPE, 16 | 100 << 32),
        (SHAPE, 17 | 5 << 32),
        (SHAPE, 63 | 5 << 32),
        (SHAPE, u64::MAX),
        (SHAPE + 8, 0),
        (SHAPE + 24, 3),
        // It lies on a heap that did not come.
        (SHAPE + 32, 1),
    ] {
        let victim = Victim::new(Policy::Report);
        victim.attach().unwrap();
        victim.poke(offset, value);
        let error = victim.attach().unwrap_err();
        assert!(error.contains("does not describe a queue"), "{offset} {value:x}: {error}");
    }
}

#[test]
fn another_kind_of_segment_is_refused() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(procession_shm::Kind::new("other", 1, 1), 4096).unwrap();
    let error =
        Parcel::pack(&(&segment, None::<HeapRing>)).unwrap().unpack::<Queue<u32>>().unwrap_err().to_string();
    assert!(error.contains("kind"), "{error}");
}

#[test]
fn impossible_words_are_errors_for_both_sides() {
    let _watchdog = watchdog!();
    // A length that ends behind the tail, and flags that there are not.
    for header in [1_u64 << 20, 1 << 47, 1 << 48, u64::MAX] {
        let victim = Victim::new(Policy::Report);
        victim.queue.put(vec![1; 100]).unwrap();
        // Map: 8 entries; stacks: 2 times 5; then the next page.
        let data = (TABLES + 8 * 4 + 2 * 5 * 4).next_multiple_of(4096);
        victim.poke(data, header);
        let error = victim.queue.try_get().unwrap_err();
        assert!(matches!(error, GetError::Unusable(_)) && error.to_string().contains("length"), "{error}");
        assert!(victim.queue.get_timeout(Duration::from_millis(1)).is_err());
    }
    let victim = Victim::new(Policy::Report);
    victim.poke(HEAD, 5);
    assert!(matches!(victim.queue.try_get(), Err(GetError::Unusable(_))));
    let victim = Victim::new(Policy::Report);
    victim.poke(TAIL, 5);
    assert!(matches!(victim.queue.try_put(vec![1]), Err(PutError::Unusable(..))));
    assert!(matches!(victim.queue.try_get(), Err(GetError::Unusable(_))));
}

#[test]
fn impossible_tokens_bring_nothing() {
    let _watchdog = watchdog!();
    let heap = Heap::builder().cap(1 << 20).build().unwrap();
    // The header and the token of the first item are overwritten.
    for (place, wrong) in [(0, 0_u64), (1, u64::MAX), (1, 0)] {
        let queue: Queue<SharedBox<u64>> = Queue::builder().heap(&heap).memory(1 << 18).build().unwrap();
        let (segment, _): (Segment, Option<HeapRing>) = Parcel::pack(&queue).unwrap().unpack().unwrap();
        queue.put(heap.alloc(7).unwrap()).unwrap();
        let data = (TABLES + 8 * 4 + 2 * 5 * 4).next_multiple_of(4096);
        // SAFETY: the offset lies within the payload.
        let word = unsafe { segment.as_ptr().add(data + 8 * place) };
        // SAFETY: it is aligned and mapped as long as the segment lives.
        let before = unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }.swap(wrong, Ordering::Relaxed);
        assert_ne!(before, 0);
        match (queue.try_get(), place, wrong) {
            // Too short for a token.
            (Err(GetError::Unusable(_)), 0, _) => {}
            // It says that there are no blocks.
            (Err(GetError::Decode(_)), 1, 0) => {}
            // The blocks say themselves in which message they are.
            (Ok(block), 1, u64::MAX) => assert_eq!(*block, 7),
            (came, ..) => panic!("{place}, {wrong}: {came:?}"),
        }
        drop((queue, segment));
        crate::support::assert_soon_empty(&heap);
    }
}

/// Nobody panics, hangs or reaches beyond the segment, whatever is written where.
#[test]
fn random_words_anywhere_do_no_harm() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let mut rng = Rng::from_env();
    for round in 0..400 {
        let policy = [Policy::Report, Policy::Drop, Policy::Redeliver][round % 3];
        let victim = Victim::new(policy);
        for _ in 0..rng.below(20) {
            let _ = victim.queue.try_put(vec![1; rng.below(3000) as usize]);
        }
        let claim = victim.queue.try_claim();
        for _ in 0..=rng.below(6) {
            let area =
                *rng.pick(&[PRODUCERS + MUTEX, CHUNKS, TAIL, CONSUMERS + MUTEX, HEAD, RECORDS, TABLES]);
            let len = if area % 128 == MUTEX { 128 - MUTEX as u64 } else { 128 };
            let value = match rng.below(5) {
                0 => rng.next_u64(),
                1 => rng.below(100),
                2 => rng.below(8) << 32 | rng.below(20),
                3 => rng.below(600) * 8,
                _ => rng.below(6) << 16,
            };
            victim.poke(area + rng.below(len / 8) as usize * 8, value);
            for _ in 0..3 {
                let _ = victim.queue.try_put(vec![2; len_of(&mut rng)]);
                let _ = victim.queue.try_get();
                let _ = victim.queue.try_get_many(10);
                let _ = victim.queue.try_claim();
                let _ = victim.queue.len();
            }
            let _ = victim.queue.in_doubt();
            let _ = victim.queue.settle();
            let _ = victim.queue.stats();
        }
        drop(claim);
    }
}

/// Of a body: mostly a small one, at times one of more than a chunk.
fn len_of(rng: &mut Rng) -> usize {
    let most = if rng.chance(1, 9) { 70_000 } else { 900 };
    rng.below(most) as usize
}
