//! SIGHUP: what files say holds from then on, all of it or nothing, and the service goes on.

use std::{fs, io::Write as _};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};

use crate::{
    harness::{Peer, Service, TempFile, frame, nebnet, wait_until},
    metrics::get,
};

/// Sends SIGHUP and waits for the line that ends with this; returns what was logged since.
#[track_caller]
fn reload(service: &Service, said: &str) -> Vec<String> {
    let before = service.stderr().len();
    service.signal(Signal::HUP);
    let mut lines = Vec::new();
    wait_until(said, || {
        let text = service.stderr()[before..].to_owned();
        lines = text.lines().map(str::to_owned).collect();
        // The last line is whole.
        text.ends_with('\n') && lines.iter().any(|line| line.ends_with(said))
    });
    lines
}

/// A file that can be written again.
fn write(file: &TempFile, text: &str) {
    fs::write(&file.path, text).unwrap();
}

fn hello(token: &[u8]) -> Vec<u8> {
    let hello = nebnet::frame::Hello {
        token,
        payload_size_max: 1000,
        ..nebnet::frame::Hello::default()
    };
    frame(0xFF00, 0, &hello.to_payload())
}

/// The type of the answer to a HELLO with this token: OK or BYE.
fn answer(service: &Service, token: &[u8]) -> Option<u16> {
    let mut peer = service.connect();
    peer.stream.write_all(&hello(token)).unwrap();
    peer.recv().map(|(message_type, ..)| message_type)
}

#[test]
fn limits_tokens_and_the_log_level_come_from_the_file_again() {
    let file = TempFile::new("accept_token = \"old\"\nmax_peers = 50\nlog_level = \"warn\"\n");
    let args = [
        "--echo",
        "--config",
        file.name(),
        "--max-peers",
        "20",
        "--metrics",
        "127.0.0.1:0",
    ];
    let mut service = Service::start(&args);
    let metrics = service.announced("metrics on ");
    let mut before = service.connect();
    before.stream.write_all(&hello(b"old")).unwrap();
    assert_eq!(
        before.recv().map(|(message_type, ..)| message_type),
        Some(0xFF01)
    );
    write(
        &file,
        "accept_token = [\"new\", \"newer\"]\nidle_timeout = \"1h\"\nmax_peers = 7\n\
         memory_budget = \"64M\"\nlog_level = \"debug\"\nnetwork_id = 5\nrelay = true\n",
    );
    // One line of what cannot change, behind the one of what has.
    let lines = reload(&service, "only a restart changes network_id, relay");
    let [changed, kept] = &lines[..] else {
        panic!("{lines:?}");
    };
    let said = format!(
        "INFO  reloaded {}: idle_timeout, memory_budget, accept_token, log_level",
        file.name()
    );
    assert!(changed.ends_with(&said), "{changed}");
    assert!(kept.contains("WARN "), "{kept}");
    assert!(get(metrics, "/metrics").contains("\nnebnet_memory_budget_bytes 67108864\n"));
    assert_eq!(answer(&service, b"new"), Some(0xFF01));
    assert_eq!(answer(&service, b"old"), Some(0xFF02));
    // Connections are logged now, and who was let in stays.
    wait_until("debug lines", || service.stderr().contains(" DEBUG "));
    before.send(7, b"hi");
    assert_eq!(before.recv().map(|(_, _, body)| body), Some(b"hi".to_vec()));
    let lines = reload(&service, "only a restart changes network_id, relay");
    let nothing = format!("reloaded {}: nothing has changed", file.name());
    assert!(
        lines.iter().any(|line| line.ends_with(&nothing)),
        "{lines:?}"
    );
    drop(before);
    service.stop();
}

#[test]
fn a_shorter_deadline_ends_peers_that_are_connected() {
    let file = TempFile::new("");
    let service = Service::start(&["--config", file.name()]);
    let mut peer = service.connect();
    peer.send(7, b"hi");
    write(&file, "idle_timeout = \"50ms\"\n");
    reload(&service, ": idle_timeout");
    assert_eq!(peer.recv_bye(), 14);
    service.stop();
}

/// A wrong file is one line, and so is one that cannot be read or contradicts what cannot change.
#[test]
fn a_wrong_file_changes_nothing() {
    let good = "max_peers = 1\nmax_payload = \"4M\"\n";
    let file = TempFile::new(good);
    let service = Service::start(&["--echo", "--config", file.name()]);
    let mut peer = service.connect();
    peer.send(7, b"hi");
    assert!(peer.recv().is_some());
    for (text, said) in [
        (
            "max_peers = 9\nidle_timeout = 1\ncolour = 3\n",
            "unknown setting `colour`",
        ),
        (
            "max_peers = 9\noutbox_bytes = 1\n",
            "outbox_bytes is 1 byte, allowed are 65536 and more",
        ),
        (
            "max_peers = 9\nmax_payload = 1\nmemory_budget = \"2M\"\n",
            "max_payload is 4194304 bytes, above memory_budget of 2097152 bytes",
        ),
    ] {
        write(&file, text);
        let lines = reload(&service, said);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let start = "ERROR not reloaded, nothing has changed: ";
        assert!(lines[0].contains(start), "{lines:?}");
        // Nobody else is let in, as before.
        assert_eq!(service.connect().recv_bye(), 17);
    }
    fs::remove_file(&file.path).unwrap();
    reload(&service, "No such file or directory (os error 2)");
    write(&file, good);
    reload(&service, "nothing has changed");
    drop(peer);
    service.stop();
}

#[test]
fn without_a_file_it_is_one_line() {
    let service = Service::start(&["--echo"]);
    let lines = reload(&service, "nothing to reload: there is no --config");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("INFO "), "{lines:?}");
    service.stop();
}

/// Whether a process catches SIGHUP.
fn is_caught(id: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    u64::from_str_radix(mask.unwrap().trim(), 16).unwrap() & 1 == 1
}

/// Before it is ready, while it stops, and any number of times.
#[test]
fn it_never_ends_the_service() {
    let file = TempFile::new("");
    fs::remove_file(&file.path).unwrap();
    mknodat(CWD, &file.path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // Waits for its configuration.
    let child = nebnet()
        .args(["serve", "--listen", "127.0.0.1:0", "--config", file.name()])
        .spawn()
        .unwrap();
    wait_until("signals are caught", || is_caught(child.id()));
    let pid = rustix::process::Pid::from_child(&child);
    for _ in 0..100 {
        rustix::process::kill_process(pid, Signal::HUP).unwrap();
    }
    let config = "echo = true\nwrite_stall_timeout = 0\ndrain = \"1h\"\n";
    fs::write(&file.path, config).unwrap();
    let service = Service::of(child);
    // What is read from a pipe cannot be read again.
    let said = format!("{} is not a regular file\n", file.name());
    wait_until("all were one", || service.stderr().contains(&said));
    let mut deaf = Peer::connect(service.addr);
    let patience = Some(std::time::Duration::from_millis(500));
    deaf.stream.set_write_timeout(patience).unwrap();
    while deaf.stream.write_all(&frame(1, 0, &[0; 60_000])).is_ok() {}
    service.signal(Signal::TERM);
    wait_until("it stops", || service.stderr().contains("INFO  stopping"));
    reload(&service, "not reloaded: the service stops");
    service.signal(Signal::TERM);
    let (code, _) = service.wait();
    assert_eq!(code, Some(130));
}
