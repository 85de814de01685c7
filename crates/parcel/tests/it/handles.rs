//! Descriptors inside values.

use crate::support::{closes_on_exec, identity, object, open_copies};
use procession_parcel::handle::Unique;
use procession_parcel::{Fd, Parcel, codec};
use serde::{Serialize, Serializer};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

#[test]
fn a_handle_comes_back_as_a_duplicate_that_closes_on_exec() {
    let fd = Fd::from(object());
    let parcel = Parcel::pack(&("before", &fd, "after")).unwrap();
    assert_eq!(parcel.fds().len(), 1, "the counting pass leaves nothing behind");
    assert_eq!(open_copies(&fd), 2);
    let (_, back, _) = parcel.unpack::<(String, Fd, String)>().unwrap();
    assert!(closes_on_exec(&back) && identity(&back) == identity(&fd));
    drop(back);
    assert_eq!(open_copies(&fd), 1);
}

#[test]
fn several_handles_keep_their_places() {
    let fds: Vec<Fd> = (0..40).map(|_| Fd::from(object())).collect();
    let back = Parcel::pack(&fds).unwrap().unpack::<Vec<Fd>>().unwrap();
    for (a, b) in fds.iter().zip(&back) {
        assert_eq!(identity(a), identity(b));
    }
}

fn inode(of: &Fd) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let meta = File::from(of.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
    (meta.dev(), meta.ino())
}

/// A handle of which there may be many for one object.
#[derive(Debug)]
struct Many(Fd);

impl Serialize for Many {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        procession_parcel::handle::serialize_shared(self.0.as_fd(), inode(&self.0), s)
    }
}

impl<'de> serde::Deserialize<'de> for Many {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Many, D::Error> {
        procession_parcel::handle::deserialize_shared(d).map(|fd| Many(fd.into()))
    }
}

#[test]
fn handles_of_one_object_share_a_descriptor_in_a_parcel() {
    let (one, other) = (object(), object());
    let many = |fd: &std::os::fd::OwnedFd| Many(Fd::from(fd.try_clone().unwrap()));
    let values = (many(&one), many(&other), Fd::from(other.try_clone().unwrap()), many(&one), many(&other));
    let parcel = Parcel::pack(&values).unwrap();
    assert_eq!(parcel.fds().len(), 3, "two shared ones, and one of its own");
    drop(values);
    let back = parcel.unpack::<(Many, Many, Fd, Many, Many)>().unwrap();
    for (fd, object) in [(&back.0.0, &one), (&back.3.0, &one), (&back.1.0, &other), (&back.2, &other)] {
        assert_eq!(identity(fd), identity(object));
    }
    drop(back);
    assert_eq!((open_copies(&one), open_copies(&other)), (1, 1));
}

#[test]
fn a_shared_handle_is_not_one_that_was_taken() {
    let fd = object();
    let parcel = |count| Parcel::new(vec![0; count], vec![fd.try_clone().unwrap()]);
    let error = parcel(2).unpack::<(Fd, Many)>().unwrap_err().to_string();
    assert!(error.contains("names descriptor 0 of 1"), "{error}");
    parcel(2).unpack::<(Many, Fd)>().unwrap();
    assert!(parcel(1).unpack::<Many>().is_ok());
    assert!(parcel(1).unpack::<u8>().unwrap_err().to_string().contains("does not name"));
    assert_eq!(open_copies(&fd), 1);
}

#[test]
fn sockets_and_files_convert_both_ways() {
    let (a, b) = UnixStream::pair().unwrap();
    let mut a: UnixStream = Parcel::pack(&Fd::from(a)).unwrap().unpack::<Fd>().unwrap().into();
    a.write_all(b"x").unwrap();
    drop(a);
    let mut text = String::new();
    { b }.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x");
    let _: File = Fd::from(File::open("/dev/null").unwrap()).into();
}

#[test]
fn a_handle_outside_of_a_parcel_is_refused_in_both_directions() {
    let fd = Fd::from(object());
    for error in [
        codec::encode(&(1, &fd), &mut Vec::new()).unwrap_err().to_string(),
        codec::decode::<Fd>(&[0]).unwrap_err().to_string(),
    ] {
        assert!(
            error.contains("a handle") && error.contains("parcel") && error.contains("argument of a process"),
            "{error}"
        );
    }
    // Another format's.
    assert!(postcard::to_stdvec(&fd).is_err());
    assert!(postcard::from_bytes::<Fd>(&[0]).is_err());
    assert_eq!(open_copies(&fd), 1);
}

/// Packs a parcel while another is being packed, and encodes for a ring too.
struct Meddler(Fd);

