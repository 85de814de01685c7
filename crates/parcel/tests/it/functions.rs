//! References to functions, within one process.

use procession_parcel::function::{
    BuildId, Function, Plainly, Records, Registration, Task, image, registered,
};
use procession_parcel::{Erased, Fd, Outcome, Panic, Parcel, RemoteError, codec, register, task};
use std::collections::BTreeMap;
use std::io::Write;

pub(crate) fn double(n: u64) -> u64 {
    n * 2
}

fn twice<T: Clone>(value: T) -> (T, T) {
    (value.clone(), value)
}

fn shout(mut text: String) -> String {
    text.make_ascii_uppercase();
    text
}

/// Equal code: these two may share one address.
fn same_one(n: u32) -> u32 {
    n.wrapping_mul(3)
}
fn same_two(n: u32) -> u32 {
    n.wrapping_mul(3)
}

fn value<R: serde::de::DeserializeOwned + 'static>(outcome: Outcome) -> R {
    match outcome {
        Outcome::Value(parcel) => parcel.unpack().unwrap(),
        other => panic!("{other}"),
    }
}

pub(crate) fn call<R: serde::de::DeserializeOwned + 'static>(
    erased: &Erased,
    argument: impl serde::Serialize,
) -> R {
    value(erased.call(Parcel::pack(&argument).unwrap()))
}

pub(crate) fn through(erased: &Erased) -> Erased {
    Parcel::pack(erased).unwrap().unpack().unwrap()
}

#[test]
fn functions_of_every_kind_can_be_sent() {
    fn local(n: u8) -> u8 {
        n + 1
    }
    assert_eq!(call::<u64>(&through(&Erased::new(double).unwrap()), 21u64), 42);
    assert_eq!(call::<u8>(&through(&Erased::new(local).unwrap()), 1u8), 2);
    assert_eq!(call::<String>(&through(&Erased::new(shout).unwrap()), "abc"), "ABC");
    assert_eq!(call::<(u8, u8)>(&through(&Erased::new(twice::<u8>).unwrap()), 1u8), (1, 1));
    let texts = call::<(String, String)>(&through(&Erased::new(twice::<String>).unwrap()), "x");
    assert_eq!(texts.1, "x");
    let closure = Erased::new(|(a, b): (i32, i32)| a - b).unwrap();
    assert_eq!(call::<i32>(&through(&closure), (5, 7)), -2);
    assert_eq!(call::<i64>(&through(&Erased::new(i64::abs).unwrap()), -3i64), 3);
}

#[test]
fn typed_references_can_be_sent() {
    let function = Function::from(double as fn(u64) -> u64);
    let back: Function<u64, u64> = Parcel::pack(&function).unwrap().unpack().unwrap();
    assert_eq!((back.call(4), back.as_fn()(5)), (8, 10));
    let error = Parcel::pack(&function).unwrap().unpack::<Function<u64, i64>>().unwrap_err().to_string();
    assert!(error.contains("is not to a `fn(u64) -> i64`"), "{error}");
    let error = Parcel::pack(&Erased::new(double).unwrap()).unwrap().unpack::<Function<u64, u64>>();
    assert!(error.is_err());
}

#[test]
fn equal_functions_are_both_right_and_keep_their_names() {
    let one = Erased::new(same_one).unwrap().with_name("one");
    let two = Erased::new(same_two).unwrap().with_name("two");
    let (one, two): (Erased, Erased) = Parcel::pack(&(one, two)).unwrap().unpack().unwrap();
    assert_eq!((call::<u32>(&one, 5u32), call::<u32>(&two, 5u32)), (15, 15));
    assert_eq!((one.name(), two.name()), ("one", "two"));
    // Equal code of different types: the entries must still tell them apart.
    let (i, u) = (Erased::new(|n: i32| n).unwrap(), Erased::new(|n: u32| n).unwrap());
    let (i, u): (Erased, Erased) = Parcel::pack(&(i, u)).unwrap().unpack().unwrap();
    assert_eq!((call::<i32>(&i, -1), call::<u32>(&u, 1u32)), (-1, 1));
}

