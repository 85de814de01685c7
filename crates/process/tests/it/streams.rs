//! Where a child's standard streams lead.

use crate::support::{each_method, host};
use procession_parcel::Fd;
use procession_process::{Builder, Process, StartMethod, Stdio};
use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
};

each_method! {
    streams_can_be_pipes,
    streams_can_lead_to_any_descriptor;
    alone:
    streams_can_be_inherited_or_null,
}

fn builder(method: StartMethod) -> Builder {
    Process::builder().start_method(method)
}

fn echo(_: ()) -> usize {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    print!("{}", text.to_uppercase());
    eprint!("{}", text.len());
    text.len()
}

fn streams_can_be_pipes(method: StartMethod) {
    let child = builder(method)
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped)
        .stderr(Stdio::Piped)
        .spawn(echo, ())
        .unwrap();
    let mut stdin = child.take_stdin().unwrap();
    assert!(child.take_stdin().is_none());
    stdin.write_all(b"some text").unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    child.take_stdout().unwrap().read_to_string(&mut out).unwrap();
    child.take_stderr().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("SOME TEXT", "9"));
    assert_eq!(child.join().unwrap(), 9);
}

fn memfd(text: &str) -> (File, File) {
    let file = rustix::fs::memfd_create("stream", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    std::fs::write(&path, text).unwrap();
    // Opened twice, so that each has a position of its own.
    (File::from(file), File::open(path).unwrap())
}

fn contents(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

fn streams_can_lead_to_any_descriptor(method: StartMethod) {
    let ((_, input), (out, out_seen), (err, err_seen)) = (memfd("some text"), memfd(""), memfd(""));
    let child = builder(method).stdin(input).stdout(out).stderr(err).spawn(echo, ()).unwrap();
    assert_eq!(child.join().unwrap(), 9);
    assert_eq!((contents(out_seen).as_str(), contents(err_seen).as_str()), ("SOME TEXT", "9"));
}

fn targets(_: ()) -> [PathBuf; 3] {
    [0, 1, 2].map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap())
}

fn streams_can_be_inherited_or_null(method: StartMethod) {
    // Something that is not the null device.
    let (stdin, _writer) = std::io::pipe().unwrap();
    rustix::stdio::dup2_stdin(stdin).unwrap();
    let null = PathBuf::from("/dev/null");
    let [own_in, own_out, own_err] = targets(());
    let of = |builder: Builder| builder.spawn(targets, ()).unwrap().join().unwrap();
    assert_eq!(of(builder(method)), [null.clone(), own_out.clone(), own_err.clone()]);
    let inherited = builder(method).stdin(Stdio::Inherit).stdout(Stdio::Inherit).stderr(Stdio::Inherit);
    assert_eq!(of(inherited), [own_in, own_out, own_err]);
    let nothing = builder(method).stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
    assert_eq!(of(nothing), [null.clone(), null.clone(), null]);
}

#[test]
fn a_stream_that_was_moved_into_a_builder_is_closed_here() {
    let _watchdog = procession_testkit::watchdog!();
    host(
        |()| {
            for method in StartMethod::ALL {
                let (mut reader, writer) = std::io::pipe().unwrap();
                let child =
                    builder(method).stdout(std::os::fd::OwnedFd::from(writer)).spawn(echo, ()).unwrap();
                child.join().unwrap();
                assert_eq!(reader.read(&mut [0]).unwrap(), 0);
                let (mut reader, writer) = std::io::pipe().unwrap();
                let child = builder(method).spawn(drop::<Fd>, Fd(writer.into())).unwrap();
                child.join().unwrap();
                assert_eq!(reader.read(&mut [0]).unwrap(), 0);
            }
        },
        (),
    );
}
