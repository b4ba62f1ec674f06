//! What is known, in memory: read from files, asked by launches.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;
use mlafuse_runtime::folders::{cache_folder, tuning_choice};
use mlafuse_runtime::{Device, Schedules};

use crate::Key;
use crate::record::{Candidate, Choice, Damage, Fact, parse};

/// A longer file is none of ours.
const LARGEST_FILE: u64 = 64 << 20;
/// Damaged lines that are told one by one.
const MOST_TOLD: usize = 5;
/// The records' name in the user's cache folder.
const FILE: &str = "tuning.jsonl";

/// Tuning records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    entries: BTreeMap<Key, Entry>,
}

/// What is known of one kernel in launches of one size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Schedules that were tried, each once, in the order in which they were.
    pub candidates: Vec<Candidate>,
    /// What was chosen from them, where it came to that.
    pub choice: Option<Choice>,
}

impl Entry {
    /// How a schedule did.
    pub fn candidate(&self, schedule: &Schedule) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.schedule == *schedule)
    }
}

impl Records {
    /// The records in a file's text, and the lines that are none.
    pub fn parse(text: &[u8]) -> (Records, Vec<Damage>) {
        let (mut records, mut damages) = (Records::default(), Vec::new());
        let lines = text.split(|&byte| byte == b'\n').enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
            match parse(line) {
                Ok((key, fact)) => records.add(key, fact),
                Err(reason) => damages.push(Damage {
                    line: index + 1,
                    reason,
                }),
            }
        }
        (records, damages)
    }

    /// Those of a file; none where there is no such file. Lines that are no records are warned of and ignored.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(path: &Path) -> io::Result<Records> {
        let text = match text(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Records::default()),
            text => text?,
        };
        let (records, damages) = Records::parse(&text);
        for Damage { line, reason } in damages.iter().take(MOST_TOLD) {
            tracing::warn!(
                "{}, line {line}: a damaged tuning record is ignored: {reason}",
                path.display()
            );
        }
        if damages.len() > MOST_TOLD {
            let (more, all) = (damages.len() - MOST_TOLD, damages.len());
            tracing::warn!("{}: {more} more damaged lines, {all} in all", path.display());
        }
        Ok(records)
    }

    /// Those that launches use where nobody says otherwise: of the file that `MLAFUSE_TUNING` names, none where that is `off`,
    /// else of [`Records::user_file`]. What cannot be read is warned of, and no records.
    pub fn of_user() -> Records {
        let path = match tuning_choice() {
            Some(choice) if choice == "off" => return Records::default(),
            Some(choice) => Some(PathBuf::from(choice)),
            None => Records::user_file(),
        };
        let Some(path) = path else {
            return Records::default();
        };
        Records::read(&path).unwrap_or_else(|error| {
            tracing::warn!("no tuning records: {}: {error}", path.display());
            Records::default()
        })
    }

    /// The file in the user's cache folder, where there is such a folder. It may not exist yet.
    pub fn user_file() -> Option<PathBuf> {
        Some(cache_folder().ok()?.join(FILE))
    }

    /// What is known of exactly this.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The nearest that something was chosen for.
    pub fn nearest(&self, key: &Key) -> Option<(&Key, &Choice)> {
        let chosen = self.entries.iter().filter_map(|(other, entry)| {
            let choice = entry.choice.as_ref()?;
            Some((key.distance(other)?, other, choice))
        });
        // Of two as near the one with more to do: its blocks are large enough for both.
        let nearest = chosen.min_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)));
        nearest.map(|(_, other, choice)| (other, choice))
    }

    /// What would be near, were it not of another version of this program.
    fn outdated(&self, key: &Key) -> Option<&Key> {
        let chosen = self.entries.iter().filter(|(_, entry)| entry.choice.is_some());
        let mut keys = chosen.map(|(other, _)| other);
        keys.find(|other| {
            let program = key.program.clone();
            key.distance(&Key {
                program,
                ..(*other).clone()
            })
            .is_some()
        })
    }

    pub(crate) fn add(&mut self, key: Key, fact: Fact) {
        let entry = self.entries.entry(key).or_default();
        match fact {
            Fact::Choice(choice) => entry.choice = Some(choice),
            Fact::Candidate(candidate) => {
                let known = entry.candidates.iter_mut();
                match known.into_iter().find(|known| known.schedule == candidate.schedule) {
                    Some(known) => *known = candidate,
                    None => entry.candidates.push(candidate),
                }
            }
        }
    }
}

impl Schedules for Records {
    fn suggest(&self, device: &dyn Device, plan: &Plan, region: &Region, dims: &Dims) -> Option<Schedule> {
        if self.entries.is_empty() {
            return None;
        }
        let key = Key::new(device.identity(), plan, region, dims);
        let Some((nearest, choice)) = self.nearest(&key) else {
            if let Some(Key { program, .. }) = self.outdated(&key) {
                tracing::warn!(kernel = %region.name, program, "tuning records of another version of this program are not used: tune again");
            }
            return None;
        };
        let (launch, record) = (key.bucket(), nearest.bucket());
        if !choice.is_gain() {
            tracing::info!(kernel = %region.name, launch, record, "tuned: the device's own schedule");
            return None;
        }
        tracing::info!(kernel = %region.name, launch, record, schedule = %choice.schedule, "tuned");
        Some(choice.schedule)
    }
}

