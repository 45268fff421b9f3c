//! The command line as a user meets it. Because of this test cargo builds the executable for all tests.

#![expect(clippy::unwrap_used, reason = "a helper of a test that unwraps is a test that fails")]

use std::process::{Command, Output};

fn waybill(arguments: &[&str]) -> Output {
    waybill_with(arguments, &[])
}

/// The same, with variables.
fn waybill_with(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waybill"));
    for name in ["NATS_URL", "DATA", "LOG", "CARRIER", "CONFIG", "MASTER_KEY", "MASTER_KEY_FILE"] {
        command.env_remove(format!("WAYBILL_{name}"));
    }
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_command_helps_with_examples() {
    let checks = [&["verify"][..], &["doctor"], &["health"]];
    let copies = [&["export"][..], &["import"], &["backup"], &["restore"]];
    let others = [&[][..], &["dev"], &["demo"], &["serve"], &["replay"], &["config"]];
    for command in [&checks[..], &copies, &others].concat() {
        let output = waybill(&[command, &["--help"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("Examples:\n  waybill"), "{command:?}: {text}");
    }
}

/// An address may have a login in it, in a variable.
#[test]
fn help_shows_no_login() {
    let login = ["WAYBILL_NATS_URL", "WAYBILL_TO_NATS"].map(|name| (name, "nats://ada:s3cret@nats"));
    for command in ["serve", "replay", "doctor", "saga"] {
        let output = waybill_with(&[command, "--help"], &login);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("WAYBILL_NATS_URL"), "{command}: {text}");
        assert_eq!(text.contains("WAYBILL_TO_NATS]"), command == "replay", "{command}: {text}");
        assert!(!text.contains("s3cret"), "{command}: {text}");
    }
}

#[test]
fn a_login_in_the_file_is_refused_and_not_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (command, key) in [("serve", "nats-url"), ("replay", "to-nats"), ("replay", "nats-url")] {
        std::fs::write(file.path(), format!("[{command}]\n{key} = \"nats://ada:s3cret@nats\"\n")).unwrap();
        let config = [("WAYBILL_CONFIG", file.path().to_str().unwrap())];
        let output = waybill_with(&[command, "--help"], &config);
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
        let told = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
        assert!(
            told.contains(&format!("{command}.{key}: has a login")) && !told.contains("s3cret"),
            "{told}"
        );
    }
}

#[test]
fn wrong_usage_exits_with_64() {
    for arguments in
        [&["nope"][..], &["serve"], &["replay", "--reveal=yes"], &["--log", "http=loudly", "replay"]]
    {
        let output = waybill(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn a_check_says_by_its_exit_code_that_it_cannot_tell() {
    let folder = tempfile::tempdir().unwrap();
    let data = ["--data", folder.path().to_str().unwrap()];
    let output = waybill(&[&["verify"][..], &data].concat());
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).starts_with("error: it cannot be told\n  caused by: no waybill dev is running on"));
    let output = waybill(&["verify", "carts", "--patience", "long", "--output", "xml"]);
    assert_eq!(output.status.code(), Some(64));
    for fault in ["SERVICE: there is no service carts", "--patience", "--output"] {
        assert!(said(&output).contains(fault), "{fault} is missing in {}", said(&output));
    }
    let output = waybill(&[&["import", data[1]][..], &data].concat());
    assert!(output.status.code() == Some(64) && said(&output).contains("holds no copy of a log"));
    let output = waybill(&["export", "x", "--stream", "CARTS"]);
    assert!(output.status.code() == Some(64) && said(&output).contains("there is no stream CARTS"));
}

#[test]
fn wrong_settings_are_named_all_at_once() {
    let output = waybill(&["serve", "carts", "--durability", "maybe", "--carrier", "rude", "--ports", "x"]);
    assert_eq!(output.status.code(), Some(64));
    let said = said(&output);
    for fault in [
        "SERVICE: there is no service carts",
        "--nats-url: is missing",
        "--durability",
        "--carrier",
        "--ports",
    ] {
        assert!(said.contains(fault), "{fault} is missing in {said}");
    }
}

/// What is said on the command line and by variables, and the place that is wrong.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], Option<usize>);

/// The place that decides is named, and no other.
#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("waybill.toml");
    // Without a master key nothing ever runs here, however right the rest is.
    std::fs::write(&file, "[serve]\ncarrier = \"rude\"\nnats-url = \"nats://127.0.0.1:1\"\n").unwrap();
    let places =
        [format!("{}: serve.carrier: ", file.display()), "WAYBILL_CARRIER: ".into(), "--carrier: ".into()];
    let config = ("WAYBILL_CONFIG", file.to_str().unwrap());
    let variable = |value| [config, ("WAYBILL_CARRIER", value)];
    let cases: [Case<'_>; 6] = [
        (&["serve", "all"], &[config], Some(0)),
        (&["serve", "all"], &variable("odd"), Some(1)),
        (&["serve", "all"], &variable("down"), None),
        (&["serve", "all", "--carrier", "mad"], &variable("odd"), Some(2)),
        (&["serve", "all", "--carrier", "mad"], &variable("down"), Some(2)),
        (&["serve", "all", "--carrier", "down"], &variable("odd"), None),
    ];
    for (line, variables, named) in cases {
        let output = waybill_with(line, variables);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains("WAYBILL_MASTER_KEY: is missing") && !said.contains("--nats-url"), "{said}");
        for (number, place) in places.iter().enumerate() {
            assert_eq!(said.contains(place), named == Some(number), "{line:?} {variables:?}: {said}");
        }
    }
    // A file that a flag names goes before the one of the variable.
    let other = folder.path().join("other.toml");
    std::fs::write(&other, "[serve]\ncarrier = \"down\"\n").unwrap();
    let output = waybill_with(&["serve", "all", "--config", other.to_str().unwrap()], &[config]);
    assert!(!said(&output).contains("carrier") && said(&output).contains("--nats-url"), "{}", said(&output));
}

#[test]
fn a_failure_is_told_with_its_causes_and_exits_with_1() {
    let output = waybill(&["replay", "--nats-url", "nats://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.starts_with("error: cannot connect to NATS at nats://127.0.0.1:1\n  caused by: "), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let output = waybill(&["replay", "--data", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(self::said(&output).contains("no waybill dev is running on"));
}
