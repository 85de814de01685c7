use procession_sys::hooks;
use procession_testkit::isolated;
use std::sync::Mutex;

static ORDER: Mutex<Vec<&str>> = Mutex::new(Vec::new());

fn note(name: &'static str) -> impl FnOnce() + Send {
    move || ORDER.lock().unwrap().push(name)
}

fn order() -> Vec<&'static str> {
    ORDER.lock().unwrap().clone()
}

#[test]
fn hooks_run_by_priority_and_the_newest_of_equals_first() {
    isolated!({
        hooks::at_exit(1, note("one, older"));
        hooks::at_exit(-1, note("below zero"));
        hooks::at_exit(1, note("one, newer"));
        hooks::at_exit_of_children(note("children"));
        hooks::at_exit(10, note("ten"));
        hooks::at_exit(0, note("zero"));
        hooks::run_exit_hooks();
        assert_eq!(order(), ["ten", "one, newer", "one, older", "zero", "children", "below zero"]);
        hooks::run_exit_hooks();
        assert_eq!(order().len(), 6, "each hook runs once");
    });
}

#[test]
fn a_hook_that_panics_does_not_stop_the_others() {
    isolated!({
        hooks::at_exit(2, note("before"));
        hooks::at_exit(1, || panic!("on purpose"));
        hooks::at_exit(0, note("after"));
        hooks::run_exit_hooks();
        assert_eq!(order(), ["before", "after"]);
    });
}

#[test]
fn a_hook_that_was_taken_back_does_not_run() {
    isolated!({
        let hook = hooks::at_exit(0, note("never"));
        assert!(hooks::cancel(hook));
        assert!(!hooks::cancel(hook), "it was taken back before");
        hooks::run_exit_hooks();
        assert!(order().is_empty());
    });
}

#[test]
fn a_hook_registered_by_a_hook_runs_too() {
    isolated!({
        hooks::at_exit(5, || {
            hooks::at_exit(9, note("second"));
        });
        hooks::at_exit(1, note("third"));
        hooks::run_exit_hooks();
        assert_eq!(order(), ["second", "third"]);
    });
}

#[test]
fn a_forked_child_starts_with_no_exit_hooks() {
    isolated!({
        hooks::at_exit(0, note("the parent's"));
        procession_testkit::forked(|| {
            hooks::run_exit_hooks();
            assert!(order().is_empty(), "the child ran {:?}", order());
        });
        hooks::run_exit_hooks();
        assert_eq!(order(), ["the parent's"]);
    });
}

#[test]
fn registering_and_cancelling_from_many_threads_loses_nothing() {
    isolated!({
        const THREADS: usize = 8;
        const HOOKS: usize = 500;
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for index in 0..HOOKS {
                        let hook = hooks::at_exit(index as i32 % 7 - 3, note("kept"));
                        let other = hooks::at_exit(0, note("cancelled"));
                        assert!(hooks::cancel(other));
                        if index % 2 == 0 {
                            assert!(hooks::cancel(hook));
                        }
                    }
                });
            }
        });
        hooks::run_exit_hooks();
        assert_eq!(order(), vec!["kept"; THREADS * HOOKS / 2]);
    });
}
