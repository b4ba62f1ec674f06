//! What is told of the kernels of a run.

use crate::output::{Align, table};
use mlafuse::{Counters, KernelTime};
use serde_json::{Value, json};

/// All launches of the kernels of one name.
pub struct Summed {
    name: String,
    launches: usize,
    ms: f64,
    /// From a device that counts.
    counters: Option<Counters>,
}

impl Summed {
    fn add(&mut self, launch: &KernelTime) {
        self.launches += 1;
        self.ms += launch.ms;
        if let Some(statistics) = &launch.statistics {
            self.counters.get_or_insert_default().add(&statistics.total);
        }
    }

    /// The names of the counters are those of `ptxsim run --stats`.
    pub fn object(&self) -> Value {
        let mut object = json!({ "name": self.name, "launches": self.launches, "ms": self.ms });
        if let Some(counters) = &self.counters {
            object["counters"] = json!({
                "instructions": counters.instructions,
                "tensor_flops": counters.tensor_flops,
                "global_bytes": counters.global_bytes(),
                "global_sectors": counters.global_sectors(),
                "shared_wavefronts": counters.shared_wavefronts,
                "shared_wavefronts_ideal": counters.shared_wavefronts_ideal,
                "barriers": counters.barriers,
            });
        }
        object
    }

    fn timed(&self) -> [String; 3] {
        [self.name.clone(), self.launches.to_string(), format!("{:.3}", self.ms)]
    }

    fn counted(&self) -> [String; 8] {
        let [name, launches, ms] = self.timed();
        let none = Counters::default();
        let counters = self.counters.as_ref().unwrap_or(&none);
        let counts = [
            counters.instructions,
            counters.tensor_flops,
            counters.global_bytes(),
            counters.shared_wavefronts,
            counters.shared_wavefronts_ideal,
        ];
        let [instructions, flops, bytes, wavefronts, ideal] = counts.map(|count| count.to_string());
        [name, launches, ms, instructions, flops, bytes, wavefronts, ideal]
    }
}

/// By name, in order of first launch.
pub fn summed(launches: &[KernelTime]) -> Vec<Summed> {
    let mut kernels: Vec<Summed> = Vec::new();
    for launch in launches {
        let index = kernels.iter().position(|kernel| kernel.name == launch.name);
        let index = index.unwrap_or_else(|| {
            kernels.push(Summed {
                name: launch.name.clone(),
                launches: 0,
                ms: 0.0,
                counters: None,
            });
            kernels.len() - 1
        });
        kernels[index].add(launch);
    }
    kernels
}

/// A line for each; with counters where there are some. Instructions are those of warps, a wavefront is a pass through the
/// banks of shared memory.
pub fn kernel_table(kernels: &[Summed]) -> String {
    let [name, launches, ms] = [
        ("kernel", Align::Left),
        ("launches", Align::Right),
        ("ms", Align::Right),
    ];
    if kernels.iter().all(|kernel| kernel.counters.is_none()) {
        let rows: Vec<_> = kernels.iter().map(Summed::timed).collect();
        return table([name, launches, ms], &rows);
    }
    let rows: Vec<_> = kernels.iter().map(Summed::counted).collect();
    let [instructions, flops, bytes, wavefronts, ideal] = [
        "warp instructions",
        "tensor FLOP",
        "global B",
        "shared wavefronts",
        "ideal",
    ]
    .map(|name| (name, Align::Right));
    table(
        [name, launches, ms, instructions, flops, bytes, wavefronts, ideal],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse::Statistics;

    fn launch(name: &str, instructions: Option<u64>) -> KernelTime {
        let statistics = instructions.map(|instructions| Statistics {
            total: Counters {
                instructions,
                ..Counters::default()
            },
            ..Statistics::default()
        });
        KernelTime {
            name: name.into(),
            ms: 0.5,
            statistics,
        }
    }

    #[test]
    fn launches_of_one_name_are_added_up() {
        let kernels = summed(&[launch("a", Some(3)), launch("b", Some(1)), launch("a", Some(4))]);
        let object = kernels[0].object();
        assert_eq!(
            (object["launches"].as_u64(), object["ms"].as_f64()),
            (Some(2), Some(1.0))
        );
        assert_eq!(object["counters"]["instructions"], 7);
        let text = kernel_table(&kernels);
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|line| line.contains("1.000") && line.contains(" 7 ")),
            "{text}"
        );
    }

    #[test]
    fn a_device_that_does_not_count_has_no_columns_for_it() {
        let kernels = summed(&[launch("a", None)]);
        assert!(kernels[0].object()["counters"].is_null());
        assert_eq!(
            kernel_table(&kernels),
            "kernel  launches     ms\na              1  0.500\n"
        );
    }
}
