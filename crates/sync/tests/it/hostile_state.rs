//! Shared memory that somebody wrote over: answers and errors, no panic and no wait without end.

use crate::support::through_a_parcel;
use procession_parcel::Parcel;
use procession_shm::Segment;
use procession_sync::{Barrier, Condition, Event, Held, Once, OnceValue, RwLock};
use procession_testkit::{storm::Rng, watchdog};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::Duration;

const SOON: Duration = Duration::from_millis(1);
/// Tag and mutex: a mutex that was written over is the C library's business.
const BEFORE: usize = 48;

/// A condition's lock, as it is packed: one of two kinds.
#[derive(Deserialize)]
enum Of {
    Lock(#[expect(dead_code, reason = "to be decoded")] procession_sync::Lock),
    #[expect(dead_code, reason = "to be decoded")]
    RLock(procession_sync::RLock),
}

/// Writes `len` bytes over what lies behind the mutex, each of them random, or small.
///
/// A handle is packed as the segment and the place in it; `Rest` is what is packed behind that.
fn scribble<T: Serialize, Rest: DeserializeOwned + 'static>(handle: &T, len: usize, rng: &mut Rng) {
    let parcel = Parcel::pack(handle).unwrap();
    let ((segment, offset), _): ((Segment, u64), Rest) = parcel.unpack().unwrap();
    for at in 0..len {
        let byte = if rng.chance(1, 2) { rng.below(8) } else { rng.below(256) } as u8;
        // SAFETY: within the slot, whose length the caller knows, and the segment is mapped.
        let place = unsafe { segment.as_ptr().add(offset as usize + BEFORE + at) };
        // SAFETY: as above; nobody else uses the slot now.
        unsafe { place.write_volatile(byte) };
    }
}

#[test]
fn whatever_lies_in_shared_memory_no_call_panics_or_waits_on() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    for _ in 0..30 {
        let condition = Condition::new().unwrap();
        scribble::<_, Of>(&condition, 24 + 100 * 24, &mut rng);
        condition.acquire().unwrap();
        let _ = condition.wait_timeout(&mut Held, SOON);
        let _ = condition.notify_all();
        condition.release().unwrap();
        let _ = format!("{condition:?}");

        let barrier = Barrier::new(2).unwrap();
        scribble::<_, Option<procession_parcel::Function<(), ()>>>(&barrier, 40 + 24 + 100 * 24, &mut rng);
        let _ = (barrier.wait_timeout(SOON), barrier.reset(), barrier.abort(), barrier.wait_timeout(SOON));
        let _ = format!("{barrier:?}");

        let lock = RwLock::new().unwrap();
        scribble::<_, ()>(&lock, 8 + 24 + 100 * 24, &mut rng);
        let _ = (lock.read_timeout(SOON).is_ok(), lock.write_timeout(SOON).is_ok());
        let _ = format!("{lock:?}");

        let once = Once::new().unwrap();
        scribble::<_, ()>(&once, 24, &mut rng);
        let _ = (once.wait_timeout(SOON), once.call_once_timeout(SOON, || ()));
        let _ = format!("{once:?}");

        let value = OnceValue::<u64>::new().unwrap();
        scribble::<_, ()>(&value, 40, &mut rng);
        let _ = (value.wait_timeout(SOON), value.get_or_init_timeout(SOON, || 7));
        let again = Parcel::pack(&value).unwrap().unpack::<OnceValue<u64>>();
        assert!(again.is_err(), "its length was written over");
    }
    let event = Event::new().unwrap();
    assert!(through_a_parcel(&event).same(&event));
    // One primitive is not another.
    assert!(Parcel::pack(&event).unwrap().unpack::<RwLock>().is_err());
}
