//! Connections where descriptors or memory are short, and what a hostile peer can send.

use crate::support::{header, pattern, raw, soon};
use procession_channel::connection::{Connection, Pipe};
use procession_parcel::{Fd, Parcel};
use procession_testkit::{
    Census, isolated, isolated_within, limits::Surroundings, storm::Rng, test_name, watchdog,
};
use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

type Bytes = Connection<(), ()>;
type Files = Connection<Vec<Fd>, Vec<Fd>>;

fn null() -> Fd {
    Fd(File::open("/dev/null").unwrap().into())
}

/// Opens files until there is room for `left` more.
fn fill(left: usize) -> Vec<OwnedFd> {
    let mut all = vec![null().0];
    while let Ok(fd) = all[0].try_clone() {
        all.push(fd);
    }
    all.truncate(all.len() - left);
    all
}

#[test]
fn a_message_whose_descriptors_have_no_room_stays_where_it_is() {
    let _watchdog = watchdog!();
    isolated!({
        if !Surroundings::new().nofile(700).apply_or_skip() {
            return;
        }
        let streams = UnixStream::pair().unwrap();
        let streams = (Files::from_stream(streams.0).unwrap(), Files::from_stream(streams.1).unwrap());
        // The second number needs a carrier, which a stream has not.
        for ((a, b), counts) in [(Pipe::duplex().unwrap(), &[3, 300][..]), (streams, &[3])] {
            for count in counts {
                a.send(&(0..*count).map(|_| null()).collect()).unwrap();
                a.send(&Vec::new()).unwrap();
                for left in [0, 1, count - 1] {
                    let full = fill(left);
                    for _ in 0..2 {
                        let error = b.recv().unwrap_err();
                        assert!(error.is_out_of_descriptors(), "{error}");
                        assert!(b.try_recv().unwrap_err().is_out_of_descriptors());
                    }
                    drop(full);
                }
                assert_eq!(b.recv().unwrap().len(), *count);
                assert_eq!(b.recv().unwrap().len(), 0);
            }
        }
    });
}

