//! CPython on the other end, both processes alive at the same time, for every version on this machine.

use crate::support::{fresh, path};
use procession_shm::{Item, ShareableList, SharedMemory};
use procession_testkit::{python, watchdog};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);

/// An interpreter that runs a script and speaks in lines.
struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    version: String,
}

impl Peer {
    fn start(python: &python::Python, script: &str, arguments: &[&str]) -> Peer {
        let prelude = "
import sys
from multiprocessing import shared_memory, resource_tracker
def say(*words): print(*words, flush=True)
def hear(): return sys.stdin.readline().strip()
def attach(name):
    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name, track=False)
    shm = shared_memory.SharedMemory(name)
    resource_tracker.unregister(shm._name, 'shared_memory')
    return shm
def untrack(shm):
    resource_tracker.unregister(shm._name, 'shared_memory')
";
        let mut command = python.command();
        command.arg("-c").arg(format!("{prelude}{script}")).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Peer { child, input, output, version: python.to_string() }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    #[track_caller]
    fn hear(&mut self) -> String {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).unwrap();
        assert!(count > 0, "{} ended", self.version);
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn expect(&mut self, line: &str) {
        assert_eq!(self.hear(), line, "{}", self.version);
    }

    #[track_caller]
    fn end(mut self) {
        drop(self.input.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}", self.version);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_segment_that_python_made_is_attached_and_changed_on_both_sides() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
shm = shared_memory.SharedMemory(create=True, size=101)
shm.buf[:5] = b'hello'
shm.buf[100] = 0xee
say(shm.name)
hear()
say(bytes(shm.buf[:5]).decode(), shm.buf[99], shm.size)
shm.close()
shm.unlink()
";
        let mut peer = Peer::start(python, script, &[]);
        let name = peer.hear();
        let shm = SharedMemory::open(&name).unwrap();
        let view = SharedMemory::open_read_only(&name).unwrap();
        assert_eq!((shm.name(), shm.len(), view.len()), (name.as_str(), 101, 101), "{python}");
        assert_eq!((shm.get::<[u8; 5]>(0).unwrap(), view.get::<u8>(100).unwrap()), (*b"hello", 0xee));
        shm.write_at(0, b"world").unwrap();
        shm.set(99, 7_u8).unwrap();
        // Attaching never owns.
        drop(shm);
        assert!(!SharedMemory::remove_stale().unwrap().contains(&name));
        peer.say("look");
        peer.expect("world 7 101");
        peer.end();
        assert!(SharedMemory::open(&name).unwrap_err().is_not_found());
        assert_eq!(view.get::<[u8; 5]>(0).unwrap(), *b"world", "the memory lives on");
    }
}

#[test]
fn a_segment_of_ours_is_attached_by_python_and_stays_when_it_does_not_track_it() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
shm = attach(sys.argv[1])
say(shm.size, bytes(shm.buf[:4]).decode(), shm.buf[100], shm.name)
shm.buf[1:3] = b'OR'
say('changed')
hear()
say(bytes(shm.buf[:4]).decode())
shm.close()
";
        let shm = SharedMemory::create(101).unwrap();
        shm.write_at(0, b"work").unwrap();
        shm.set(100, 9_u8).unwrap();
        let mut peer = Peer::start(python, script, &[shm.name()]);
        peer.expect(&format!("101 work 9 {}", shm.name()));
        peer.expect("changed");
        assert_eq!(shm.get::<[u8; 4]>(0).unwrap(), *b"wORk", "{python}");
        shm.set(0, b'W').unwrap();
        peer.say("look");
        peer.expect("WORk");
        peer.end();
        // Its process tree is gone, and with it the tracker.
        assert!(path(shm.name()).exists(), "{python}");
        shm.unlink().unwrap();
    }
}

#[test]
fn python_cannot_make_what_we_have_made_nor_we_what_it_has() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
try:
    shared_memory.SharedMemory(sys.argv[1], create=True, size=10)
except FileExistsError:
    say('exists')
mine = shared_memory.SharedMemory(sys.argv[2], create=True, size=10)
say('made')
hear()
mine.close()
mine.unlink()
";
        let shm = SharedMemory::create(101).unwrap();
        let theirs = fresh("pythons");
        let mut peer = Peer::start(python, script, &[shm.name(), &theirs]);
        peer.expect("exists");
        peer.expect("made");
        assert!(SharedMemory::create_named(&theirs, 10).unwrap_err().is_already_exists());
        peer.say("end");
        peer.end();
    }
}

/// What Python's tracker does, and why it is to be kept off.
#[test]
fn python_that_tracks_a_segment_of_ours_takes_its_name_away_which_we_survive() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
shm = shared_memory.SharedMemory(sys.argv[1])
say(bytes(shm.buf[:2]).decode())
shm.close()
sys.stderr.close()
";
        let shm = SharedMemory::create(101).unwrap();
        shm.write_at(0, b"ok").unwrap();
        let mut peer = Peer::start(python, script, &[shm.name()]);
        peer.expect("ok");
        peer.end();
        // The tracker ends after the interpreter does.
        let gone = || !path(shm.name()).exists();
        procession_testkit::wait::eventually("the tracker unlinks it", Duration::from_secs(10), gone);
        assert_eq!(shm.get::<[u8; 2]>(0).unwrap(), *b"ok", "{python}");
        assert!(shm.unlink().unwrap_err().is_not_found());
        // The name can be used again.
        drop(SharedMemory::create_named(shm.name(), 10).unwrap());
    }
}

/// Whether this version lays lists out as ours are: 3.8 does it otherwise.
fn knows_our_lists(python: &python::Python) -> bool {
    python.version >= (3, 9, 0)
}

