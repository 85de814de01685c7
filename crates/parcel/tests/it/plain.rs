//! Plain numbers: alone, in runs, and as arguments and values of calls.

use procession_parcel::{
    Erased, Outcome,
    codec::plain::{self, Plain},
    function::{Plainly, Records},
};
use std::{collections::HashSet, fmt::Debug};

/// Puts each value and gets it back, alone and in a run; `same` compares, since one that is not a number equals nothing.
fn comes_back<T: Copy + Debug + 'static, U: PartialEq + Debug>(values: &[T], same: impl Fn(T) -> U) -> Plain {
    let plain = Plain::of::<T>().unwrap();
    let size = size_of::<T>();
    assert_eq!(usize::from(plain.size()), size);
    let mut run = Vec::new();
    for value in values {
        let start = run.len();
        assert!(plain::put(value, &mut run));
        let bytes = &run[start..];
        assert_eq!(bytes.len(), size);
        assert_eq!(plain::get::<T>(bytes).map(&same), Some(same(*value)));
        assert!(plain::get::<T>(&bytes[1..]).is_none(), "too short");
        assert!(plain::get::<T>(&[bytes, &[0]].concat()).is_none(), "too long");
    }
    run.extend(vec![0; size - 1]);
    let got: Vec<U> = plain::values::<T>(&run).map(|value| same(value.unwrap())).collect();
    assert_eq!(got, values.iter().map(|value| same(*value)).collect::<Vec<_>>());
    plain
}

#[test]
fn the_extremes_of_each_plain_number_come_back_and_no_two_types_are_one() {
    macro_rules! integers {
        ($($number:ty)+) => {
            [$(comes_back(&[<$number>::MIN, 0, 1, <$number>::MAX / 3, <$number>::MAX], |n| n)),+]
        };
    }
    let mut kinds = integers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize).to_vec();
    let floats = [f32::MIN, -0.0, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN, -f32::NAN];
    kinds.push(comes_back(&floats, f32::to_bits));
    let floats = [f64::MIN, -0.0, f64::MIN_POSITIVE, f64::NEG_INFINITY, f64::NAN, -f64::NAN];
    kinds.push(comes_back(&floats, f64::to_bits));
    kinds.push(comes_back(&[false, true], |truth| truth));
    let names: HashSet<String> = kinds.iter().map(|plain| format!("{plain:?}")).collect();
    assert_eq!((kinds.len(), names.len()), (15, 15));
    let mut bytes = Vec::new();
    plain::put(&0x0102_0304_u32, &mut bytes);
    assert_eq!(bytes, [4, 3, 2, 1], "little endian");
}

