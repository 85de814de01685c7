//! Panics as values.

use procession_parcel::panics::{Panic, catch};
use procession_parcel::{Outcome, Parcel, codec};

#[test]
fn a_panic_is_caught_with_its_message_and_place() {
    let number = std::hint::black_box(5);
    let line = line!() + 1;
    let panic = catch(|| panic!("number {number}")).unwrap_err();
    assert_eq!((panic.message(), panic.payload()), ("number 5", "String"));
    let place = panic.location().unwrap();
    assert!(place.contains(&format!("tests/it/panics.rs:{line}:")), "{place}");
    assert!(panic.to_string().contains("panics.rs") && panic.to_string().contains("number 5"));
    let panic = catch(|| panic!("plain")).unwrap_err();
    assert_eq!((panic.message(), panic.payload()), ("plain", "&str"));
}

#[test]
fn a_payload_that_is_no_text_is_said_to_be_none() {
    let panic = catch(|| std::panic::panic_any(7u8)).unwrap_err();
    assert!(panic.payload() == "Box<dyn Any>" && panic.message().contains("no text"));
    assert!(panic.location().is_some());
}

#[test]
fn a_payload_whose_drop_panics_does_not_escape() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }
    let panic = catch(|| std::panic::panic_any(Bomb)).unwrap_err();
    assert_eq!(panic.payload(), "Box<dyn Any>");
}

#[test]
fn a_panic_that_was_caught_inside_is_not_mistaken_for_a_later_one() {
    let panic = catch(|| {
        std::panic::catch_unwind(|| panic!("caught inside")).unwrap_err();
        std::panic::resume_unwind(Box::new("from elsewhere"))
    });
    let panic = panic.unwrap_err();
    assert_eq!((panic.message(), panic.location()), ("from elsewhere", None));
    assert_eq!(catch(|| 5).unwrap(), 5);
}

#[test]
fn catching_nests() {
    let outer = catch(|| {
        assert_eq!(catch(|| panic!("inner")).unwrap_err().message(), "inner");
        panic!("outer");
    });
    assert_eq!(outer.unwrap_err().message(), "outer");
}

#[test]
fn a_resumed_panic_keeps_its_place() {
    let first = catch(|| panic!("far away")).unwrap_err();
    let bytes = Parcel::pack(&first).unwrap();
    let again = catch(|| bytes.unpack::<Panic>().unwrap().resume()).unwrap_err();
    assert_eq!(again, first);
    let payload = std::panic::catch_unwind(|| first.clone().resume()).unwrap_err();
    assert_eq!(payload.downcast_ref::<String>().unwrap(), "far away");
}

#[test]
fn other_panics_go_to_the_hook_that_was_there() {
    procession_testkit::isolated!({
        use std::sync::atomic::{AtomicU32, Ordering};
        static SEEN: AtomicU32 = AtomicU32::new(0);
        std::panic::set_hook(Box::new(|_| {
            SEEN.fetch_add(1, Ordering::Relaxed);
        }));
        catch(|| panic!("ours")).unwrap_err();
        assert_eq!(SEEN.load(Ordering::Relaxed), 0);
        std::panic::catch_unwind(|| panic!("theirs")).unwrap_err();
        assert_eq!(SEEN.load(Ordering::Relaxed), 1);
        catch(|| std::thread::spawn(|| panic!("another thread's")).join().unwrap_err()).unwrap();
        assert_eq!(SEEN.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn outcomes_travel() {
    let outcomes: Vec<Outcome<u8>> = vec![
        Outcome::Value(5),
        Outcome::Panicked(Panic::from_message("p")),
        Outcome::Failed(procession_parcel::RemoteError::of(&std::fmt::Error)),
        Outcome::BadArguments("a".into()),
        Outcome::BadResult("r".into()),
    ];
    let mut bytes = Vec::new();
    codec::encode(&outcomes, &mut bytes).unwrap();
    let back = codec::decode::<Vec<Outcome<u8>>>(&bytes).unwrap();
    assert_eq!(format!("{outcomes:?}"), format!("{back:?}"));
    assert!(back.into_iter().map(|o| o.into_value().is_ok()).eq([true, false, false, false, false]));
}
