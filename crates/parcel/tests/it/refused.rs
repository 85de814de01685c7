//! What the compiler refuses, with the text it gives.

#[test]
fn closures_that_capture_are_refused_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