#[test]
fn an_offset_is_refused_from_an_untrusted_parcel() {
    let parcel = Parcel::pack(&("f", Erased::new(double).unwrap())).unwrap();
    let bytes = parcel.bytes().to_vec();
    let error = Parcel::new(bytes, Vec::new()).unpack::<(String, Erased)>().unwrap_err().to_string();
    assert!(error.contains("only honoured from a peer that proved to run this very program"), "{error}");
    assert!(error.contains("register a name"), "{error}");
    assert!(codec::decode::<(String, Erased)>(parcel.bytes()).is_err(), "and from a ring");
    assert!(postcard::from_bytes::<(String, Erased)>(parcel.bytes()).is_err(), "and from another format");
    let typed = Parcel::pack(&Function::new(double)).unwrap();
    assert!(Parcel::new(typed.into_parts().0, Vec::new()).unpack::<Function<u64, u64>>().is_err());
}

/// Asks another format for a function reference while a trusted parcel is unpacked.
struct Smuggler;

impl<'de> serde::Deserialize<'de> for Smuggler {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Smuggler, D::Error> {
        let bytes = Vec::<u8>::deserialize(d)?;
        assert!(postcard::from_bytes::<Erased>(&bytes).is_err());
        assert!(codec::decode::<Erased>(&bytes).is_err());
        Ok(Smuggler)
    }
}

#[test]
fn trust_does_not_reach_other_deserialisers_at_work_meanwhile() {
    let bytes = Parcel::pack(&Erased::new(double).unwrap()).unwrap().into_parts().0;
    Parcel::pack(&bytes).unwrap().unpack::<Smuggler>().unwrap();
}

/// As [`Smuggler`], after asking for trust itself, by the mark that the crate's own types use.
struct Forger;

impl<'de> serde::Deserialize<'de> for Forger {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Forger, D::Error> {
        struct Ask;
        impl<'de> serde::de::Visitor<'de> for Ask {
            type Value = Forger;
            fn expecting(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                Ok(())
            }
            fn visit_newtype_struct<D: serde::Deserializer<'de>>(self, d: D) -> Result<Forger, D::Error> {
                serde::Deserialize::deserialize(d).map(|Smuggler| Forger)
            }
        }
        d.deserialize_newtype_struct("procession_parcel::trust", Ask)
    }
}

#[test]
fn trust_cannot_be_asked_for_and_handed_on() {
    let bytes = Parcel::pack(&Erased::new(double).unwrap()).unwrap().into_parts().0;
    Parcel::pack(&bytes).unwrap().unpack::<Forger>().unwrap();
}

/// A trusted parcel of any bytes.
pub(crate) fn vouched_for(bytes: Vec<u8>) -> Parcel {
    // SAFETY: broken on purpose: what is under test refuses the damage, and calls nothing.
    unsafe { Parcel::new(bytes, Vec::new()).assume_same_program() }
}

#[test]
fn every_damaged_reference_is_refused() {
    let bytes = Parcel::pack(&Erased::new(double).unwrap()).unwrap().into_parts().0;
    // Build id, entry, function, signature and seal come first; the name after them may say anything.
    let name = std::any::type_name::<fn(u64) -> u64>().len();
    for bit in 0..(bytes.len() - name - 2) * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(vouched_for(damaged).unpack::<Erased>().is_err(), "bit {bit}");
    }
}

#[test]
fn another_build_is_refused_by_its_id() {
    let mut bytes = Parcel::pack(&Erased::new(double).unwrap()).unwrap().into_parts().0;
    assert_eq!(bytes[1..21], image().build_id().as_bytes()[..]);
    bytes[5] ^= 0xff;
    let error = vouched_for(bytes).unpack::<Erased>().unwrap_err().to_string();
    assert!(error.contains("another build") && error.contains(&image().build_id().to_string()), "{error}");
    let id: BuildId = Parcel::pack(&image().build_id()).unwrap().unpack().unwrap();
    assert_eq!(id, image().build_id());
}

