//! Public addresses with TLS: who gets in, and what the others are told.

use crate::proxy::Proxy;
use procession_manager::{Address, ErrorKind, List, Manager, Queue, Reconnect, Session, Tls, Value};
use procession_process::Process;
use procession_testkit::{test_watchdog, wait::eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

const LONG: Duration = Duration::from_secs(20);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, as PEM, and its key.
    fn signs(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn tls(&self, name: &str, believes: &Authority) -> Tls {
        let (chain, key) = self.signs(name);
        Tls::from_pem(chain, key, believes.0.pem()).unwrap()
    }
}

fn manager(tls: &Tls) -> (Manager, SocketAddr) {
    let manager = Manager::builder().address(("127.0.0.1", 0)).authkey("key").tls(tls).start().unwrap();
    let Some(Address::Tcp(address)) = manager.public_address().cloned() else { panic!("no port") };
    (manager, address)
}

/// What the server says of the last one whom it refused.
fn refusal(manager: &Manager, what: &str) {
    let mut last = Vec::new();
    eventually(what, LONG, || {
        last = manager.refusals().unwrap();
        last.iter().any(|text| text.contains(what))
    });
}

#[test]
fn a_client_with_certificate_and_key_is_let_in_and_its_proxies_travel() {
    let _watchdog = test_watchdog();
    let authority = Authority::new();
    let (manager, address) = manager(&authority.tls("127.0.0.1", &authority));
    let list = manager.list::<Vec<u8>>().unwrap();
    manager.publish("list", &list).unwrap();
    let tls = authority.tls("client", &authority);
    let session = Session::connector("key").tls(&tls).connect(address).unwrap();
    let theirs = session.find::<List<Vec<u8>>>("list").unwrap();
    // Long ones as well, both ways, and with many threads.
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    theirs.push(&long).unwrap();
    assert!(theirs.get(0).unwrap().unwrap() == long && list.get(0).unwrap().unwrap() == long);
    let value = session.value(&0_u64).unwrap();
    let add = |value: &Value<u64>| {
        for _ in 0..50 {
            while {
                let now = value.get().unwrap();
                !value.compare_and_swap(&now, &(now + 1)).unwrap()
            } {}
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| add(&value)))));
    assert_eq!(value.get().unwrap(), 200);
    // The certificate goes along with a proxy, and with a ticket.
    let child = Process::spawn(|value: Value<u64>| value.set(&7).is_ok(), value.clone()).unwrap();
    assert!(child.join().unwrap());
    use procession_manager::Hosted;
    assert!(value.ticket().unwrap().redeem().unwrap().get().unwrap() == 7);
    let queue = session.queue::<u64>().unwrap();
    let waits = std::thread::spawn(move || queue.get().unwrap_err());
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    drop(manager);
    assert!(waits.join().unwrap().is_server_gone());
}

#[test]
fn a_wrong_certificate_is_an_error_on_both_sides() {
    let _watchdog = test_watchdog();
    let (authority, other) = (Authority::new(), Authority::new());
    let (manager, address) = manager(&authority.tls("127.0.0.1", &authority));
    // The server does not believe the client.
    let tls = other.tls("client", &authority);
    let error = Session::connector("key").tls(&tls).connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("refuses our certificate"), "{error}");
    refusal(&manager, "certificate is not accepted");
    // The client does not believe the server.
    let tls = authority.tls("client", &other);
    let error = Session::connector("key").tls(&tls).connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("certificate is not accepted"), "{error}");
    refusal(&manager, "refuses our certificate");
    // The certificate is another host's.
    let tls = authority.tls("client", &authority).server_name("elsewhere");
    let error = Session::connector("key").tls(&tls).connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    // The key is proved within.
    let tls = authority.tls("client", &authority);
    let error = Session::connector("other").tls(&tls).connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    refusal(&manager, "key");
    assert!(Session::connector("key").tls(&tls).connect(address).is_ok());
    assert!(manager.stats().unwrap().refused >= 4);
}

