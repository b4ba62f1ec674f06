//! A layer on a device: its weights there, the plans made so far, and the memory of their steps.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use mlafuse_ir::graph::Graph;
use mlafuse_ir::rope::RopeTable;
use mlafuse_ir::size::Dims;
use mlafuse_runtime::{Buffer, Device, Executable, Frame};
use mlafuse_tensor::{DType, HostTensor};
use mlafuse_tune::Records;

use crate::load::{Report, load};
use crate::memory::upload;
use crate::plan::{PreparedLayer, launch_dims, machine_of};
use crate::step::Batch;
use crate::weights::LayerWeights;
use crate::{Error, LayerOptions};

/// The layer.
pub(crate) struct OnDevice {
    device: Arc<dyn Device>,
    layer: PreparedLayer,
    weights: BTreeMap<String, Buffer>,
    /// Where its kernels' schedules are looked up.
    records: Arc<Records>,
    /// By the B, T and S that they were made for.
    prepared: Mutex<BTreeMap<[usize; 3], Prepared>>,
}

/// What steps of one class share.
struct Prepared {
    executable: Arc<Executable>,
    /// Of steps that have ended; each step takes one.
    memory: Vec<StepMemory>,
}

/// What one step leaves to the next of its class.
struct StepMemory {
    frame: Frame,
    /// What the host gives.
    given: BTreeMap<&'static str, Buffer>,
    /// The new tokens, then the result, in the layer's type.
    states: HostTensor,
}

/// What a step reads beside the weights.
pub(crate) struct StepInputs<'a> {
    pub batch: &'a Batch<'a>,
    pub dims: &'a Dims,
    /// Cosines and sines.
    pub rope: Option<&'a [Buffer; 2]>,
    pub cache: &'a Buffer,
}

/// Who hears of what ran.
pub(crate) type Told<'a> = &'a mut dyn FnMut(&Executable, &mut Frame);

impl OnDevice {
    pub fn new(
        device: Arc<dyn Device>,
        graph: &Graph,
        weights: &LayerWeights,
        dtype: DType,
        report: Report<'_>,
    ) -> Result<OnDevice, Error> {
        let _span = tracing::info_span!("load", device = %device.name(), %dtype).entered();
        let layer = PreparedLayer::new(graph, &machine_of(device.as_ref(), dtype), device.target())?;
        let weights = load(device.as_ref(), &layer.prepared.weights, weights, report)?;
        Ok(OnDevice {
            device,
            layer,
            weights,
            records: Arc::new(Records::of_user()),
            prepared: Mutex::default(),
        })
    }

    /// Looks schedules up there, of kernels made before too.
    pub fn use_records(&mut self, records: Arc<Records>) {
        self.records = records;
        self.prepared = Mutex::default();
    }

    pub fn device(&self) -> Arc<dyn Device> {
        Arc::clone(&self.device)
    }

    pub fn rope_buffers(&self, table: &RopeTable) -> Result<[Buffer; 2], Error> {
        let shape = [table.positions, table.d_half];
        let upload = |name, values: &[f32]| upload(self.device.as_ref(), name, &HostTensor::from_f32(&shape, values)?);
        Ok([upload("rope_cos", &table.cos)?, upload("rope_sin", &table.sin)?])
    }

    /// A step, its result converted into `out`.
    pub fn step(
        &self,
        inputs: &StepInputs<'_>,
        options: &LayerOptions,
        out: &mut HostTensor,
        told: Told<'_>,
    ) -> Result<(), Error> {
        let StepInputs { batch, dims, .. } = inputs;
        let room = batch.room(options.page_size);
        let class = options.splits.class(dims, room);
        let (executable, mut memory) = self.take(class, options)?;
        let dims = &options.splits.bind(dims, room, self.device.as_ref());
        memory.fill(self.device.as_ref(), batch, options.dtype)?;
        let StepMemory { frame, given, .. } = &mut memory;
        executable.run_in(frame, dims, &|name| self.find(name, inputs, given))?;
        let result = executable.output(&memory.frame, "out");
        let result = result.ok_or(Error::MissingOutput { name: "out" })?;
        self.device.read(result, 0, memory.states.bytes_mut())?;
        out.copy_from(&memory.states)?;
        told(&executable, &mut memory.frame);
        self.give_back(class, memory);
        Ok(())
    }

