//! Times our kernels and others' in turn, in one run, and says how near ours are to this machine's limits.
//! `cargo xtask bench --peers` runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use mlafuse_benches::case::{CASES, Case};
use mlafuse_benches::peer::{Peer, Python, Started};
use mlafuse_benches::report::{Compared, Report};
use mlafuse_benches::{Limits, Subject, machine, repeat};
use mlafuse_profile::median;
use mlafuse_tensor::{HostTensor, compare, write_file_atomic};
use serde_json::json;

/// Times our kernels and others' in turn and prints a table; the same as JSON is in peers.json
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench --peers --")]
struct Args {
    /// A few cases, briefly
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this; may be given several times
    #[arg(long, value_name = "TEXT")]
    case: Vec<String>,
    /// Only name the cases
    #[arg(long)]
    list: bool,
    /// Seconds that a case is timed, all programs together [default: 10, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// Processes of each peer that are started, of which the fastest stays: PyTorch is several times slower in some [default: 3,
    /// with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=20))]
    processes: Option<u8>,
    /// Threads of each program [default: all]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    threads: Option<u8>,
    /// The Python in whose environment the peers are installed
    #[arg(long, default_value = ".peers/bin/python")]
    python: PathBuf,
    /// The folder of the peers' scripts
    #[arg(long, default_value = "benches/peers")]
    scripts: PathBuf,
    /// The folder for peers.json and peers.md
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

/// Seconds that a peer works before it is timed.
const WARM: u64 = 2;
/// Rounds at least.
const FEWEST: usize = 3;
/// A program's turn: it works for so long to be warm, then for so long to be timed, and the median of that counts.
const TURN: Duration = Duration::from_millis(100);
/// Between one program and the next: OpenMP's threads spin for some milliseconds when their work is done.
const PAUSE: Duration = Duration::from_millis(20);
/// Results in bf16 that are further apart are not of the same work.
const TOLERANCE: f64 = 0.03;

fn main() -> Result<()> {
    let args = Args::parse();
    let cases = chosen(&args)?;
    if args.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    let threads = match args.threads {
        Some(threads) => usize::from(threads),
        None => std::thread::available_parallelism()?.get(),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let bench = Bench {
        python: Python {
            interpreter: args.python,
            server: args.scripts.join("server.py"),
            threads,
        },
        processes: args.processes.unwrap_or(if args.quick { 1 } else { 3 }),
        seconds: args.seconds.unwrap_or(if args.quick { 3 } else { 10 }),
        folder: tempfile::tempdir_in(&args.out)?,
    };
    let mut limits = Limits::measure()?;
    let mut compared = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        eprintln!("[{}/{}] {}", index + 1, cases.len(), case.name);
        compared.push(bench.case(case)?);
        limits = limits.or_better(Limits::measure()?);
    }
    let report = Report::new(machine(threads)?, limits, compared);
    let table = report.table();
    write_file_atomic(args.out.join("peers.md"), table.as_bytes())?;
    write_file_atomic(args.out.join("peers.json"), format!("{:#}\n", json!(report)).as_bytes())?;
    println!("{table}");
    report.check(TOLERANCE)
}

fn chosen(args: &Args) -> Result<Vec<Case>> {
    let wanted = |case: &Case| match args.case.as_slice() {
        [] => case.quick || !args.quick,
        texts => texts.iter().any(|text| case.name.contains(text.as_str())),
    };
    let cases: Vec<Case> = CASES.iter().copied().filter(wanted).collect();
    if cases.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        bail!("--case: no name contains that; there are: {}", names.join(", "));
    }
    Ok(cases)
}

/// How cases are run.
struct Bench {
    python: Python,
    processes: u8,
    seconds: u64,
    folder: tempfile::TempDir,
}

impl Bench {
    fn case(&self, case: &Case) -> Result<Compared> {
        let mut subject = case.subject()?;
        let ours = subject.output()?;
        let spec = self.spec(subject.as_ref())?;
        let (mut peers, mut unavailable, mut rel_l2) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for &name in case.peers() {
            match self.fastest(name, &spec)? {
                Started::Ready(mut peer) => {
                    rel_l2.insert(
                        name,
                        self.distance(&mut peer, &ours)
                            .with_context(|| format!("peer {name}"))?,
                    );
                    peers.push((name, peer));
                }
                Started::Unavailable(reason) => {
                    eprintln!("  {name} is unavailable: {reason}");
                    unavailable.insert(name, reason);
                }
            }
        }
        let (ours_ms, peers_ms) = self.alternate(subject.as_mut(), &mut peers)?;
        let versions = peers.iter().map(|(name, peer)| (*name, peer.version.clone())).collect();
        Ok(Compared {
            name: case.name,
            work: subject.work()?,
            ours_ms,
            peers_ms,
            rel_l2,
            versions,
            unavailable,
        })
    }

    /// The file that tells peers what to do.
    fn spec(&self, subject: &dyn Subject) -> Result<PathBuf> {
        let inputs = self.folder.path().join("inputs.safetensors");
        let mut spec = subject.save(&inputs)?;
        spec["inputs"] = json!(inputs);
        spec["threads"] = json!(self.python.threads);
        spec["warm_seconds"] = json!(WARM);
        let path = self.folder.path().join("spec.json");
        std::fs::write(&path, spec.to_string())?;
        Ok(path)
    }

    /// The fastest of some processes of a peer.
    fn fastest(&self, name: &str, spec: &Path) -> Result<Started> {
        let mut best: Option<(f64, Peer)> = None;
        for process in 1..=self.processes {
            let mut peer = match self.python.start(name, spec)? {
                Started::Ready(peer) => peer,
                unavailable => return Ok(unavailable),
            };
            let ms = peer.turn(TURN)?;
            eprintln!("  {name} {process}/{}: {ms:.2} ms ({})", self.processes, peer.version);
            if best.as_ref().is_none_or(|(least, _)| ms < *least) {
                best = Some((ms, peer));
            }
        }
        let (_, peer) = best.context("no process was started")?;
        Ok(Started::Ready(peer))
    }

    /// How far a peer's result is from ours.
    fn distance(&self, peer: &mut Peer, ours: &HostTensor) -> Result<f64> {
        let theirs = peer.output(&self.folder.path().join("output.safetensors"))?;
        ensure!(
            theirs.numel() == ours.numel(),
            "the result has the shape {:?}, ours {:?}",
            theirs.shape(),
            ours.shape()
        );
        Ok(compare(&theirs.reshape(ours.shape())?, ours)?.rel_l2)
    }

    /// Medians of rounds in which each program has its turn.
    fn alternate(
        &self,
        subject: &mut dyn Subject,
        peers: &mut [(&'static str, Peer)],
    ) -> Result<(f64, BTreeMap<&'static str, f64>)> {
        let (mut ours, mut theirs) = (Vec::new(), BTreeMap::<_, Vec<f64>>::new());
        let (start, most) = (Instant::now(), Duration::from_secs(self.seconds));
        while ours.len() < FEWEST || start.elapsed() < most {
            sleep(PAUSE);
            repeat(subject, TURN)?;
            ours.push(median(repeat(subject, TURN)?));
            for (name, peer) in peers.iter_mut() {
                sleep(PAUSE);
                theirs.entry(*name).or_default().push(peer.turn(TURN)?);
            }
        }
        eprintln!("  {} rounds in {:.1} s", ours.len(), start.elapsed().as_secs_f64());
        let theirs = theirs.into_iter().map(|(name, times)| (name, median(times)));
        Ok((median(ours), theirs.collect()))
    }
}
