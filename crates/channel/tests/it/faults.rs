//! When the kernel refuses: each system call of the main calls fails once, and each outcome is a success or an error; the next
//! try succeeds, and nothing is left of either.

use procession_channel::{JoinableQueue, Pipe, Queue, SimpleQueue, channel, wait};
use procession_parcel::{Bytes, Fd};
use procession_testkit::{faults::tried, isolated};
use std::{fs::File, time::Duration};

/// Long enough to sleep, so that the sleep can fail.
const NAP: Duration = Duration::from_millis(2);

#[test]
fn a_queue_takes_and_gives_or_refuses() {
    isolated!({
        tried(|| {
            let queue = Queue::bounded(2)?;
            queue.put("one".to_owned()).map_err(|error| error.to_string())?;
            assert_eq!(queue.get()?, "one");
            match queue.get_timeout(NAP) {
                Err(error) if error.is_empty() => {}
                Err(error) => return Err(error.into()),
                Ok(item) => panic!("{item} came from nowhere"),
            }
            queue.close()?;
            assert!(matches!(queue.get(), Err(error) if error.is_closed()));
            Ok(())
        });
    });
}

#[test]
fn simple_and_joinable_queues_take_and_give_or_refuse() {
    isolated!({
        tried(|| {
            let (simple, joinable) = (SimpleQueue::new()?, JoinableQueue::unbounded()?);
            simple.put(1_u32).map_err(|error| error.to_string())?;
            joinable.put(simple.get()?).map_err(|error| error.to_string())?;
            assert_eq!(joinable.get()?, 1);
            joinable.task_done()?;
            joinable.join()?;
            Ok(())
        });
    });
}

#[test]
fn a_pipe_sends_values_and_descriptors_or_refuses() {
    isolated!({
        tried(|| {
            let (left, right) = Pipe::<(u32, Fd), Bytes>::duplex()?;
            left.send(&(7, Fd::from(File::open("/dev/null")?)))?;
            assert_eq!(right.recv()?.0, 7);
            // More than a packet: in memory of its own.
            right.send(&Bytes::from(vec![3; 1 << 20]))?;
            assert_eq!(left.recv()?.len(), 1 << 20);
            assert!(left.recv_timeout(NAP)?.is_none());
            drop(right);
            assert!(left.recv().is_err_and(|error| error.is_eof()));
            Ok(())
        });
    });
}

#[test]
fn a_channel_sends_or_refuses() {
    isolated!({
        tried(|| {
            let (mut sender, mut receiver) = channel::<String>()?;
            sender.send("one".to_owned()).map_err(|error| error.to_string())?;
            assert_eq!(receiver.recv()?, "one");
            assert!(receiver.recv_timeout(NAP)?.is_none());
            Ok(())
        });
    });
}

#[test]
fn a_wait_tells_what_is_ready_or_refuses() {
    isolated!({
        tried(|| {
            let (receiver, sender) = Pipe::<u32>::one_way()?;
            let queue = Queue::<u32>::unbounded()?;
            assert!(wait(&[&receiver, &queue], NAP)?.is_empty());
            sender.send(&1)?;
            queue.put(1)?;
            assert_eq!(wait(&[&receiver, &queue], None)?, [0, 1]);
            Ok(())
        });
    });
}