#[test]
fn code_of_a_shared_library_is_refused() {
    // A function of libc in the place of one of ours. It is never called.
    let address = libc::getpid as *const () as usize;
    assert!(!image().contains(address), "this test binary is linked dynamically");
    assert!(image().contains(double as *const () as usize));
    assert!(!image().contains(&raw const address as usize), "the stack is no code");
    assert!(!image().code().is_empty() && image().code().iter().all(|range| range.start < range.end));
}

#[test]
fn arguments_that_do_not_decode_are_an_outcome() {
    let erased = Erased::new(double).unwrap();
    let Outcome::BadArguments(cause) = erased.call(Parcel::pack(&(1u8, "text")).unwrap()) else { panic!() };
    assert!(cause.contains("u64") && cause.contains("follow"), "{cause}");
    let mut output = vec![9];
    assert!(matches!(erased.call_bytes(&[], &mut output), Outcome::BadArguments(_)));
    let Outcome::BadArguments(cause) = erased.call_bytes(&[1, 2], &mut output) else { panic!() };
    assert!(cause.contains("1 bytes follow"), "{cause}");
    assert_eq!(output, [9]);
}

#[derive(Debug)]
struct NotSerialisable;
impl std::fmt::Display for NotSerialisable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it does not serialise")
    }
}
impl std::error::Error for NotSerialisable {}

#[test]
fn errors_arrive_whatever_their_type() {
    fn fails(n: u8) -> Result<u8, NotSerialisable> {
        if n > 5 { Err(NotSerialisable) } else { Ok(n) }
    }
    fn text(_: u8) -> Result<u8, String> {
        Err("just text".to_owned())
    }
    fn boxed(_: u8) -> Result<u8, Box<dyn std::error::Error + Send + Sync>> {
        Err(Box::new(NotSerialisable))
    }
    let error = |erased: Erased| -> RemoteError {
        let Outcome::Failed(error) = through(&erased).call(Parcel::pack(&9u8).unwrap()) else { panic!() };
        error
    };
    assert_eq!(call::<u8>(&through(&Erased::fallible(fails).unwrap()), 3u8), 3);
    let failed = error(Erased::fallible(fails).unwrap());
    assert!(failed.type_name().ends_with("NotSerialisable") && failed.message() == "it does not serialise");
    assert_eq!(error(Erased::fallible(text).unwrap()).message(), "just text");
    assert_eq!(error(Erased::fallible(boxed).unwrap()).message(), "it does not serialise");
}

#[test]
fn a_task_may_fail_too() {
    let least = 4_u8;
    let erased = Erased::of_fallible_task(&task!(
        move |n: u8| if n < least { Err(format!("{n} < {least}")) } else { Ok(n) };
        least
    ))
    .unwrap();
    assert_eq!(call::<u8>(&through(&erased), 4u8), 4);
    let Outcome::Failed(error) = through(&erased).call(Parcel::pack(&3u8).unwrap()) else { panic!() };
    assert_eq!((error.message(), error.type_name()), ("3 < 4", "alloc::string::String"));
}

#[test]
fn a_task_is_sent_with_its_types_and_only_as_such() {
    let (factor, shift) = (3_u64, vec![1_u64, 10]);
    let task = task!(move |n: usize| shift[n] * factor; factor, shift);
    let pack = || Parcel::pack(&task).unwrap();
    fn unpack<C, A, R>(
        like: &Task<C, A, R>,
        parcel: Parcel,
    ) -> Result<Task<C, A, R>, procession_parcel::Error>
    where
        C: serde::de::DeserializeOwned + 'static,
        A: 'static,
        R: 'static,
    {
        let _ = like;
        parcel.unpack()
    }
    assert_eq!(unpack(&task, pack()).unwrap().call(1), 30);
    // Of the same captures, argument and size of result.
    let other = Task::new((factor, vec![0_u64]), |_: &(u64, Vec<u64>), _: usize| 0_i64);
    let error = unpack(&other, pack()).unwrap_err().to_string();
    assert!(error.contains("not to a"), "{error}");
    // From nobody knows where.
    let error = unpack(&task, Parcel::new(pack().into_parts().0, Vec::new())).unwrap_err().to_string();
    assert!(error.contains("function references are only honoured"), "{error}");
}

