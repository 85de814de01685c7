//! What both transports of connections promise, within one process.

use crate::support::{pattern, soon};
use procession_channel::connection::{Connection, ConnectionError, Pipe};
use procession_parcel::Fd;
use procession_sys::Deadline;
use procession_testkit::watchdog;
use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Duration,
};

type Bytes = Connection<(), ()>;

/// Two ends of each transport.
fn each(test: impl Fn(Bytes, Bytes)) {
    let (a, b) = Pipe::duplex().unwrap();
    test(a, b);
    let (a, b) = UnixStream::pair().unwrap();
    test(Bytes::from_stream(a).unwrap(), Bytes::from_stream(b).unwrap());
    let (a, b) = tcp();
    test(Bytes::from_stream(a).unwrap(), Bytes::from_stream(b).unwrap());
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn messages_of_every_length_arrive_whole_and_apart() {
    let _watchdog = watchdog!();
    each(|a, b| {
        let lengths = [0, 1, 0, 0, 5, 4096, 16_384, 16_385, 65_535, 65_536, 65_537, 1 << 20, 20 << 20, 0, 3];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (seed, len) in lengths.iter().enumerate() {
                    a.send_bytes(&pattern(seed as u64, *len)).unwrap();
                }
            });
            for (seed, len) in lengths.iter().enumerate() {
                assert!(b.recv_bytes().unwrap() == pattern(seed as u64, *len), "{len} bytes");
            }
        });
        assert!(b.try_recv_bytes().unwrap().is_none());
    });
}