#[test]
fn no_certificate_and_no_tls_are_errors_on_both_sides() {
    let _watchdog = test_watchdog();
    let authority = Authority::new();
    let (manager, address) = manager(&authority.tls("127.0.0.1", &authority));
    // TLS, and no certificate.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::from(address.ip());
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(client, TcpStream::connect(address).unwrap());
    let error = stream.read(&mut [0; 64]).unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    refusal(&manager, "shows no certificate");
    // Another protocol.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    refusal(&manager, "is no TLS");
    // A server without it.
    let plain = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start().unwrap();
    let tls = authority.tls("client", &authority);
    let connector = Session::connector("key").tls(&tls);
    let error = connector.connect(plain.public_address().unwrap().clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("is no TLS"), "{error}");
}

#[test]
fn a_client_without_tls_is_sent_away_in_time() {
    let _watchdog = test_watchdog();
    let authority = Authority::new();
    let (manager, address) = manager(&authority.tls("127.0.0.1", &authority));
    let error = Session::connect(address, "key").unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
    refusal(&manager, "no greeting came in time");
}

#[test]
fn silent_crowds_do_not_keep_the_good_out() {
    let _watchdog = test_watchdog();
    let authority = Authority::new();
    let (manager, address) = manager(&authority.tls("127.0.0.1", &authority));
    let tls = authority.tls("client", &authority);
    let connector = Session::connector("key").tls(&tls);
    let good = connector.connect(address).unwrap();
    let list = good.list_of(&[1]).unwrap();
    let mut silent = Vec::new();
    for n in 0..1100_usize {
        // This process may have no more descriptors.
        let Ok(mut stream) = TcpStream::connect(address) else { break };
        // The begin of a handshake, sometimes.
        let _ = stream.write_all(&b"\x16\x03\x01\x02\x00\x01\x00"[..n % 8 % 7]);
        silent.push(stream);
        if n % 100 == 0 {
            assert_eq!(list.len().unwrap(), 1);
        }
    }
    let again = connector.clone().keepalive(LONG).connect(address).unwrap();
    assert!(again.queue::<u64>().unwrap().is_empty().unwrap());
    let tasks = std::fs::read_dir(format!("/proc/{}/task", manager.pid())).unwrap().count();
    assert!(tasks <= 3, "{tasks} threads");
}

#[test]
fn cut_connections_come_back_within_tls() {
    let _watchdog = test_watchdog();
    let authority = Authority::new();
    let (manager, address) = manager(&authority.tls("127.0.0.1", &authority));
    let (list, queue) = (manager.list::<u64>().unwrap(), manager.queue::<u64>().unwrap());
    manager.publish("list", &list).unwrap();
    manager.publish("queue", &queue).unwrap();
    let proxy = Proxy::to(address);
    let tls = authority.tls("client", &authority);
    let reconnect =
        Reconnect::default().attempts(1000).pauses(Duration::from_millis(1), Duration::from_millis(20));
    let connector = Session::connector("key").tls(&tls).reconnect(reconnect);
    let session = connector.connect(proxy.address()).unwrap();
    let theirs = session.find::<List<u64>>("list").unwrap();
    let items = session.find::<Queue<u64>>("queue").unwrap();
    proxy.cut_within(12_000);
    proxy.cut();
    for n in 0..200 {
        theirs.push(&n).unwrap();
        items.put(&n).unwrap();
        assert_eq!(items.get().unwrap(), n);
    }
    assert!(proxy.cuts() > 3, "{} cuts", proxy.cuts());
    assert!(list.snapshot().unwrap().into_iter().eq(0..200));
    assert!(queue.is_empty().unwrap());
}

#[test]
fn what_is_no_certificate_is_said_at_once() {
    let authority = Authority::new();
    let (chain, key) = authority.signs("client");
    let ca = authority.0.pem();
    for (chain, key, ca, what) in [
        ("", &*key, &*ca, "no certificate"),
        (&*chain, "", &*ca, "the key"),
        (&*chain, &*key, "", "no authority"),
        (&*chain, &*authority.signs("another").1, &*ca, "key"),
    ] {
        let error = Tls::from_pem(chain, key, ca).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(what), "{error}");
    }
    let tls = Tls::from_pem(&chain, &key, &ca).unwrap();
    assert!(!format!("{tls:?}").contains(key.lines().nth(1).unwrap()));
}
