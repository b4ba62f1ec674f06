//! What a launch hands to a program: the blocks of its grid, and its arguments in the widths that its code reads.

use super::{Access, ParamKind, TileProgram};
use mlafuse_ir::plan::BufferId;
use mlafuse_ir::size::{Dims, Symbol};

/// A launch of a program in given sizes, for a device to carry out. Every device that runs generated code uses this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z. Where one is 0 there is nothing to do.
    pub grid: [u32; 3],
    /// An argument for each parameter, in order.
    pub args: Vec<Arg>,
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The address of a buffer, 64 bits.
    Buffer {
        /// The plan's buffer.
        buffer: BufferId,
        /// What the program does with it.
        access: Access,
    },
    /// A count.
    I32(i32),
    /// A stride.
    I64(i64),
}

/// Sizes that a program cannot be launched in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A symbol without a value.
    #[error("kernel {kernel}: symbol {symbol} has no value")]
    Unbound {
        /// The kernel.
        kernel: String,
        /// The symbol.
        symbol: Symbol,
    },
    /// A value that the parameter cannot hold.
    #[error("kernel {kernel}: {symbol} is {value}; its parameter has {bits} bits")]
    Overflow {
        /// The kernel.
        kernel: String,
        /// The symbol.
        symbol: Symbol,
        /// Its value.
        value: usize,
        /// Bits of the parameter, of which one is the sign.
        bits: u32,
    },
    /// A grid that no GPU takes.
    #[error("kernel {kernel}: a grid of {grid} blocks; at most 2147483647, 65535 and 65535 are possible")]
    Grid {
        /// The kernel.
        kernel: String,
        /// Its extents, as far as they can be told.
        grid: String,
    },
}

/// "Technical specifications per compute capability" of the CUDA C++ programming guide.
const LARGEST_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];

impl TileProgram {
    /// What a launch in the sizes of `dims` hands over.
    ///
    /// # Errors
    /// Where a symbol has no value or one that its parameter cannot hold, or the grid is larger than a GPU takes.
    pub fn launch(&self, dims: &Dims) -> Result<Launch, LaunchError> {
        let args = self.params.iter().map(|param| match param.kind {
            ParamKind::Tensor { buffer, access, .. } => Ok(Arg::Buffer { buffer, access }),
            ParamKind::Scalar(symbol) => self.scalar_arg(symbol, dims),
        });
        let args = args.collect::<Result<_, _>>()?;
        let refused = |grid: String| LaunchError::Grid {
            kernel: self.name.clone(),
            grid,
        };
        let sizes = self
            .grid_size(dims)
            .ok_or_else(|| refused("unknown or too many".to_owned()))?;
        let mut grid = [0; 3];
        for ((blocks, size), most) in grid.iter_mut().zip(sizes).zip(LARGEST_GRID) {
            *blocks = u32::try_from(size)
                .ok()
                .filter(|&size| size <= most)
                .ok_or_else(|| refused(sizes.map(|size| size.to_string()).join(" x ")))?;
        }
        Ok(Launch { grid, args })
    }

    fn scalar_arg(&self, symbol: Symbol, dims: &Dims) -> Result<Arg, LaunchError> {
        let value = dims.get(symbol).ok_or_else(|| LaunchError::Unbound {
            kernel: self.name.clone(),
            symbol,
        })?;
        let overflow = |bits| LaunchError::Overflow {
            kernel: self.name.clone(),
            symbol,
            value,
            bits,
        };
        match symbol.is_stride() {
            true => i64::try_from(value).map(Arg::I64).map_err(|_| overflow(64)),
            false => i32::try_from(value).map(Arg::I32).map_err(|_| overflow(32)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{Expr, Param, ParamId};
    use mlafuse_tensor::DType;

    /// One block a sequence: a tensor, a count, a stride.
    fn program() -> TileProgram {
        let param = |name: &str, kind| Param {
            name: name.into(),
            kind,
        };
        TileProgram {
            name: "k".into(),
            doc: vec![],
            params: vec![
                param(
                    "x",
                    ParamKind::Tensor {
                        dtype: DType::F32,
                        access: Access::Write,
                        buffer: BufferId(3),
                    },
                ),
                param("B", ParamKind::Scalar(Symbol::B)),
                param("G", ParamKind::Scalar(Symbol::G)),
            ],
            grid: [1.into(), Expr::Param(ParamId(1)), 1.into()],
            tiles: vec![],
            vars: vec![],
            body: vec![],
        }
    }

    #[test]
    fn strides_are_wide_and_counts_are_not() {
        let wide = (i32::MAX as usize) + 1;
        let dims = Dims::new().with(Symbol::B, 2).with(Symbol::G, wide);
        let launch = program().launch(&dims).unwrap();
        assert_eq!(launch.grid, [1, 2, 1]);
        let buffer = Arg::Buffer {
            buffer: BufferId(3),
            access: Access::Write,
        };
        assert_eq!(launch.args, [buffer, Arg::I32(2), Arg::I64(wide as i64)]);
    }

    #[test]
    fn what_cannot_be_launched_is_said() {
        let message = |dims: Dims| program().launch(&dims).unwrap_err().to_string();
        let strides = Dims::new().with(Symbol::G, 8);
        assert_eq!(message(strides.clone()), "kernel k: symbol B has no value");
        assert_eq!(
            message(strides.clone().with(Symbol::B, 1 << 31)),
            "kernel k: B is 2147483648; its parameter has 32 bits"
        );
        assert_eq!(
            message(strides.with(Symbol::B, 65536)),
            "kernel k: a grid of 1 x 65536 x 1 blocks; at most 2147483647, 65535 and 65535 are possible"
        );
        let none = program()
            .launch(&Dims::new().with(Symbol::G, 8).with(Symbol::B, 0))
            .unwrap();
        assert_eq!(none.grid, [1, 0, 1]);
    }
}
