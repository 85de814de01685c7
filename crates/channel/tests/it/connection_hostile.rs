//! What a hostile peer does beside sending wrong bytes, and what several receivers do to each other.

use crate::support::{give, header, raw, soon, take};
use procession_channel::connection::{Connection, ConnectionError, Pipe};
use procession_parcel::{
    Fd, Parcel,
    wire::{self, Limits},
};
use procession_sys::Deadline;
use procession_testkit::{Census, isolated, limits::Surroundings, role, watchdog};
use std::{
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Barrier,
    thread,
    time::Duration,
};

type Bytes = Connection<(), ()>;

#[test]
fn a_carrier_whose_other_end_writes_on_and_on_is_refused() {
    let _watchdog = watchdog!();
    let (a, b) = Pipe::<(), ()>::duplex().unwrap();
    let (mut flood, carrier) = UnixStream::pair().unwrap();
    let carrier = OwnedFd::from(carrier);
    flood.set_nonblocking(true).unwrap();
    while flood.write(&[0; 4096]).is_ok() {}
    flood.set_nonblocking(false).unwrap();
    thread::scope(|scope| {
        // Until the receiver has closed it.
        scope.spawn(move || while flood.write(&[0; 4096]).is_ok() {});
        raw(&a, &header(2, 1, 0, 2), &[&carrier]);
        drop(carrier);
        assert!(b.recv_bytes().unwrap_err().is_malformed());
    });
    a.send_bytes(b"good").unwrap();
    assert_eq!(b.recv_bytes().unwrap(), b"good");
}

