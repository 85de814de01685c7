//! Deaths of processes that drop a future: built with `--cfg crash_points`.

use crate::{
    crash_state::{World, arm, armed, died, notified_here, world},
    later::{begin, block_on},
    support::{BOUND, given, soon, take},
};
use procession_testkit::{role, watchdog};
use std::time::Duration;

#[test]
fn role_drops() {
    let Some(mut role) = role::enter(role_drops) else { return };
    let (point, does, world): (String, String, World) = take(role.fd());
    arm(&point);
    match does.as_str() {
        "condition" => {
            let mut wait = Box::pin(world.condition.wait_async(world.condition.lock().unwrap()));
            begin(wait.as_mut());
            role.say("waits");
            role.hear();
            drop(wait);
        }
        "barrier" => {
            let mut wait = Box::pin(world.barrier.wait_async());
            begin(wait.as_mut());
            drop(wait);
        }
        "rwlock" => {
            let mut wait = Box::pin(world.rwlock.write_async());
            begin(wait.as_mut());
            role.say("waits");
            role.hear();
            drop(wait);
        }
        what => panic!("{what}?"),
    }
    role.say("over");
}

fn start(point: &str, does: &str, world: &World) -> role::RoleProcess {
    role::start(role_drops, &[&given(&(point, does, world))])
}

#[test]
fn what_had_reached_a_future_goes_on_wherever_the_one_who_drops_it_dies() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    if !armed() {
        return;
    }
    for point in ["condition.wait.given_up", "condition.bury.passed"] {
        let world = world();
        let mut process = start(point, "condition", &world);
        process.expect("waits");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut guard = world.condition.lock().unwrap();
                world.condition.wait_timeout(&mut guard, BOUND)
            });
            soon("two wait", || world.condition.waiting() == 2);
            let guard = world.condition.lock().unwrap();
            assert_eq!(world.condition.notify_one().unwrap(), 1);
            drop(guard);
            process.say("drop it");
            died(&mut process, point);
            assert!(waits.join().unwrap().unwrap(), "at {point}");
        });
        notified_here(&world, point);
    }
    let world = self::world();
    died(&mut start("barrier.given_up", "barrier", &world), "barrier.given_up");
    let mut first = Box::pin(world.barrier.wait_async());
    begin(first.as_mut());
    assert_eq!(world.barrier.wait_timeout(BOUND).unwrap(), 1);
    assert_eq!(block_on(first).unwrap(), 0);
    for granted in [false, true] {
        let world = self::world();
        let mut holds = Some(world.rwlock.read().unwrap());
        let mut process = start("rwlock.given_up", "rwlock", &world);
        process.expect("waits");
        holds.take_if(|_| granted);
        process.say("drop it");
        died(&mut process, "rwlock.given_up");
        drop(world.rwlock.read_timeout(BOUND).unwrap());
    }
}