#[test]
fn panics_are_outcomes_wherever_they_happen() {
    struct PanicsIn(&'static str);
    impl serde::Serialize for PanicsIn {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("in serialize, {}", self.0)
        }
    }
    impl<'de> serde::Deserialize<'de> for PanicsIn {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<PanicsIn, D::Error> {
            panic!("in deserialize")
        }
    }
    let panic = |erased: Erased| -> Panic {
        let mut output = vec![1, 2];
        let Outcome::Panicked(bytes) = erased.call_bytes(&[5], &mut output) else { panic!() };
        assert_eq!(output, [1, 2]);
        let Outcome::Panicked(panic) = erased.call(Parcel::pack(&5u8).unwrap()) else { panic!() };
        assert_eq!((panic.message(), panic.location()), (bytes.message(), bytes.location()));
        panic
    };
    let inside = panic(Erased::new(|n: u8| -> u8 { panic!("at {n}") }).unwrap());
    assert_eq!(inside.message(), "at 5");
    assert!(inside.location().unwrap().contains("functions.rs"));
    assert_eq!(panic(Erased::new(|_: u8| PanicsIn("twice")).unwrap()).message(), "in serialize, twice");
    assert_eq!(panic(Erased::new(|_: PanicsIn| 5).unwrap()).message(), "in deserialize");
}

#[test]
fn a_result_that_cannot_be_encoded_is_an_outcome() {
    let erased = Erased::new(|_: ()| Fd::from(crate::support::object())).unwrap();
    let Outcome::BadResult(cause) = erased.call_bytes(&[], &mut Vec::new()) else { panic!() };
    assert!(cause.contains("a handle") && cause.contains("Fd"), "{cause}");
    assert_eq!(value::<Fd>(erased.call(Parcel::pack(&()).unwrap())).0.try_clone().map(drop).ok(), Some(()));
}

#[test]
fn handles_go_in_and_out_of_a_call() {
    fn write_to((fd, text): (Fd, String)) -> Fd {
        let mut file = std::fs::File::from(fd);
        file.write_all(text.as_bytes()).unwrap();
        file.into()
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let back: Fd = call(&Erased::new(write_to).unwrap(), (Fd::from(writer), "hello"));
    drop(back);
    assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "hello");
}

#[test]
fn captured_values_are_sent_once_and_decoded_once() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static DECODED: AtomicU32 = AtomicU32::new(0);
    #[derive(serde::Serialize)]
    struct Table(BTreeMap<u32, String>);
    impl<'de> serde::Deserialize<'de> for Table {
        fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Table, D::Error> {
            DECODED.fetch_add(1, Ordering::Relaxed);
            serde::Deserialize::deserialize(d).map(Table)
        }
    }
    let table = Table(BTreeMap::from([(1, "one".to_owned())]));
    let suffix = '!';
    let task = task!(move |n: u32| format!("{}{suffix}", table.0[&n]); table, suffix);
    assert_eq!(task.call(1), "one!");
    let erased = through(&Erased::of_task(&task).unwrap());
    assert_eq!(DECODED.load(Ordering::Relaxed), 0, "not before it is needed");
    for _ in 0..5 {
        assert_eq!(call::<String>(&erased, 1u32), "one!");
    }
    assert_eq!(call::<String>(&erased.clone(), 1u32), "one!");
    assert_eq!(DECODED.load(Ordering::Relaxed), 1);
    assert_eq!(call::<String>(&through(&erased), 1u32), "one!", "it can be handed on");
    let Outcome::Panicked(_) = erased.call(Parcel::pack(&7u32).unwrap()) else { panic!() };
}

