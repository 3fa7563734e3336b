//! Programs in another language, which know the wire format and nothing else.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{io::ErrorKind, net::SocketAddr, path::Path, process::Command};

use nebnet::Dispatch;
use util::{config, start_echo, stop_echo};

/// What a script printed; `None`, and a word about it, if there is no interpreter.
fn run(script: &str, addr: SocketAddr) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let mut command = Command::new("python3");
    command.arg(&path).arg(addr.to_string());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: python3 is not installed, so {script} was not run");
            return None;
        }
        Err(error) => panic!("{script}: {error}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}: {}\n{errors}",
        output.status
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_example_client_gets_its_answers() {
    let (service, echo) = start_echo(config());
    let output = run("docs/examples/client.py", service.local_addrs()[0]);
    if let Some(output) = &output {
        assert_eq!(
            output,
            "type 1: hello\ntype 2: \ntype 3: h\u{e9}llo again\n"
        );
    }
    let report = stop_echo(service, echo);
    let expected = if output.is_some() { 3 } else { 0 };
    assert_eq!(report.snapshot.outbound_written.messages, expected);
}

#[test]
fn an_echo_service_stands_what_a_script_does_to_it() {
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let (service, echo) = start_echo(config().dispatch(dispatch));
        let output = run("tests/data/torture.py", service.local_addrs()[0]);
        if let Some(output) = output {
            let tests = [
                "whole",
                "cut_at_every_byte",
                "many_in_one_write",
                "pipeline",
            ];
            assert_eq!(output.lines().collect::<Vec<_>>(), tests);
        }
        let report = stop_echo(service, echo);
        assert_eq!(report.snapshot.outbound_dropped.messages, 0);
    }
}
