//! Flags and configuration files that are wrong.

use crate::harness::{TempFile, failure, run};

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &["serve", "--colour"][..],
        &["serve", "--listen", "localhost"],
        &["serve", "--listen", "[fe80::1%none]:1"],
        &["serve", "--listen", "[fe80::1]:1"],
        &["serve", "--metrics", "[fe80::1%none]:1"],
        &["serve", "--connect", "[fe80::1%none]:1"],
        &["serve", "--connect", "[fe80::1%lo]"],
        &["serve", "--connect", "fe80::1%lo:1"],
        &["serve", "--connect", "localhost:0"],
        &["serve", "--max-payload", "1X"],
        &["serve", "--idle-timeout", "5"],
        &["serve", "--max-peers", "-1"],
        &["serve", "--dispatch", "elsewhere"],
        &["serve", "--outbox-full", "wait"],
        &["serve", "--log-level", "loud"],
        &["serve", "--idle", "sometimes"],
        &["serve", "--loop-cpus", "0,one"],
        &["serve", "--thread-name", "much too long"],
        &["serve", "--dispatcher-cpus", "1024"],
        &["serve", "--echo", "yes"],
        &["serve", "--network-id", "4294967296"],
        &["serve", "--max-peers", "0"],
        &["send", "127.0.0.1:1"],
        &["send", "127.0.0.1:1", "--type", "65280"],
        &[
            "send",
            "127.0.0.1:1",
            "--type",
            "1",
            "--text",
            "a",
            "--size",
            "1",
        ],
        &["send", "127.0.0.1", "--type", "1"],
        &["send", "localhost", "--type", "1"],
        &["send", ":1", "--type", "1"],
        &["send", "localhost:", "--type", "1"],
        &["send", "localhost:65536", "--type", "1"],
        &["send", "localhost:http", "--type", "1"],
        &["send", "", "--type", "1"],
        &["send", "127.0.0.1:1", "--type", "1", "--size", "257M"],
        &["send", "127.0.0.1:1", "--type", "1", "--size", "1X"],
        &["send", "127.0.0.1:1", "--type", "1", "--timeout", "5"],
        &["send", "127.0.0.1:1", "--type", "1", "--timeout", "9000h"],
        &[
            "send",
            "127.0.0.1:1",
            "--type",
            "1",
            "--text",
            "a",
            "--token",
            "t",
        ],
        &["send", "127.0.0.1:1", "--type", "1", "--count", "0"],
        &["send", "127.0.0.1:1", "--type", "1", "--rate", "0"],
        &["send", "--type", "1"],
        &["check"],
        &["bench"],
        &["top"],
        &[],
    ] {
        let output = run(args, b"");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    let output = run(&["serve", "--idle-timeout", "5"], b"");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("--idle-timeout") && text.contains("`5` has no unit"),
        "{text}"
    );
    let (code, line) = failure(&run(&["serve", "--max-peers", "0"], b""));
    assert_eq!(code, 2);
    assert!(line.contains("max_peers is 0,"), "{line}");
    let (_, line) = failure(&run(&["serve", "--shards", "65"], b""));
    assert_eq!(line, "nebnet: shards is 65, allowed are 1 to 64\n");
}

#[test]
fn help_and_version_exit_with_0() {
    let output = run(&["--version"], b"");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        output.stdout,
        concat!("nebnet ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()
    );
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["send", "--help"],
        &["check", "--help"],
    ] {
        let output = run(args, b"");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn check_says_ok() {
    let file = TempFile::new("listen = [\"127.0.0.1:8680\"]\nidle_timeout = \"1m\"\n");
    let output = run(&["check", file.name()], b"");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, format!("{}: ok\n", file.name()).as_bytes());
    assert!(output.stderr.is_empty());
}

const BAD: &str = "\
max_payload = \"1X\"
colour = \"red\"
echo = 1
max_peers = 0
[section]
listen = = 1
";

#[test]
fn check_says_every_problem_with_its_line() {
    let file = TempFile::new(BAD);
    let output = run(&["check", file.name()], b"");
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(line.contains("6 problems"), "{line}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    for (index, line) in lines.iter().enumerate() {
        let place = format!("{}:{}: ", file.name(), index + 1);
        assert!(line.starts_with(&place), "{line}");
    }
    assert!(lines[0].contains("`1X` has the unknown unit `X`"), "{text}");
    assert!(lines[1].contains("unknown setting `colour`"), "{text}");
    assert!(lines[3].contains("max_peers is 0"), "{text}");
}

#[test]
fn serve_says_every_problem_in_one_line() {
    let file = TempFile::new(BAD);
    let (code, line) = failure(&run(&["serve", "--config", file.name()], b""));
    assert_eq!(code, 1);
    for number in 1..=6 {
        assert!(
            line.contains(&format!("{}:{number}: ", file.name())),
            "{line}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    for args in [
        &["check", "/nonexistent/x"][..],
        &["serve", "--config", "/nonexistent/x"],
    ] {
        let (code, line) = failure(&run(args, b""));
        assert_eq!(code, 1);
        assert!(line.contains("/nonexistent/x"), "{line}");
    }
    let file = TempFile::new(b"echo = \xff");
    assert_eq!(failure(&run(&["check", file.name()], b"")).0, 1);
}

/// A terminal is logged, or looked at by others.
#[test]
fn a_wrong_token_is_not_repeated() {
    let secret = "hunter2".repeat(40);
    let file = TempFile::new(format!(
        "token = \"{secret}\"\naccept_token = [\"{secret}\"]\n"
    ));
    for (args, code) in [
        (&["serve", "--token", &*secret][..], 2),
        (&["serve", "--accept-token", &*secret], 2),
        (&["serve", &*format!("--token={secret}")], 2),
        (
            &[
                "send",
                "127.0.0.1:1",
                "--type",
                "1",
                "--hello",
                "--token",
                &*secret,
            ],
            2,
        ),
        (&["serve", "--config", file.name()], 1),
        (&["check", file.name()], 1),
    ] {
        let output = run(args, b"");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(text.contains("the token has 280 bytes"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let text = String::from_utf8(run(&["serve", "--token", ""], b"").stderr).unwrap();
    let said = "error: invalid value for '--token <TOKEN>': the token has 0 bytes";
    assert!(text.starts_with(said), "{text}");
}

/// The lists of processors are the one setting whose flag takes several values in one.
#[test]
fn a_file_takes_what_flags_take() {
    let file =
        TempFile::new("loop_cpus = \"0,1\"\ndispatcher_cpus = [\"0,1\", 2]\necho = \"true\"\n");
    let output = run(&["check", file.name()], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn check_judges_the_policy_of_a_full_outbox() {
    let file = TempFile::new("outbox_full = \"drop-oldest\"\n");
    assert_eq!(run(&["check", file.name()], b"").status.code(), Some(0));
    let file = TempFile::new("outbox_full = \"wait\"\n");
    let output = run(&["check", file.name()], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    let said = "outbox_full: `wait` is not one of refuse, close, drop-oldest";
    assert!(text.contains(said), "{text}");
}