#[test]
fn what_is_no_plain_number_is_none() {
    #[derive(Debug)]
    struct Wrapped(#[expect(dead_code, reason = "its type matters")] u64);

    let mut bytes = vec![7];
    assert!(!plain::put(&Wrapped(1), &mut bytes) && !plain::put(&(1_u8, 2_u8), &mut bytes));
    assert_eq!(bytes, [7], "nothing is appended");
    assert!(Plain::of::<Wrapped>().is_none() && Plain::of::<char>().is_none() && Plain::of::<()>().is_none());
    assert!(plain::get::<Wrapped>(&[0; 8]).is_none() && plain::get::<()>(&[]).is_none());
    assert_eq!(plain::values::<String>(&[0; 48]).count() + plain::values::<()>(&[0; 8]).count(), 0);
    let truths: Vec<Option<bool>> = plain::values(&[1, 2, 0, 255]).collect();
    assert_eq!(truths, [Some(true), None, Some(false), None], "these are not all truths");
}

#[derive(Default)]
struct Sink(Vec<Result<Vec<u8>, String>>);

impl Records for Sink {
    fn value(&mut self, record: &[u8]) -> bool {
        self.0.push(Ok(record.to_vec()));
        true
    }
    fn failed(&mut self, outcome: Outcome<()>) -> bool {
        self.0.push(Err(outcome.to_string()));
        true
    }
}

fn half(n: u16) -> u32 {
    assert!(n.is_multiple_of(2), "{n} is odd");
    u32::from(n) / 2
}

const BOTH: Plainly = Plainly { argument: true, value: true };

#[test]
fn many_calls_with_plain_numbers_are_each_for_itself() {
    let half = Erased::new(half).unwrap();
    assert_eq!(half.plain_types(), [Plain::of::<u16>(), Plain::of::<u32>()]);
    // The last byte is half an argument.
    let input = [8, 0, 7, 0, 0xfe, 0xff, 9];
    let (mut sink, mut rest) = (Sink::default(), &input[..]);
    half.call_records(9, &mut rest, BOTH, &mut Vec::new(), &mut sink);
    assert_eq!((rest, sink.0.len()), (&[9][..], 3));
    assert_eq!((&sink.0[0], &sink.0[2]), (&Ok(vec![4, 0, 0, 0]), &Ok(vec![0xff, 0x7f, 0, 0])));
    assert!(sink.0[1].as_ref().unwrap_err().contains("7 is odd"));
    // Either side by itself. A varint of 300 is two bytes as well.
    let (mut sink, mut rest) = (Sink::default(), &[0xd8, 4, 0][..]);
    half.call_records(1, &mut rest, Plainly { argument: true, value: false }, &mut Vec::new(), &mut sink);
    assert_eq!((rest.len(), &sink.0[0]), (1, &Ok(vec![2, 0, 0, 0, 0xec, 4])));
    let (mut sink, mut rest) = (Sink::default(), &[2, 0, 0, 0, 0xd8, 4, 0][..]);
    half.call_records(1, &mut rest, Plainly { argument: false, value: true }, &mut Vec::new(), &mut sink);
    assert_eq!((rest.len(), &sink.0[0]), (1, &Ok(vec![44, 1, 0, 0])));
}

#[test]
fn a_single_call_with_plain_numbers_is_as_strict() {
    let (half, mut output) = (Erased::new(half).unwrap(), vec![1]);
    assert!(half.call_plainly(&[8, 0], BOTH, &mut output).is_value());
    assert_eq!(output, [1, 4, 0, 0, 0]);
    let Outcome::BadArguments(why) = half.call_plainly(&[8], BOTH, &mut output) else { panic!() };
    assert!(why.contains("plain number") && why.contains("u16"), "{why}");
    let not = Erased::new(|truth: bool| !truth).unwrap();
    assert!(!not.call_plainly(&[2], BOTH, &mut output).is_value(), "no truth");
    assert_eq!(output, [1, 4, 0, 0, 0], "unchanged");
    // The same with bytes that may be kept.
    assert!(half.call_vec(vec![6, 0], BOTH, &mut output).is_value());
    assert!(
        half.call_vec(vec![0xd8, 4], Plainly { value: true, ..Plainly::default() }, &mut output).is_value()
    );
    assert!(!half.call_vec(vec![6], BOTH, &mut output).is_value());
    assert_eq!(output[5..], [3, 0, 0, 0, 44, 1, 0, 0]);
}

#[test]
fn functions_of_other_types_are_not_called_plainly() {
    let long = Erased::new(|text: String| text.len()).unwrap();
    assert_eq!(long.plain_types(), [None, Plain::of::<usize>()]);
    let (mut sink, mut rest) = (Sink::default(), &[1, 2][..]);
    long.call_records(2, &mut rest, BOTH, &mut Vec::new(), &mut sink);
    assert!(sink.0.len() == 2 && sink.0.iter().all(Result::is_err), "as many errors as calls");
    let say = Erased::new(|n: u8| n.to_string()).unwrap();
    let Outcome::BadResult(why) = say.call_plainly(&[1], BOTH, &mut Vec::new()) else { panic!() };
    assert!(why.contains("no plain number"), "{why}");
    let nowhere = Erased::named_unchecked("tests.nowhere");
    assert_eq!(nowhere.plain_types(), [None, None]);
    let mut sink = Sink::default();
    nowhere.call_records(3, &mut &[][..], BOTH, &mut Vec::new(), &mut sink);
    assert_eq!(sink.0.len(), 3);
}
