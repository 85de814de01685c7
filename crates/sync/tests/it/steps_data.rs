//! A process dies at every instruction of what is done with values and parts.

use crate::steps_support::isolated;
use procession_parcel::Parcel;
use procession_sync::{Array, ArrayPart, LockError, Value};
use procession_testkit::step::{Options, each_instruction, each_instruction_after};

#[test]
fn a_value_whose_holder_dies_at_any_instruction_is_valid_and_says_so() {
    isolated("steps_data::a_value_whose_holder_dies_at_any_instruction_is_valid_and_says_so", || {
        let (mut before, mut after, mut poisoned) = (0, 0, 0);
        let report = each_instruction(
            &Options::one_of(11),
            || Value::new([1_u64; 4]).unwrap(),
            |value| value.update(|value| *value = [2; 4]).unwrap(),
            |death, value| match value.get() {
                Ok([1, 1, 1, 1]) => before += u64::from(!death.finished),
                Ok([2, 2, 2, 2]) => after += 1,
                Ok(half) => panic!("{half:?}, and nobody was told"),
                Err(LockError::Poisoned(error)) => {
                    assert!(!death.finished && error.into_inner().iter().all(|&word| word == 1 || word == 2));
                    poisoned += 1;
                }
                Err(error) => panic!("{error}"),
            },
        );
        println!("update: {report}; {before} before, {poisoned} poisoned, {after} after");
        assert!(before > 0 && after > 0 && poisoned > 0);
    });
}

/// The array can be locked and cut anew, whatever happened.
fn is_whole(array: &Array<u64>) -> bool {
    let clean = match array.lock() {
        Ok(_) => true,
        Err(LockError::Poisoned(poisoned)) => {
            array.clear_poison();
            drop(poisoned);
            false
        }
        Err(error) => panic!("{error}"),
    };
    drop(array.lock().unwrap());
    assert_eq!(array.chunks_mut(2).unwrap().len(), 3);
    drop(array.lock().unwrap());
    clean
}

#[test]
fn a_part_whose_owner_dies_at_any_instruction_is_free() {
    isolated("steps_data::a_part_whose_owner_dies_at_any_instruction_is_free", || {
        let (mut clean, mut poisoned) = (0, 0);
        let report = each_instruction(
            &Options::one_of(307),
            || Array::<u64>::new(6).unwrap(),
            |array| drop(array.part(1..4).unwrap()),
            |_, array| if is_whole(array) { clean += 1 } else { poisoned += 1 },
        );
        println!("take and drop: {report}; {clean} clean, {poisoned} poisoned");
        assert!(clean > 0 && poisoned > 0);
    });
}

#[test]
fn a_part_whose_sender_dies_at_any_instruction_is_free() {
    isolated("steps_data::a_part_whose_sender_dies_at_any_instruction_is_free", || {
        let (mut taken, mut poisoned) = (0, 0);
        let report = each_instruction_after(
            &Options::one_of(997),
            || Array::<u64>::new(6).unwrap(),
            |array| array.part(1..4).unwrap(),
            |_, part| core::mem::forget(Parcel::pack(&part).unwrap()),
            |_, array| if is_whole(array) { taken += 1 } else { poisoned += 1 },
        );
        println!("pack: {report}");
        // Whether it still had the part or had sent it to nobody, it never gave it back.
        assert!(taken == 0 && poisoned > 0);
    });
}

#[test]
fn a_part_whose_receiver_dies_at_any_instruction_is_free() {
    isolated("steps_data::a_part_whose_receiver_dies_at_any_instruction_is_free", || {
        let (mut clean, mut poisoned) = (0, 0);
        let report = each_instruction_after(
            &Options::one_of(997),
            || Array::<u64>::new(6).unwrap(),
            |array| Parcel::pack(&array.part(1..4).unwrap()).unwrap(),
            |_, parcel| drop(parcel.unpack::<ArrayPart<u64>>().unwrap()),
            |_, array| if is_whole(array) { clean += 1 } else { poisoned += 1 },
        );
        println!("unpack and drop: {report}; {clean} clean, {poisoned} poisoned");
        assert!(clean > 0 && poisoned > 0);
    });
}
