//! Parcels that lie about values and arrays: errors, nothing else.

use procession_parcel::Parcel;
use procession_shm::{Kind, Segment};
use procession_sync::{Array, ArrayPart, RawArray, RawValue, Value};
use procession_testkit::{isolated, storm::Rng, watchdog};

/// The segment and offset that a handle is packed as.
fn place<T: serde::Serialize>(handle: &T) -> (Segment, u64) {
    Parcel::pack(handle).unwrap().unpack().unwrap()
}

fn refused(segment: &Segment, offset: u64) {
    let parcel = || Parcel::pack(&(segment, offset)).unwrap();
    assert!(parcel().unpack::<Value<u64>>().is_err());
    assert!(parcel().unpack::<Array<u64>>().is_err());
    assert!(parcel().unpack::<RawValue<u64>>().is_err());
    assert!(parcel().unpack::<RawArray<u64>>().is_err());
}

#[test]
fn another_place_or_segment_is_refused() {
    let _watchdog = watchdog!();
    let value = Value::new(5_u32).unwrap();
    let (segment, offset) = place(&value);
    for offset in [1, offset + 8, offset + 64, segment.len() as u64, u64::MAX, u64::MAX - 127, 1 << 40] {
        refused(&segment, offset);
    }
    refused(&Segment::anonymous(Kind::new("other", 1, 1), 1 << 16).unwrap(), 0);
    assert_eq!(value.get().unwrap(), 5);
}

#[test]
fn a_length_that_does_not_fit_is_refused() {
    let _watchdog = watchdog!();
    // The arrays' words as they lie in memory: a lock's, then the element, then the length.
    for (len, own) in [(4, false), (5_000, true)] {
        let array = Array::<u64>::new(len).unwrap();
        let (segment, offset) = place(&array);
        let words = (offset as usize..offset as usize + 512).step_by(8);
        let length = words
            .clone()
            .map(|at| segment_word(&segment, at))
            .position(|word| word.load(ORDER) == len as u64);
        let word = segment_word(&segment, offset as usize + 8 * length.unwrap());
        for lie in [u64::MAX, u64::MAX / 8, 1 << 61, 1 << 40, segment.len() as u64 / 8 + 1] {
            word.store(lie, ORDER);
            let error = Parcel::pack(&array).unwrap().unpack::<Array<u64>>().unwrap_err().to_string();
            assert!(error.contains("its length is said to be"), "{error}");
            // Who has it already does not look at the length again.
            assert_eq!((array.len(), array.get(len - 1).unwrap()), (len, 0));
        }
        word.store(len as u64, ORDER);
        assert!(Parcel::pack(&array).unwrap().unpack::<Array<u64>>().is_ok());
        assert_eq!(own, segment.len() < 1 << 20 && offset == 0);
    }
}

const ORDER: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;

#[expect(unsafe_code, reason = "writes over shared memory")]
fn segment_word(segment: &Segment, offset: usize) -> &std::sync::atomic::AtomicU64 {
    assert!(offset + 8 <= segment.len());
    // SAFETY: within the payload, as just checked.
    let word = unsafe { segment.as_ptr().add(offset) };
    // SAFETY: aligned, and mapped as long as the segment that is borrowed.
    unsafe { std::sync::atomic::AtomicU64::from_ptr(word.as_ptr().cast()) }
}

#[test]
fn random_bytes_are_errors_or_handles_but_no_more() {
    isolated!({
        let mut rng = Rng::from_env();
        let array = Array::<u64>::new(100).unwrap();
        let good = Parcel::pack(&array).unwrap();
        for _ in 0..2_000 {
            let mut bytes = good.bytes().to_vec();
            for _ in 0..=rng.below(3) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.next_u64() as u8;
            }
            let parcel = || Parcel::new(bytes.clone(), good.try_clone().unwrap().into_parts().1);
            if let Ok(array) = parcel().unpack::<Array<u64>>() {
                drop(array.try_lock().map(|guard| guard.len()));
            }
            drop(parcel().unpack::<Value<u64>>());
            drop(parcel().unpack::<RawArray<u64>>().map(|array| array.to_vec()));
            drop(parcel().unpack::<ArrayPart<u64>>());
        }
    });
}
