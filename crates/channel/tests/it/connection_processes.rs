//! Connections between processes under each start method, signals, and deaths.

use crate::{
    support::{pattern, soon},
    ways::{Way, each_way},
};
use procession_channel::{
    connection::{Connection, Nothing, Pipe, PipeReceiver, PipeSender},
    lane,
};
use procession_parcel::Fd;
use procession_process::{Process, StartMethod};
use procession_testkit::{role, watchdog};
use std::{
    fs::File,
    io::{Read, Seek, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

type Bytes = Connection<(), ()>;

const BOUND: Duration = Duration::from_secs(20);

each_way! {
    a_child_echoes_every_form,
    an_end_lives_on_when_its_maker_closes_it_before_the_child_is_up,
    files_travel_to_a_child,
    messages_of_two_sorts_keep_their_boundaries,
    a_poll_elsewhere_disturbs_no_message,
    ends_and_sockets_go_through_ends,
    one_way_ends_keep_their_way_in_a_child,
    a_child_that_ends_is_the_end,
}

fn echo(end: Bytes) {
    loop {
        let message = end.recv_bytes().unwrap();
        if message == b"stop" {
            return;
        }
        end.send_bytes(&message).unwrap();
    }
}

/// As `_TestConnection.test_connection`.
fn a_child_echoes_every_form(way: Way) {
    let (end, theirs) = Pipe::duplex().unwrap();
    let child = way.start(echo, theirs);
    let values = end.with_types::<(u8, Option<f64>, Vec<String>), (u8, Option<f64>, Vec<String>)>();
    let value = (1, Some(2.25), vec!["a".to_owned(), "b".to_owned()]);
    values.send(&value).unwrap();
    assert_eq!(values.recv().unwrap(), value);
    let end = values.with_types::<(), ()>();
    end.send_bytes(b"hello world").unwrap();
    assert_eq!(end.recv_bytes().unwrap(), b"hello world");
    let mut buffer = [0; 20];
    end.send_bytes(b"0123456789").unwrap();
    assert_eq!(end.recv_bytes_into(&mut buffer[5..]).unwrap(), 10);
    assert_eq!(&buffer, b"\0\0\0\0\x000123456789\0\0\0\0\0");
    end.send_bytes(&[b'x'; 40]).unwrap();
    let error = end.recv_bytes_into(&mut buffer).unwrap_err();
    assert_eq!(error.into_message().unwrap().bytes(), &[b'x'; 40]);

    assert!(!end.poll(Duration::ZERO).unwrap());
    let before = Instant::now();
    assert!(!end.poll(Duration::from_millis(100)).unwrap());
    assert!(before.elapsed() >= Duration::from_millis(100));
    end.send_bytes(b"").unwrap();
    assert!(end.poll(BOUND).unwrap() && end.poll_deadline(None).unwrap());
    assert_eq!(end.recv_bytes().unwrap(), b"");

    let large = pattern(1, 16 << 20);
    end.send_bytes(&large).unwrap();
    assert!(end.recv_bytes().unwrap() == large);
    end.send_bytes(b"stop").unwrap();
    child.join();
    // Under fork the child had a copy of our end only, so the other side is closed.
    assert!(end.poll(BOUND).unwrap());
    assert!(end.recv_bytes().unwrap_err().is_eof());
    assert!(end.send_bytes(b"anybody?").unwrap_err().is_broken_pipe());
}

/// As `_TestConnection.test_spawn_close`.
fn an_end_lives_on_when_its_maker_closes_it_before_the_child_is_up(way: Way) {
    let (end, theirs) = Pipe::duplex().unwrap();
    // The start takes it, and closes it here before it returns.
    let child = way.start(echo, theirs);
    end.send_bytes(b"hello").unwrap();
    assert_eq!(end.recv_bytes().unwrap(), b"hello");
    end.send_bytes(b"stop").unwrap();
    child.join();
}

/// As `_TestConnection.test_fd_transfer` and `test_large_fd_transfer`.
fn files_travel_to_a_child(way: Way) {
    let writes = |receiver: PipeReceiver<Fd>| {
        let mut file: File = receiver.recv().unwrap().into();
        file.write_all(b"foo").unwrap();
    };
    for least in [3, 300] {
        let (receiver, sender) = Pipe::<Fd>::one_way().unwrap();
        let child = way.start(writes, receiver);
        let mut file = tempfile();
        let high = rustix::io::fcntl_dupfd_cloexec(&file, least).unwrap();
        assert!(high.as_raw_fd() >= least);
        sender.send(&Fd(high)).unwrap();
        child.join();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "foo");
    }
}

fn tempfile() -> File {
    rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}

/// As `_TestPoll.test_strings` and `test_dont_merge`.
fn messages_of_two_sorts_keep_their_boundaries(way: Way) {
    const MESSAGES: [&[u8]; 9] =
        [b"hello", b"", b"a", b"b", b"", b"bye", b"", b"lop", b"long enough to be no short one"];
    let sends = |end: Bytes| {
        for message in MESSAGES {
            end.send_bytes(message).unwrap();
        }
        assert_eq!(end.recv_bytes().unwrap(), b"all there");
    };
    let (end, theirs) = Pipe::duplex().unwrap();
    let child = way.start(sends, theirs);
    for message in MESSAGES {
        assert!(end.poll(BOUND).unwrap());
        assert_eq!(end.recv_bytes().unwrap(), message);
    }
    end.send_bytes(b"all there").unwrap();
    child.join();
}

/// As `_TestPoll.test_boundaries`.
fn a_poll_elsewhere_disturbs_no_message(way: Way) {
    let polls = |(end, ready): (Bytes, PipeSender<()>)| {
        assert!(end.poll(BOUND).unwrap());
        ready.send(&()).unwrap();
        let first = end.recv_bytes().unwrap();
        assert!(end.poll(BOUND).unwrap());
        (first, end.recv_bytes().unwrap())
    };
    let (end, theirs) = Pipe::duplex().unwrap();
    let (ready, its) = Pipe::<()>::one_way().unwrap();
    let child = way.start(polls, (theirs, its));
    end.send_bytes(b"first").unwrap();
    ready.recv().unwrap();
    end.send_bytes(b"second").unwrap();
    assert_eq!(child.join(), (b"first".to_vec(), b"second".to_vec()));
}

/// As `_TestPicklingConnections.test_pickling`.
fn ends_and_sockets_go_through_ends(way: Way) {
    type Given = (Connection<String, ()>, Fd, Fd);
    let connects = |(end, unix, tcp): (PipeReceiver<Given>, String, String)| {
        let (answers, connected, listening) = end.recv().unwrap();
        answers.send(&format!("{unix} {tcp}")).unwrap();
        let mut connected = UnixStream::from(connected);
        connected.write_all(b"over a socket from a message").unwrap();
        drop(connected);
        let listener = TcpListener::from(listening);
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"accepted by a listener from a message").unwrap();
    };
    let (receiver, sender) = Pipe::<Given>::one_way().unwrap();
    let child = way.start(connects, (receiver, "unix".to_owned(), "tcp".to_owned()));
    let (answers, theirs) = Pipe::<(), String>::duplex().unwrap();
    let (mut connected, its) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    sender.send(&(theirs, its.into(), listener.into())).unwrap();
    assert_eq!(answers.recv().unwrap(), "unix tcp");
    let mut text = String::new();
    connected.read_to_string(&mut text).unwrap();
    assert_eq!(text, "over a socket from a message");
    text.clear();
    TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "accepted by a listener from a message");
    child.join();
}

