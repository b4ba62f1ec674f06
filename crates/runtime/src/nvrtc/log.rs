//! What `ptxas -v` says about each kernel, read from NVRTC's log.
//!
//! The parser is strict: a figure that is renamed or missing is an error, because the choice of a
//! schedule rests on it and a silent zero would say "no spill". Checked against the logs of NVRTC
//! 12.4, 12.9 and 13.5.

use serde::{Deserialize, Serialize};

/// What one kernel needs of the machine, by ptxas' own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelResources {
    /// The entry's (mangled) name in the PTX.
    pub name: String,
    /// 32-bit registers a thread.
    pub registers: u32,
    /// Bytes of register spill stores, counted once per instruction, a thread.
    pub spill_store_bytes: u64,
    /// Bytes of register spill loads, counted once per instruction, a thread.
    pub spill_load_bytes: u64,
    /// Bytes of stack a thread, called functions included where ptxas knows them.
    pub stack_bytes: u64,
    /// Bytes of statically declared shared memory a block.
    pub static_shared_bytes: u64,
    /// Bytes of constant banks; none where ptxas does not print them (sm_90 and later).
    pub constant_bytes: Option<u64>,
    /// Named barriers used; none where ptxas does not print them (before 12.5).
    pub barriers: Option<u32>,
}

/// Why a ptxas log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A kernel was announced, but one of its figures never came.
    #[error("kernel {kernel}: the log has no line with its {what}")]
    Missing {
        /// The kernel.
        kernel: String,
        /// Which figure: `stack and spills` or `registers`.
        what: &'static str,
    },
    /// A line with figures holds one that this reader does not know.
    #[error("line {line}: expected {expected}, got {found:?}")]
    Unknown {
        /// The line in the log, from 1.
        line: usize,
        /// What such a line holds.
        expected: &'static str,
        /// The text found.
        found: String,
    },
}

const COMPILING: &str = "Compiling entry function '";
const PROPERTIES: &str = "Function properties for ";

/// Reads every kernel's resources from a log, in the log's order.
///
/// A log without kernels gives none. Lines which are not about resources (warnings, timings, the
/// module's globals) are passed over.
///
/// # Errors
/// [`LogError`] when a kernel's figures are missing or are not in a form known here.
///
/// ```
/// let log = "\
/// ptxas info    : Compiling entry function 'k' for 'sm_80'
/// ptxas info    : Function properties for k
/// ptxas         .     8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
/// ptxas info    : Used 32 registers, used 1 barriers, 2048 bytes smem, 364 bytes cmem[0]
/// ";
/// let kernels = mlafuse_runtime::nvrtc::parse_resources(log)?;
/// assert_eq!((kernels[0].registers, kernels[0].spill_load_bytes), (32, 24));
/// # Ok::<(), mlafuse_runtime::nvrtc::LogError>(())
/// ```
pub fn parse_resources(log: &str) -> Result<Vec<KernelResources>, LogError> {
    let mut done = Vec::new();
    let mut open: Option<Partial> = None;
    // Which function the next stack line speaks of: device functions have such lines as well.
    let mut described = "";
    for (index, line) in log.lines().enumerate() {
        let line_number = index + 1;
        if let Some((_, rest)) = line.split_once(COMPILING) {
            finish(open.take(), &mut done)?;
            let Some((name, _)) = rest.split_once('\'') else {
                return Err(unknown(line_number, "a quoted kernel name", rest));
            };
            open = Some(Partial::new(name));
        } else if let Some((_, name)) = line.split_once(PROPERTIES) {
            described = name.trim();
        } else if line.contains("bytes stack frame") {
            let stack = parse_stack(line_number, line)?;
            if let Some(kernel) = open.as_mut().filter(|kernel| kernel.name == described) {
                kernel.stack = Some(stack);
            }
        } else if let Some((_, figures)) = line.split_once(": Used ") {
            let used = parse_used(line_number, figures)?;
            if let Some(kernel) = open.as_mut() {
                kernel.used = Some(used);
            }
        }
    }
    finish(open, &mut done)?;
    Ok(done)
}

/// A kernel whose lines are still being read.
struct Partial {
    name: String,
    stack: Option<Stack>,
    used: Option<Used>,
}

/// The "stack frame" line.
struct Stack {
    frame: u64,
    spill_stores: u64,
    spill_loads: u64,
}

