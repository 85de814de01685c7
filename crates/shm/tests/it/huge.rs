//! Huge pages are given where the kernel gives them to shared memory.

use crate::support::{KIND, set};
use procession_shm::Segment;
use procession_testkit::watchdog;
use std::fs;

const HUGE: usize = 2 << 20;

/// Why there are none to be had here, if so.
fn impossible() -> Option<&'static str> {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap_or_default();
    if !["[advise]", "[within_size]", "[always]", "[force]"].iter().any(|mode| enabled.contains(mode)) {
        return Some("this kernel gives shared memory no huge pages");
    }
    let size = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").unwrap_or_default();
    if size.trim() != HUGE.to_string() {
        return Some("huge pages have another size here");
    }
    // The last two columns: pieces of 2 and of 4 MiB.
    let pieces = fs::read_to_string("/proc/buddyinfo").unwrap_or_default();
    let free: u64 = pieces
        .lines()
        .flat_map(|line| line.split_whitespace().rev().take(2))
        .filter_map(|count| count.parse::<u64>().ok())
        .sum();
    (free < 64).then_some("hardly any memory is in one piece")
}

/// How many bytes of a mapping are huge pages, by `/proc/self/smaps`.
fn huge_bytes(segment: &Segment) -> usize {
    let address = segment.as_ptr().addr().get();
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in maps.lines() {
        let range = line.split(' ').next().unwrap().split_once('-');
        let ends =
            range.map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)));
        if let Some((Ok(start), Ok(end))) = ends {
            inside = (start..end).contains(&address);
        } else if inside && let Some(rest) = line.strip_prefix("ShmemPmdMapped:") {
            return rest.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024;
        }
    }
    panic!("the mapping is not in /proc/self/smaps");
}

#[test]
fn huge_pages_are_given_to_who_asks_and_to_nobody_else() {
    let _watchdog = watchdog!();
    if let Some(reason) = impossible() {
        return println!("skipped: {reason}");
    }
    let plain = Segment::anonymous(KIND, 8 * HUGE).unwrap();
    let asked = Segment::anonymous(KIND, 8 * HUGE).unwrap();
    asked.advise_huge_pages();
    for segment in [&plain, &asked] {
        segment.prefault(0..segment.len()).unwrap();
        set(segment, 5 * HUGE, 1);
    }
    println!("{} of {} bytes are huge pages", huge_bytes(&asked), asked.len());
    // Those at the ends may hang over.
    assert!(huge_bytes(&asked) >= 6 * HUGE, "{} bytes", huge_bytes(&asked));
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").unwrap();
    if enabled.contains("[advise]") {
        assert_eq!(huge_bytes(&plain), 0);
    }
}
