//! The names of sockets in the file system.

use procession_channel::net::{Address, Client, Listener};
use procession_testkit::{isolated, role, wait::eventually, watchdog};
use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    time::Duration,
};

fn path(listener: &Listener) -> PathBuf {
    match listener.address() {
        Address::Unix(path) => path.clone(),
        other => panic!("no path: {other}"),
    }
}

#[test]
fn private_sockets_lie_in_one_folder_that_nobody_else_can_enter_and_that_goes_with_the_last() {
    isolated!({
        let _watchdog = watchdog!();
        let listeners = [(); 3].map(|()| Listener::builder().bind_private().unwrap());
        let folder = path(&listeners[0]).parent().unwrap().to_owned();
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
        let [first, second, third] = listeners;
        drop(first);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        second.close();
        drop(third);
        assert!(!folder.exists());
        let again = Listener::builder().bind_private().unwrap();
        Client::new().connect::<(), ()>(again.address()).unwrap();
    });
}

#[test]
fn a_path_of_the_users_goes_with_its_listener_and_not_with_another_ones() {
    isolated!({
        let _watchdog = watchdog!();
        let place = std::env::temp_dir().join("socket");
        let listener = Listener::bind(place.as_path()).unwrap();
        // Somebody else's by now.
        std::fs::remove_file(&place).unwrap();
        let other = Listener::bind(place.as_path()).unwrap();
        let inode = place.symlink_metadata().unwrap().ino();
        drop(listener);
        assert_eq!(place.symlink_metadata().unwrap().ino(), inode);
        drop(other);
        assert!(!place.exists());
    });
}

#[test]
fn a_path_goes_with_its_listener_wherever_the_process_is_by_then() {
    isolated!({
        let _watchdog = watchdog!();
        let folder = std::env::temp_dir();
        std::env::set_current_dir(&folder).unwrap();
        let listener = Listener::bind("socket").unwrap();
        std::env::set_current_dir("/").unwrap();
        drop(listener);
        assert!(!folder.join("socket").exists());
    });
}

#[test]
fn a_forked_copy_of_a_listener_unlinks_nothing_and_accepts_nobody() {
    isolated!({
        let _watchdog = watchdog!();
        let listener = Listener::builder().bind_private().unwrap();
        let named = Listener::bind(std::env::temp_dir().join("socket")).unwrap();
        let slot = std::sync::Mutex::new(Some((listener, named)));
        procession_testkit::forked(|| {
            let (listener, named) = slot.lock().unwrap().take().unwrap();
            assert!(listener.try_accept::<(), ()>().unwrap_err().to_string().contains("forked copy"));
            drop((listener, named));
            // The copy has a folder of its own.
            drop(Listener::builder().bind_private().unwrap());
        });
        let (listener, named) = slot.into_inner().unwrap().unwrap();
        for listener in [listener, named] {
            assert!(path(&listener).exists());
            Client::new().connect::<(), ()>(listener.address()).unwrap();
        }
    });
}

#[test]
fn what_a_process_does_not_drop_goes_at_its_exit() {
    isolated!({
        let _watchdog = watchdog!();
        let mut role = role::start(role_leaves, &[]);
        let paths = [role.hear(), role.hear()].map(PathBuf::from);
        assert!(paths.iter().all(|path| path.exists()));
        role.say("end");
        assert!(role.wait().success());
        assert!(paths.iter().all(|path| !path.exists()) && !paths[0].parent().unwrap().exists());
    });
}

#[test]
fn what_a_killed_process_left_is_removed_by_its_helper() {
    isolated!({
        let _watchdog = watchdog!();
        let mut role = role::start(role_leaves, &[]);
        let [private, named] = [role.hear(), role.hear()].map(PathBuf::from);
        role.kill();
        let folder = private.parent().unwrap();
        eventually("the folder is gone", Duration::from_secs(10), || !folder.exists());
        // A name that the user chose is the user's.
        std::fs::remove_file(named).unwrap();
    });
}

#[test]
fn role_leaves() {
    let Some(mut role) = role::enter(role_leaves) else { return };
    let listener = Listener::builder().bind_private().unwrap();
    let named = Listener::bind(std::env::temp_dir().join(format!("left-{}", std::process::id()))).unwrap();
    role.say(path(&listener).to_str().unwrap());
    role.say(path(&named).to_str().unwrap());
    std::mem::forget((listener, named));
    role.hear();
    std::process::exit(0);
}