fn text(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!("more than {LARGEST_FILE} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Outcome, print};
    use crate::testing::{attention_plan, dims, key, schedule};
    use mlafuse_runtime::{DeviceSpec, open};

    fn choice(width: usize, tuned_us: f64) -> Fact {
        Fact::Choice(Choice {
            schedule: schedule(width),
            default_us: 2.0,
            tuned_us,
            candidates: 3,
        })
    }

    #[test]
    fn lines_come_in_any_order_and_the_last_counts() {
        let key = key(&attention_plan(), "attention", &dims(4, 100));
        let failed = |width, failed: &str| {
            let failed = failed.to_string();
            Fact::Candidate(Candidate {
                schedule: schedule(width),
                outcome: Outcome::Fails { failed },
            })
        };
        let facts = [
            failed(1, "a"),
            choice(1, 1.0),
            failed(2, "b"),
            choice(2, 1.5),
            failed(1, "c"),
        ];
        let lines = facts.map(|fact| print(&key, &fact).unwrap());
        let text = format!(
            "\n{}nonsense\n{}\r\n  \n{}",
            lines[0],
            lines[1].trim_end(),
            lines[2..].concat()
        );
        let (records, damages) = Records::parse(text.as_bytes());
        assert_eq!(damages.iter().map(|damage| damage.line).collect::<Vec<_>>(), [3]);
        let entry = records.get(&key).unwrap();
        assert_eq!(entry.choice.unwrap().schedule, schedule(2));
        assert_eq!(entry.candidates.len(), 2);
        let Outcome::Fails { failed } = &entry.candidate(&schedule(1)).unwrap().outcome else {
            panic!("{entry:?}")
        };
        assert_eq!(failed, "c");
    }

    #[test]
    fn the_nearest_choice_is_found() {
        let plan = attention_plan();
        let of = |batch, kv_len| key(&plan, "attention", &dims(batch, kv_len));
        let mut records = Records::default();
        for (index, (batch, kv_len)) in [(1, 1024), (4, 1024), (16, 1024), (16, 8192)].into_iter().enumerate() {
            records.add(of(batch, kv_len), choice(index + 1, 1.0));
        }
        records.add(
            of(64, 1024),
            Fact::Candidate(Candidate {
                schedule: schedule(9),
                outcome: Outcome::Runs {
                    us: 1.0,
                    default_us: 1.0,
                },
            }),
        );
        let nearest = |batch, kv_len| {
            let key = of(batch, kv_len);
            records.nearest(&key).map(|(_, choice)| choice.schedule.block_n)
        };
        assert_eq!(
            [nearest(4, 1024), nearest(16, 2048), nearest(16, 4096)],
            [Some(2), Some(3), Some(4)]
        );
        // Between four and sixteen sequences: whose blocks are large enough.
        assert_eq!([nearest(8, 1024), nearest(2, 1024)], [Some(3), Some(2)]);
        // Nothing was chosen for 64.
        assert_eq!([nearest(64, 1024), nearest(4, 1 << 20)], [None, None]);
    }

    /// Of another version, and of one that did not tell which it is.
    #[test]
    fn other_programs_tell_nothing() {
        let key = key(&attention_plan(), "attention", &dims(4, 100));
        let line = print(&key, &choice(5, 1.0)).unwrap();
        let told = format!("\"program\":\"{}\",", key.program);
        for (other, program) in [("\"program\":\"0.0.0\",", "0.0.0"), ("", "")] {
            let (records, damages) = Records::parse(line.replace(&told, other).as_bytes());
            assert_eq!((records.nearest(&key), damages.as_slice()), (None, &[][..]));
            let outdated = records.outdated(&key).unwrap();
            assert_eq!(outdated.program, program);
            assert_eq!(records.get(outdated).unwrap().choice.unwrap().schedule, schedule(5));
        }
        let (records, _) = Records::parse(line.as_bytes());
        assert!(records.nearest(&key).is_some());
    }

    #[test]
    fn a_device_is_told_what_was_better_there() {
        let (device, plan) = (open(DeviceSpec::Cpu).unwrap(), attention_plan());
        let region = plan.kernel("attention").unwrap();
        let suggested = |fact, threads| {
            let mut identity = device.identity();
            identity.threads += threads;
            let mut records = Records::default();
            records.add(Key::new(identity, &plan, region, &dims(4, 100)), fact);
            records.suggest(device.as_ref(), &plan, region, &dims(3, 128))
        };
        assert_eq!(suggested(choice(5, 1.0), 0), Some(schedule(5)));
        assert_eq!(suggested(choice(5, 2.0), 0), None);
        assert_eq!(suggested(choice(5, 1.0), 1), None);
        assert_eq!(
            Records::default().suggest(device.as_ref(), &plan, region, &dims(3, 128)),
            None
        );
    }
}
