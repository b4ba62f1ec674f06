//! Launch folders made for a test.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Threads of the kernels below: two warps.
pub const THREADS: usize = 64;

/// `reverse` turns 64 floats round, through shared memory. The other kernels are each wrong in one way.
pub const PTX: &str = "
.version 8.8
.target sm_80
.address_size 64

.visible .entry reverse(.param .u64 x, .param .u64 y) {
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    .shared .align 4 .b8 buffer[256];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.b32 %r2, [%rd4];
    mov.u32 %r3, buffer;
    shl.b32 %r4, %r1, 2;
    add.s32 %r5, %r3, %r4;
    st.shared.b32 [%r5], %r2;
    bar.sync 0;
    sub.s32 %r6, 252, %r4;
    add.s32 %r7, %r3, %r6;
    ld.shared.b32 %r2, [%r7];
    st.global.b32 [%rd5], %r2;
    ret;
}

.visible .entry double(.param .u64 x) {
    .reg .b32 %r<4>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    ld.global.f32 %f1, [%rd4];
    add.f32 %f1, %f1, %f1;
    st.global.f32 [%rd4], %f1;
    ret;
}

.visible .entry race(.param .u64 x, .param .u64 y) {
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    .shared .align 4 .b8 buffer[4];
    ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd5, %rd2, %rd3;
    st.shared.b32 [buffer], %r1;
    bar.sync 0;
    ld.shared.b32 %r2, [buffer];
    st.global.b32 [%rd5], %r2;
    ret;
}

.visible .entry wild(.param .u64 x, .param .u64 y) {
    .reg .b32 %r<4>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [y];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 8;
    add.s64 %rd3, %rd1, %rd2;
    st.global.b32 [%rd3], %r1;
    ret;
}

.visible .entry forever(.param .u64 x, .param .u64 y) {
again:
    bra again;
}

.visible .entry scalars(.param .u64 y, .param .u8 a, .param .u16 b, .param .u32 c, .param .u64 d) {
    .reg .b16 %h<4>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [y];
    ld.param.u8 %h1, [a];
    ld.param.u16 %h2, [b];
    ld.param.u32 %r1, [c];
    ld.param.u64 %rd2, [d];
    st.global.u8 [%rd1], %h1;
    st.global.b16 [%rd1+2], %h2;
    st.global.b32 [%rd1+4], %r1;
    st.global.b64 [%rd1+8], %rd2;
    ret;
}
";

/// A folder with PTX, inputs, the expected result of `reverse`, and a launch file.
pub struct Case {
    folder: TempDir,
}

impl Case {
    /// The launch of a kernel with `x` as input and `y` as output.
    pub fn new(entry: &str) -> Case {
        Case::with(&json!({
            "ptx": "k.ptx", "entry": entry, "grid": [1, 1, 1], "block": [THREADS, 1, 1],
            "args": [{"tensor": "in.safetensors#x"}, {"output": "y", "dtype": "f32", "shape": [THREADS]}],
        }))
    }

    pub fn with(launch: &Value) -> Case {
        let folder = tempfile::tempdir().expect("a folder");
        let case = Case { folder };
        fs::write(case.path("k.ptx"), PTX).expect("a file");
        let x: Vec<f32> = (0..THREADS).map(|i| i as f32 - 7.5).collect();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        case.tensors("in.safetensors", "x", &x);
        case.tensors("want.safetensors", "y", &y);
        case.launch(launch);
        case
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn launch(&self, launch: &Value) {
        self.text(&launch.to_string());
    }

    /// Writes the launch file.
    pub fn text(&self, text: &str) {
        fs::write(self.path("LAUNCH.json"), text).expect("a file");
    }

    /// The launch file with one field set.
    pub fn set(&self, field: &str, value: Value) {
        let text = fs::read_to_string(self.path("LAUNCH.json")).expect("a file");
        let mut launch: Value = serde_json::from_str(&text).expect("JSON");
        launch[field] = value;
        self.launch(&launch);
    }

    pub fn tensors(&self, file: &str, name: &str, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![values.len()], &bytes).expect("a tensor");
        let bytes = safetensors::serialize([(name, view)], None).expect("a file");
        fs::write(self.path(file), bytes).expect("a file");
    }

    /// The program, with the launch file's path after the command.
    pub fn run(&self, command: &str, flags: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ptxsim"));
        program.arg(command).arg(self.path("LAUNCH.json")).args(flags);
        program.output().expect("the binary runs")
    }

    /// The program's status and its JSON.
    pub fn json(&self, command: &str, flags: &[&str]) -> (i32, Value) {
        let flags: Vec<&str> = flags.iter().copied().chain(["--format", "json"]).collect();
        let output = self.run(command, &flags);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        (output.status.code().expect("a status"), json)
    }

    /// A saved tensor's type and bytes.
    pub fn saved(&self, file: &str, name: &str) -> (Dtype, Vec<u8>) {
        let bytes = fs::read(self.path(file)).expect("a file");
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensor = tensors.tensor(name).expect("the tensor");
        (tensor.dtype(), tensor.data().to_vec())
    }

    pub fn saved_floats(&self, file: &str, name: &str) -> Vec<f32> {
        let (dtype, bytes) = self.saved(file, name);
        assert_eq!(dtype, Dtype::F32);
        let float = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes.chunks_exact(4).map(float).collect()
    }
}
