//! Runs NVRTC on one translation unit.

use std::ffi::CString;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cudarc::nvrtc::{result, sys};

use super::error::{NvrtcError, SourceLine};
use super::library::{Library, check};
use super::log::{KernelResources, LogError, parse_resources};

/// What to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaSource {
    /// A name for messages; NVRTC's log shows it as the file's name.
    pub name: String,
    /// CUDA C++, without `#include`.
    pub text: String,
    /// The real architecture, as `sm_80` or `sm_90a`.
    pub arch: String,
    /// More options for NVRTC, as `--use_fast_math`. C++17 is set unless they say `--std=…`.
    pub options: Vec<String>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// The PTX, as text.
    pub ptx: String,
    /// The machine code for exactly the source's architecture (an ELF file).
    pub cubin: Vec<u8>,
    /// NVRTC's and ptxas' log.
    pub log: String,
    /// Each kernel's registers, spills and shared memory.
    pub resources: Vec<KernelResources>,
    /// Wall time of the compilation in milliseconds, whenever that was.
    pub compile_ms: f64,
}

const NO_CACHE: &str = "--no-cache";

pub(super) fn compile(library: &Library, source: &CudaSource) -> Result<Compiled, NvrtcError> {
    let _span = tracing::debug_span!("nvrtc", name = %source.name, arch = %source.arch).entered();
    check_arch(library, source)?;
    let start = Instant::now();
    let (program, log) = compile_program(library, source)?;
    let ptx = program.ptx()?;
    let cubin = program.cubin()?;
    let compile_ms = start.elapsed().as_nanos() as f64 / 1e6;
    let resources = resources(&ptx, &log).map_err(|reason| NvrtcError::ResourceLog {
        name: source.name.clone(),
        reason,
        log: log.clone(),
    })?;
    tracing::debug!(compile_ms, kernels = resources.len(), "compiled");
    Ok(Compiled {
        ptx,
        cubin,
        log,
        resources,
        compile_ms,
    })
}

/// `sm_` and a number NVRTC lists, perhaps with a letter: only NVRTC knows which letters exist.
fn check_arch(library: &Library, source: &CudaSource) -> Result<(), NvrtcError> {
    let number = source
        .arch
        .strip_prefix("sm_")
        .map(|rest| rest.strip_suffix(['a', 'f']).unwrap_or(rest))
        .and_then(|digits| digits.parse().ok());
    match number {
        Some(number) if library.archs.contains(&number) => Ok(()),
        _ => Err(unsupported(library, source)),
    }
}

fn unsupported(library: &Library, source: &CudaSource) -> NvrtcError {
    NvrtcError::UnsupportedArch {
        name: source.name.clone(),
        arch: source.arch.clone(),
        supported: library.archs.clone(),
        version: library.version,
    }
}

/// Compiles, a second time without `--no-cache` if this NVRTC does not know that option. (Those
/// that cache must not: a cached result has no resource log.)
fn compile_program(library: &Library, source: &CudaSource) -> Result<(Program, String), NvrtcError> {
    let no_cache = library.takes_no_cache.load(Ordering::Relaxed);
    let (program, code) = run(source, no_cache)?;
    let log = program.log()?;
    let Err(code) = code else {
        return Ok((program, log));
    };
    let invalid_option = code.0 == sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION;
    if no_cache && invalid_option && log.contains(NO_CACHE) {
        library.takes_no_cache.store(false, Ordering::Relaxed);
        return compile_program(library, source);
    }
    // The first text is NVRTC's option parser, the second its front end.
    if log.contains("--gpu-architecture") || log.contains("--nv_arch") {
        return Err(unsupported(library, source));
    }
    Err(NvrtcError::Compile {
        name: source.name.clone(),
        arch: source.arch.clone(),
        code: format!("{:?}", code.0),
        first: first_error(source, &log).map(Box::new),
        log,
    })
}

fn run(source: &CudaSource, no_cache: bool) -> Result<(Program, Result<(), result::NvrtcError>), NvrtcError> {
    let c_string = |what, text: &str| {
        CString::new(text).map_err(|_| NvrtcError::BadInput {
            name: source.name.clone(),
            what,
        })
    };
    let options = options(source, no_cache);
    for option in &options {
        // cudarc panics on these.
        c_string("options", option)?;
    }
    let name = c_string("name", &source.name)?;
    let text = c_string("source text", &source.text)?;
    let handle = check("nvrtcCreateProgram", result::create_program(&text, Some(&name)))?;
    let program = Program {
        handle,
        _inputs: [name, text],
    };
    // SAFETY: the program was just created and lives until `program` is dropped.
    let code = unsafe { result::compile_program(program.handle, &options) };
    Ok((program, code))
}