#[test]
fn a_byte_out_of_band_holds_nobody_up() {
    let _watchdog = watchdog!();
    let (mut hostile, end) = UnixStream::pair().unwrap();
    let end = Bytes::from_stream(end).unwrap();
    match rustix::net::send(&hostile, &[0], rustix::net::SendFlags::OOB) {
        Ok(_) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => {
            return println!("skipped: no bytes out of band on Unix sockets");
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(end.recv_bytes_deadline(soon()).unwrap(), None);
    hostile.write_all(b"\0\0\x02hi").unwrap();
    assert_eq!(end.recv_bytes().unwrap(), b"hi");
}

#[test]
fn a_sender_of_an_end_cannot_raise_its_limit() {
    let _watchdog = watchdog!();
    for (max, limit) in [(u64::MAX, 4 << 30), (100, 100)] {
        let (mut hostile, end) = UnixStream::pair().unwrap();
        let mut end = Bytes::from_stream(end).unwrap();
        end.set_max_message(max);
        let end: Bytes = Parcel::pack(&end).unwrap().unpack().unwrap();
        hostile.write_all(&[&[0xff; 4][..], &(limit + 1_u64).to_be_bytes()].concat()).unwrap();
        assert!(end.recv_bytes_deadline(soon()).unwrap_err().is_too_large());
    }
}

#[test]
fn a_received_stream_never_blocks_behind_poll() {
    let _watchdog = watchdog!();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let other_reader = reader.try_clone().unwrap();
    let sent = Bytes::from_stream(reader).unwrap();
    let packed = Parcel::pack(&sent).unwrap();
    let bytes = packed.bytes().to_vec();
    let end: Bytes = packed.unpack().unwrap();
    let blocks = |fd: &dyn AsRawFd| {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        i64::from_str_radix(flags.trim(), 8).unwrap() & i64::from(libc::O_NONBLOCK) == 0
    };
    assert!(blocks(&other_reader) && !blocks(&end.as_fd().as_raw_fd()));
    writer.write_all(b"\0\0\0\x02hi").unwrap();
    assert_eq!(end.recv_bytes().unwrap(), b"hi");
    // Not what a file system of the sender's answers for.
    let file = File::open("/dev/null").unwrap().into();
    assert!(Parcel::new(bytes, vec![file]).unpack::<Bytes>().is_err());
}

/// Has the kernel give a pidfd to whoever receives on the socket; false where it knows none.
fn pass_pidfds(socket: impl AsFd) -> bool {
    const SO_PASSPIDFD: libc::c_int = 76;
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the option's value is one int.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSPIDFD, (&raw const on).cast(), len) == 0 }
}

#[test]
fn pidfds_that_nobody_asked_for_are_closed() {
    let _watchdog = watchdog!();
    isolated!({
        let (a, b) = Pipe::<Vec<Fd>, Vec<Fd>>::duplex().unwrap();
        let (c, d) = UnixStream::pair().unwrap();
        let (c, d) = (
            Connection::<Vec<Fd>, Vec<Fd>>::from_stream(c).unwrap(),
            Connection::<Vec<Fd>, Vec<Fd>>::from_stream(d).unwrap(),
        );
        let (e, f) = UnixStream::pair().unwrap();
        if ![b.as_fd(), d.as_fd(), f.as_fd()].into_iter().all(pass_pidfds) {
            return println!("skipped: the kernel passes no pidfds");
        }
        let before = Census::take();
        for _ in 0..3 {
            for (from, to) in [(&a, &b), (&c, &d)] {
                from.send(&vec![Fd(File::open("/dev/null").unwrap().into())]).unwrap();
                assert_eq!(to.recv().unwrap().len(), 1);
            }
            wire::send(&e, &Parcel::pack(&7).unwrap(), None).unwrap();
            let parcel = wire::recv(&f, &Limits::default(), None).unwrap().unwrap();
            assert_eq!(parcel.unpack::<i32>().unwrap(), 7);
        }
        before.assert_settles(Duration::from_secs(5));
    });
}

#[test]
fn a_message_for_which_there_is_never_room_is_taken_out() {
    let _watchdog = watchdog!();
    isolated!({
        if !Surroundings::new().nofile(700).apply_or_skip() {
            return;
        }
        let (a, b) = Pipe::<(), ()>::duplex().unwrap();
        let file = OwnedFd::from(File::open("/dev/null").unwrap());
        for count in [700, 1 << 16, (1 << 16) + 1, u32::MAX] {
            raw(&a, &header(2, 1, 0, count), &[&file]);
            a.send_bytes(b"good").unwrap();
            let error = b.recv_bytes().unwrap_err();
            assert!(error.is_malformed(), "{count}: {error}");
            assert_eq!(b.recv_bytes().unwrap(), b"good");
        }
    });
}

#[test]
fn an_empty_packet_is_not_the_end() {
    let _watchdog = watchdog!();
    let (a, b) = Pipe::<(), ()>::duplex().unwrap();
    let (receiver, sender) = Pipe::<()>::one_way().unwrap();
    for (from, to) in [(a.as_fd(), &b.with_types()), (sender.as_fd(), &receiver.with_types::<(), ()>())] {
        raw(from, b"", &[]);
        raw(from, &[header(0, 0, 4, 0), b"good".to_vec()].concat(), &[]);
        assert!(to.recv_bytes().unwrap_err().is_malformed());
        assert_eq!(to.recv_bytes().unwrap(), b"good");
        assert!(to.try_recv_bytes().unwrap().is_none());
    }
}

/// The same end again, as another process has it.
fn copy(end: &Bytes) -> Bytes {
    Parcel::pack(end).unwrap().unpack().unwrap()
}

/// Receives up to the end: how many messages came, and how many were lost.
fn count(end: &Bytes, max: u64) -> (usize, usize) {
    let (mut came, mut lost) = (0, 0);
    loop {
        match end.recv_bytes_max(max) {
            Ok(_) => came += 1,
            Err(error) if error.is_eof() => return (came, lost),
            Err(error) if error.is_lost() => lost += 1,
            Err(error) if error.is_malformed() || error.is_too_large() => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_is_no_message_takes_no_message_of_another_receiver_along() {
    let _watchdog = watchdog!(Duration::from_secs(60));
    let (sender, receiver) = Pipe::<(), ()>::duplex().unwrap();
    let others = [copy(&receiver), copy(&receiver)];
    drop(receiver);
    thread::scope(|scope| {
        let counts = others.map(|end| scope.spawn(move || count(&end, 100)));
        for _ in 0..20_000 {
            raw(&sender, b"nonsense", &[]);
            sender.send_bytes(b"good").unwrap();
        }
        drop(sender);
        let counts = counts.map(|count| count.join().unwrap());
        assert_eq!(counts[0].0 + counts[1].0, 20_000);
    });
}

const SMALL_AND_LARGE: usize = 20_000;

/// Sends small and large messages in turns, to the end.
fn send_small_and_large(sender: Connection<(), ()>) {
    for _ in 0..SMALL_AND_LARGE {
        sender.send_bytes(b"small").unwrap();
        sender.send_bytes(&[0; 50]).unwrap();
    }
}

#[test]
fn no_message_is_lost_between_threads_that_receive_on_one_end() {
    let _watchdog = watchdog!(Duration::from_secs(60));
    let (sender, receiver) = Pipe::<(), ()>::duplex().unwrap();
    // By one handle, and by a copy of it.
    let copy = copy(&receiver);
    for round in 0..600 {
        // All of them wait before anybody receives: a receiver that is too slow for one finds another one in its place.
        for _ in 0..50 {
            sender.send_bytes(b"small").unwrap();
            sender.send_bytes(&[0; 50]).unwrap();
        }
        let begin = Barrier::new(3);
        let receive = &|end: &Bytes, max| {
            let mut came = 0;
            begin.wait();
            loop {
                match end.recv_bytes_within(max, Some(Deadline::from_nanos(0))) {
                    Ok(Some(_)) => came += 1,
                    Ok(None) => return came,
                    Err(error) if error.is_too_large() => thread::yield_now(),
                    Err(error) => panic!("round {round}: {error}"),
                }
            }
        };
        let came: usize = thread::scope(|scope| {
            let receivers = [(&receiver, 10), (&receiver, 100), (&copy, 100)]
                .map(|(end, max)| scope.spawn(move || receive(end, max)));
            receivers.into_iter().map(|receiver| receiver.join().unwrap()).sum()
        });
        assert_eq!(came, 100, "round {round}");
    }
}

#[test]
fn role_counts() {
    let Some(mut role) = role::enter(role_counts) else { return };
    let (end, max): (Bytes, u64) = take(role.fd());
    role.say("ready");
    role.say(&{
        let (came, lost) = count(&end, max);
        format!("{came} {lost}")
    });
}

#[test]
fn a_message_that_is_taken_in_place_of_another_process_s_is_told_to_be_lost() {
    let _watchdog = watchdog!(Duration::from_secs(60));
    let (sender, receiver) = Pipe::<(), ()>::duplex().unwrap();
    let mut others = [10_u64, 100].map(|max| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut process = role::start(role_counts, &[&theirs]);
        give(&ours, &(&receiver, max));
        process.expect("ready");
        process
    });
    drop(receiver);
    send_small_and_large(sender);
    let counts = others.each_mut().map(|process| process.hear());
    let total: usize =
        counts.iter().flat_map(|count| count.split(' ')).map(|n| n.parse::<usize>().unwrap()).sum();
    assert_eq!(total, 2 * SMALL_AND_LARGE, "{counts:?}");
}

#[test]
fn an_iteration_ends_where_nothing_else_can_come() {
    let _watchdog = watchdog!();
    let results = |bytes: &[u8]| -> Vec<Result<u8, ConnectionError>> {
        let (mut hostile, end) = UnixStream::pair().unwrap();
        hostile.write_all(bytes).unwrap();
        drop(hostile);
        Connection::<(), u8>::from_stream(end).unwrap().iter().take(5).collect()
    };
    let good = b"\0\0\0\x01\x07".as_slice();
    assert!(matches!(results(&good.repeat(2))[..], [Ok(7), Ok(7)]));
    // Cut off; another protocol.
    for last in [&good[..2], b"HTTP", b"\xff\xff\xff\xfe"] {
        let results = results(&[good, last].concat());
        assert!(matches!(results[..], [Ok(7), Err(_)]), "{results:?}");
    }
    // No value, and a value behind it.
    assert!(matches!(results(&[b"\0\0\0\0", good].concat())[..], [Err(_), Ok(7)]));
    let (_receiver, sender) = Pipe::<u8>::one_way().unwrap();
    assert_eq!(sender.with_types::<u8, u8>().iter().take(5).count(), 1);
}

#[test]
fn an_end_that_only_sends_cannot_be_polled() {
    let (_receiver, sender) = Pipe::<u8>::one_way().unwrap();
    assert!(sender.poll(Duration::ZERO).is_err());
}
