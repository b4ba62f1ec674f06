//! A plan made executable on a device.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mlafuse_codegen::build::splits_of_equals;
use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::{BufferId, BufferRole, Plan, Region, RegionKind, SizeError};
use mlafuse_ir::size::{Dims, Symbol};
use smallvec::SmallVec;

use crate::schedules::NoSchedules;
use crate::temporaries::Temporaries;
use crate::{Buffer, Device, Frame, Kernel, Prepared, RuntimeError, Schedules, Statistics, with_splits};

/// The time one launch took.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel's name in the plan.
    pub name: String,
    /// Wall time of the launch in milliseconds; on the simulator, of simulating it.
    pub ms: f64,
    /// What the launch did, from a device that counts.
    pub statistics: Option<Statistics>,
}

/// What a run made.
#[derive(Clone, Debug)]
pub struct Run {
    /// The plan's outputs by name; those that lie in an input (the cache) are that input.
    pub outputs: BTreeMap<String, Buffer>,
    /// Each launch, in order.
    pub kernels: Vec<KernelTime>,
    /// Most splits of a sequence's cached tokens: those that the buffers between the kernels have room for.
    pub splits: usize,
}

/// One kernel, ready to launch.
struct Step {
    name: String,
    schedule: Schedule,
    kernel: Box<dyn Kernel>,
    /// The plan's buffers for the tensor parameters, in order.
    buffers: Vec<BufferId>,
}

/// A plan's kernels, prepared on a device. May be run from several threads.
pub struct Executable {
    device: Arc<dyn Device>,
    plan: Plan,
    steps: Vec<Step>,
    /// Memory between kernels, kept from one run to the next; whoever runs takes it.
    kept: Mutex<Option<Frame>>,
}

impl Executable {
    /// Builds and prepares each kernel of `plan` for launches of about the sizes in `hint`. Launches of any size give right
    /// results.
    ///
    /// # Errors
    /// Where a kernel cannot be built or does not fit the device.
    pub fn new(device: Arc<dyn Device>, plan: Plan, hint: &Dims) -> Result<Executable, RuntimeError> {
        Executable::with_schedules(device, plan, hint, &NoSchedules)
    }

    /// The same, with each kernel under the schedule that `schedules` suggests for it, where it does and the device can run it.
    ///
    /// # Errors
    /// As [`Executable::new`]; a schedule that cannot be used is no error, but a warning.
    pub fn with_schedules(
        device: Arc<dyn Device>,
        plan: Plan,
        hint: &Dims,
        schedules: &dyn Schedules,
    ) -> Result<Executable, RuntimeError> {
        let _span = tracing::info_span!("build", plan = %plan.graph.name, kernels = plan.kernels.len()).entered();
        let prepared = in_parallel(&plan.kernels, |region| {
            prepare(device.as_ref(), &plan, region, hint, schedules)
        });
        let mut steps = Vec::with_capacity(plan.kernels.len());
        for (region, prepared) in plan.kernels.iter().zip(prepared) {
            let prepared = prepared?;
            let buffers = prepared.buffers(&plan, region)?;
            let Prepared { schedule, kernel, .. } = prepared;
            tracing::debug!(kernel = %region.name, %schedule, "built");
            steps.push(Step {
                name: region.name.clone(),
                schedule,
                kernel,
                buffers,
            });
        }
        Ok(Executable {
            device,
            plan,
            steps,
            kept: Mutex::default(),
        })
    }

    /// What it executes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it executes on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Each kernel's name and schedule, in order of launch.
    pub fn schedules(&self) -> impl Iterator<Item = (&str, &Schedule)> {
        self.steps.iter().map(|step| (step.name.as_str(), &step.schedule))
    }

    /// Splits that each sequence has in a launch of these sizes where all have `S` cached tokens; 1 where no kernel splits.
    pub fn splits_of_equals(&self, dims: &Dims) -> usize {
        let dims = with_splits(dims, self.device.as_ref());
        let kernels = self.plan.kernels.iter().zip(&self.steps);
        let splits = kernels.filter_map(|(region, step)| match &region.kind {
            RegionKind::Attention(attention) => splits_of_equals(attention, &step.schedule, &dims),
            _ => None,
        });
        splits.max().unwrap_or(1)
    }

