//! Claims: numbers that are taken as long as a descriptor is open somewhere.

use crate::{heap_support::BOUND, support::KIND};
use procession_shm::Segment;
use procession_testkit::{role, wait::eventually, watchdog};
use std::os::fd::{AsFd, OwnedFd};

#[test]
fn a_number_is_claimed_once_and_until_the_last_copy_of_its_descriptor_is_closed() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    assert!(!segment.is_claimed(7));
    let claim = segment.claim(7).unwrap();
    assert!(segment.is_claimed(7) && !segment.is_claimed(8));
    let again = segment.claim(7).unwrap_err();
    assert!(again.to_string().contains("claim a number"), "{again}");
    let copy = claim.try_clone().unwrap();
    drop(claim);
    assert!(segment.is_claimed(7));
    drop(copy);
    // A process that another test is just starting may have a copy still.
    eventually("the claim is gone", BOUND, || !segment.is_claimed(7));
    drop(segment.claim(7).unwrap());
}

#[test]
fn role_claimant() {
    let Some(mut role) = role::enter(role_claimant) else { return };
    let _claim: OwnedFd = role.fd();
    role.say("has it");
    role.hear();
}

#[test]
fn a_claim_goes_to_another_process_and_ends_with_it() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let claim = segment.claim(0).unwrap();
    let mut process = role::start(role_claimant, &[&claim.as_fd()]);
    process.expect("has it");
    drop(claim);
    assert!(segment.is_claimed(0));
    process.kill();
    eventually("the claim is gone", BOUND, || !segment.is_claimed(0));
}
