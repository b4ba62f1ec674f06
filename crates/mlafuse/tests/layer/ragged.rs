//! A batch as ragged as batches come: a prefill and decode steps of the whole layer, held to what a plain implementation
//! errs by.

use super::{random, weights};
use mlafuse::config::MlaConfig;
use mlafuse::{DType, HostTensor, LayerOptions, LayerWeights, MlaLayer, launch_dims, layer_graph};
use mlafuse_ir::graph::{Graph, Op};
use mlafuse_ir::interp::{InterpError, Real, Value, interpret, interpret_stored};
use mlafuse_ir::rope::RopeTable;
use mlafuse_ir::size::Dims;
use mlafuse_tensor::compare;
use std::collections::BTreeMap;

const SEQUENCES: usize = 7;
/// Tokens of each sequence's prompt.
const PROMPTS: [usize; SEQUENCES] = [0, 1, 63, 64, 65, 4097, 30_000];
/// New tokens of each sequence, step by step: the first stays empty until the last step.
const STEPS: [[usize; SEQUENCES]; 4] = [
    [0, 1, 1, 1, 1, 1, 1],
    [0, 8, 2, 1, 3, 4, 5],
    [0, 0, 1, 0, 0, 2, 1],
    [3, 1, 0, 1, 2, 0, 1],
];
/// Rows of each sequence that are judged: the last ones, those of the decode steps among them.
const JUDGED: usize = 96;
const PAGE_SIZE: usize = 64;

type Interpret<F> = fn(&Graph, &Dims, &BTreeMap<String, Value<F>>) -> Result<BTreeMap<String, Value<F>>, InterpError>;

/// A layer, and every token that its sequences will have.
struct Layer {
    config: MlaConfig,
    dtype: DType,
    weights: LayerWeights,
    /// Of each sequence, [tokens, d_model], all numbers of `dtype`.
    hidden: Vec<Vec<f32>>,
}

impl Layer {
    fn new(model: &str, dtype: DType) -> Layer {
        let config = MlaConfig::from_inline(model).unwrap();
        let hidden = PROMPTS.iter().enumerate().map(|(b, prompt)| {
            let len = prompt + STEPS.iter().map(|step| step[b]).sum::<usize>();
            let hidden = random(b as u64, &[len, config.d_model], 1.0);
            hidden.to_dtype(dtype).to_f32_vec()
        });
        Layer {
            hidden: hidden.collect(),
            weights: weights(&config, 7),
            config,
            dtype,
        }
    }

