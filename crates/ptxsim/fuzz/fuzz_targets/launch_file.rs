//! A launch folder, read and run.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use ptxsim::launch_file::LaunchFile;
use ptxsim::machine::Options;

const SEPARATOR: &[u8] = b"\n---\n";
const FILES: [&str; 3] = ["LAUNCH.json", "k.ptx", "in.safetensors"];

fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let place = data.windows(SEPARATOR.len()).position(|window| window == SEPARATOR)?;
    Some((&data[..place], &data[place + SEPARATOR.len()..]))
}

/// A file with 64 floats named x.
fn usual_tensors() -> Vec<u8> {
    let header = br#"{"x":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}"#;
    let floats = (0..64_u8).flat_map(|i| f32::from(i).to_le_bytes());
    let length = (header.len() as u64).to_le_bytes();
    length.into_iter().chain(*header).chain(floats).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((launch, rest)) = split(data) else { return };
    let usual = usual_tensors();
    let (ptx, tensors) = split(rest).unwrap_or((rest, &usual));
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in FILES.into_iter().zip([launch, ptx, tensors]) {
        fs::write(folder.path().join(name), bytes).expect("a file");
    }
    let Ok(launch) = LaunchFile::read(&folder.path().join(FILES[0])) else { return };
    if launch.bytes() > 1 << 20 || launch.blocks() > 16 {
        return;
    }
    let options = Options {
        step_limit: 2_000,
        threads: Some(1),
        ..Options::default()
    };
    if let Ok(run) = launch.run(launch.kernel(), &options) {
        launch.compare(&run.outputs);
    }
});