#[test]
fn values_go_both_ways() {
    let _watchdog = watchdog!();
    each(|a, b| {
        let (a, b) = (a.with_types::<(u32, String), Vec<u8>>(), b.with_types::<Vec<u8>, (u32, String)>());
        a.send(&(7, "seven".to_owned())).unwrap();
        assert_eq!(b.recv().unwrap(), (7, "seven".to_owned()));
        b.send(&vec![1, 2, 3]).unwrap();
        assert_eq!(a.recv_timeout(Duration::from_secs(10)).unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(a.try_recv().unwrap(), None);
        assert_eq!(a.recv_deadline(soon()).unwrap(), None);
        a.send(&(1, String::new())).unwrap();
        a.send(&(2, String::new())).unwrap();
        drop(a);
        let numbers: Result<Vec<u32>, ConnectionError> =
            b.iter().map(|item| item.map(|item| item.0)).collect();
        assert_eq!(numbers.unwrap(), [1, 2]);
    });
}

#[test]
fn the_end_and_a_broken_pipe_are_told_apart() {
    let _watchdog = watchdog!();
    each(|a, b| {
        a.send_bytes(b"last words").unwrap();
        a.close();
        assert!(b.poll(Duration::ZERO).unwrap());
        assert_eq!(b.recv_bytes().unwrap(), b"last words");
        assert!(b.poll(Duration::from_secs(10)).unwrap(), "the end is something to receive");
        let end = b.recv_bytes().unwrap_err();
        assert!(end.is_eof() && end.is_disconnected() && !end.is_broken_pipe(), "{end}");
        assert!(b.try_recv_bytes().unwrap_err().is_eof());
        let broken = loop {
            // TCP learns of it by the answer to the first.
            if let Err(error) = b.send_bytes(b"anybody?") {
                break error;
            }
        };
        assert!(broken.is_broken_pipe() && broken.is_disconnected() && !broken.is_eof(), "{broken}");
        assert_eq!(std::io::Error::from(broken).kind(), std::io::ErrorKind::BrokenPipe);
        assert_eq!(std::io::Error::from(end).kind(), std::io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn what_was_sent_before_a_close_with_unread_messages_arrives() {
    let _watchdog = watchdog!();
    let (a, b) = Pipe::<(), ()>::duplex().unwrap();
    a.send_bytes(b"never read").unwrap();
    for message in [b"one", b"two"] {
        b.send_bytes(message).unwrap();
    }
    drop(b);
    assert_eq!(a.recv_bytes().unwrap(), b"one");
    assert_eq!(a.recv_bytes().unwrap(), b"two");
    assert!(a.recv_bytes().unwrap_err().is_eof());
}

#[test]
fn empty_messages_are_polled_and_received_one_by_one() {
    let _watchdog = watchdog!();
    each(|a, b| {
        assert!(!b.poll(Duration::ZERO).unwrap());
        a.send_bytes(b"").unwrap();
        for _ in 0..2 {
            assert!(b.poll(Duration::from_secs(10)).unwrap());
        }
        assert_eq!(b.recv_bytes().unwrap(), b"");
        assert!(!b.poll(Duration::ZERO).unwrap());
        for message in [&b"hello"[..], b"", b"world", b"", b""] {
            a.send_bytes(message).unwrap();
        }
        for message in [&b"hello"[..], b"", b"world", b"", b""] {
            assert!(b.poll(Duration::from_secs(10)).unwrap());
            assert_eq!(b.recv_bytes().unwrap(), message);
        }
    });
}

#[test]
fn a_message_too_long_for_its_receiver_stays_where_it_is() {
    let _watchdog = watchdog!();
    each(|a, mut b| {
        a.send_bytes(&pattern(1, 300)).unwrap();
        a.send_bytes(b"next").unwrap();
        let error = b.recv_bytes_max(299).unwrap_err();
        assert!(error.is_too_large(), "{error}");
        b.set_max_message(10);
        assert!(b.recv_bytes().unwrap_err().is_too_large());
        assert_eq!(b.recv_bytes_max(300).unwrap(), pattern(1, 300));
        assert_eq!(b.recv_bytes().unwrap(), b"next");
    });
}

#[test]
fn a_message_too_long_for_its_buffer_is_in_the_error() {
    let _watchdog = watchdog!();
    each(|a, b| {
        let mut buffer = [0; 10];
        a.send_bytes(b"0123456789").unwrap();
        assert_eq!(b.recv_bytes_into(&mut buffer).unwrap(), 10);
        assert_eq!(&buffer, b"0123456789");
        a.send_bytes(b"0123456789A").unwrap();
        let error = b.recv_bytes_into(&mut buffer).unwrap_err();
        assert!(error.is_buffer_too_small(), "{error}");
        assert_eq!(error.into_message().unwrap().bytes(), b"0123456789A");
        a.send_bytes(b"").unwrap();
        assert_eq!(
            b.recv_bytes_into_deadline(&mut [], Deadline::after(Duration::from_secs(10))).unwrap(),
            Some(0)
        );
        assert_eq!(b.recv_bytes_into_deadline(&mut buffer, soon()).unwrap(), None);
    });
}

#[test]
fn parts_arrive_as_one_message() {
    let _watchdog = watchdog!();
    each(|a, b| {
        let parts: Vec<Vec<u8>> = (0..2_000).map(|seed| pattern(seed, seed as usize % 40)).collect();
        for count in [0, 1, 3, 16, 17, 100, 2_000] {
            let slices: Vec<_> = parts[..count].iter().map(|part| IoSlice::new(part)).collect();
            a.send_vectored(&slices).unwrap();
            assert_eq!(b.recv_bytes().unwrap(), parts[..count].concat());
        }
    });
}

#[test]
fn descriptors_travel_inside_messages() {
    let _watchdog = watchdog!();
    let (a, b) = UnixStream::pair().unwrap();
    let stream = (Connection::from_stream(a).unwrap(), Connection::from_stream(b).unwrap());
    for (a, b) in [Pipe::<(u8, Fd, Fd), ()>::duplex().unwrap(), stream] {
        for number in 0..3 {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(b"through").unwrap();
            a.send(&(number, reader.into(), File::open("/dev/null").unwrap().into())).unwrap();
            drop(writer);
            let (came, reader, _null) = b.recv().unwrap();
            let mut text = String::new();
            std::io::PipeReader::from(reader).read_to_string(&mut text).unwrap();
            assert_eq!((came, text.as_str()), (number, "through"));
        }
        a.send(&(9, File::open("/dev/null").unwrap().into(), File::open("/dev/null").unwrap().into()))
            .unwrap();
        let error = b.recv_bytes().unwrap_err();
        assert_eq!(error.into_message().unwrap().fds().len(), 2);
    }
}

#[test]
fn any_number_of_descriptors_goes_through_a_pipe() {
    let _watchdog = watchdog!();
    let (a, b) = Pipe::<Vec<Fd>, ()>::duplex().unwrap();
    let null = File::open("/dev/null").unwrap();
    for count in [0, 1, 252, 253, 254, 700] {
        let fds: Vec<Fd> = (0..count).map(|_| Fd(null.as_fd().try_clone_to_owned().unwrap())).collect();
        a.send(&fds).unwrap();
        assert_eq!(b.recv().unwrap().len(), count);
    }
}

#[test]
fn descriptors_are_refused_where_they_cannot_travel() {
    let _watchdog = watchdog!();
    let (a, b) = tcp();
    let a = Connection::<Fd, ()>::from_stream(a).unwrap();
    let error = a.send(&File::open("/dev/null").unwrap().into()).unwrap_err();
    assert!(error.to_string().contains("1 descriptors"), "{error}");
    a.send_bytes(b"goes on").unwrap();
    assert_eq!(Bytes::from_stream(b).unwrap().recv_bytes().unwrap(), b"goes on");
}

#[test]
fn one_way_ends_keep_to_their_way() {
    let _watchdog = watchdog!();
    let (receiver, sender) = Pipe::<u32>::one_way().unwrap();
    assert!(
        receiver.is_readable() && !receiver.is_writable() && sender.is_writable() && !sender.is_readable()
    );
    sender.send(&5).unwrap();
    assert_eq!(receiver.recv().unwrap(), 5);
    let error = receiver.send_bytes(b"no").unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    let error = sender.recv_bytes().unwrap_err();
    assert!(error.to_string().contains("write-only"), "{error}");
    drop(receiver);
    assert!(sender.send(&6).unwrap_err().is_broken_pipe());

    let (reader, writer) = std::io::pipe().unwrap();
    let (reader, writer) = (Bytes::from_stream(reader).unwrap(), Bytes::from_stream(writer).unwrap());
    assert!(reader.is_readable() && !reader.is_writable() && writer.is_writable() && !writer.is_readable());
    std::thread::scope(|scope| {
        scope.spawn(|| writer.send_bytes(&pattern(3, 300_000)).unwrap());
        assert!(reader.recv_bytes().unwrap() == pattern(3, 300_000));
    });
    drop(writer);
    assert!(reader.recv_bytes().unwrap_err().is_eof());
}

#[test]
fn a_full_pipe_ends_a_send_at_its_deadline_and_nothing_is_sent() {
    let _watchdog = watchdog!();
    let (a, b) = Pipe::<u64, u64>::duplex().unwrap();
    let mut sent = 0;
    let error = loop {
        match a.try_send(&sent) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(error.is_timeout() && !error.is_partly_sent(), "{error}");
    assert!(a.send_deadline(&sent, soon()).unwrap_err().is_timeout());
    assert!(a.send_bytes_timeout(&[0; 100_000], Duration::from_millis(1)).unwrap_err().is_timeout());
    for number in 0..sent {
        assert_eq!(b.recv().unwrap(), number);
    }
    assert_eq!(b.try_recv().unwrap(), None);
}

#[test]
fn a_stream_send_that_missed_its_deadline_is_finished_by_the_next() {
    let _watchdog = watchdog!();
    let (a, b) = UnixStream::pair().unwrap();
    let (a, b) = (Bytes::from_stream(a).unwrap(), Bytes::from_stream(b).unwrap());
    let long = pattern(7, 3 << 20);
    let error = a.send_bytes_deadline(&long, soon()).unwrap_err();
    assert!(error.is_timeout() && error.is_partly_sent(), "{error}");
    // The next does not get a byte out before the rest of the first.
    assert!(a.send_bytes_deadline(b"not sent", soon()).is_err_and(|error| !error.is_partly_sent()));
    assert!(a.flush(Some(soon())).unwrap_err().is_timeout());
    assert!(procession_parcel::Parcel::pack(&a).is_err(), "part of a message is out");
    std::thread::scope(|scope| {
        scope.spawn(|| a.send_bytes(b"second").unwrap());
        assert!(b.recv_bytes().unwrap() == long);
        assert_eq!(b.recv_bytes().unwrap(), b"second");
    });
    a.flush(None).unwrap();
}

#[test]
fn a_stream_receive_that_missed_its_deadline_goes_on_where_it_was() {
    let _watchdog = watchdog!();
    let (mut a, b) = UnixStream::pair().unwrap();
    let b = Bytes::from_stream(b).unwrap();
    let body = pattern(5, 1000);
    let frame = [&1000_u32.to_be_bytes()[..], &body].concat();
    for part in [&frame[..1], &frame[1..3], &frame[3..5], &frame[5..999]] {
        a.write_all(part).unwrap();
        assert_eq!(b.recv_bytes_deadline(soon()).unwrap(), None);
        assert_eq!(b.try_recv_bytes().unwrap(), None);
        assert!(procession_parcel::Parcel::pack(&b).is_err(), "part of a message is in");
    }
    a.write_all(&frame[999..]).unwrap();
    assert_eq!(b.recv_bytes().unwrap(), body);
    // And an end within a frame is no message, and no end between messages.
    a.write_all(&frame[..700]).unwrap();
    drop(a);
    for _ in 0..2 {
        let error = b.recv_bytes().unwrap_err();
        assert!(error.is_cut_off() && error.is_disconnected() && !error.is_eof(), "{error}");
    }
}

#[test]
fn ends_travel_inside_messages() {
    let _watchdog = watchdog!();
    type Inner = Connection<u32, String>;
    let (outer, far) = Pipe::<Inner, Inner>::duplex().unwrap();
    let (a, b) = Pipe::<u32, String>::duplex().unwrap();
    outer.send(&a).unwrap();
    drop(a);
    let a = far.recv().unwrap();
    a.send(&3).unwrap();
    assert_eq!(b.recv().unwrap(), 3);
    drop(a);
    assert!(b.recv().unwrap_err().is_eof(), "no copy is left");
}

#[test]
fn threads_share_the_ends_of_a_pipe() {
    let _watchdog = watchdog!();
    each(|a, b| {
        let sums: Vec<u64> = std::thread::scope(|scope| {
            let (a, b) = (&a, &b);
            for sender in 0..4_u64 {
                scope.spawn(move || {
                    for number in 0..200_u64 {
                        let len = if number % 50 == 0 { 100_000 } else { 40 };
                        let mut message = pattern(sender * 1000 + number, len);
                        message[..8].copy_from_slice(&(sender * 1000 + number).to_le_bytes());
                        a.send_bytes(&message).unwrap();
                    }
                });
            }
            let receivers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(move || {
                        let mut sum = 0;
                        for _ in 0..400 {
                            let message = b.recv_bytes().unwrap();
                            let id = u64::from_le_bytes(message[..8].try_into().unwrap());
                            assert!(message[8..] == pattern(id, message.len())[8..], "message {id} is torn");
                            sum += id;
                        }
                        sum
                    })
                })
                .collect();
            receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
        });
        let expected: u64 =
            (0..4).flat_map(|sender| (0..200).map(move |number| sender * 1000 + number)).sum();
        assert_eq!(sums.iter().sum::<u64>(), expected);
    });
}

#[test]
fn only_streams_are_taken_for_streams() {
    let _watchdog = watchdog!();
    let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
    assert!(Bytes::from_stream(datagrams).unwrap_err().to_string().contains("socket of type"));
    let (packets, _other) = Pipe::<(), ()>::duplex().unwrap();
    let fd = std::os::fd::OwnedFd::from(packets);
    assert!(Bytes::from_stream(fd).is_err());
}

#[test]
fn debug_tells_the_transport_and_the_descriptor() {
    let (a, _b) = Pipe::<(), ()>::duplex().unwrap();
    let text = format!("{a:?}");
    assert!(text.contains("packets") && text.contains("fd"), "{text}");
}