    /// What the processor gives for each sequence, [tokens, d_model]: a ragged prefill, then the steps.
    fn run(&self) -> Vec<Vec<f64>> {
        let d_model = self.config.d_model;
        let options = LayerOptions {
            dtype: self.dtype,
            page_size: PAGE_SIZE,
            ..LayerOptions::default()
        };
        let layer = MlaLayer::new(&self.weights, &self.config, options).unwrap();
        // The longest takes the room that the others leave.
        let mut cache = layer
            .new_cache(SEQUENCES, PROMPTS.iter().sum::<usize>() / SEQUENCES + 2 * PAGE_SIZE)
            .unwrap();
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); SEQUENCES];
        for (n, new) in [PROMPTS].iter().chain(&STEPS).enumerate() {
            cache.scramble(n as u64).unwrap();
            let tokens = new.iter().copied().max().unwrap();
            let mut hidden = vec![f32::NAN; SEQUENCES * tokens * d_model];
            for (b, rows) in hidden.chunks_mut(tokens * d_model).enumerate() {
                let rows = &mut rows[..new[b] * d_model];
                rows.copy_from_slice(&self.hidden[b][found[b].len()..][..rows.len()]);
            }
            let hidden = HostTensor::from_f32(&[SEQUENCES, tokens, d_model], &hidden).unwrap();
            let out = layer.step(&mut cache, &hidden, new).unwrap().out.to_f64_vec();
            for (b, rows) in out.chunks(tokens * d_model).enumerate() {
                found[b].extend(&rows[..new[b] * d_model]);
            }
        }
        found
    }

    /// The last rows that `interpret` gives for sequence `b`. Of the tokens before only what the cache holds is computed: an
    /// attention of every token to every other would take minutes.
    fn last_rows<F: Real>(&self, b: usize, interpret: Interpret<F>) -> Vec<f64> {
        let graph = layer_graph(&self.config, self.dtype, PAGE_SIZE).unwrap();
        let len = self.hidden[b].len() / self.config.d_model;
        let mut inputs = self.inputs(&graph, len);
        let mut run = |graph: &Graph, new: usize| {
            let hidden = &self.hidden[b][(len - new) * self.config.d_model..];
            bind(&mut inputs, "hidden", &[1, new, self.config.d_model], hidden);
            inputs.insert("q_len".to_string(), Value::ints(&[1], vec![new as i32]));
            let dims = launch_dims(1, new, len, PAGE_SIZE);
            let outputs = interpret(graph, &dims, &inputs).unwrap();
            inputs.insert("cache".to_string(), outputs["cache"].clone());
            outputs
        };
        run(&cache_alone(&graph), len);
        let out = &run(&graph, len.min(JUDGED))["out"];
        out.as_floats().unwrap().iter().map(|x| x.to_f64()).collect()
    }

    /// What does not change from step to step, and an empty cache.
    fn inputs<F: Real>(&self, graph: &Graph, len: usize) -> BTreeMap<String, Value<F>> {
        let mut inputs = BTreeMap::new();
        for node in &graph.nodes {
            if let Op::Input { name, constant: true } = &node.op {
                let dims = node.ty.shape.iter().map(|dim| dim.value(&Dims::new()).unwrap());
                let shape: Vec<usize> = dims.collect();
                bind(
                    &mut inputs,
                    name,
                    &shape,
                    &self.weights.read(name, &shape).unwrap().to_f32_vec(),
                );
            }
        }
        let table = RopeTable::new(&self.config, len, len).unwrap();
        bind(&mut inputs, "rope_cos", &[len, table.d_half], &table.cos);
        bind(&mut inputs, "rope_sin", &[len, table.d_half], &table.sin);
        let pages = len.div_ceil(PAGE_SIZE);
        let rows = [pages, PAGE_SIZE, self.config.cache_row_elems()];
        bind(&mut inputs, "cache", &rows, &vec![0.0; rows.iter().product()]);
        inputs.insert(
            "block_table".to_string(),
            Value::ints(&[1, pages], (0..pages as i32).collect()),
        );
        inputs.insert("kv_len".to_string(), Value::ints(&[1], vec![len as i32]));
        inputs
    }

    /// Relative L2 errors of the last rows of sequence `b`: those of `found`, and a plain implementation's.
    fn errors(&self, b: usize, found: &[f64]) -> [f64; 2] {
        let truth = self.last_rows::<f64>(b, interpret);
        let plain = self.last_rows::<f32>(b, interpret_stored);
        let tensor = |rows: &[f64]| HostTensor::from_f64(&[truth.len()], rows).unwrap();
        let found = &found[found.len() - truth.len()..];
        [found, &plain].map(|rows| compare(&tensor(rows), &tensor(&truth)).unwrap().rel_l2)
    }
}

fn bind<F: Real>(inputs: &mut BTreeMap<String, Value<F>>, name: &str, shape: &[usize], values: &[f32]) {
    let values = values.iter().map(|&x| F::from_f64(x.into())).collect();
    inputs.insert(name.to_string(), Value::floats(shape, values));
}

/// The part of a layer's graph that writes the new rows to the cache.
fn cache_alone(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let write = graph.output("cache").unwrap();
    graph.nodes.truncate(write.0 + 1);
    graph.outputs.retain(|(_, value)| *value == write);
    graph
}

#[test]
fn lengths_may_be_as_different_as_they_like() {
    let model = "heads=2,d_model=24,d_latent=24,d_rope=6,d_nope=10,d_v=12,d_q_latent=20";
    let layer = Layer::new(model, DType::BF16);
    for (b, found) in layer.run().iter().enumerate() {
        let [error, plain] = layer.errors(b, found);
        assert!(
            error <= 2.0 * plain,
            "sequence {b}: {error:e}, a plain implementation {plain:e}"
        );
    }
}