/// As `_TestPicklingConnections.test_access`.
fn one_way_ends_keep_their_way_in_a_child(way: Way) {
    let doubles = |end: Connection<Nothing, (PipeReceiver<u32>, PipeSender<u32>)>| {
        let (receiver, sender) = end.recv().unwrap();
        assert!(receiver.is_readable() && !receiver.is_writable());
        assert!(sender.is_writable() && !sender.is_readable());
        sender.send(&(receiver.recv().unwrap() * 2)).unwrap();
        // Neither as what it says of itself, nor in the kernel.
        assert!(receiver.send_bytes(b"").is_err() && sender.recv_bytes().is_err());
        assert!(rustix::net::send(&receiver, b"x", rustix::net::SendFlags::NOSIGNAL).is_err());
    };
    let (ends, give) = Pipe::one_way().unwrap();
    let child = way.start(doubles, ends);
    let (its, sender) = Pipe::<u32>::one_way().unwrap();
    let (receiver, its_sender) = Pipe::<u32>::one_way().unwrap();
    give.send(&(its, its_sender)).unwrap();
    sender.send(&21).unwrap();
    assert_eq!(receiver.recv().unwrap(), 42);
    child.join();
}

fn a_child_that_ends_is_the_end(way: Way) {
    let (receiver, sender) = Pipe::<u32>::one_way().unwrap();
    let child = way.start(
        |sender: PipeSender<u32>| {
            for number in 0..100 {
                sender.send(&number).unwrap();
            }
        },
        sender,
    );
    let numbers: Vec<u32> = receiver.iter().map(Result::unwrap).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    child.join();
}