/// Everything that is passed to NVRTC for this source; cache keys are made of it as well.
pub(crate) fn options(source: &CudaSource, no_cache: bool) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={}", source.arch),
        "--ptxas-options=-v".to_owned(),
        "--device-as-default-execution-space".to_owned(),
    ];
    if no_cache {
        options.push(NO_CACHE.to_owned());
    }
    let names_standard = |option: &String| option.starts_with("--std") || option.starts_with("-std");
    if !source.options.iter().any(names_standard) {
        options.push("--std=c++17".to_owned());
    }
    options.extend(source.options.iter().cloned());
    options
}

/// The log's resources, which must cover every `.entry` of the PTX.
fn resources(ptx: &str, log: &str) -> Result<Vec<KernelResources>, LogError> {
    let resources = parse_resources(log)?;
    for kernel in entries(ptx) {
        if !resources.iter().any(|resource| resource.name == kernel) {
            return Err(LogError::Missing {
                kernel: kernel.to_owned(),
                what: "registers",
            });
        }
    }
    Ok(resources)
}

/// Names of the kernels in a PTX module, in its order.
fn entries(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.lines().filter_map(|line| {
        let (before, rest) = line.split_once(".entry ")?;
        let declares = before.is_empty() || before.trim_end().starts_with('.');
        declares.then(|| rest.split(['(', ' ']).next().unwrap_or(rest))
    })
}

/// The source line that the first error in the log points at: `name(12): error: …`.
fn first_error(source: &CudaSource, log: &str) -> Option<SourceLine> {
    log.lines().find_map(|message| {
        let rest = message.strip_prefix(&source.name)?.strip_prefix('(')?;
        let (number, message) = rest.split_once(')')?;
        let line: usize = number.parse().ok()?;
        let is_error = message.split(':').nth(1)?.contains("error");
        let text = source.text.lines().nth(line.checked_sub(1)?)?;
        is_error.then(|| SourceLine {
            line,
            text: text.to_owned(),
        })
    })
}

/// An NVRTC program, destroyed on every way out.
struct Program {
    handle: sys::nvrtcProgram,
    /// NVRTC may keep pointers into these.
    _inputs: [CString; 2],
}

impl Program {
    fn log(&self) -> Result<String, NvrtcError> {
        // SAFETY: the program lives.
        let log = check("nvrtcGetProgramLog", unsafe { result::get_program_log(self.handle) })?;
        Ok(text(log))
    }

    fn ptx(&self) -> Result<String, NvrtcError> {
        // SAFETY: the program lives and was compiled.
        let ptx = check("nvrtcGetPTX", unsafe { result::get_ptx(self.handle) })?;
        Ok(text(ptx))
    }

    fn cubin(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut size = 0usize;
        // SAFETY: the program lives and was compiled; the pointer is to a live integer.
        let result = unsafe { sys::nvrtcGetCUBINSize(self.handle, &raw mut size) };
        check("nvrtcGetCUBINSize", result.result())?;
        let mut cubin = vec![0u8; size];
        // SAFETY: the function writes as many bytes as it just announced.
        let result = unsafe { sys::nvrtcGetCUBIN(self.handle, cubin.as_mut_ptr().cast()) };
        check("nvrtcGetCUBIN", result.result())?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by nvrtcCreateProgram and destroyed only here.
        if let Err(err) = unsafe { result::destroy_program(self.handle) } {
            tracing::warn!(%err, "nvrtcDestroyProgram");
        }
    }
}

/// C text without its final NUL; NVRTC's texts are ASCII but for names and quoted source lines.
fn text(chars: Vec<std::ffi::c_char>) -> String {
    let mut bytes: Vec<u8> = chars.into_iter().map(|c| c as u8).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::nvrtc_or_skip;
    use super::*;

    const ADD: &str = "
extern \"C\" __global__ void add(float* a, const float* b, int n) {
    __shared__ float tile[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x & 63] = i < n ? b[i] : 0.0f;
    __syncthreads();
    if (i < n) a[i] += tile[(threadIdx.x + 1) & 63];
}";

    fn source(text: &str, arch: &str) -> CudaSource {
        CudaSource {
            name: "test.cu".into(),
            text: text.into(),
            arch: arch.into(),
            options: vec![],
        }
    }

    #[test]
    fn compiles_to_ptx_cubin_and_resources() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        assert!(nvrtc.version().unwrap() >= (11, 2));
        for arch in ["sm_80", "sm_90a"] {
            let compiled = nvrtc.compile(&source(ADD, arch)).unwrap();
            assert!(compiled.ptx.contains(&format!(".target {arch}")));
            assert!(compiled.ptx.is_ascii() && !compiled.ptx.contains('\0'));
            assert!(compiled.cubin.starts_with(b"\x7fELF"));
            let [kernel] = compiled.resources.as_slice() else {
                panic!("{:?}", compiled.resources)
            };
            assert_eq!(kernel.name, "add");
            assert_eq!(kernel.static_shared_bytes, 256);
            assert_eq!((kernel.spill_store_bytes, kernel.spill_load_bytes), (0, 0));
            assert!((4..64).contains(&kernel.registers), "{kernel:?}");
            assert!(compiled.compile_ms > 0.0);
        }
    }

    #[test]
    fn a_kernel_that_must_spill_says_so() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let text = "extern \"C\" __global__ void __launch_bounds__(1024, 2) spill(float* a, int n) {
    float v[80];
    #pragma unroll
    for (int i = 0; i < 80; i++) v[i] = a[i * n + threadIdx.x];
    for (int k = 0; k < n; k++)
        #pragma unroll
        for (int i = 0; i < 80; i++) v[i] = v[i] * v[(i + 1) % 80] + 1.0f;
    #pragma unroll
    for (int i = 0; i < 80; i++) a[i * n + threadIdx.x] = v[i];
}";
        let compiled = nvrtc.compile(&source(text, "sm_80")).unwrap();
        let kernel = &compiled.resources[0];
        assert_eq!(kernel.registers, 32);
        assert!(kernel.spill_store_bytes > 0 && kernel.stack_bytes > 0);
    }

    #[test]
    fn options_reach_the_compiler() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let text = "__global__ void k(float* x) { *x = __sinf(*x) + sqrtf(*x) / VALUE; }
