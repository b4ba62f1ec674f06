//! Running the built binary.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

/// The example checkpoint.
pub fn example() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/deepseek-v3-tiny")
}

/// The binary with these arguments and a kernel cache of its own.
pub fn mlafuse(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlafuse"));
    command
        .args(args)
        .env("MLAFUSE_CACHE", std::env::temp_dir().join("mlafuse-cli-tests"))
        .env_remove("RUST_LOG");
    command
}

/// What came of running it.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// stdout as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

pub fn ran(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        status: status.code().unwrap(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// Runs it and expects status 0.
pub fn good(args: &[&str]) -> Ran {
    let ran = ran(&mut mlafuse(args));
    assert_eq!(ran.status, 0, "{args:?}: {}{}", ran.stdout, ran.stderr);
    ran
}

/// Runs it and expects status 2, nothing on stdout, and one message that holds all of `words`.
pub fn bad(args: &[&str], words: &[&str]) {
    refused(&mut mlafuse(args), words);
}

/// As [`bad`], of a command.
pub fn refused(command: &mut Command, words: &[&str]) {
    let Ran { status, stdout, stderr } = ran(command);
    let args = &command.get_args().collect::<Vec<_>>();
    assert_eq!((status, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
    assert!(
        stderr.starts_with("error: ") && stderr.matches("error: ").count() == 1,
        "{args:?}: {stderr}"
    );
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: `{word}` is not in: {stderr}");
    }
}