/// The "Used" line.
#[derive(Default)]
struct Used {
    registers: Option<u32>,
    barriers: Option<u32>,
    cumulative_stack: Option<u64>,
    shared: u64,
    constant: Option<u64>,
}

impl Partial {
    fn new(name: &str) -> Partial {
        Partial {
            name: name.to_owned(),
            stack: None,
            used: None,
        }
    }
}

fn finish(partial: Option<Partial>, done: &mut Vec<KernelResources>) -> Result<(), LogError> {
    let Some(Partial { name, stack, used }) = partial else {
        return Ok(());
    };
    let missing = |what| LogError::Missing {
        kernel: name.clone(),
        what,
    };
    let stack = stack.ok_or_else(|| missing("stack and spills"))?;
    let used = used.ok_or_else(|| missing("registers"))?;
    let registers = used.registers.ok_or_else(|| missing("registers"))?;
    done.push(KernelResources {
        registers,
        spill_store_bytes: stack.spill_stores,
        spill_load_bytes: stack.spill_loads,
        stack_bytes: stack.frame.max(used.cumulative_stack.unwrap_or(0)),
        static_shared_bytes: used.shared,
        constant_bytes: used.constant,
        barriers: used.barriers,
        name,
    });
    Ok(())
}

/// `N bytes stack frame, N bytes spill stores, N bytes spill loads`, after a prefix.
fn parse_stack(line_number: usize, line: &str) -> Result<Stack, LogError> {
    const EXPECTED: &str = "\"N bytes stack frame, N bytes spill stores, N bytes spill loads\"";
    let start = line.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
    let figures = line.get(start..).unwrap_or(line);
    let err = || unknown(line_number, EXPECTED, figures);
    let mut items = figures.split(',').map(str::trim);
    let mut next = |unit: &str| {
        let item = items.next().ok_or_else(err)?;
        leading_number(item, unit).ok_or_else(err)
    };
    let stack = Stack {
        frame: next("bytes stack frame")?,
        spill_stores: next("bytes spill stores")?,
        spill_loads: next("bytes spill loads")?,
    };
    match items.next() {
        None => Ok(stack),
        Some(_) => Err(err()),
    }
}

/// The comma-separated items after `Used `.
fn parse_used(line_number: usize, figures: &str) -> Result<Used, LogError> {
    let mut used = Used::default();
    for item in figures.split(',').map(str::trim) {
        let err = || unknown(line_number, "a resource that ptxas is known to print", item);
        let (number, unit) = item
            .strip_prefix("used ")
            .unwrap_or(item)
            .split_once(' ')
            .ok_or_else(err)?;
        let value: u64 = number.parse().map_err(|_| err())?;
        match unit {
            "registers" => used.registers = Some(u32::try_from(value).map_err(|_| err())?),
            "barriers" => used.barriers = Some(u32::try_from(value).map_err(|_| err())?),
            "bytes cumulative stack size" => used.cumulative_stack = Some(value),
            "bytes smem" => used.shared = value,
            // Not resources that limit a launch.
            "bytes lmem" | "bytes gmem" | "textures" | "surfaces" | "samplers" => {}
            bank if bank.starts_with("bytes cmem[") => {
                let sum = used.constant.unwrap_or(0).checked_add(value);
                used.constant = Some(sum.ok_or_else(err)?);
            }
            _ => return Err(err()),
        }
    }
    Ok(used)
}

fn leading_number(item: &str, unit: &str) -> Option<u64> {
    let (number, rest) = item.split_once(' ')?;
    if rest != unit {
        return None;
    }
    number.parse().ok()
}

