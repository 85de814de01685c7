//! References to functions in a second process of the same program.

use procession_parcel::function;
use procession_parcel::wire::{self, Limits};
use procession_parcel::{Erased, Fd, Outcome, Parcel, task};
use procession_testkit::{role, watchdog};
use std::os::fd::AsFd;

#[test]
fn role_caller() {
    let Some(mut role) = role::enter(role_caller) else { return };
    let socket = role.fd();
    let key = wire::recv(&socket, &Limits::default(), None).unwrap().unwrap().unpack().unwrap();
    // SAFETY: as below.
    unsafe { function::adopt_seal_key(key) }.unwrap();
    while let Some(parcel) = wire::recv(&socket, &Limits::default(), None).unwrap() {
        // SAFETY: the other end is the process of the same binary that started us.
        let parcel = unsafe { parcel.assume_same_program() };
        let (erased, input) = parcel.unpack::<(Erased, Parcel)>().unwrap();
        let outcome = erased.call(input);
        wire::send(&socket, &Parcel::pack(&outcome).unwrap(), None).unwrap();
    }
}

fn add((a, b): (u64, u64)) -> u64 {
    a + b
}

fn pid(_: ()) -> u32 {
    std::process::id()
}

fn breaks(n: u32) -> u32 {
    panic!("broken by {n}")
}

#[test]
fn a_second_process_calls_what_it_is_sent() {
    let _watchdog = watchdog!();
    let (here, there) = crate::wire::pair(crate::wire::STREAM);
    let _child = role::start(role_caller, &[&there]);
    drop(there);
    // SAFETY: for a process of this very binary, over a socket that nobody else has.
    let key = unsafe { function::seal_key() }.unwrap();
    wire::send(&here, &Parcel::pack(&key).unwrap(), None).unwrap();
    let call = |erased: Erased, input: Parcel| -> Outcome {
        wire::send(&here, &Parcel::pack(&(erased, input)).unwrap(), None).unwrap();
        let answer = wire::recv(&here, &Limits::default(), None).unwrap().expect("the role lives");
        answer.unpack().unwrap()
    };
    let value = |outcome: Outcome| outcome.into_value().unwrap();

    let sum = value(call(Erased::new(add).unwrap(), Parcel::pack(&(3u64, 4u64)).unwrap()));
    assert_eq!(sum.unpack::<u64>().unwrap(), 7);
    let theirs = value(call(Erased::new(pid).unwrap(), Parcel::pack(&()).unwrap())).unpack::<u32>().unwrap();
    assert_ne!(theirs, std::process::id());
    let words = vec!["a".to_owned(), "b".to_owned()];
    let joined = task!(move |with: String| words.join(&with); words);
    let joined = value(call(Erased::of_task(&joined).unwrap(), Parcel::pack("-").unwrap()));
    assert_eq!(joined.unpack::<String>().unwrap(), "a-b");

    let fd = Fd::from(crate::support::object());
    let back = Erased::new(|fd: Fd| fd).unwrap();
    let back = value(call(back, Parcel::pack(&fd).unwrap())).unpack::<Fd>().unwrap();
    assert_eq!(crate::support::identity(back.as_fd()), crate::support::identity(&fd));

    let Outcome::Panicked(panic) = call(Erased::new(breaks).unwrap(), Parcel::pack(&5u32).unwrap()) else {
        panic!("it should panic there");
    };
    assert_eq!(panic.message(), "broken by 5");
    assert!(panic.location().unwrap().contains("roles.rs"));
    let large: Vec<u8> = (0..3 << 20).map(|n| n as u8).collect();
    let same = value(call(Erased::new(|v: Vec<u8>| v).unwrap(), Parcel::pack(&large).unwrap()));
    assert_eq!(same.unpack::<Vec<u8>>().unwrap(), large);
}