    fn find<'a>(
        &'a self,
        name: &str,
        inputs: &StepInputs<'a>,
        given: &'a BTreeMap<&'static str, Buffer>,
    ) -> Option<&'a Buffer> {
        match (name, inputs.rope) {
            ("cache", _) => Some(inputs.cache),
            ("rope_cos", Some([cos, _])) => Some(cos),
            ("rope_sin", Some([_, sin])) => Some(sin),
            _ => given.get(name).or_else(|| self.weights.get(name)),
        }
    }

    /// The executable for launches of about the sizes of `class`, and memory for a step.
    fn take(&self, class: [usize; 3], options: &LayerOptions) -> Result<(Arc<Executable>, StepMemory), Error> {
        let mut all = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = match all.entry(class) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let [sequences, new_tokens, cached] = class;
                let hint = launch_dims(sequences, new_tokens, cached, options.page_size);
                let plan = self.layer.plan(options.plan, &hint)?.plan;
                let device = Arc::clone(&self.device);
                let executable = Executable::with_schedules(device, plan, &hint, self.records.as_ref())?;
                place.insert(Prepared {
                    executable: Arc::new(executable),
                    memory: Vec::new(),
                })
            }
        };
        let memory = match prepared.memory.pop() {
            Some(memory) => memory,
            None => StepMemory::new()?,
        };
        Ok((Arc::clone(&prepared.executable), memory))
    }

    fn give_back(&self, class: [usize; 3], memory: StepMemory) {
        let mut all = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = all.get_mut(&class) {
            prepared.memory.push(memory);
        }
    }
}

impl StepMemory {
    fn new() -> Result<StepMemory, Error> {
        Ok(StepMemory {
            frame: Frame::default(),
            given: BTreeMap::new(),
            states: HostTensor::zeros(DType::F32, &[0])?,
        })
    }

    /// Copies what the host gives to where the step reads it.
    fn fill(&mut self, device: &dyn Device, batch: &Batch<'_>, dtype: DType) -> Result<(), Error> {
        if self.states.shape() != batch.hidden.shape() {
            self.states = HostTensor::zeros(dtype, batch.hidden.shape())?;
        }
        self.states.copy_from(batch.hidden)?;
        for (name, bytes) in [
            ("hidden", self.states.bytes()),
            ("block_table", bytemuck::cast_slice(&batch.lists.block_table)),
            ("q_len", bytemuck::cast_slice(&batch.lists.q_len)),
            ("kv_len", bytemuck::cast_slice(&batch.lists.kv_len)),
        ] {
            match self.given.get(name) {
                Some(buffer) if buffer.len() == bytes.len() => device.write(buffer, 0, bytes)?,
                _ => {
                    let buffer = device.alloc(name, bytes.len())?;
                    device.write(&buffer, 0, bytes)?;
                    self.given.insert(name, buffer);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceSpec, layer_graph};
    use mlafuse_ir::config::MlaConfig;
    use mlafuse_runtime::open;
    use mlafuse_tune::{Choice, Key};
    use serde_json::json;

    /// The last kernel's schedule is another one once a record says so, though the step was prepared before.
    #[test]
    fn schedules_are_those_of_the_records_in_use() {
        let text = "heads=2,d_model=32,d_latent=16,d_rope=4,d_nope=8,d_v=8,d_q_latent=none";
        let config = MlaConfig::from_inline(text).unwrap();
        let tensors = crate::checkpoint_tensors(&config).into_iter();
        let zeros = |shape: &[usize]| HostTensor::zeros(DType::BF16, shape).unwrap();
        let tensors = tensors
            .map(|spec| (spec.suffix.to_string(), zeros(&spec.shape)))
            .collect();
        let weights = LayerWeights::from_tensors(&config, &tensors).unwrap();
        let options = LayerOptions::default();
        let graph = layer_graph(&config, DType::BF16, options.page_size).unwrap();
        let device = open(DeviceSpec::Cpu).unwrap();
        let mut layer = OnDevice::new(device, &graph, &weights, DType::BF16, &mut |_| {}).unwrap();
        let class = [1, 1, 64];
        let last = |layer: &OnDevice| {
            let (executable, _) = layer.take(class, &options).unwrap();
            let schedule = *executable.schedules().last().unwrap().1;
            (executable, schedule)
        };
        // Nobody's, since the user's may know this very kernel.
        layer.use_records(Arc::default());
        let (executable, own) = last(&layer);
        let mut schedule = own;
        schedule.block_n = own.block_n / 2;
        let [sequences, new_tokens, cached] = class;
        let hint = launch_dims(sequences, new_tokens, cached, options.page_size);
        let (plan, identity) = (executable.plan(), layer.device.identity());
        let key = Key::new(identity, plan, plan.kernels.last().unwrap(), &hint);
        let chosen = Choice {
            schedule,
            default_us: 2.0,
            tuned_us: 1.0,
            candidates: 2,
        };
        let line = json!({ "version": 1, "key": key, "chosen": chosen }).to_string();
        let (records, damages) = Records::parse(line.as_bytes());
        assert!(damages.is_empty(), "{damages:?}");
        assert_eq!(last(&layer).1, own);
        layer.use_records(Arc::new(records));
        assert_eq!(last(&layer).1, schedule);
    }
}
