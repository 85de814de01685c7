//! The tree of processes dies with its root, whoever started whom and how.

use crate::support::{Line, assert_ends, each_method, host, say_pid_and_wait};
use procession_process::{Process, StartMethod, parent_process};
use procession_testkit::watchdog;
use std::os::fd::OwnedFd;

each_method! {
    a_tree_dies_with_its_root,
    a_tree_dies_with_its_root_when_siblings_were_started_in_between,
    the_rest_of_the_tree_lives_when_a_branch_dies,
    one_that_outlives_its_parent_lives_on,
    a_tree_dies_with_a_root_that_ends_in_order,
}

/// A node that starts `width` children of its kind, `levels` deep, by the methods in turn, and waits to be killed.
fn node((line, levels, width, methods): (Line, u32, u32, Vec<StartMethod>)) {
    let children: Vec<_> = (0..width)
        .filter(|_| levels > 0)
        .map(|number| {
            let method = methods[(levels + number) as usize % methods.len()];
            let arguments = (line.again(), levels - 1, width, methods.clone());
            Process::builder().start_method(method).spawn(node, arguments).unwrap()
        })
        .collect();
    say_pid_and_wait(line);
    drop(children);
}

/// Starts a tree of three levels with two children each, and gives pidfds of all below its root.
fn tree(methods: &[StartMethod]) -> (Process<()>, Vec<OwnedFd>, Line) {
    let (here, there) = Line::pair();
    let root =
        Process::builder().start_method(methods[0]).spawn(node, (there, 2, 2, methods.to_vec())).unwrap();
    let mut all = Vec::new();
    for _ in 0..7 {
        let pid = here.hear_number::<u32>();
        if pid != root.pid() {
            all.push(procession_testkit::storm::pidfd(pid).unwrap());
        }
    }
    assert_eq!(all.len(), 6);
    (root, all, here)
}

#[track_caller]
fn assert_all_end(all: &[OwnedFd]) {
    for process in all {
        assert_ends("a descendant", process);
    }
}

fn a_tree_dies_with_its_root(method: StartMethod) {
    let (root, all, _line) = tree(&[method]);
    root.kill().unwrap();
    assert_all_end(&all);
    assert_eq!(root.join().unwrap_err().signal(), Some(libc::SIGKILL));
}

fn a_tree_dies_with_its_root_when_siblings_were_started_in_between(method: StartMethod) {
    // What a sibling inherits must not keep the others' parent alive in their eyes.
    let (first, all, _line) = tree(&[method]);
    let (_held, there) = Line::pair();
    let between = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    let (second, others, _other_line) = tree(&[method]);
    first.kill().unwrap();
    assert_all_end(&all);
    assert!(between.is_alive() && second.is_alive());
    second.kill().unwrap();
    assert_all_end(&others);
    assert!(between.is_alive());
}

#[test]
fn a_tree_of_mixed_methods_dies_with_its_root() {
    let _watchdog = watchdog!();
    host(
        |()| {
            use StartMethod::{Fork, ForkServer, Spawn};
            for methods in [[Spawn, ForkServer, Fork], [Fork, Spawn, ForkServer], [ForkServer, Fork, Spawn]] {
                let (root, all, _line) = tree(&methods);
                // A fork after the others were started, with all that they hold open.
                let (_held, there) = Line::pair();
                let sibling = Process::builder().start_method(Fork).spawn(say_pid_and_wait, there).unwrap();
                root.kill().unwrap();
                assert_all_end(&all);
                assert!(sibling.is_alive());
            }
        },
        (),
    );
}

fn the_rest_of_the_tree_lives_when_a_branch_dies(method: StartMethod) {
    fn root((line, orders, method): (Line, Line, StartMethod)) {
        let (branch_line, there) = Line::pair();
        let start = |line, levels| {
            Process::builder().start_method(method).spawn(node, (line, levels, 1, vec![method])).unwrap()
        };
        let branch = start(there, 1);
        let other = start(line, 1);
        // Two processes on each line.
        let (one, two) = (branch_line.hear_process(), branch_line.hear_process());
        orders.expect("kill the branch");
        branch.kill().unwrap();
        assert_ends("the branch", one);
        assert_ends("its child", two);
        assert!(other.is_alive());
        orders.say("killed");
        orders.hear();
    }
    let ((here, there), (orders, orders_there)) = (Line::pair(), Line::pair());
    let process = Process::builder().start_method(method).spawn(root, (there, orders_there, method)).unwrap();
    let living = [here.hear_process(), here.hear_process()];
    orders.say("kill the branch");
    orders.expect("killed");
    for living in &living {
        assert!(!procession_testkit::wait::ended(living, std::time::Duration::ZERO).unwrap());
    }
    process.kill().unwrap();
    assert_all_end(&living);
}

fn one_that_outlives_its_parent_lives_on(method: StartMethod) {
    fn survivor(line: Line) {
        line.say(std::process::id());
        line.expect("are you there?");
        line.say(parent_process().unwrap().is_alive());
    }
    fn parent((line, bound, method): (Line, Line, StartMethod)) {
        let builder = || Process::builder().start_method(method);
        let bound_child = || builder().spawn(say_pid_and_wait, bound.again()).unwrap();
        // The survivor must not hold what its older sibling's life hangs on.
        let _older = bound_child();
        let _survivor = builder().outlive_parent().spawn(survivor, line).unwrap();
        let _younger = bound_child();
        bound.try_hear();
    }
    let ((here, there), (bound, bound_there)) = (Line::pair(), Line::pair());
    let process =
        Process::builder().start_method(method).spawn(parent, (there, bound_there, method)).unwrap();
    let (survivor, bound) = (here.hear_process(), [bound.hear_process(), bound.hear_process()]);
    process.kill().unwrap();
    process.join().unwrap_err();
    for bound in bound {
        assert_ends("a sibling that is bound to its parent", bound);
    }
    here.say("are you there?");
    here.expect("false");
    assert_ends("the survivor, after its work", survivor);
}

fn a_tree_dies_with_a_root_that_ends_in_order(method: StartMethod) {
    fn root((line, method): (Line, StartMethod)) {
        let (told, there) = Line::pair();
        let child =
            Process::builder().start_method(method).daemon(true).spawn(node, (there, 1, 1, vec![method]));
        child.unwrap().detach();
        for _ in 0..2 {
            line.say(told.hear());
        }
        line.hear();
    }
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(root, (there, method)).unwrap();
    let all = [here.hear_process(), here.hear_process()];
    here.say("end");
    process.join().unwrap();
    assert_all_end(&all);
}
