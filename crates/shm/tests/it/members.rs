//! Who is a member, who is dead, and to whom a number goes next.

use crate::support::{self, KIND};
use procession_shm::{Member, Segment};
use procession_testkit::{Census, forked, isolated, limits::Surroundings, role, wait::eventually, watchdog};
use std::{os::fd::OwnedFd, os::unix::fs::FileExt, time::Duration};

const BOUND: Duration = Duration::from_secs(10);

/// For a segment that never runs out of numbers.
fn nobody(member: Member) -> bool {
    panic!("asked to recover {member:?}");
}

fn attach(fd: OwnedFd) -> Segment {
    Segment::attach(fd, KIND).unwrap()
}

fn number(text: &str) -> Member {
    Member::from_index(text.parse().unwrap()).unwrap()
}

#[test]
fn role_member() {
    let Some(mut role) = role::enter(role_member) else { return };
    let segment = attach(role.fd());
    role.say(&segment.join(&mut nobody).unwrap().index().to_string());
    loop {
        match role.hear().as_str() {
            "leave" => break,
            // Another clone and another look change nothing.
            _ => role.say(&segment.clone().join(&mut nobody).unwrap().index().to_string()),
        }
    }
    drop(segment);
    role.say("left");
    role.hear();
}

#[test]
fn each_process_has_a_number_of_its_own_until_it_dies() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    assert_eq!(segment.member(), None);
    let here = segment.join(&mut nobody).unwrap();
    assert_eq!(segment.member(), Some(here));
    assert_eq!(segment.pid_of(here), Some(std::process::id()));
    let mut others: Vec<_> = (0..3).map(|_| role::start(role_member, &[&segment.fd()])).collect();
    let members: Vec<Member> = others.iter_mut().map(|other| number(&other.hear())).collect();
    for (other, &member) in others.iter_mut().zip(&members) {
        assert_ne!(member, here);
        assert_eq!(members.iter().filter(|&&another| another == member).count(), 1, "{members:?}");
        assert_eq!(segment.pid_of(member), Some(other.pid()));
        assert!(!segment.is_dead(member));
        other.say("again");
        assert_eq!(number(&other.hear()), member);
    }
    others[1].kill();
    eventually("the killed one is dead", BOUND, || segment.is_dead(members[1]));
    assert_eq!(segment.pid_of(members[1]), Some(others[1].pid()));
    assert!(!segment.is_dead(members[0]) && !segment.is_dead(members[2]) && !segment.is_dead(here));
    // As long as other numbers are free, nobody takes that of a dead one.
    let mut late = role::start(role_member, &[&segment.fd()]);
    let number = number(&late.hear());
    assert!(number != here && !members.contains(&number));
    assert!(segment.is_dead(members[1]));
}

#[test]
fn one_that_lets_go_of_the_segment_is_as_dead() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let mut other = role::start(role_member, &[&segment.fd()]);
    let member = number(&other.hear());
    assert!(!segment.is_dead(member));
    other.say("leave");
    other.expect("left");
    assert!(segment.is_dead(member), "also without a membership of one's own");
    let free = Member::from_index(Member::COUNT - 1).unwrap();
    assert!(!segment.is_dead(free));
    assert_eq!(segment.pid_of(free), None);
    assert_eq!(Member::from_index(Member::COUNT), None);
}

/// Writes a dead member over every number.
fn fill(segment: &Segment) {
    let file = std::fs::File::from(segment.fd().try_clone_to_owned().unwrap());
    for index in 0..Member::COUNT {
        file.write_all_at(&7_u64.to_le_bytes(), (128 + index * 8) as u64).unwrap();
    }
}

