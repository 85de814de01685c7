//! What the compiler must refuse, and that it says why.
#![cfg(not(loom))]

#[test]
fn what_cannot_lie_in_shared_memory_is_refused_by_the_compiler() {
    let tests = trybuild::TestCases::new();
    tests.compile_fail("tests/ui/*.rs");
}
