//! Every setting, as a file gives it and as its flag does.

use std::time::Duration;

use clap::Arg;

use super::*;

fn problems(text: &str) -> Vec<String> {
    let file = ConfigFile::parse(Path::new("f"), text);
    file.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_setting_can_be_given() {
    let text = r#"
        listen = ["127.0.0.1:1", "[::1]:2"]
        shards = 4
        echo = true
        print = false
        stats = false
        metrics = "127.0.0.1:3"
        max_payload = "2M"
        max_peers = 1_000
        max_peers_per_addr = 3
        max_pending = 9
        checksums = true
        require_checksums = true
        first_frame_timeout = "1s"
        frame_timeout = "500ms"
        idle_timeout = 0
        write_stall_timeout = "1m"
        outbox_bytes = 0x10_0000
        outbox_messages = 10
        outbox_full = "drop-oldest"
        memory_budget = "1G"
        require_hello = true
        network_id = 7
        drain = "2s"
        dispatch = "inline"
        log_level = "debug"
        idle = "block"
        thread_name = "core"
        loop_cpus = [0, 1]
        dispatcher_cpus = 2
    "#;
    let file = ConfigFile::parse(Path::new("f"), text);
    assert_eq!(problems(text), Vec::<String>::new());
    assert_eq!(file.options.listen.map(|listen| listen.len()), Some(2));
    assert_eq!(file.options.max_payload, Some(2 << 20));
    assert_eq!(file.options.shards, Some(4));
    assert_eq!(file.options.max_peers, Some(1000));
    assert_eq!(file.options.idle_timeout, Some(Duration::ZERO));
    assert_eq!(file.options.frame_timeout, Some(Duration::from_millis(500)));
    assert_eq!(file.options.outbox_bytes, Some(1 << 20));
    assert_eq!(file.options.loop_cpus, Some(vec![0, 1]));
    assert_eq!(file.options.dispatcher_cpus, Some(vec![2]));
    assert_eq!(file.lines.len(), 29);
    assert_eq!(file.lines["listen"], 2);
}

/// What an option takes, and what it refuses.
type Sample = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// What options take, by the name of what they take.
const SAMPLES: &[Sample] = &[
    ("BOOL", &["true", "false"], &["yes", "1", "on"]),
    ("N", &["0", "7", "1000"], &["-1", "four", "1K"]),
    (
        "SIZE",
        &["4096", "64K", "2M"],
        &["K", "2X", "1.5", "99999999999G"],
    ),
    (
        "DURATION",
        &["0", "500ms", "3s", "2m", "1h"],
        &["5", "5d", "-1s", "9000h"],
    ),
    ("TOKEN", &["t", "a,b", "-x", "0"], &[""]),
    (
        "N,...",
        &["0", "0,1", "3,2,1"],
        &["0,one", "0-1", "0,", "-1"],
    ),
];

/// And those of which no other is like it, by flag.
const SAMPLES_BY_FLAG: &[Sample] = &[
    ("listen", &["127.0.0.1:1", "[::1]:0"], &["localhost:1", ""]),
    ("connect", &["localhost:1", "[::1]:2"], &["localhost"]),
    ("metrics", &["127.0.0.1:0"], &["9680"]),
    ("max-payload", &["4096", "2M"], &["4G"]),
    ("network-id", &["7", "0xff"], &["4294967296"]),
    (
        "node-id",
        &["000000000000000000000000000000ab"],
        &["0", "ab"],
    ),
    ("thread-name", &["core", "7", ""], &[]),
];

/// The samples of an option; of one that takes words, the words.
fn sample_of(arg: &Arg) -> (Vec<String>, Vec<String>) {
    let words = arg.get_possible_values();
    if !words.is_empty() {
        let words = words.iter().map(|word| word.get_name().to_owned());
        return (words.collect(), vec!["Loud".to_owned()]);
    }
    let flag = arg.get_long().unwrap();
    let kind = arg.get_value_names().unwrap()[0].as_str();
    let named = |name, samples: &[Sample]| samples.iter().copied().find(|one| one.0 == name);
    let sample = named(flag, SAMPLES_BY_FLAG).or_else(|| named(kind, SAMPLES));
    let (_, good, bad) = sample.unwrap_or_else(|| panic!("no samples of {kind} for --{flag}"));
    let owned = |texts: &[&str]| texts.iter().copied().map(str::to_owned).collect();
    (owned(good), owned(bad))
}

/// What the flags make of themselves.
fn options_of_flags(flags: &[String]) -> Result<String, ()> {
    let command = ServeOptions::augment_args(Command::new("serve").no_binary_name(true));
    let matches = command.try_get_matches_from(flags).map_err(drop)?;
    let options = ServeOptions::from_arg_matches(&matches).map_err(drop)?;
    Ok(format!("{options:?}"))
}

fn options_of_file(text: &str) -> Result<String, ()> {
    let file = ConfigFile::parse(Path::new("f"), text);
    let options = format!("{:?}", file.options);
    file.problems.is_empty().then_some(options).ok_or(())
}

#[test]
fn every_key_takes_what_its_flag_takes() {
    let command = ServeOptions::augment_args(Command::new("serve"));
    for arg in command.get_arguments() {
        let flag = arg.get_long().unwrap();
        let (good, bad) = sample_of(arg);
        let key = flag.replace('-', "_");
        for text in &good {
            let expected = options_of_flags(&[format!("--{flag}={text}")]);
            assert!(expected.is_ok(), "--{flag}={text}");
            let quoted = options_of_file(&format!("{key} = {text:?}"));
            assert_eq!(quoted, expected, "{key} = {text:?}");
            // As TOML writes numbers and booleans.
            if text.parse::<u64>().is_ok() || text.parse::<bool>().is_ok() {
                let plain = options_of_file(&format!("{key} = {text}"));
                assert_eq!(plain, expected, "{key} = {text}");
            }
        }
        for text in &bad {
            let flag = options_of_flags(&[format!("--{flag}={text}")]);
            assert_eq!(flag, Err(()), "--{key}={text}");
            let quoted = options_of_file(&format!("{key} = {text:?}"));
            assert_eq!(quoted, Err(()), "{key} = {text:?}");
        }
        let repeated = matches!(arg.get_action(), ArgAction::Append);
        let list = options_of_file(&format!("{key} = {good:?}"));
        let flags: Vec<_> = good.iter().map(|text| format!("--{flag}={text}")).collect();
        let expected = repeated.then(|| options_of_flags(&flags).unwrap());
        assert_eq!(list, expected.ok_or(()), "{key} = {good:?}");
    }
}

#[test]
fn one_address_needs_no_list() {
    let file = ConfigFile::parse(Path::new("f"), "listen = \"127.0.0.1:1\"");
    assert_eq!(file.options.listen.map(|listen| listen.len()), Some(1));
}

#[test]
fn all_problems_are_told_with_their_lines() {
    let found = problems(concat!(
        "max-peers = 1\n",
        "echo = \"yes\"\n",
        "drain = 5\n",
        "max_payload = 1.5\n",
        "listen = [\"a\", \"b\"]\n",
        "max_peers = = 3\n",
        "colour = \"red\"\n",
        "[serve]\n",
        "x = 1\n",
    ));
    let expected = [
        "f:1: unknown setting `max-peers`: it is spelled `max_peers` here",
        "f:2: echo: `yes` is neither true nor false",
        "f:3: drain: `5` has no unit",
        "f:4: max_payload: a number with a fraction instead of",
        "f:5: listen: `a` is no address",
        "f:6: ",
        "f:7: unknown setting `colour`",
        "f:8: unknown setting `serve`",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for start in expected {
        assert!(
            found.iter().any(|line| line.starts_with(start)),
            "{start}: {found:#?}"
        );
    }
}

#[test]
fn negative_and_huge_numbers_are_refused() {
    assert!(problems("max_peers = -1")[0].contains("`-1` is no number"));
    assert!(problems("max_peers = 99999999999999999999").len() == 1);
    assert!(problems("network_id = 4294967296")[0].contains("not in range"));
}

/// Everything that fuzzers found worth keeping.
#[test]
fn the_corpus_of_the_configuration_file_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/config_file");
    // The published package has no corpus.
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        fuzz(&std::fs::read(path).unwrap());
    }
}
