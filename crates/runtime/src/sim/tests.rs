use std::collections::BTreeMap;

use mlafuse_ir::plan::unfused;
use mlafuse_ir::size::Symbol;
use mlafuse_ir::text::parse;

use super::*;
use crate::nvrtc::testing::nvrtc_or_skip;
use crate::{DeviceSpec, Executable, open};

const SCALE_TWICE: &str = "graph g { %x = input \"x\" : f32[T, 4]
    %a = scale factor=2.0 %x : f32[T, 4]
    %b = scale factor=0.25 %a : f32[T, 4] output \"b\" %b }";

/// `None` where there is no NVRTC.
fn device() -> Option<Arc<dyn Device>> {
    nvrtc_or_skip()?;
    Some(open(DeviceSpec::sim(Arch::Sm80)).unwrap())
}

fn executable(device: &Arc<dyn Device>) -> Executable {
    let plan = unfused(&parse(SCALE_TWICE).unwrap()).unwrap();
    Executable::new(Arc::clone(device), plan, &Dims::new().with(Symbol::T, 2)).unwrap()
}

fn rows(rows: usize) -> Dims {
    Dims::new().with(Symbol::T, rows)
}

#[test]
fn kernels_compute_and_are_counted() {
    let Some(device) = device() else { return };
    let executable = executable(&device);
    for count in [3, 1, 5] {
        let x = device.alloc("x", 16 * count).unwrap();
        let values: Vec<u8> = (0..4 * count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        device.write(&x, 0, &values).unwrap();
        let run = executable
            .run(&rows(count), &BTreeMap::from([("x".to_string(), x)]))
            .unwrap();
        let mut found = vec![0; 16 * count];
        device.read(&run.outputs["b"], 0, &mut found).unwrap();
        let expected: Vec<u8> = (0..4 * count).flat_map(|i| (i as f32 / 2.0).to_le_bytes()).collect();
        assert_eq!(found, expected);
        for kernel in &run.kernels {
            let total = &kernel.statistics.as_ref().unwrap().total;
            assert!(total.instructions > 0);
            assert_eq!(
                (total.global_bytes_read, total.global_bytes_written),
                (16 * count as u64, 16 * count as u64)
            );
        }
    }
}

#[test]
fn a_schedule_of_ones_choice_is_compiled_or_refused() {
    let Some(device) = device() else { return };
    let plan = unfused(&parse(SCALE_TWICE).unwrap()).unwrap();
    let region = plan.kernel("scale_a").unwrap();
    let found = device.candidates(&plan, region, &rows(64)).unwrap();
    let (first, last) = (found[0], found[found.len() - 1]);
    assert_ne!(first, last);
    for schedule in [first, last] {
        let prepared = device.prepare_with(&plan, region, &schedule).unwrap();
        assert_eq!(prepared.schedule, schedule);
        let buffers = ["x", "a"].map(|name| device.alloc(name, 32).unwrap());
        device.write(&buffers[0], 0, &[0; 32]).unwrap();
        assert_eq!(prepared.buffers(&plan, region).unwrap().len(), 2);
        prepared.kernel.launch(&rows(2), &buffers.each_ref()).unwrap();
    }
    let unusable = "block 3x5, warps 2x1, stages 1".parse().unwrap();
    assert!(device.prepare_with(&plan, region, &unusable).is_err());
}

#[test]
fn a_launch_without_blocks_does_nothing() {
    let Some(device) = device() else { return };
    let inputs = BTreeMap::from([("x".to_string(), device.alloc("x", 0).unwrap())]);
    let run = executable(&device).run(&rows(0), &inputs).unwrap();
    let counted = |kernel: &crate::KernelTime| kernel.statistics == Some(Statistics::default());
    assert!(run.kernels.iter().all(counted));
}

/// Memory that nobody has written is zero, and yet no kernel may read it.
#[test]
fn what_the_checkers_find_is_an_error() {
    let Some(device) = device() else { return };
    let x = device.alloc("the input", 32).unwrap();
    device.write(&x, 0, &[0; 28]).unwrap();
    let error = executable(&device)
        .run(&rows(2), &BTreeMap::from([("x".to_string(), x)]))
        .unwrap_err();
    let RuntimeError::Checker { reports, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(reports[0].allocation.as_deref(), Some("the input"));
    let text = error.to_string();
    for words in [
        "kernel scale_a does not run soundly on the simulator of sm_80:\n",
        "initcheck: ",
        "the input",
        "kernel scale_a, PTX line ",
        ", block (0,0,0), thread (",
    ] {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    let unchecked = DeviceSpec::Sim {
        arch: None,
        checked: false,
    };
    let device = open(unchecked).unwrap();
    let inputs = BTreeMap::from([("x".to_string(), device.alloc("x", 32).unwrap())]);
    assert!(executable(&device).run(&rows(2), &inputs).is_ok());
}

/// Inputs are read-only for as long as the launch takes.
#[test]
fn only_what_a_kernel_writes_can_be_written() {
    let Some(device) = device() else { return };
    let [x, y] = ["x", "y"].map(|name| device.alloc(name, 8).unwrap());
    let (Buffer::Sim(x), Buffer::Sim(y)) = (&x, &y) else {
        panic!()
    };
    let bound = Bound {
        args: Vec::new(),
        read_only: vec![x.address],
    };
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p) {\n.reg .b64 %rd<2>;\n\
        ld.param.u64 %rd1, [p];\nst.global.u32 [%rd1], 7;\nret;\n}\n";
    let kernel = ptxsim::program::Kernel::new(&ptxsim::parse::parse(text).unwrap(), "k").unwrap();
    let config = LaunchConfig {
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
    };
    let mut memory = lock(&x.memory);
    let mut reports = |address: u64, access| {
        bound.protect(&mut memory, access).unwrap();
        let args = [address.to_le_bytes().to_vec()];
        let outcome = machine::launch(&kernel, config, &args, &mut memory, &Options::default()).unwrap();
        outcome.reports.len()
    };
    assert_eq!(reports(x.address, Access::ReadOnly), 1);
    assert_eq!(reports(y.address, Access::ReadOnly), 0);
    assert_eq!(reports(x.address, Access::ReadWrite), 0);
}

#[test]
fn memory_ends_with_its_last_clone_and_is_one_devices() {
    let Some(device) = device() else { return };
    let buffer = device.alloc("x", 8).unwrap();
    let Buffer::Sim(inner) = &buffer else { panic!() };
    let (memory, address) = (Arc::clone(&inner.memory), inner.address);
    let clone = buffer.clone();
    drop(buffer);
    assert!(device.read(&clone, 0, &mut [0; 8]).is_ok());
    assert!(
        device
            .read(&clone, 1, &mut [0; 8])
            .unwrap_err()
            .to_string()
            .starts_with("simulator: 8 bytes at ")
    );
    drop(clone);
    assert!(lock(&memory).read(address, &mut [0; 8]).is_err());
    let others = [DeviceSpec::Cpu, DeviceSpec::sim(Arch::Sm80)].map(|spec| open(spec).unwrap().alloc("x", 8).unwrap());
    for other in others {
        let error = device.write(&other, 0, &[0; 8]).unwrap_err().to_string();
        assert_eq!(error, "device sim: a buffer is another device's");
    }
}