fn unknown(line: usize, expected: &'static str, found: &str) -> LogError {
    LogError::Unknown {
        line,
        expected,
        found: found.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// NVRTC 12.9.86, sm_80: a templated kernel, one that spills, a device function, a plain one.
    const LOG_12_9: &str = "\
ptxas info    : 0 bytes gmem, 256 bytes cmem[3]
ptxas info    : Compiling entry function '_Z2tkILi3EEvPi' for 'sm_80'
ptxas info    : Function properties for _Z2tkILi3EEvPi
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compile time = 1.076 ms
ptxas info    : Compiling entry function 'spill' for 'sm_80'
ptxas info    : Function properties for spill
ptxas         .     1456 bytes stack frame, 1588 bytes spill stores, 1640 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 1456 bytes cumulative stack size, 2048 bytes smem, 364 bytes cmem[0]
ptxas info    : Compile time = 38.565 ms
ptxas info    : Function properties for _Z6helperPfi
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Compiling entry function 'add' for 'sm_80'
ptxas info    : Function properties for add
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 372 bytes cmem[0]
ptxas info    : Compile time = 1.344 ms
";

    /// NVRTC 13.5.37, sm_120, with a warning.
    const LOG_13_5: &str = "\
ptxas warning : Value of threads per SM for entry spill is out of range. .minnctapersm will be ignored
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spill' for 'sm_120'
ptxas info    : Function properties for spill
ptxas         .     1152 bytes stack frame, 1264 bytes spill stores, 1660 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 1152 bytes cumulative stack size, 2048 bytes smem
ptxas info    : Compile time = 47.630 ms
ptxas info    : Function properties for _Z6helperPfi
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";

    /// NVRTC 12.4.127, sm_90a: no barriers, no timings.
    const LOG_12_4: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spill' for 'sm_90a'
ptxas info    : Function properties for spill
ptxas         .     1504 bytes stack frame, 1856 bytes spill stores, 2436 bytes spill loads
ptxas info    : Used 32 registers, 1504 bytes cumulative stack size, 2048 bytes smem
";

    fn spill(
        registers: u32,
        [stack, stores, loads]: [u64; 3],
        constant_bytes: Option<u64>,
        barriers: Option<u32>,
    ) -> KernelResources {
        KernelResources {
            name: "spill".into(),
            registers,
            spill_store_bytes: stores,
            spill_load_bytes: loads,
            stack_bytes: stack,
            static_shared_bytes: 2048,
            constant_bytes,
            barriers,
        }
    }

    #[test]
    fn nvrtc_12_9() {
        let kernels = parse_resources(LOG_12_9).unwrap();
        let names: Vec<&str> = kernels.iter().map(|k| k.name.as_str()).collect();
        assert_eq!(names, ["_Z2tkILi3EEvPi", "spill", "add"]);
        assert_eq!(kernels[1], spill(32, [1456, 1588, 1640], Some(364), Some(1)));
        assert_eq!((kernels[0].registers, kernels[2].registers), (8, 10));
        assert_eq!(kernels[2].spill_store_bytes, 0);
    }

    #[test]
    fn nvrtc_13_5() {
        let kernels = parse_resources(LOG_13_5).unwrap();
        assert_eq!(kernels, [spill(64, [1152, 1264, 1660], None, Some(1))]);
    }

    #[test]
    fn nvrtc_12_4() {
        let kernels = parse_resources(LOG_12_4).unwrap();
        assert_eq!(kernels, [spill(32, [1504, 1856, 2436], None, None)]);
    }

    #[test]
    fn no_kernels_no_resources() {
        assert_eq!(parse_resources("").unwrap(), []);
        assert_eq!(parse_resources("ptxas info    : 0 bytes gmem\n").unwrap(), []);
    }

    #[test]
    fn every_missing_line_is_an_error() {
        for needle in ["bytes stack frame", ": Used "] {
            let cut: String = LOG_13_5
                .lines()
                .take(7)
                .filter(|line| !line.contains(needle))
                .map(|line| format!("{line}\n"))
                .collect();
            assert!(
                matches!(parse_resources(&cut), Err(LogError::Missing { .. })),
                "{needle}"
            );
        }
    }

    #[test]
    fn renamed_figures_are_errors_not_zeros() {
        for (from, to) in [
            ("bytes smem", "bytes shared"),
            ("64 registers", "64 regs"),
            ("64 registers", "many registers"),
            ("bytes spill loads", "bytes reloads"),
            ("1264 bytes spill stores, ", ""),
            ("1660 bytes spill loads", "1660 bytes spill loads, 3 moons"),
        ] {
            let log = LOG_13_5.replacen(from, to, 1);
            assert!(matches!(parse_resources(&log), Err(LogError::Unknown { .. })), "{to}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(lines in proptest::collection::vec((0usize..18, any::<String>()), 0..12)) {
            let known: Vec<&str> = LOG_12_9.lines().collect();
            let log: Vec<String> = lines
                .iter()
                .map(|(at, noise)| format!("{}{noise}", known[*at]))
                .collect();
            let _ = parse_resources(&log.join("\n"));
        }
    }
}