    /// Launches every kernel in order. `inputs` are bound by the graph's input names, others among them are ignored; a
    /// cache is written in place. Where `dims` has no `Z`, attention is split by [`with_splits`]. A later run takes the memory of
    /// outputs that nobody else holds by then.
    ///
    /// # Errors
    /// [`RuntimeError::MissingInput`], [`RuntimeError::InputSize`] and [`RuntimeError::BufferSize`] before anything is
    /// launched; [`RuntimeError::OutOfMemory`]; those of the launches, after which a cache holds unspecified rows where
    /// the new tokens go.
    pub fn run(&self, dims: &Dims, inputs: &BTreeMap<String, Buffer>) -> Result<Run, RuntimeError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut frame = kept.unwrap_or_default();
        // The outputs are the caller's, for as long as there is one.
        frame.release_shared();
        let find = |name: &str| inputs.get(name);
        let run = self.launch_in(&mut frame, dims, &find).map(|()| Run {
            outputs: self.outputs(&frame.bound),
            kernels: self.kernel_times(&mut frame).collect(),
            splits: with_splits(dims, self.device.as_ref()).get(Symbol::Z).unwrap_or(1),
        });
        frame.release_inputs(&self.plan);
        self.keep(frame);
        run
    }

    /// The same in memory that is kept, with the inputs that `find` knows: on the processor a run of the sizes of the last run in
    /// `frame` allocates nothing. What it makes is [`Executable::output`], and is overwritten by the next.
    ///
    /// # Errors
    /// As [`Executable::run`].
    pub fn run_in<'a>(
        &self,
        frame: &mut Frame,
        dims: &Dims,
        find: &dyn Fn(&str) -> Option<&'a Buffer>,
    ) -> Result<(), RuntimeError> {
        let launched = self.launch_in(frame, dims, find);
        frame.release_inputs(&self.plan);
        launched
    }

    fn launch_in<'a>(
        &self,
        frame: &mut Frame,
        dims: &Dims,
        find: &dyn Fn(&str) -> Option<&'a Buffer>,
    ) -> Result<(), RuntimeError> {
        let dims = with_splits(dims, self.device.as_ref());
        frame.launches.clear();
        self.bind(&mut frame.bound, &dims, find)?;
        let arena = frame.take_arena(&self.plan, &dims);
        let arena = arena.map_err(|error| self.size_error(error, &dims))?;
        let temporaries = Temporaries::new(self.device.as_ref(), &self.plan, &arena, frame.memory.take())?;
        let launched = self.launch(&dims, &mut frame.bound, &temporaries, &mut frame.launches);
        frame.memory = temporaries.into_memory();
        frame.arena = Some(arena);
        launched
    }

    /// What the last run in `frame` made under this name; `None` also of one that lies in an input (the cache).
    pub fn output<'f>(&self, frame: &'f Frame, name: &str) -> Option<&'f Buffer> {
        let (_, value) = self.plan.graph.outputs.iter().find(|(output, _)| output == name)?;
        frame.bound.get(self.plan.view(*value)?.buffer.0)?.as_ref()
    }

    /// Each launch of the last run in `frame`, in order; they are told once.
    pub fn kernel_times<'f>(&'f self, frame: &'f mut Frame) -> impl Iterator<Item = KernelTime> + 'f {
        let launches = self.steps.iter().zip(frame.launches.drain(..));
        launches.map(|(step, (ms, statistics))| KernelTime {
            name: step.name.clone(),
            ms,
            statistics,
        })
    }

    /// Of runs at the same time, the largest memory is kept.
    fn keep(&self, frame: Frame) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept
            .as_ref()
            .is_none_or(|other| frame.memory_bytes() > other.memory_bytes())
        {
            *kept = Some(frame);
        }
    }

    fn launch(
        &self,
        dims: &Dims,
        bound: &mut [Option<Buffer>],
        temporaries: &Temporaries<'_>,
        launches: &mut Vec<(f64, Option<Statistics>)>,
    ) -> Result<(), RuntimeError> {
        for (index, step) in self.steps.iter().enumerate() {
            let _span = tracing::debug_span!("launch", kernel = %step.name).entered();
            temporaries.begin(index, bound)?;
            let buffers: SmallVec<[&Buffer; 16]> =
                step.buffers.iter().filter_map(|id| bound.get(id.0)?.as_ref()).collect();
            let start = Instant::now();
            let statistics = step.kernel.launch(dims, &buffers)?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            tracing::trace!(ms, "launched");
            drop(buffers);
            temporaries.end(index, bound);
            launches.push((ms, statistics));
        }
        Ok(())
    }

    /// Memory for each buffer of the plan that is there from the first kernel to the last. Outputs stay where they are while
    /// their sizes do, except on a device that watches its memory.
    fn bind<'a>(
        &self,
        bound: &mut Vec<Option<Buffer>>,
        dims: &Dims,
        find: &dyn Fn(&str) -> Option<&'a Buffer>,
    ) -> Result<(), RuntimeError> {
        bound.resize(self.plan.buffers.len(), None);
        for (slot, buffer) in bound.iter_mut().zip(&self.plan.buffers) {
            let expected = buffer.bytes(dims).map_err(|error| self.size_error(error, dims))?;
            let stays = self.device.parts().is_some() && slot.as_ref().is_some_and(|memory| memory.len() == expected);
            match &buffer.role {
                BufferRole::Input(name) => *slot = Some(self.input(name, expected, find(name))?),
                BufferRole::Output(_) if stays => {}
                BufferRole::Output(_) => *slot = Some(self.device.alloc(&buffer.name, expected)?),
                BufferRole::Temp => *slot = None,
            }
        }
        Ok(())
    }

    fn size_error(&self, error: SizeError, dims: &Dims) -> RuntimeError {
        let values: Vec<String> = dims
            .iter()
            .map(|(symbol, value)| format!("{symbol} = {value}"))
            .collect();
        RuntimeError::BufferSize {
            plan: self.plan.graph.name.clone(),
            buffer: error.buffer,
            size: error.size,
            dims: values.join(", "),
        }
    }

    fn input(&self, name: &str, expected: usize, found: Option<&Buffer>) -> Result<Buffer, RuntimeError> {
        let plan = || self.plan.graph.name.clone();
        let buffer = found.ok_or_else(|| RuntimeError::MissingInput {
            plan: plan(),
            name: name.to_string(),
        })?;
        if buffer.len() < expected {
            let found = buffer.len();
            return Err(RuntimeError::InputSize {
                plan: plan(),
                name: name.to_string(),
                expected,
                found,
            });
        }
        Ok(buffer.clone())
    }

    fn outputs(&self, bound: &[Option<Buffer>]) -> BTreeMap<String, Buffer> {
        let mut outputs = BTreeMap::new();
        for (name, value) in &self.plan.graph.outputs {
            let memory = self
                .plan
                .view(*value)
                .and_then(|view| bound.get(view.buffer.0)?.as_ref());
            outputs.extend(memory.map(|memory| (name.clone(), memory.clone())));
        }
        // A plan may also hand out what no value of its graph is.
        for (buffer, memory) in self.plan.buffers.iter().zip(bound) {
            if let (BufferRole::Output(names), Some(memory)) = (&buffer.role, memory) {
                outputs.extend(names.iter().map(|name| (name.clone(), memory.clone())));
            }
        }
        outputs
    }
}