impl Serialize for Meddler {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let inner = Parcel::pack(&(&self.0, &self.0)).map_err(serde::ser::Error::custom)?;
        assert_eq!(inner.fds().len(), 2);
        assert!(codec::encode(&self.0, &mut Vec::new()).is_err(), "a ring's value, though a parcel is open");
        assert!(postcard::to_stdvec(&self.0).is_err(), "another format, though a parcel is open");
        self.0.serialize(s)
    }
}

#[test]
fn packing_may_nest() {
    let (a, b) = (Fd::from(object()), Meddler(Fd::from(object())));
    let parcel = Parcel::pack(&(&a, &b, &a)).unwrap();
    assert_eq!(parcel.fds().len(), 3);
    let (x, y, z) = parcel.unpack::<(Fd, Fd, Fd)>().unwrap();
    assert_eq!([&x, &y, &z].map(identity), [&a, &b.0, &a].map(identity));
}

struct FailsOnSecondPass(std::cell::Cell<bool>);

impl Serialize for FailsOnSecondPass {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.replace(true) { Err(serde::ser::Error::custom("no")) } else { 0u8.serialize(s) }
    }
}

struct PanicsOnSecondPass(std::cell::Cell<bool>);

impl Serialize for PanicsOnSecondPass {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        assert!(!self.0.replace(true), "on purpose");
        0u8.serialize(s)
    }
}

#[test]
fn a_pack_that_fails_leaves_nothing_behind() {
    let fd = Fd::from(object());
    assert!(Parcel::pack(&(&fd, FailsOnSecondPass(false.into()))).is_err());
    assert_eq!(open_copies(&fd), 1);
    procession_parcel::panics::catch(|| Parcel::pack(&(&fd, PanicsOnSecondPass(false.into())))).unwrap_err();
    assert_eq!(open_copies(&fd), 1);
    assert_eq!(Parcel::pack(&fd).unwrap().fds().len(), 1, "the next parcel starts empty");
}

#[test]
fn descriptors_are_closed_when_unpacking_fails() {
    let fd = Fd::from(object());
    let pack = || Parcel::pack(&(&fd, &fd, 300u32)).unwrap();
    assert_eq!(open_copies(&fd), 1);
    assert!(pack().unpack::<(Fd, Fd)>().is_err(), "bytes left over");
    assert!(pack().unpack::<(Fd, Fd, u8, u8, u8)>().is_err(), "bytes missing");
    assert!(pack().unpack::<(u8, u8, u32)>().is_err(), "descriptors left over");
    drop(pack());
    assert_eq!(open_copies(&fd), 1);
}

#[test]
fn each_descriptor_is_taken_once_and_must_be_there() {
    let fd = Fd::from(object());
    let (bytes, fds) = Parcel::pack(&(&fd, &fd)).unwrap().into_parts();
    assert_eq!(bytes, [0, 1]);
    let error = Parcel::new(vec![0, 0], fds).unpack::<(Fd, Fd)>().unwrap_err().to_string();
    assert!(error.contains("already taken"), "{error}");
    for index in [1, 2, 127] {
        let fds = Parcel::pack(&fd).unwrap().into_parts().1;
        assert!(Parcel::new(vec![index], fds).unpack::<Fd>().is_err());
    }
    assert_eq!(open_copies(&fd), 1);
}

#[test]
fn a_unique_handle_is_packed_once() {
    let fd = object();
    let unique = Unique::new(fd.try_clone().unwrap());
    let parcel = Parcel::pack(&(1, &unique)).unwrap();
    assert!(!unique.is_here());
    let error = Parcel::pack(&unique).unwrap_err().to_string();
    assert!(error.contains("only once"), "{error}");
    let (_, moved) = parcel.unpack::<(i32, Unique)>().unwrap();
    assert!(moved.is_here() && !unique.is_here());
    assert_eq!(open_copies(&fd), 2);
}

#[test]
fn a_unique_handle_comes_back_when_it_was_not_delivered() {
    let fd = object();
    let unique = Unique::new(fd.try_clone().unwrap());
    assert!(Parcel::pack(&(&unique, FailsOnSecondPass(false.into()))).is_err());
    assert!(unique.is_here(), "the pack failed");
    assert!(Parcel::pack(&(&unique, &unique)).is_err());
    assert!(unique.is_here(), "twice in one parcel");
    drop(Parcel::pack(&unique).unwrap());
    assert!(unique.is_here(), "dropped");
    assert_eq!(open_copies(&fd), 2);

    let (a, b) = UnixStream::pair().unwrap();
    let parcel = Parcel::pack(&unique).unwrap();
    procession_parcel::wire::send(&a, &parcel, None).unwrap();
    drop(parcel);
    assert!(unique.take().is_none(), "sent");
    drop((a, b));
    assert_eq!(open_copies(fd.as_fd()), 1);
}
