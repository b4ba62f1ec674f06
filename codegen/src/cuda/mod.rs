//! CUDA C++ text of thread programs, with no header and no toolkit: NVRTC alone compiles it.

mod intrinsics;
mod printer;

pub use printer::print;