/// `f` of every item, in order, on as many threads as the machine has. Not rayon's: a caller may hold a lock, which no task
/// that a waiting thread takes up meanwhile may ask for.
fn in_parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mine = std::iter::from_fn(|| {
            let index = next.fetch_add(1, Ordering::Relaxed);
            items.get(index).map(|item| (index, f(item)))
        });
        mine.collect::<Vec<_>>()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut results = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(work)).collect();
        let mut results = work();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Under the schedule that is suggested, where that can be used. What is suggested may come from a file that anybody wrote:
/// it costs a warning, never the kernel.
fn prepare(
    device: &dyn Device,
    plan: &Plan,
    region: &Region,
    hint: &Dims,
    schedules: &dyn Schedules,
) -> Result<Prepared, RuntimeError> {
    if let Some(schedule) = schedules.suggest(device, plan, region, hint) {
        match device.prepare_with(plan, region, &schedule) {
            Ok(prepared) => return Ok(prepared),
            Err(error) => {
                tracing::warn!(kernel = %region.name, %schedule, "the suggested schedule cannot be used: {error}");
            }
        }
    }
    device.prepare(plan, region, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceSpec, open};
    use mlafuse_ir::plan::unfused;
    use mlafuse_ir::text::parse;

    const SCALE_TWICE: &str = "graph g { %x = input \"x\" : f32[T, 4]
        %a = scale factor=2.0 %x : f32[T, 4]
        %b = scale factor=0.5 %a : f32[T, 4] output \"b\" %b }";

    fn executable() -> Executable {
        let plan = unfused(&parse(SCALE_TWICE).unwrap()).unwrap();
        Executable::new(open(DeviceSpec::Cpu).unwrap(), plan, &Dims::new().with(Symbol::T, 2)).unwrap()
    }

    fn floats(device: &dyn Device, values: &[f32]) -> Buffer {
        let buffer = device.alloc("x", 4 * values.len()).unwrap();
        for (i, value) in values.iter().enumerate() {
            device.write(&buffer, 4 * i, &value.to_le_bytes()).unwrap();
        }
        buffer
    }

    #[test]
    fn memory_between_kernels_is_reused_and_that_of_outputs_once_nobody_holds_it() {
        let executable = executable();
        let device = executable.device().as_ref();
        let run = |rows: usize, start: f32| {
            let values: Vec<f32> = (0..4 * rows).map(|i| start + i as f32).collect();
            let inputs = BTreeMap::from([("x".to_string(), floats(device, &values))]);
            let run = executable.run(&Dims::new().with(Symbol::T, rows), &inputs).unwrap();
            assert_eq!(
                run.kernels
                    .iter()
                    .map(|kernel| kernel.name.as_str())
                    .collect::<Vec<_>>(),
                ["scale_a", "scale_b"]
            );
            (values, run.outputs["b"].clone())
        };
        let runs = [run(3, 0.0), run(3, 30.0), run(1, 50.0), run(5, 100.0)];
        let arena = executable.plan().arena(&Dims::new().with(Symbol::T, 5)).unwrap();
        assert_eq!(
            executable.kept.lock().unwrap().as_ref().map(Frame::memory_bytes),
            Some(arena.bytes)
        );
        for (values, output) in runs {
            let mut bytes = vec![0; output.len()];
            device.read(&output, 0, &mut bytes).unwrap();
            let found: Vec<f32> = bytes
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            assert_eq!(found, values);
        }
        let (_, held) = run(5, 0.0);
        assert!(held.is_shared(), "the executable keeps it for its next run");
        let _ = run(5, 1.0);
        assert!(!held.is_shared(), "which has found it held and let go");
    }

    /// Suggests one schedule for every kernel.
    struct Fixed(&'static str);

    impl Schedules for Fixed {
        fn suggest(&self, _: &dyn Device, _: &Plan, _: &Region, _: &Dims) -> Option<Schedule> {
            self.0.parse().ok()
        }
    }

    #[test]
    fn suggestions_are_taken_where_the_device_can_run_them() {
        let built = |text: &'static str| {
            let plan = unfused(&parse(SCALE_TWICE).unwrap()).unwrap();
            let hint = Dims::new().with(Symbol::T, 2);
            let device = open(DeviceSpec::Cpu).unwrap();
            Executable::with_schedules(device, plan, &hint, &Fixed(text)).unwrap()
        };
        let schedules = |executable: &Executable| -> Vec<String> {
            let each = executable.schedules();
            each.map(|(_, schedule)| schedule.to_string()).collect()
        };
        let mine = "block 1x3, warps 1x1, stages 1";
        assert_eq!(schedules(&built(mine)), [mine; 2]);
        // Gigabytes of scratch, and sizes beyond counting.
        for unusable in [
            "block 1000000x1000, warps 1x1, stages 1",
            "block 99999999999x1, warps 1x1, stages 1",
        ] {
            assert_eq!(schedules(&built(unusable)), schedules(&executable()), "{unusable}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let executable = executable();
        let device = executable.device().as_ref();
        let dims = Dims::new().with(Symbol::T, 2);
        let error = executable.run(&dims, &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(error, "plan g: input x is missing");
        let short = BTreeMap::from([("x".to_string(), floats(device, &[1.0]))]);
        let error = executable.run(&dims, &short).unwrap_err().to_string();
        assert_eq!(error, "plan g: input x has 4 bytes; expected at least 32");
        let error = executable.run(&Dims::new(), &short).unwrap_err().to_string();
        assert!(
            error.starts_with("plan g: the size of buffer x, 4*T elements, is unknown"),
            "{error}"
        );
        let error = executable
            .run(&Dims::new().with(Symbol::T, usize::MAX), &short)
            .unwrap_err()
            .to_string();
        assert!(error.contains("too large"), "{error}");
    }
}
