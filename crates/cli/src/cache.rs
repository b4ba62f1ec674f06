//! `mlafuse cache`: the folder of compiled kernels.

use crate::output::{Align, Report, table};
use anyhow::Result;
use mlafuse_runtime::cache::{CacheContent, CacheEntry, KernelCache};
use mlafuse_runtime::folders::cache_folder;
use serde_json::{Value, json};
use std::time::Duration;

/// What to do with it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  mlafuse cache list\n  MLAFUSE_CACHE=/tmp/kernels mlafuse cache path")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Where it is: $MLAFUSE_CACHE, else mlafuse in the user's cache folder.
    Path,
    /// Every entry: kernel, architecture, size, age.
    List,
    /// Removes every entry; they are compiled anew when needed.
    Clear,
}

pub fn run(args: &Args) -> Result<Report> {
    let folder = cache_folder()?;
    let cache = KernelCache::open(&folder);
    match args.action {
        Action::Path => Ok(Report::new(
            format!("{}\n", folder.display()),
            json!({ "path": folder }),
        )),
        Action::List => {
            let entries = cache.list()?;
            let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
            let rows: Vec<_> = entries.iter().map(row).collect();
            let heading = [
                ("key", Align::Left),
                ("what", Align::Left),
                ("for", Align::Left),
                ("bytes", Align::Right),
                ("age", Align::Right),
            ];
            let text =
                table(heading, &rows) + &format!("{} entries, {bytes} bytes in {}\n", rows.len(), folder.display());
            let json: Vec<Value> = entries.iter().map(object).collect();
            Ok(Report::new(
                text,
                json!({ "path": folder, "entries": json, "bytes": bytes }),
            ))
        }
        Action::Clear => {
            let cleared = cache.clear()?;
            let text = format!(
                "removed {} files, {} bytes, from {}\n",
                cleared.files,
                cleared.bytes,
                folder.display()
            );
            Ok(Report::new(
                text,
                json!({ "path": folder, "files": cleared.files, "bytes": cleared.bytes }),
            ))
        }
    }
}

fn row(entry: &CacheEntry) -> [String; 5] {
    let key: String = entry.key.chars().take(12).collect();
    let (what, target) = match &entry.content {
        CacheContent::Kernel { name, arch } => (name.clone(), arch.clone()),
        CacheContent::Damaged { reason } => (format!("damaged: {reason}"), "-".to_string()),
    };
    [
        key,
        what,
        target,
        entry.bytes.to_string(),
        entry.age.map_or("-".to_string(), age),
    ]
}

fn object(entry: &CacheEntry) -> Value {
    let content = match &entry.content {
        CacheContent::Kernel { name, arch } => json!({ "kernel": name, "arch": arch }),
        CacheContent::Damaged { reason } => json!({ "damaged": reason }),
    };
    let age_s = entry.age.map(|age| age.as_secs());
    json!({ "key": entry.key, "content": content, "bytes": entry.bytes, "age_s": age_s })
}

/// In its largest whole unit.
fn age(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86400),
    }
}