/// As `TestIgnoreEINTR.test_ignore`.
#[test]
fn signals_lose_nothing() {
    let _watchdog = watchdog!(Duration::from_secs(100));
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let streams = UnixStream::pair().unwrap();
        let stream = (Bytes::from_stream(streams.0).unwrap(), Bytes::from_stream(streams.1).unwrap());
        for (end, theirs) in [Pipe::<(), ()>::duplex().unwrap(), stream] {
            let child = Process::builder().start_method(method).spawn(interrupted_echo, theirs).unwrap();
            assert_eq!(end.recv_bytes().unwrap(), b"ready");
            let done = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let pid = rustix::process::Pid::from_raw(child.pid().cast_signed()).unwrap();
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                for seed in 0..20 {
                    // Larger than what the kernel buffers, so that both sides are interrupted in the middle.
                    let message = pattern(seed, 4 << 20);
                    end.send_bytes(&message).unwrap();
                    assert!(end.recv_bytes().unwrap() == message);
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            end.send_bytes(b"stop").unwrap();
            child.join().unwrap();
        }
    }
}

fn interrupted_echo(end: Bytes) {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // Without SA_RESTART, so that calls are interrupted.
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing.
    let installed = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(installed, 0);
    end.send_bytes(b"ready").unwrap();
    echo(end);
}

#[test]
fn role_stranger() {
    let Some(mut role) = role::enter(role_stranger) else { return };
    let path = role.hear();
    let socket = UnixStream::connect(path).unwrap();
    let end = Connection::<u8, (Fd, lane::Sender<u32>, Connection<String, ()>)>::from_stream(socket).unwrap();
    let (file, mut lane, answers) = end.recv().unwrap();
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    lane.send(42).unwrap();
    answers.send(&text).unwrap();
}

#[test]
fn handles_reach_an_unrelated_process_over_a_unix_socket() {
    let _watchdog = watchdog!();
    let folder = std::env::temp_dir().join(format!("procession-test-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut stranger = role::start(role_stranger, &[]);
    stranger.say(path.to_str().unwrap());
    let end = Bytes::from_stream(listener.accept().unwrap().0).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let end = end.with_types::<(Fd, lane::Sender<u32>, Connection<String, ()>), u8>();
    let mut file = tempfile();
    file.write_all(b"from a file").unwrap();
    file.rewind().unwrap();
    let (into_lane, mut lane) = procession_channel::channel::<u32>().unwrap();
    let (answers, theirs) = Pipe::<(), String>::duplex().unwrap();
    end.send(&(file.into(), into_lane, theirs)).unwrap();
    assert_eq!(answers.recv().unwrap(), "from a file");
    assert_eq!(lane.recv().unwrap(), 42);
    assert!(stranger.wait().success(), "{}", stranger.output());
}

#[test]
fn a_killed_receiver_of_one_end_leaves_the_others_what_it_had_not_taken() {
    let _watchdog = watchdog!();
    let (end, theirs) = Pipe::<u32, ()>::duplex().unwrap();
    let child = Process::spawn(
        |end: Connection<(), u32>| -> () {
            assert_eq!(end.recv().unwrap(), 0);
            std::thread::sleep(Duration::from_secs(1000));
        },
        procession_parcel::Parcel::pack(&theirs).unwrap().unpack().unwrap(),
    )
    .unwrap();
    for number in 0..5 {
        end.send(&number).unwrap();
    }
    let theirs = theirs.with_types::<(), u32>();
    procession_testkit::wait::eventually("the first is taken", BOUND, || {
        rustix::io::ioctl_fionread(theirs.as_fd()).is_ok() && !has_first(&theirs)
    });
    child.kill().unwrap();
    assert!(child.join().is_err());
    for number in 1..5 {
        assert_eq!(theirs.recv().unwrap(), number);
    }
    assert_eq!(theirs.recv_deadline(soon()).unwrap(), None);
}

/// Whether the message with the number 0 is still in the pipe.
fn has_first(end: &Connection<(), u32>) -> bool {
    let mut packet = [0; 64];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    let Ok((_, len)) = rustix::net::recv(end, packet.as_mut_slice(), flags) else { return false };
    packet[len - 1] == 0
}