static_assert(__cplusplus >= 202002L, \"standard\");";
        let mut source = source(text, "sm_80");
        source.options = ["--use_fast_math", "-DVALUE=x[1]", "--std=c++20"]
            .map(str::to_owned)
            .to_vec();
        let compiled = nvrtc.compile(&source).unwrap();
        assert!(compiled.ptx.contains("sqrt.approx"));
        source.options.push("--bogus".into());
        let message = nvrtc.compile(&source).unwrap_err().to_string();
        assert!(message.contains("--bogus"), "{message}");
    }

    #[test]
    fn a_syntax_error_quotes_its_line() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let text = "extern \"C\" __global__ void k(int* p) {\n    p[0] = nothing_here;\n}";
        let Err(NvrtcError::Compile { first, log, .. }) = nvrtc.compile(&source(text, "sm_80")) else {
            panic!("compiled")
        };
        let first = first.unwrap();
        assert_eq!((first.line, first.text.trim()), (2, "p[0] = nothing_here;"));
        assert!(log.contains("identifier \"nothing_here\" is undefined"));
    }

    #[test]
    fn unknown_archs_list_the_known_ones() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        for arch in ["sm_33", "sm_80a", "sm_", "80", "compute_80", "sm_80 --x", ""] {
            let message = nvrtc.compile(&source(ADD, arch)).unwrap_err().to_string();
            assert!(message.contains("sm_80, sm_86"), "{arch}: {message}");
        }
    }

    #[test]
    fn nul_bytes_are_errors() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let with = |change: fn(&mut CudaSource)| {
            let mut source = source(ADD, "sm_80");
            change(&mut source);
            nvrtc.compile(&source)
        };
        for result in [
            with(|s| s.text.push('\0')),
            with(|s| s.name.push('\0')),
            with(|s| s.options.push("-DA\0".into())),
        ] {
            assert!(matches!(result, Err(NvrtcError::BadInput { .. })));
        }
    }

    #[test]
    fn another_nvrtc_in_the_same_process_is_refused() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        let other = super::super::Nvrtc::unloadable("other");
        assert!(matches!(other.version(), Err(NvrtcError::AlreadyLoaded { .. })));
        nvrtc.version().unwrap();
    }

    #[test]
    fn threads_compile_at_once() {
        let Some(nvrtc) = nvrtc_or_skip() else { return };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let nvrtc = nvrtc.clone();
                scope.spawn(move || {
                    let text = ADD.replace("add", &format!("add{thread}"));
                    for _ in 0..3 {
                        let compiled = nvrtc.compile(&source(&text, "sm_80")).unwrap();
                        assert_eq!(compiled.resources[0].name, format!("add{thread}"));
                    }
                });
            }
        });
    }

    #[test]
    fn kernels_without_a_resource_line_are_errors() {
        let ptx = "// .entry no(\n.visible .entry one(\n.weak .entry two()\n\t.entry_like x\n";
        assert_eq!(entries(ptx).collect::<Vec<_>>(), ["one", "two"]);
        assert!(matches!(
            resources(ptx, ""),
            Err(LogError::Missing { kernel, .. }) if kernel == "one"
        ));
    }

    #[test]
    fn warnings_are_not_the_first_error() {
        let source = source("a\nb\nc", "sm_80");
        let log = "test.cu(1): warning #1: w\ntest.cu(3): catastrophic error: e\n";
        let first = first_error(&source, log).unwrap();
        assert_eq!((first.line, first.text.as_str()), (3, "c"));
        for odd in [
            "test.cu(0): error: e",
            "test.cu(9): error: e",
            "test.cu(",
            "x(1): error: e",
        ] {
            assert_eq!(first_error(&source, odd), None, "{odd}");
        }
    }
}