const LISTS: &str = "
def attach_list(name):
    l = shared_memory.ShareableList(name=name)
    untrack(l.shm)
    return l
";

fn values() -> Vec<Item> {
    vec![
        "howdy".into(),
        b"HoWdY\0x".into(),
        (-273.154).into(),
        i64::MIN.into(),
        Item::None,
        true.into(),
        "".into(),
        false.into(),
        "exactly 16 bytes".into(),
    ]
}

const PYTHONS: &str = "['howdy', b'HoWdY\\0x', -273.154, -2**63, None, True, '', False, 'exactly 16 bytes']";

#[test]
fn a_list_that_python_made_is_read_and_changed_on_both_sides() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = format!(
            "
l = shared_memory.ShareableList({PYTHONS})
say(l.shm.name, l.shm.size, l.format)
hear()
say(list(l) == ['bye', b'now', 1.5, 42, 'None', 'text', True, None, 'again sixteen...'], l.format)
hear()
l[0] = 'python'
l[3] = None
say('changed')
hear()
l.shm.close()
l.shm.unlink()
"
        );
        let mut peer = Peer::start(python, &script, &[]);
        let line = peer.hear();
        let words: Vec<&str> = line.split(' ').collect();
        let list = ShareableList::open(words[0]).unwrap();
        assert_eq!(list.to_vec().unwrap(), values(), "{python}");
        assert_eq!(
            (list.shm().len().to_string(), list.format().unwrap()),
            (words[1].to_owned(), words[2].to_owned())
        );
        if knows_our_lists(python) {
            // Byte for byte what we would have made.
            let ours = ShareableList::create(values()).unwrap();
            assert_eq!(ours.shm().to_vec(), list.shm().to_vec(), "{python}");
        }
        let changed: [Item; 9] = [
            "bye".into(),
            b"now".into(),
            1.5.into(),
            42.into(),
            "None".into(),
            "text".into(),
            true.into(),
            Item::None,
            "again sixteen...".into(),
        ];
        for (index, item) in changed.iter().enumerate() {
            list.set(index, item).unwrap();
        }
        peer.say("look");
        peer.expect(&format!("True {}", list.format().unwrap()));
        peer.say("change");
        peer.expect("changed");
        assert_eq!((list.get(0).unwrap(), list.get(3).unwrap()), ("python".into(), Item::None), "{python}");
        peer.say("end");
        peer.end();
    }
}

#[test]
fn a_list_of_ours_is_read_and_changed_by_python() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find().iter().filter(|&python| knows_our_lists(python)) {
        let script = format!(
            "{LISTS}
l = attach_list(sys.argv[1])
say(list(l) == {PYTHONS}, l.format, len(l), l.shm.size)
hear()
l[0] = b'bytes'
l[1] = 'text'
l[2] = 7
l[4] = 'eight by'
l[8] = 2.5
say('changed')
hear()
say(l.count('ours'), l.index('ours'))
w = attach_list(sys.argv[2])
say(list(w) == ['日本語日本語', 'é'], w[0] == '日本語日本語')
empty = attach_list(sys.argv[3])
say(list(empty))
for l in (l, w, empty): l.shm.close()
"
        );
        let list = ShareableList::create(values()).unwrap();
        let wide = ShareableList::create(["日本語日本語", "é"]).unwrap();
        let empty = ShareableList::create([Item::None; 0]).unwrap();
        let mut peer = Peer::start(python, &script, &[list.name(), wide.name(), empty.name()]);
        peer.expect(&format!("True {} 9 {}", list.format().unwrap(), list.shm().len()));
        peer.say("change");
        peer.expect("changed");
        let mut expected = values();
        for (index, item) in
            [(0, b"bytes".into()), (1, "text".into()), (2, 7.into()), (4, "eight by".into()), (8, 2.5.into())]
        {
            expected[index] = item;
        }
        assert_eq!(list.to_vec().unwrap(), expected, "{python}");
        list.set(5, "ours").unwrap();
        peer.say("look");
        peer.expect("1 5");
        peer.expect("True True");
        peer.expect("[]");
        peer.end();
        for list in [list, wide, empty] {
            list.shm().unlink().unwrap();
        }
    }
}

#[test]
fn an_empty_list_of_pythons_is_read() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find().iter().filter(|&python| knows_our_lists(python)) {
        let script = "
l = shared_memory.ShareableList([])
say(l.shm.name)
hear()
l.shm.close()
l.shm.unlink()
";
        let mut peer = Peer::start(python, script, &[]);
        let list = ShareableList::open(&peer.hear()).unwrap();
        assert!(list.is_empty() && list.format().unwrap().is_empty(), "{python}");
        peer.say("end");
        peer.end();
    }
}

#[test]
fn text_that_python_has_cut_off_is_an_error_that_says_so() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
l = shared_memory.ShareableList(['日本語日本語'])
say(l.shm.name)
try:
    l[0]
    say('mended')
except UnicodeDecodeError:
    say('broken')
hear()
l.shm.close()
l.shm.unlink()
";
        let mut peer = Peer::start(python, script, &[]);
        let list = ShareableList::open(&peer.hear()).unwrap();
        match peer.hear().as_str() {
            "broken" => {
                let error = list.get(0).unwrap_err();
                assert!(error.is_incompatible() && error.to_string().contains("not UTF-8"), "{error}");
            }
            // A later version that does not cut.
            _ => assert_eq!(list.get(0).unwrap(), "日本語日本語".into()),
        }
        peer.say("end");
        peer.end();
    }
}
