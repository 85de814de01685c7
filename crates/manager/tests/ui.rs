//! What the compiler must refuse, and that it says why.

#[test]
fn what_cannot_be_hosted_is_refused_by_the_compiler() {
    let tests = trybuild::TestCases::new();
    tests.compile_fail("tests/ui/*.rs");
}