#[test]
fn a_dead_ones_number_is_used_again_once_it_is_recovered() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let mut other = role::start(role_member, &[&segment.fd()]);
    let living = number(&other.hear());
    fill(&segment);
    let mut asked = Vec::new();
    let error = segment.join(&mut |member| {
        asked.push(member);
        false
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("all of its 1000 places for processes are taken"), "{error}");
    assert_eq!(asked.len(), Member::COUNT - 1);
    assert!(!asked.contains(&living));
    let wanted = asked[17];
    let mut recovered = |member| {
        assert!(segment.is_dead(member) || segment.pid_of(member) == Some(7));
        member == wanted
    };
    assert_eq!(segment.join(&mut recovered).unwrap(), wanted);
    assert_eq!(segment.pid_of(wanted), Some(std::process::id()));
}

#[test]
fn a_join_that_fails_leaves_nothing_behind() {
    isolated!({
        let segment = Segment::anonymous(KIND, 4096).unwrap();
        fill(&segment);
        let before = Census::take();
        assert!(segment.join(&mut |_| false).is_err());
        before.assert_settles(BOUND);
        assert_eq!(segment.member(), None);
    });
}

#[test]
fn a_forked_child_joins_anew_and_does_not_keep_its_parent_alive() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let mut parent = role::start(role_forking_member, &[&segment.fd()]);
    let member = number(&parent.hear());
    let child = number(&parent.hear());
    assert_ne!(member, child);
    parent.kill();
    eventually("the parent is dead, though its child lives", BOUND, || segment.is_dead(member));
}

#[test]
fn role_forking_member() {
    let Some(mut role) = role::enter(role_forking_member) else { return };
    let segment = attach(role.fd());
    role.say(&segment.join(&mut nobody).unwrap().index().to_string());
    // SAFETY: the child uses what a fork leaves usable, and never returns.
    if unsafe { libc::fork() } == 0 {
        assert_eq!(segment.member(), None);
        role.say(&segment.join(&mut nobody).unwrap().index().to_string());
        loop {
            // It lives until the test's tree is killed by its watchdog or its socket ends.
            if role.hear().is_empty() {
                std::process::abort();
            }
        }
    }
    loop {
        std::thread::park();
    }
}

#[test]
fn without_proc_the_error_says_so() {
    isolated!({
        if !Surroundings::new().no_proc().apply_or_skip() {
            return;
        }
        let segment = Segment::anonymous(KIND, 4096).unwrap();
        let error = segment.join(&mut nobody).unwrap_err();
        assert!(error.is_unsupported());
        assert!(error.to_string().contains("is /proc mounted?"), "{error}");
    });
}

#[test]
fn memory_that_is_in_use_stays_mapped_and_so_does_the_membership() {
    isolated!({
        let segment = Segment::anonymous(KIND, 4096).unwrap();
        segment.keep_while(|payload, len| {
            assert_eq!(len, 4096);
            // SAFETY: the first byte of a payload, whose memory nobody else writes in this test.
            unsafe { payload.read() == 1 }
        });
        let other = attach(segment.fd().try_clone_to_owned().unwrap());
        let place = segment.as_ptr();
        let member = segment.join(&mut nobody).unwrap();
        support::set(&segment, 0, 1);
        let fd = segment.fd().try_clone_to_owned().unwrap();
        drop((segment, other));
        // SAFETY: it is mapped; were it not, this would end the process.
        let byte = unsafe { place.read_volatile() };
        assert_eq!(byte, 1);
        let again = attach(fd);
        assert_ne!(again.as_ptr(), place);
        assert_ne!(again.join(&mut nobody).unwrap(), member);
        assert!(!again.is_dead(member));
    });
}

/// Descriptors of this process that stand for memory.
fn memory_descriptors() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("/memfd:")).count()
}

#[test]
fn a_forked_child_does_not_keep_its_parent_alive_in_a_mapping_that_stayed() {
    isolated!({
        let segment = Segment::anonymous(KIND, 4096).unwrap();
        segment.keep_while(|_, _| true);
        segment.join(&mut nobody).unwrap();
        drop(segment);
        assert_eq!(memory_descriptors(), 1, "the membership stays with what is in use");
        forked(|| assert_eq!(memory_descriptors(), 0));
        assert_eq!(memory_descriptors(), 1);
    });
}
