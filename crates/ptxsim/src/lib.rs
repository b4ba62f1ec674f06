//! Executes and checks PTX on the CPU: what NVRTC and Triton emit for sm_80 to sm_120, with no GPU.
//!
//! [`parse`] reads PTX, [`program`] makes a kernel of it executable, [`machine`] runs it on a grid of blocks, looks for accesses
//! out of bounds, reads of what nothing wrote, races and misused barriers, and counts. [`launch_file`] reads a launch from a
//! file, [`check`] runs it under every kind of schedule, and [`mutate`] asks whether the checks would notice a barrier that is
//! missing. [`numeric`] has the arithmetic of the instructions, tensor cores bit for bit included, which [`vectors`] holds to
//! outputs recorded on GPUs.
//!
//! ```
//! use ptxsim::machine::{Access, Contents, LaunchConfig, Memory, Options, launch};
//! use ptxsim::program::Kernel;
//!
//! let text = "
//!     .version 8.0
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry squares(.param .u64 out) {
//!         .reg .b32 %r<3>;
//!         .reg .b64 %rd<4>;
//!         ld.param.u64 %rd1, [out];
//!         mov.u32 %r1, %tid.x;
//!         mul.lo.u32 %r2, %r1, %r1;
//!         mul.wide.u32 %rd2, %r1, 4;
//!         add.u64 %rd3, %rd1, %rd2;
//!         st.global.u32 [%rd3], %r2;
//!         ret;
//!     }";
//! let kernel = Kernel::new(&ptxsim::parse::parse(text)?, "squares")?;
//! let mut memory = Memory::new();
//! let out = memory.allocate("out", 4 * 64, Contents::Uninitialised, Access::ReadWrite)?;
//! let config = LaunchConfig { grid: [1, 1, 1], block: [64, 1, 1], dynamic_shared: 0 };
//! let outcome = launch(&kernel, config, &[out.to_le_bytes().to_vec()], &mut memory, &Options::default())?;
//! assert!(outcome.reports.is_empty());
//! let mut last = [0; 4];
//! memory.read(out + 4 * 63, &mut last)?;
//! assert_eq!(u32::from_le_bytes(last), 63 * 63);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod ast;
pub mod check;
pub mod launch_file;
mod lex;
pub mod machine;
pub mod mutate;
pub mod numeric;
mod parallel;
pub mod parse;
pub mod program;
pub mod trial;
pub mod vectors;