#[test]
fn captured_handles_travel_with_the_task() {
    let (reader, writer) = std::io::pipe().unwrap();
    let out = Fd::from(writer);
    let task = task!(move |text: String| rustix::io::write(&out.0, text.as_bytes()).unwrap(); out);
    let erased = through(&Erased::of_task(&task).unwrap());
    drop(task);
    assert_eq!(call::<usize>(&erased, "abc"), 3);
    assert_eq!(call::<usize>(&erased, "de"), 2);
    drop(erased);
    assert_eq!(std::io::read_to_string(reader).unwrap(), "abcde");
}

#[test]
fn every_form_of_task_is_accepted() {
    let (a, b, c, d, e, f, g, h) = (1u8, 2u8, 3u8, 4u8, 5u8, 6u8, 7u8, 8u8);
    let text = "t".to_owned();
    let _: u8 = task!(move |x: u8| x + a; a).call(1);
    assert_eq!(task!(|x: u8| x + a + b; a, b,).call(1), 4);
    assert_eq!(task!(move |(x, y): (u8, u8)| x + y + a; a).call((1, 2)), 4);
    assert_eq!(task!(move |mut x: u8| { x += a; x }; a).call(1), 2);
    assert_eq!(task!(move |_: ()| a; a).call(()), 1);
    assert_eq!(
        Erased::of_task(&task!(move |_x: u8| text.len(); text)).map(|e| call::<usize>(&e, 0u8)).unwrap(),
        1
    );
    let all = task!(|x: u8| x + a + b + c + d + e + f + g + h; a, b, c, d, e, f, g, h);
    assert_eq!(call::<u8>(&Erased::of_task(&all).unwrap(), 0u8), 36);
    // The types of these follow from their use.
    assert_eq!(
        Erased::of_task::<_, u8, u8>(&task!(move |x| x + a; a)).map(|e| call::<u8>(&e, 1u8)).unwrap(),
        2
    );
    assert_eq!(
        Erased::of_task::<_, (u8, u8), u8>(&task!(move |(x, y)| x + y + a; a))
            .map(|e| call::<u8>(&e, (1u8, 2u8)))
            .unwrap(),
        4
    );
}

register! {
    "tests.double" => double as fn(u64) -> u64,
    "tests.shout" => shout as fn(String) -> String,
    "tests.twice-registered" => same_one as fn(u32) -> u32,
    "tests.twice-registered" => same_two as fn(u32) -> u32,
}

#[test]
fn a_registered_function_is_called_by_name_whoever_asks() {
    let named = Parcel::pack(&Erased::named("tests.double").unwrap()).unwrap();
    let erased = Parcel::new(named.into_parts().0, Vec::new()).unpack::<Erased>().unwrap();
    assert_eq!((call::<u64>(&erased, 4u64), erased.name()), (8, "tests.double"));
    let typed = Parcel::pack(&Function::<String, String>::named("tests.shout").unwrap()).unwrap();
    let function =
        Parcel::new(typed.into_parts().0, Vec::new()).unpack::<Function<String, String>>().unwrap();
    assert_eq!(function.call("a".into()), "A");
    assert!(registered().iter().map(Registration::name).any(|name| name == "tests.shout"));
}

#[test]
fn a_name_that_is_unknown_double_or_of_other_types_is_refused() {
    let error = Erased::named("tests.nothing").unwrap_err().to_string();
    assert!(error.contains("tests.nothing") && error.contains("registered"), "{error}");
    let error = Erased::named("tests.twice-registered").unwrap_err().to_string();
    assert!(error.contains("two functions"), "{error}");
    let error = Function::<u64, i8>::named("tests.double").unwrap_err().to_string();
    assert!(error.contains("fn(u64) -> u64") && error.contains("fn(u64) -> i8"), "{error}");
    let elsewhere = Erased::named_unchecked("tests.elsewhere");
    let Outcome::BadArguments(cause) = elsewhere.call(Parcel::pack(&1).unwrap()) else { panic!() };
    assert!(cause.contains("tests.elsewhere"), "{cause}");
    assert!(Parcel::pack(&elsewhere).unwrap().unpack::<Erased>().is_err());
    let here = Parcel::pack(&Erased::named_unchecked("tests.double")).unwrap().unpack::<Erased>().unwrap();
    assert_eq!(call::<u64>(&here, 3u64), 6);
}

