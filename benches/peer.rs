//! A peer: a Python process that is kept alive and does its work for each line that it is sent.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mlafuse::HostTensor;
use mlafuse_tensor::SafetensorsFile;
use serde_json::Value;

/// How peers are started.
#[derive(Clone, Debug)]
pub struct Python {
    /// The interpreter of the environment in which they are installed.
    pub interpreter: PathBuf,
    /// `benches/peers/server.py`.
    pub server: PathBuf,
    /// Threads that each may use.
    pub threads: usize,
}

/// A running peer, warm.
pub struct Peer {
    /// Its program and version.
    pub version: String,
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What becomes of a start.
pub enum Started {
    /// It runs.
    Ready(Peer),
    /// It says why it cannot.
    Unavailable(String),
}

impl Python {
    /// Starts the peer called `name` for the work in the file `spec`, and waits until it is warm.
    ///
    /// # Errors
    /// Where it ends without a word.
    pub fn start(&self, name: &str, spec: &Path) -> Result<Started> {
        let threads = self.threads.to_string();
        let mut child = Command::new(&self.interpreter)
            .arg(&self.server)
            .args([spec.as_os_str(), name.as_ref()])
            .env("OMP_NUM_THREADS", &threads)
            .env("MKL_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.interpreter.display()))?;
        let questions = child.stdin.take().context("a peer without an input")?;
        let answers = BufReader::new(child.stdout.take().context("a peer without an output")?);
        let mut peer = Peer {
            version: String::new(),
            child,
            questions,
            answers,
        };
        let first = peer.answer().with_context(|| format!("peer {name}"))?;
        if let Some(reason) = first["unavailable"].as_str() {
            return Ok(Started::Unavailable(reason.to_string()));
        }
        peer.version = first["version"].as_str().unwrap_or("unknown").to_string();
        Ok(Started::Ready(peer))
    }
}

impl Peer {
    /// The median milliseconds of the repetitions in so much time, after as much time that warms up.
    ///
    /// # Errors
    /// Where the process has ended.
    pub fn turn(&mut self, time: Duration) -> Result<f64> {
        let seconds = self.ask(&format!("turn {}", time.as_secs_f64()))?;
        Ok(1e3 * seconds.as_f64().context("a peer's time is no number")?)
    }

    /// The result of one repetition, by way of the file `at`.
    ///
    /// # Errors
    /// Where the process has ended, or has written no such file.
    pub fn output(&mut self, at: &Path) -> Result<HostTensor> {
        self.ask(&format!("save {}", at.display()))?;
        Ok(SafetensorsFile::open(at)?.tensor("out")?)
    }

    fn ask(&mut self, question: &str) -> Result<Value> {
        writeln!(self.questions, "{question}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(
            self.answers.read_line(&mut line)? > 0,
            "the process has ended: see above"
        );
        serde_json::from_str(&line).with_context(|| format!("an answer that is no JSON: {line}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