#[test]
fn threads_do_not_take_each_other_s_room_for_descriptors() {
    isolated!({
        if !Surroundings::new().nofile(400).apply_or_skip() {
            return;
        }
        let pipes = [(); 2].map(|()| Pipe::<(), ()>::duplex().unwrap());
        let null = OwnedFd::from(File::open("/dev/null").unwrap());
        // Room for one message of these, not for two.
        let _filled = fill(150);
        const ROUNDS: usize = 1000;
        std::thread::scope(|scope| {
            let null = &null;
            for (sender, receiver) in &pipes {
                scope.spawn(move || {
                    (0..ROUNDS).for_each(|_| raw(sender, &header(0, 100, 0, 100), &[null; 100]));
                });
                scope.spawn(move || {
                    let mut came = 0;
                    while came < ROUNDS {
                        match receiver.recv_parcel(None) {
                            Ok(parcel) => came += usize::from(parcel.is_some()),
                            Err(error) if error.is_out_of_descriptors() => std::thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn sends_without_descriptors_left_are_errors_and_send_nothing() {
    let _watchdog = watchdog!();
    isolated!({
        if !Surroundings::new().nofile(400).apply_or_skip() {
            return;
        }
        let (a, b) = Pipe::<Vec<Fd>, Vec<Fd>>::duplex().unwrap();
        let many: Vec<Fd> = (0..260).map(|_| null()).collect();
        let one = vec![null()];
        let full = fill(0);
        assert!(a.send(&one).unwrap_err().is_out_of_descriptors());
        let error = a.send_bytes(&[0; 100_000]).unwrap_err();
        assert!(error.is_out_of_descriptors(), "{error}");
        a.send_bytes(&[0; 65_536]).unwrap();
        assert_eq!(b.recv_bytes().unwrap().len(), 65_536);
        assert!(Pipe::<(), ()>::duplex().unwrap_err().is_out_of_descriptors());
        drop(full);
        assert!(a.send(&many).unwrap_err().is_out_of_descriptors(), "each is duplicated");
        assert!(b.try_recv().unwrap().is_none());
        a.send(&one).unwrap();
        assert_eq!(b.recv().unwrap().len(), 1);
    });
}

#[test]
fn under_a_file_size_limit_a_large_message_is_an_error() {
    let _watchdog = watchdog!();
    isolated!({
        if !Surroundings::new().fsize(50_000).apply_or_skip() {
            return;
        }
        let (a, b) = Pipe::<(), ()>::duplex().unwrap();
        let error = a.send_bytes(&[0; 100_000]).unwrap_err();
        assert!(error.to_string().contains("memfd"), "{error}");
        a.send_bytes(&[1; 65_536]).unwrap();
        assert_eq!(b.recv_bytes().unwrap(), [1; 65_536]);
    });
}

#[test]
fn a_socket_with_a_small_buffer_passes_messages_of_any_length() {
    let _watchdog = watchdog!();
    let (a, b) = Pipe::<(), ()>::duplex().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&a, 1).unwrap();
    for len in [0, 100, 2_000, 5_000, 60_000, 70_000] {
        a.send_bytes(&vec![7; len]).unwrap();
        assert_eq!(b.recv_bytes().unwrap(), vec![7; len]);
    }
}

#[test]
fn no_descriptor_stays_behind() {
    let _watchdog = watchdog!();
    isolated!({
        let before = Census::take();
        let (a, b) = Pipe::<Vec<Fd>, Vec<Fd>>::duplex().unwrap();
        for count in [0, 1, 260] {
            a.send(&(0..count).map(|_| null()).collect()).unwrap();
            assert_eq!(b.recv().unwrap().len(), count);
            // As what it is not.
            a.send(&(0..count).map(|_| null()).collect()).unwrap();
            drop(b.recv_bytes());
        }
        a.send_bytes(&[0; 200_000]).unwrap();
        assert_eq!(b.recv_bytes().unwrap().len(), 200_000);
        a.send_bytes(b"no list of files").unwrap();
        assert!(b.recv().unwrap_err().is_malformed());
        // Never received.
        a.send(&vec![null(), null()]).unwrap();
        a.send_bytes(&[0; 200_000]).unwrap();
        drop((a, b));
        before.assert_settles(Duration::from_secs(5));
    });
}

#[test]
fn impossible_packets_are_errors_and_the_next_message_arrives() {
    let _watchdog = watchdog!();
    isolated!({
        let (a, b) = Pipe::<(), ()>::duplex().unwrap();
        let file = OwnedFd::from(File::open("/dev/null").unwrap());
        let unsealed = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&unsealed, 100).unwrap();
        let (packets, kept) = procession_parcel::wire::packet::pair().unwrap();
        raw(&kept, b"xx", &[]);
        let (open, open_end) = procession_parcel::wire::packet::pair().unwrap();
        raw(&open_end, b"\0", &[&file]);
        let cases: Vec<(Vec<u8>, Vec<&OwnedFd>)> = vec![
            (b"x".to_vec(), vec![]),
            (vec![0; 24], vec![]),
            (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(), vec![]),
            (header(0, 0, 5, 0), vec![]),
            ([header(0, 0, 5, 0), b"123456".to_vec()].concat(), vec![]),
            (header(4, 0, 0, 0), vec![]),
            (header(0, 3, 0, 2), vec![]),
            (header(0, 2, 0, 2), vec![&file]),
            (header(0, 0, 0, 0), vec![&file]),
            (header(1, 1, 100, 0), vec![]),
            (header(1, 1, 100, 0), vec![&file]),
            (header(1, 1, 100, 0), vec![&unsealed]),
            (header(2, 1, 0, 300), vec![&file]),
            (header(2, 1, 0, 2), vec![&packets]),
            (header(2, 1, 0, 1), vec![&open]),
            ([b"pmsg\x02".to_vec(), header(0, 0, 0, 0)[5..].to_vec()].concat(), vec![]),
        ];
        let before = Census::take();
        for (case, fds) in &cases {
            raw(&a, case, fds);
            a.send_bytes(b"good").unwrap();
            let error = b.recv_bytes().unwrap_err();
            assert!(error.into_message().is_none(), "{case:02x?}");
            assert_eq!(b.recv_bytes().unwrap(), b"good", "after {case:02x?}");
        }
        // More than its receiver ever takes: it stays, by design, so this is the last.
        raw(&a, &header(1, 1, u64::MAX, 0), &[&file]);
        assert!(b.recv_bytes().unwrap_err().is_too_large());
        before.assert_settles(Duration::from_secs(5));
    });
}

#[test]
fn random_packets_and_frames_never_do_more_than_fail() {
    let _watchdog = watchdog!(Duration::from_secs(60));
    let mut rng = Rng::from_env();
    let (a, b) = Pipe::<Vec<Fd>, (String, Vec<Fd>, Option<Box<u64>>)>::duplex().unwrap();
    let file = OwnedFd::from(File::open("/dev/null").unwrap());
    let good = Parcel::pack(&("text", vec![null()], Some(Box::new(3_u64)))).unwrap();
    for _ in 0..1_000 {
        let mut bytes = header(rng.below(4) as u8, rng.below(3) as u16, rng.below(40), rng.below(3) as u32);
        bytes.extend_from_slice(good.bytes());
        for _ in 0..rng.below(4) {
            let place = rng.below(bytes.len() as u64) as usize;
            bytes[place] = rng.next_u64() as u8;
        }
        if rng.chance(1, 4) {
            // One that says what it holds.
            bytes[4] = 1;
            bytes[5] = 0;
            let body = bytes.len() as u64 - 24;
            bytes[8..16].copy_from_slice(&body.to_le_bytes());
        }
        bytes.truncate(1 + rng.below(bytes.len() as u64) as usize);
        let fds: Vec<&OwnedFd> = (0..rng.below(3)).map(|_| &file).collect();
        raw(&b, &bytes, &fds);
        match a.try_recv() {
            // It stays; take it out.
            Err(error) if error.is_too_large() || error.is_out_of_descriptors() => {
                assert!(rustix::net::recv(&a, &mut [0; 1], rustix::net::RecvFlags::DONTWAIT).is_ok())
            }
            _ => {}
        }
        assert!(a.try_recv().unwrap().is_none());

        let (mut hostile, end) = UnixStream::pair().unwrap();
        let end = Files::from_stream(end).unwrap();
        let len = rng.below(60) as usize;
        let mut frame =
            if rng.chance(1, 2) { (rng.below(80) as u32).to_be_bytes().to_vec() } else { Vec::new() };
        frame.extend((0..len).map(|_| rng.next_u64() as u8));
        hostile.write_all(&frame).unwrap();
        drop(hostile);
        while end.recv().is_ok() {}
    }
}

#[test]
fn impossible_lengths_on_a_stream_are_errors_from_then_on() {
    let _watchdog = watchdog!();
    for length in [-2_i32, i32::MIN, -256] {
        let (mut hostile, end) = UnixStream::pair().unwrap();
        let end = Bytes::from_stream(end).unwrap();
        hostile.write_all(&length.to_be_bytes()).unwrap();
        hostile.write_all(b"\0\0\0\x01x").unwrap();
        for _ in 0..2 {
            let error = end.recv_bytes().unwrap_err();
            assert!(error.is_malformed(), "{error}");
        }
    }
    let (mut hostile, end) = UnixStream::pair().unwrap();
    let end = Bytes::from_stream(end).unwrap();
    hostile.write_all(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    assert!(end.recv_bytes().unwrap_err().is_too_large());
}

#[test]
fn an_announced_length_takes_no_memory() {
    let _watchdog = watchdog!();
    isolated!({
        if !Surroundings::new().address_space(2 << 30).apply_or_skip() {
            return;
        }
        let (mut hostile, end) = UnixStream::pair().unwrap();
        let end = Bytes::from_stream(end).unwrap();
        hostile.write_all(&[&[0xff; 4][..], &(4_u64 << 30).to_be_bytes(), b"little"].concat()).unwrap();
        assert_eq!(end.recv_bytes_deadline(soon()).unwrap(), None);
        drop(hostile);
        assert!(end.recv_bytes().unwrap_err().is_cut_off());
    });
}

#[test]
fn an_end_made_of_something_else_is_refused() {
    let _watchdog = watchdog!();
    let (pipe, _other) = Pipe::<(), ()>::duplex().unwrap();
    let packed = Parcel::pack(&pipe).unwrap();
    let impostors: [OwnedFd; 2] =
        [File::open("/dev/null").unwrap().into(), UnixStream::pair().unwrap().0.into()];
    for impostor in impostors {
        let parcel = Parcel::new(packed.bytes().to_vec(), vec![impostor]);
        assert!(parcel.unpack::<Bytes>().is_err());
    }
}

#[test]
fn long_messages_on_a_stream_have_cpythons_long_header() {
    let _watchdog = watchdog!();
    isolated!({
        let chunk = vec![0; 1 << 20];
        for (chunks, header) in [
            (2047, &b"\x7f\xf0\0\0"[..]),
            (2048, b"\xff\xff\xff\xff\0\0\0\0\x80\0\0\0"),
            (5000, b"\xff\xff\xff\xff\0\0\0\x01\x38\x80\0\0"),
        ] {
            let (mut other, end) = UnixStream::pair().unwrap();
            let end = Bytes::from_stream(end).unwrap();
            let parts: Vec<IoSlice<'_>> = (0..chunks).map(|_| IoSlice::new(&chunk)).collect();
            std::thread::scope(|scope| {
                let sends = scope.spawn(|| end.send_vectored(&parts));
                let mut came = [1; 13];
                other.read_exact(&mut came).unwrap();
                assert_eq!(&came[..header.len()], header);
                assert!(came[header.len()..].iter().all(|byte| *byte == 0));
                drop(other);
                assert!(sends.join().unwrap().unwrap_err().is_broken_pipe());
            });
        }
    });
}

#[test]
fn a_message_beyond_two_gibibytes_arrives() {
    let _watchdog = watchdog!(Duration::from_secs(300));
    let available = std::fs::read_to_string("/proc/meminfo").unwrap();
    let available = available.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or("0 kB");
    let kib: u64 = available.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    if kib < 8 << 20 {
        println!("skipped: {kib} KiB of memory are available, it takes 8 GiB");
        return;
    }
    isolated_within(test_name!(), Duration::from_secs(290), || {
        let chunk = pattern(1, 1 << 20).repeat(64);
        let parts: Vec<IoSlice<'_>> = (0..33).map(|_| IoSlice::new(&chunk)).collect();
        let streams = UnixStream::pair().unwrap();
        let streams = (Bytes::from_stream(streams.0).unwrap(), Bytes::from_stream(streams.1).unwrap());
        for (a, b) in [Pipe::<(), ()>::duplex().unwrap(), streams] {
            std::thread::scope(|scope| {
                scope.spawn(|| a.send_vectored(&parts).unwrap());
                let message = b.recv_bytes().unwrap();
                assert_eq!(message.len(), 33 << 26);
                assert!(message.chunks(1 << 26).all(|part| part == chunk));
            });
        }
    });
}
