//! A profile as a trace in Chrome's format, which chrome://tracing and Perfetto show.

use serde_json::{Value, json};

use crate::{KernelProfile, PlanProfile, Profile};

/// One process, one track for each plan, its kernels one after the other. Where there is no clock, one microsecond of the trace is one
/// instruction of a warp, as its metadata say.
pub fn chrome_trace(profile: &Profile) -> Value {
    let mut events = vec![named("process_name", 0, &format!("mlafuse on {}", profile.device))];
    for ((name, plan), track) in profile.plans.named().into_iter().zip(1..) {
        events.push(named("thread_name", track, name));
        events.extend(kernels(plan, track));
    }
    let unit = if profile.modelled {
        "warp instructions: one microsecond shown is one instruction, and no time"
    } else {
        "microseconds, the median of several runs"
    };
    json!({
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": { "device": profile.device, "durations": unit, "limits": profile.limits.source },
    })
}

fn named(what: &str, track: usize, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "pid": 1, "tid": track, "args": { "name": name } })
}

fn kernels(plan: &PlanProfile, track: usize) -> Vec<Value> {
    let mut start = 0.0;
    let event = |kernel: &KernelProfile| {
        let duration = duration(kernel);
        let event = json!({
            "name": kernel.name,
            "ph": "X",
            "pid": 1,
            "tid": track,
            "ts": start,
            "dur": duration,
            "args": {
                "bytes": kernel.bytes,
                "flops": kernel.flops,
                "bound": kernel.bound.name(),
                "percent_of_bound": kernel.percent_of_bound,
            },
        });
        start += duration;
        event
    };
    plan.kernels.iter().map(event).collect()
}

fn duration(kernel: &KernelProfile) -> f64 {
    let instructions = || kernel.simulated.map_or(0.0, |simulated| simulated.instructions as f64);
    kernel.us.unwrap_or_else(instructions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Profiles;
    use crate::report::tests::{limits, simulated_plan, timed_plan};

    fn trace(plan: PlanProfile, modelled: bool) -> Value {
        let profile = Profile {
            device: "cpu \"here\"".into(),
            modelled,
            bytes_measured: modelled,
            runs: 1,
            limits: limits(),
            plans: Profiles {
                fused: plan.clone(),
                unfused: plan,
            },
        };
        // Through text, as a viewer reads it.
        serde_json::from_str(&chrome_trace(&profile).to_string()).unwrap()
    }

    #[test]
    fn kernels_follow_each_other_on_their_plans_track() {
        let trace = trace(timed_plan(), false);
        let events = trace["traceEvents"].as_array().unwrap();
        let kernels: Vec<_> = events
            .iter()
            .filter(|event| event["ph"] == "X")
            .map(|event| {
                (
                    event["tid"].as_u64().unwrap(),
                    event["ts"].as_f64().unwrap(),
                    event["dur"].as_f64().unwrap(),
                )
            })
            .collect();
        assert_eq!(kernels, [(1, 0.0, 2.0), (1, 2.0, 5.0), (2, 0.0, 2.0), (2, 2.0, 5.0)]);
        let names: Vec<_> = events.iter().filter(|event| event["ph"] == "M").collect();
        assert_eq!(names.len(), 3);
        assert_eq!(names[2]["args"]["name"], "unfused");
    }

    #[test]
    fn without_a_clock_instructions_are_shown_and_named() {
        let trace = trace(simulated_plan(), true);
        assert_eq!(trace["traceEvents"][2]["dur"], 70.0);
        assert!(
            trace["otherData"]["durations"]
                .as_str()
                .unwrap()
                .contains("instruction")
        );
    }
}
