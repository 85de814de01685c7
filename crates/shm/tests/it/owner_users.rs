//! What is another user's is not touched, and is in nobody's way.
//!
//! The test is root, in a folder of named segments of its own, and the other user a role that gives up its privileges.

use crate::support::{folder, path};
use procession_shm::SharedMemory;
use procession_testkit::{isolated, limits::Surroundings, role};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

const MAKING: &str = "procession-new-0123456789abcdef";

/// Whether the test can be done: it has a folder of its own, and can be two users.
fn two_users() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be two users");
        return false;
    }
    Surroundings::new().small_shm(64 << 20).apply_or_skip()
}

/// Does as it is told, as a user that owns nothing: `make NAME`, `stale`, `touch NAME`, `record NAME INODE-OF`.
#[test]
fn role_other_user() {
    let Some(mut role) = role::enter(role_other_user) else { return };
    Surroundings::new().unprivileged().apply().unwrap();
    role.say("ready");
    let mut made = Vec::new();
    loop {
        let told = role.hear();
        let mut words = told.split(' ');
        match (words.next().unwrap(), words.next(), words.next()) {
            ("make", Some(name), None) => made.push(SharedMemory::create_named(name, 10).unwrap()),
            ("touch", Some(name), None) => fs::write(path(name), "theirs").unwrap(),
            // What a dead owner leaves who had made the segment that `of` stands for now.
            ("record", Some(name), Some(of)) => {
                let file = path(&format!("procession-owner-{name}"));
                fs::write(&file, record(name, of)).unwrap();
                fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
            }
            ("stale", None, None) => {
                role.say(&format!("{:?}", SharedMemory::remove_stale().map_err(|error| error.to_string())));
                continue;
            }
            ("end", None, None) => return,
            other => panic!("{other:?}"),
        }
        role.say("done");
    }
}

fn record(name: &str, of: &str) -> String {
    let stat = fs::metadata(path(of)).unwrap();
    format!(
        "procession owner 1\n{}\n{:016x} {:016x}\n{MAKING}\n{name}",
        "0".repeat(32),
        stat.dev(),
        stat.ino()
    )
}

struct OtherUser(role::RoleProcess);

impl OtherUser {
    fn start() -> OtherUser {
        let mut role = role::start(role_other_user, &[]);
        role.expect("ready");
        OtherUser(role)
    }

    fn does(&mut self, what: &str) {
        self.0.say(what);
        self.0.expect("done");
    }

    /// What it removed, or its error.
    fn removes(&mut self) -> String {
        self.0.say("stale");
        self.0.hear()
    }
}

#[test]
fn a_dead_owners_name_is_left_to_its_own_user() {
    isolated!({
        if !two_users() {
            return;
        }
        // Root could, and does not; the other one cannot.
        let mut theirs = OtherUser::start();
        theirs.does("make theirs");
        theirs.0.kill();
        let mut ours = role::start(crate::owner::role_owner, &[]);
        ours.say("ours");
        ours.expect("made");
        ours.kill();
        let all = ["ours", "procession-owner-ours", "procession-owner-theirs", "theirs"];
        assert_eq!(folder(), all);
        let mut other = OtherUser::start();
        assert_eq!(other.removes(), "Ok([])");
        assert_eq!(folder(), all);
        assert_eq!(SharedMemory::remove_stale().unwrap(), ["ours"]);
        assert_eq!(folder(), ["procession-owner-theirs", "theirs"]);
        // A name of another user's is taken, whether its owner lives or not.
        let error = SharedMemory::create_named("theirs", 10).unwrap_err();
        assert!(error.is_already_exists(), "{error}");
        fs::remove_file(path("theirs")).unwrap();
        assert!(SharedMemory::create_named("theirs", 10).unwrap_err().is_already_exists());
    });
}

#[test]
fn another_users_record_makes_nobody_remove_what_it_names() {
    isolated!({
        if !two_users() {
            return;
        }
        fs::write(path("victim"), "precious").unwrap();
        fs::write(path(MAKING), "precious").unwrap();
        let mut other = OtherUser::start();
        other.does("record victim victim");
        assert_eq!(SharedMemory::remove_stale().unwrap(), [""; 0]);
        assert_eq!(folder(), [MAKING, "procession-owner-victim", "victim"]);
    });
}

#[test]
fn what_is_another_users_by_now_stays_and_the_record_of_it_goes() {
    isolated!({
        if !two_users() {
            return;
        }
        let mut other = OtherUser::start();
        // Of its own name and of the one that it was made under: both are root's by now, who gave one of them away.
        other.does("touch given");
        other.does("record given given");
        std::os::unix::fs::chown(path("given"), Some(0), Some(0)).unwrap();
        fs::write(path(MAKING), "ours").unwrap();
        other.does("touch kept");
        other.does("record kept kept");
        assert_eq!(other.removes(), r#"Ok(["kept"])"#);
        assert_eq!(folder(), ["given", MAKING]);
        // Nothing is left that could be found again.
        assert_eq!(other.removes(), "Ok([])");
        other.0.say("end");
        assert!(other.0.wait().success(), "{}", other.0.output());
    });
}