#[derive(Default)]
struct Sink {
    log: Vec<Result<u64, String>>,
    stop_after: Option<usize>,
    panics: bool,
}

impl Sink {
    fn goes_on(&self) -> bool {
        self.stop_after != Some(self.log.len())
    }
}

impl Records for Sink {
    fn value(&mut self, record: &[u8]) -> bool {
        assert!(!self.panics, "the sink panics");
        let (length, value) = record.split_first_chunk().unwrap();
        assert_eq!(u32::from_le_bytes(*length) as usize, value.len());
        self.log.push(Ok(codec::decode(value).unwrap()));
        self.goes_on()
    }
    fn failed(&mut self, outcome: Outcome<()>) -> bool {
        self.log.push(Err(outcome.to_string()));
        self.goes_on()
    }
}

fn records(contents: &[&[u8]]) -> Vec<u8> {
    let record = |content: &&[u8]| [&(content.len() as u32).to_le_bytes(), *content].concat();
    contents.iter().flat_map(record).collect()
}

fn half(n: u64) -> u64 {
    assert!(n.is_multiple_of(2), "{n} is odd");
    n / 2
}

#[test]
fn many_calls_are_each_for_itself() {
    let mut input = records(&[&[10], &[7], &[0xff], &[0xd8, 4], &[4, 4], &[9]]);
    input.push(0xee);
    let (mut sink, mut rest) = (Sink::default(), input.as_slice());
    Erased::new(half).unwrap().call_records(5, &mut rest, Plainly::default(), &mut Vec::new(), &mut sink);
    assert_eq!(rest.len(), 6, "the sixth record, and a byte that is none");
    assert_eq!((&sink.log[0], &sink.log[3], sink.log.len()), (&Ok(5), &Ok(300), 5));
    let error = |index: usize| sink.log[index].as_ref().unwrap_err();
    assert!(error(1).contains("7 is odd"), "{}", error(1));
    assert!(error(2).contains("end before"), "{}", error(2));
    assert!(error(4).contains("1 bytes follow"), "{}", error(4));
}

#[test]
fn many_calls_end_where_the_sink_says_and_at_what_is_no_record() {
    let (input, half) = (records(&[&[2], &[3], &[6]]), Erased::new(half).unwrap());
    for (stop_after, left) in [(1, 10), (2, 5)] {
        let mut sink = Sink { stop_after: Some(stop_after), ..Sink::default() };
        let mut rest = input.as_slice();
        half.call_records(3, &mut rest, Plainly::default(), &mut Vec::new(), &mut sink);
        assert_eq!((sink.log.len(), rest.len()), (stop_after, left));
    }
    let mut sink = Sink::default();
    half.call_records(9, &mut &input[..13], Plainly::default(), &mut Vec::new(), &mut sink);
    assert_eq!(sink.log.len(), 2);
    let mut sink = Sink::default();
    let nowhere = Erased::named_unchecked("tests.nowhere");
    nowhere.call_records(2, &mut input.as_slice(), Plainly::default(), &mut Vec::new(), &mut sink);
    assert!(sink.log.iter().all(|result| result.is_err()) && sink.log.len() == 2);
}

#[test]
fn a_panic_of_the_sink_is_not_taken_for_a_calls() {
    let (input, mut sink) = (records(&[&[2], &[4]]), Sink { panics: true, ..Sink::default() });
    let half = Erased::new(half).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        half.call_records(2, &mut input.as_slice(), Plainly::default(), &mut Vec::new(), &mut sink);
    }));
    assert!(caught.is_err() && sink.log.is_empty());
}
