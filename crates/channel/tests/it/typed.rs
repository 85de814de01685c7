//! Lanes of values.

use crate::support::soon;
use procession_channel::lane::{ChannelError, channel};
use procession_parcel::Parcel;
use procession_sys::Deadline;
use procession_testkit::watchdog;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Task {
    id: u64,
    name: String,
    values: Vec<f64>,
    tags: BTreeMap<String, Option<u8>>,
}

#[test]
fn values_arrive_as_they_were() {
    let _watchdog = watchdog!();
    let (mut sender, mut receiver) = channel::<Task>(4096).unwrap();
    let task = Task {
        id: 7,
        name: "count".to_owned(),
        values: vec![0.5; 20],
        tags: [("a".to_owned(), Some(1)), ("b".to_owned(), None)].into(),
    };
    sender.send(&task).unwrap();
    sender.try_send(&task).unwrap();
    sender.send_deadline(&task, soon()).unwrap();
    assert_eq!(receiver.recv().unwrap(), task);
    assert_eq!(receiver.try_recv().unwrap(), Some(task.clone()));
    assert_eq!(receiver.recv_deadline(Deadline::after(Duration::from_secs(60))).unwrap(), Some(task));
    assert_eq!(receiver.try_recv().unwrap(), None);
}

#[test]
fn a_full_lane_is_told_from_a_closed_one() {
    let _watchdog = watchdog!();
    let (mut sender, receiver) = channel::<Vec<u8>>(4096).unwrap();
    sender.send(&vec![0; 4000]).unwrap();
    assert!(sender.try_send(&vec![0; 4000]).unwrap_err().is_full());
    drop(receiver);
    assert!(sender.try_send(&vec![0; 4000]).unwrap_err().is_disconnected());
}

#[test]
fn what_cannot_be_decoded_is_an_error_and_the_next_value_arrives() {
    let _watchdog = watchdog!();
    let (sender, receiver) = channel::<u8>(4096).unwrap();
    let mut wrong = procession_channel::lane::Sender::<String>::from_raw(
        Parcel::pack(&sender).unwrap().unpack().unwrap(),
    );
    let mut receiver = receiver;
    wrong.send(&"nonsense".to_owned()).unwrap();
    assert!(matches!(receiver.recv(), Err(ChannelError::Decode(_))));
    assert!(receiver.try_recv().unwrap().is_none());
}

#[test]
fn what_holds_a_descriptor_is_refused_with_a_hint() {
    let _watchdog = watchdog!();
    let (mut sender, _receiver) = channel::<procession_channel::Bell>(4096).unwrap();
    let error = sender.send(&procession_channel::Bell::new().unwrap()).unwrap_err();
    assert!(matches!(error, ChannelError::Encode(_)));
    assert!(error.to_string().contains("argument of a process"), "{error}");
}
