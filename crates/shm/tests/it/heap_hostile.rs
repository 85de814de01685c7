//! Parcels that say what is not so: an error, and nothing else.

use crate::heap_support::{assert_empty, balance, of_mib};
use procession_parcel::{Fd, Parcel};
use procession_shm::{Heap, Kind, Segment, SharedBox, SharedSlice, SharedStr, SharedVec};
use procession_testkit::{isolated, storm::Rng, watchdog};
use serde::{Deserialize, Serialize};

/// What a parcel says of a block with one owner.
#[derive(Serialize, Deserialize)]
struct Unique {
    fd: Fd,
    numbers: [[u8; 8]; 5],
}

/// What a parcel says of a block with many holders.
#[derive(Serialize, Deserialize)]
struct Shared {
    fd: Fd,
    numbers: [[u8; 8]; 6],
}

fn forge_unique(heap: &Heap, change: impl FnOnce(&mut [u64; 5])) -> Parcel {
    let mut forged: Unique = Parcel::pack(&heap.vec_from(&[7_u64; 10]).unwrap()).unwrap().unpack().unwrap();
    let mut numbers = forged.numbers.map(u64::from_le_bytes);
    change(&mut numbers);
    forged.numbers = numbers.map(u64::to_le_bytes);
    Parcel::pack(&forged).unwrap()
}

fn forge_shared(slice: &SharedSlice<u64>, change: impl FnOnce(&mut [u64; 6])) -> Parcel {
    let mut forged: Shared = Parcel::pack(slice).unwrap().unpack().unwrap();
    let mut numbers = forged.numbers.map(u64::from_le_bytes);
    change(&mut numbers);
    forged.numbers = numbers.map(u64::to_le_bytes);
    Parcel::pack(&forged).unwrap()
}

#[test]
fn a_block_that_is_not_so_is_refused() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let whole: SharedVec<u64> = forge_unique(&heap, |_| ()).unpack().unwrap();
    assert_eq!(*whole, [7; 10]);
    let victim = heap.alloc(1_u64).unwrap();
    // block, token, length, size, alignment
    let lies: [(usize, u64); 16] = [
        (0, 0),
        (0, u64::MAX),
        (0, 16 << 16),
        (0, 1 << 60),
        (0, 3 << 16),
        (0, 2048),
        (0, 0xffff),
        (1, 0),
        (1, u64::MAX),
        (1, 1),
        (2, 13),
        (2, u64::MAX),
        (2, 1 << 61),
        (3, 4),
        (3, 0),
        (4, 1),
    ];
    for (field, lie) in lies {
        let parcel = forge_unique(&heap, |numbers| numbers[field] = lie);
        let error = parcel.unpack::<SharedVec<u64>>().unwrap_err().to_string();
        let expected = ["no such block", "not on its way", "elements of"];
        assert!(expected.iter().any(|text| error.contains(text)), "{field} {lie}: {error}");
    }
    let error = forge_unique(&heap, |_| ()).unpack::<SharedVec<u32>>().unwrap_err().to_string();
    assert!(error.contains("elements of 8 bytes aligned to 8, expected 4 bytes aligned to 4"), "{error}");
    let error = forge_unique(&heap, |_| ()).unpack::<SharedBox<u64>>().unwrap_err().to_string();
    assert!(error.contains("a box holds one value, and this block 10"), "{error}");
    assert_eq!(*victim, 1);
    drop((whole, victim));
    assert_empty(&heap);
}

#[test]
fn a_shared_block_that_is_not_so_is_refused() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let slice = heap.vec_from(&[7_u64; 10]).unwrap().freeze().unwrap();
    let whole: SharedSlice<u64> = forge_shared(&slice, |_| ()).unpack().unwrap();
    assert_eq!(*whole, [7; 10]);
    drop(whole);
    // record, column, token, length, size, alignment
    let lies: [(usize, u64); 14] = [
        (0, 1),
        (0, 1 << 20),
        (0, u64::MAX),
        (1, 0),
        (1, 1023),
        (1, 1024),
        (1, u64::MAX),
        (2, 0),
        (2, u64::MAX),
        (3, 9),
        (3, 11),
        (3, u64::MAX),
        (4, 1),
        (5, 2),
    ];
    for (field, lie) in lies {
        forge_shared(&slice, |numbers| numbers[field] = lie).unpack::<SharedSlice<u64>>().unwrap_err();
    }
    // Bytes are no string, whatever a parcel says.
    let bytes = heap.vec_from(&[0xff_u8; 10]).unwrap().freeze().unwrap();
    assert!(Parcel::pack(&bytes).unwrap().unpack::<SharedStr>().is_err());
    let text = heap.str("a string is bytes").unwrap();
    assert_eq!(*Parcel::pack(&text).unwrap().unpack::<SharedSlice<u8>>().unwrap(), *b"a string is bytes");
    assert_eq!(*slice, [7; 10]);
    drop((slice, bytes, text));
    assert_empty(&heap);
}

#[test]
fn a_descriptor_that_is_no_heap_is_refused() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let other = Segment::anonymous(Kind::new("heap", 1, 1), 1 << 20).unwrap();
    let plain = std::fs::File::open("/dev/null").unwrap();
    for fd in [other.fd().try_clone_to_owned().unwrap(), plain.into()] {
        let real: Unique = Parcel::pack(&heap.alloc(1_u64).unwrap()).unwrap().unpack().unwrap();
        let forged = Unique { fd: Fd(fd.try_clone().unwrap()), numbers: real.numbers };
        assert!(Parcel::pack(&forged).unwrap().unpack::<SharedBox<u64>>().is_err());
        assert!(Parcel::pack(&Fd(fd)).unwrap().unpack::<Heap>().is_err());
    }
    assert_empty(&heap);
}

#[test]
fn random_numbers_never_bring_what_is_not_on_its_way() {
    isolated!({
        let mut rng = Rng::from_env();
        let heap = of_mib(1);
        let kept: Vec<_> = (0..100_u64).map(|number| heap.vec_from(&[number; 10]).unwrap()).collect();
        let slice = heap.vec_from(&[7_u64; 10]).unwrap().freeze().unwrap();
        for _ in 0..2_000 {
            let field = rng.below(6) as usize;
            let bits = rng.below(64);
            let lie = rng.next_u64() >> bits;
            if let Ok(block) =
                forge_unique(&heap, |numbers| numbers[field % 5] = lie).unpack::<SharedVec<u64>>()
            {
                // A length that still fits into the block shows what else is in it.
                assert!(block.iter().take(10).all(|&element| element == 7), "{field} {lie}");
            }
            if let Ok(block) =
                forge_shared(&slice, |numbers| numbers[field] = lie).unpack::<SharedSlice<u64>>()
            {
                assert_eq!(*block, [7; 10]);
            }
        }
        heap.sweep().unwrap();
        assert_eq!(balance(&heap).blocks, 101);
        for (number, block) in kept.iter().enumerate() {
            assert!(block.iter().all(|&element| element == number as u64));
        }
        drop((kept, slice));
        assert_empty(&heap);
    });
}
