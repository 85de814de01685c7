//! Progress goes to stderr, and does not get in the way of results.

use procession_pool::Pool;
use procession_process::{Process, StartMethod, Stdio};
use std::io::Read;

fn same(n: u64) -> u64 {
    assert!(n != 7);
    n
}

fn with_progress(unordered: bool) -> usize {
    let pool = Pool::new(2).unwrap();
    let tasks = pool.tasks(same, 0..100).chunk_size(10).progress("numbers");
    if unordered { tasks.unordered().count() } else { tasks.collect_results().len() }
}

#[test]
fn where_stderr_is_no_terminal_progress_is_plain_lines_of_which_the_last_says_what_was_done() {
    let _watchdog = procession_testkit::test_watchdog();
    for unordered in [false, true] {
        let host = Process::builder().start_method(StartMethod::Spawn).stderr(Stdio::Piped);
        let host = host.spawn(with_progress, unordered).unwrap();
        let mut text = String::new();
        host.take_stderr().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(host.join().unwrap(), 100);
        let last =
            text.lines().rfind(|line| line.starts_with("numbers: ")).unwrap_or_else(|| panic!("{text}"));
        assert!(last.starts_with("numbers: 100/100 (100 %), 1 failed, "), "{text}");
    }
}
