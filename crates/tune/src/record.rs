//! Records as lines of JSON: one fact a line, so that files can be read, compared and merged line by line, in any order.
//!
//! A line tells how one candidate did, or which was chosen. Of several lines that tell the same thing the last one counts.

use mlafuse_codegen::schedule::Schedule;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Key;

/// The version of the lines. Lines of another one are damage to us.
const VERSION: u32 = 1;
/// A longer line is none of ours.
const LONGEST_LINE: usize = 1 << 16;

/// How one schedule did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The schedule.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub schedule: Schedule,
    /// Its figure, or why it has none.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A figure, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It runs.
    Runs {
        /// Median of its launches, in microseconds.
        us: f64,
        /// That of the device's own schedule, in turn with it.
        default_us: f64,
    },
    /// It does not.
    Fails {
        /// Why not.
        failed: String,
    },
}

impl Outcome {
    /// Its time over that of the device's own schedule, where it runs.
    pub fn ratio(&self) -> Option<f64> {
        match self {
            Outcome::Runs { us, default_us } => Some(us / default_us),
            Outcome::Fails { .. } => None,
        }
    }
}

/// What was chosen in the end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The schedule.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub schedule: Schedule,
    /// Microseconds of the device's own schedule.
    pub default_us: f64,
    /// Microseconds of the one that was chosen, which may be the same.
    pub tuned_us: f64,
    /// Schedules that it was chosen from.
    pub candidates: usize,
}

impl Choice {
    /// Whether it is better than the device's own.
    pub fn is_gain(&self) -> bool {
        self.tuned_us < self.default_us
    }
}

/// A line that is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// What a line tells of its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    Candidate(Candidate),
    Choice(Choice),
}

#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    key: Key,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    candidate: Option<Candidate>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    chosen: Option<Choice>,
}

/// The version is looked at first: what else a line of another one holds is not known.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// A fact as a line, ended.
pub(crate) fn print(key: &Key, fact: &Fact) -> Result<String, serde_json::Error> {
    let (candidate, chosen) = match fact.clone() {
        Fact::Candidate(candidate) => (Some(candidate), None),
        Fact::Choice(choice) => (None, Some(choice)),
    };
    let line = Line {
        version: VERSION,
        key: key.clone(),
        candidate,
        chosen,
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

/// A line without its end.
pub(crate) fn parse(line: &[u8]) -> Result<(Key, Fact), String> {
    if line.len() > LONGEST_LINE {
        return Err(format!("{} bytes; at most {LONGEST_LINE} are allowed", line.len()));
    }
    let Versioned { version } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version {version}; this program reads version {VERSION}"));
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let fact = match (line.candidate, line.chosen) {
        (Some(candidate), None) => Fact::Candidate(candidate),
        (None, Some(choice)) => Fact::Choice(choice),
        _ => return Err("expected one of candidate and chosen".to_string()),
    };
    let times = match &fact {
        Fact::Candidate(Candidate {
            outcome: Outcome::Fails { .. },
            ..
        }) => [1.0; 2],
        Fact::Candidate(Candidate {
            outcome: Outcome::Runs { us, default_us },
            ..
        }) => [*us, *default_us],
        Fact::Choice(choice) => [choice.tuned_us, choice.default_us],
    };
    match times.into_iter().find(|us| !(us.is_finite() && *us > 0.0)) {
        Some(us) => Err(format!("{us} microseconds: expected more than 0")),
        None => Ok((line.key, fact)),
    }
}

fn to_text<S: Serializer>(schedule: &Schedule, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(schedule)
}

fn from_text<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Schedule, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attention_plan, dims, key};
    use proptest::prelude::*;

    fn facts() -> [Fact; 3] {
        let schedule = "block 16x64, warps 1x1, stages 1".parse().unwrap();
        let outcomes = [
            Outcome::Runs {
                us: 1.5,
                default_us: 2.25,
            },
            Outcome::Fails {
                failed: "no \"room\"".to_string(),
            },
        ];
        let [runs, fails] = outcomes.map(|outcome| Fact::Candidate(Candidate { schedule, outcome }));
        let choice = Choice {
            schedule,
            default_us: 2.25,
            tuned_us: 1.5,
            candidates: 12,
        };
        [runs, fails, Fact::Choice(choice)]
    }

    #[test]
    fn a_line_is_read_back() {
        for kernel in ["attention", "einsum_y"] {
            let key = key(&attention_plan(), kernel, &dims(4, 100));
            for fact in facts() {
                let line = print(&key, &fact).unwrap();
                assert_eq!(parse(line.trim_end().as_bytes()), Ok((key.clone(), fact)));
            }
        }
    }

    #[test]
    fn a_person_can_read_it() {
        let key = key(&attention_plan(), "einsum_y", &dims(4, 100));
        let [runs, fails, chosen] = facts().map(|fact| print(&key, &fact).unwrap());
        assert_eq!(
            runs.replace(env!("CARGO_PKG_VERSION"), "VERSION"),
            "{\"version\":1,\"key\":{\"device\":\"cpu\",\"part\":\"made up\",\"instructions\":\"portable\",\"threads\":2,\
             \"program\":\"VERSION\",\"kernel\":\"einsum_y\",\"shapes\":\"bf16[B,T,3,8] bf16[5,3,8] -> bf16[B,T,5]\",\"dtype\":\"bf16\",\
             \"phase\":\"decode\",\"batch\":4,\"q_len\":1},\
             \"candidate\":{\"schedule\":\"block 16x64, warps 1x1, stages 1\",\"us\":1.5,\"default_us\":2.25}}\n"
        );
        assert!(
            fails.ends_with("stages 1\",\"failed\":\"no \\\"room\\\"\"}}\n"),
            "{fails}"
        );
        assert!(
            chosen.ends_with("\"default_us\":2.25,\"tuned_us\":1.5,\"candidates\":12}}\n"),
            "{chosen}"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let key = key(&attention_plan(), "einsum_y", &dims(4, 100));
        let [runs, _, chosen] = facts().map(|fact| print(&key, &fact).unwrap());
        for (line, reason) in [
            (runs[..runs.len() / 2].to_string(), "EOF"),
            (
                runs.replace("\"version\":1", "\"version\":2"),
                "version 2; this program reads version 1",
            ),
            (
                runs.replace("block 16x64", "block 16"),
                "schedule \"block 16, warps 1x1, stages 1\": expected",
            ),
            (runs.replace("1.5", "0.0"), "0 microseconds"),
            (chosen.replace("1.5", "-1.0"), "-1 microseconds"),
            (
                runs.replace("\"candidate\"", "\"other\""),
                "expected one of candidate and chosen",
            ),
            (runs.replace("\"batch\":4", "\"batch\":-4"), "invalid value"),
            (runs.replace("\"batch\":4", "\"batches\":4"), "batches"),
            (" ".repeat(LONGEST_LINE + 1), "at most 65536"),
        ] {
            let error = parse(line.trim_end_matches('\n').as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        /// A line with a byte changed, or cut, is refused or tells something that can be told again.
        #[test]
        fn a_damaged_line_is_refused_or_sound(which in 0..3usize, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let key = key(&attention_plan(), "attention", &dims(4, 100));
            let mut line = print(&key, &facts()[which]).unwrap().into_bytes();
            let at = at.index(line.len());
            line[at] = byte;
            if cut {
                line.truncate(at);
            }
            if let Ok((key, fact)) = parse(&line) {
                let again = print(&key, &fact).unwrap();
                prop_assert_eq!(parse(again.trim_end().as_bytes()), Ok((key, fact)));
            }
        }
    }
}
