//! References to functions, which hold anywhere in the tree.

use crate::support::each_method;
use procession_parcel::Function;
use procession_process::{Process, StartMethod};
use procession_testkit::isolated;

each_method! {
    references_hold_anywhere_in_the_tree,
}

fn double(n: u64) -> u64 {
    n * 2
}

/// Calls what it was given, below itself if it should, and gives a reference of its own.
fn node((levels, method, given): (u32, StartMethod, Function<u64, u64>)) -> Function<u64, u64> {
    assert_eq!(given.call(21), 42);
    if levels == 0 {
        return Function::new(double);
    }
    let arguments = (levels - 1, method, Function::new(double));
    Process::builder().start_method(method).spawn(node, arguments).unwrap().join().unwrap()
}

fn references_hold_anywhere_in_the_tree(method: StartMethod) {
    for below in StartMethod::ALL {
        let arguments = (2, below, Function::new(double));
        let root = Process::builder().start_method(method).spawn(node, arguments).unwrap();
        assert_eq!(root.join().unwrap().call(4), 8);
    }
}

#[test]
fn a_copy_that_was_forked_before_any_reference_was_made_seals_as_its_parent_does() {
    isolated!({
        // SAFETY: the other thread of this process waits and holds no lock that the closure takes.
        let forked = unsafe { Process::builder().fork_unchecked(|| Function::new(double as fn(u64) -> u64)) };
        assert_eq!(forked.unwrap().join().unwrap().call(4), 8);
    });
}
