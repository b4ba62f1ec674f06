//! Shapes and storage types: what an op takes and makes.

use crate::einsum::EinsumError;
use crate::graph::{EinsumSpec, Op, Ty};
use crate::size::{Dim, Size};
use mlafuse_tensor::DType;

/// Why an op and its types do not go together. `arg` counts from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// Another number of arguments than the op takes.
    #[error("expected {expected} arguments, got {got}")]
    Arity {
        /// The number or numbers allowed.
        expected: &'static str,
        /// The number given.
        got: usize,
    },
    /// One argument has the wrong type.
    #[error("expected {expected}, got {got}")]
    Argument {
        /// Which argument, from 0.
        arg: usize,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The node's own type is wrong.
    #[error("result: expected {expected}, got {got}")]
    Result {
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// An attribute is out of its range.
    #[error("{attribute}: expected {expected}, got {got}")]
    Attribute {
        /// The attribute's name in the text form.
        attribute: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The labels of a contraction are wrong.
    #[error("{0}")]
    Einsum(#[from] EinsumError),
}

impl TypeError {
    /// The argument at fault, if one is.
    pub fn arg(&self) -> Option<usize> {
        match self {
            TypeError::Argument { arg, .. } => Some(*arg),
            _ => None,
        }
    }
}

/// A shape in the text form's notation: `[B, T, 7168]`.
pub fn shape_text(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The shape of what `op` makes of arguments of types `args`.
///
/// `declared` is the shape its node states. `input` and `reshape` take theirs from it, and `cache_read` its number of
/// tokens; the others ignore it, so that a caller which has none passes `&[]`.
pub fn infer_shape(op: &Op, args: &[&Ty], declared: &[Dim]) -> Result<Vec<Dim>, TypeError> {
    check_kinds(op, args)?;
    match (op, args) {
        (Op::Input { .. }, _) => Ok(declared.to_vec()),
        (Op::Einsum(spec), [a, b]) => einsum(spec, a, b),
        (Op::RmsNorm { eps }, [x, gain]) => rms_norm(*eps, x, gain),
        (Op::Rope { .. }, [x, cos, sin, q_len, kv_len]) => rope(x, cos, sin, q_len, kv_len),
        (Op::Scale { factor }, [x]) => {
            finite("factor", *factor)?;
            Ok(x.shape.clone())
        }
        (Op::Add | Op::Mul, [a, b]) => suffixed(a, b),
        (Op::ScaleRows, [x, r]) => scale_rows(x, r),
        (Op::InvRms { eps }, [x]) => {
            not_negative("eps", *eps)?;
            at_least(0, x, 1)?;
            Ok(x.shape[..x.shape.len() - 1].to_vec())
        }
        (Op::Mask, [x, q_len, kv_len]) => {
            at_least(0, x, 3)?;
            exact(1, q_len, &x.shape[..1])?;
            exact(2, kv_len, &x.shape[..1])?;
            Ok(x.shape.clone())
        }
        (Op::Softmax, [x]) => {
            at_least(0, x, 1)?;
            Ok(x.shape.clone())
        }
        (Op::Slice { axis, start, len }, [x]) => slice(*axis, *start, *len, x),
        (Op::Concat { axis }, [a, b]) => concat(*axis, a, b),
        (Op::Reshape, [x]) => reshape(x, declared),
        (Op::Cast, [x]) => Ok(x.shape.clone()),
        (Op::CacheWrite, [cache, latent, middle @ .., table, q_len, kv_len]) => {
            cache_write(cache, latent, middle.first().copied(), [table, q_len, kv_len])
        }
        (Op::CacheRead, [cache, table, kv_len]) => cache_read(cache, table, kv_len, declared),
        _ => Err(TypeError::Arity {
            expected: op.arity(),
            got: args.len(),
        }),
    }
}

/// Checks a node's stated type against its op and arguments: the shape, and that the storage type is one the op makes.
pub fn check_type(op: &Op, args: &[&Ty], ty: &Ty) -> Result<(), TypeError> {
    check_extent(&ty.shape)?;
    let shape = infer_shape(op, args, &ty.shape)?;
    if shape != ty.shape {
        return Err(TypeError::Result {
            expected: shape_text(&shape),
            got: shape_text(&ty.shape),
        });
    }
    let expected = match op {
        Op::Input { .. } if matches!(ty.dtype, DType::I64) => "a float type or i32".to_string(),
        Op::Input { .. } => return Ok(()),
        _ if !ty.dtype.is_float() => "a float type".to_string(),
        Op::Slice { .. } | Op::Concat { .. } | Op::Reshape | Op::CacheWrite | Op::CacheRead => match args.first() {
            Some(first) if first.dtype != ty.dtype => format!("{}, its argument's type", first.dtype),
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    Err(TypeError::Result {
        expected,
        got: ty.dtype.to_string(),
    })
}

impl Op {
    /// How many arguments it takes, in words.
    pub fn arity(&self) -> &'static str {
        match self {
            Op::Input { .. } => "0",
            Op::Scale { .. } | Op::InvRms { .. } | Op::Softmax | Op::Slice { .. } | Op::Reshape | Op::Cast => "1",
            Op::Einsum(_) | Op::RmsNorm { .. } | Op::Add | Op::Mul | Op::ScaleRows | Op::Concat { .. } => "2",
            Op::Mask | Op::CacheRead => "3",
            Op::Rope { .. } => "5",
            Op::CacheWrite => "5 or 6",
        }
    }

    /// Whether argument `arg` of `count` holds lengths or page numbers.
    fn takes_integer(&self, arg: usize, count: usize) -> bool {
        match self {
            Op::Rope { .. } => arg >= 3,
            Op::Mask | Op::CacheRead => arg >= 1,
            Op::CacheWrite => arg + 3 >= count,
            _ => false,
        }
    }
}

/// Arity, and floats or i32 where each is due.
fn check_kinds(op: &Op, args: &[&Ty]) -> Result<(), TypeError> {
    let count = args.len();
    let allowed = match op {
        Op::CacheWrite => count == 5 || count == 6,
        _ => op.arity() == count.to_string(),
    };
    if !allowed {
        return Err(TypeError::Arity {
            expected: op.arity(),
            got: count,
        });
    }
    for (arg, ty) in args.iter().enumerate() {
        let (fits, expected) = match op.takes_integer(arg, count) {
            true => (ty.dtype == DType::I32, "i32"),
            false => (ty.dtype.is_float(), "a float type"),
        };
        if !fits {
            return Err(wrong(arg, expected, &ty.dtype.to_string()));
        }
    }
    Ok(())
}

/// Constant dimensions are at least 1 and their product fits.
fn check_extent(shape: &[Dim]) -> Result<(), TypeError> {
    let mut product = 1usize;
    for &dim in shape {
        let Dim::Const(n) = dim else { continue };
        product = match product.checked_mul(n) {
            Some(p) if p > 0 && p < isize::MAX as usize / 8 => p,
            _ => {
                return Err(TypeError::Result {
                    expected: "dimensions of at least 1 whose product fits the address space".to_string(),
                    got: shape_text(shape),
                });
            }
        };
    }
    Ok(())
}

fn wrong(arg: usize, expected: &str, got: &str) -> TypeError {
    TypeError::Argument {
        arg,
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

fn wrong_shape(arg: usize, expected: &[Dim], got: &Ty) -> TypeError {
    wrong(arg, &format!("shape {}", shape_text(expected)), &shape_text(&got.shape))
}

fn exact(arg: usize, ty: &Ty, shape: &[Dim]) -> Result<(), TypeError> {
    if ty.shape == shape {
        Ok(())
    } else {
        Err(wrong_shape(arg, shape, ty))
    }
}

fn rank(arg: usize, ty: &Ty, rank: usize) -> Result<(), TypeError> {
    if ty.shape.len() == rank {
        return Ok(());
    }
    Err(wrong(arg, &format!("{rank} dimensions"), &shape_text(&ty.shape)))
}

fn at_least(arg: usize, ty: &Ty, rank: usize) -> Result<(), TypeError> {
    if ty.shape.len() >= rank {
        return Ok(());
    }
    Err(wrong(
        arg,
        &format!("at least {rank} dimensions"),
        &shape_text(&ty.shape),
    ))
}

fn constant(arg: usize, ty: &Ty, axis: usize) -> Result<usize, TypeError> {
    match ty.shape.get(axis) {
        Some(Dim::Const(n)) => Ok(*n),
        _ => Err(wrong(
            arg,
            &format!("a constant dimension {axis}"),
            &shape_text(&ty.shape),
        )),
    }
}

fn finite(attribute: &'static str, value: f64) -> Result<(), TypeError> {
    if value.is_finite() {
        return Ok(());
    }
    Err(TypeError::Attribute {
        attribute,
        expected: "a finite number".to_string(),
        got: value.to_string(),
    })
}

fn not_negative(attribute: &'static str, value: f64) -> Result<(), TypeError> {
    finite(attribute, value)?;
    if value >= 0.0 {
        return Ok(());
    }
    Err(TypeError::Attribute {
        attribute,
        expected: "at least 0".into(),
        got: value.to_string(),
    })
}

fn einsum(spec: &EinsumSpec, a: &Ty, b: &Ty) -> Result<Vec<Dim>, TypeError> {
    spec.check()?;
    rank(0, a, spec.a.len())?;
    rank(1, b, spec.b.len())?;
    let of_a = |label: &String| spec.a.iter().position(|l| l == label).map(|i| a.shape[i]);
    for (label, &dim) in spec.b.iter().zip(&b.shape) {
        if let Some(first) = of_a(label).filter(|&first| first != dim) {
            return Err(wrong(1, &format!("{first} along `{label}`"), &dim.to_string()));
        }
    }
    let of_b = |label: &String| spec.b.iter().position(|l| l == label).map(|i| b.shape[i]);
    Ok(spec
        .out
        .iter()
        .filter_map(|label| of_a(label).or_else(|| of_b(label)))
        .collect())
}

fn rms_norm(eps: f64, x: &Ty, gain: &Ty) -> Result<Vec<Dim>, TypeError> {
    not_negative("eps", eps)?;
    at_least(0, x, 1)?;
    exact(1, gain, &x.shape[x.shape.len() - 1..])?;
    Ok(x.shape.clone())
}

fn rope(x: &Ty, cos: &Ty, sin: &Ty, q_len: &Ty, kv_len: &Ty) -> Result<Vec<Dim>, TypeError> {
    at_least(0, x, 3)?;
    let d_rope = constant(0, x, x.shape.len() - 1)?;
    if d_rope % 2 != 0 {
        return Err(wrong(0, "an even last dimension", &d_rope.to_string()));
    }
    rank(1, cos, 2)?;
    exact(1, cos, &[cos.shape[0], Dim::Const(d_rope / 2)])?;
    exact(2, sin, &cos.shape)?;
    exact(3, q_len, &x.shape[..1])?;
    exact(4, kv_len, &x.shape[..1])?;
    Ok(x.shape.clone())
}

fn scale_rows(x: &Ty, r: &Ty) -> Result<Vec<Dim>, TypeError> {
    if !x.shape.starts_with(&r.shape) {
        return Err(wrong(
            1,
            &format!("{} or a prefix of it", shape_text(&x.shape)),
            &shape_text(&r.shape),
        ));
    }
    Ok(x.shape.clone())
}

fn suffixed(a: &Ty, b: &Ty) -> Result<Vec<Dim>, TypeError> {
    if !a.shape.ends_with(&b.shape) {
        return Err(wrong(
            1,
            &format!("{} or a suffix of it", shape_text(&a.shape)),
            &shape_text(&b.shape),
        ));
    }
    Ok(a.shape.clone())
}

fn axis_error(axis: usize, x: &Ty) -> TypeError {
    let expected = format!("a dimension of {}", shape_text(&x.shape));
    TypeError::Attribute {
        attribute: "axis",
        expected,
        got: axis.to_string(),
    }
}

fn slice(axis: usize, start: usize, len: usize, x: &Ty) -> Result<Vec<Dim>, TypeError> {
    if axis >= x.shape.len() {
        return Err(axis_error(axis, x));
    }
    let whole = constant(0, x, axis)?;
    if start.checked_add(len).is_none_or(|end| end > whole) {
        let expected = format!("start + len of at most {whole}");
        return Err(TypeError::Attribute {
            attribute: "len",
            expected,
            got: format!("{start} + {len}"),
        });
    }
    let mut shape = x.shape.clone();
    shape[axis] = Dim::Const(len);
    Ok(shape)
}

fn concat(axis: usize, a: &Ty, b: &Ty) -> Result<Vec<Dim>, TypeError> {
    if axis >= a.shape.len() {
        return Err(axis_error(axis, a));
    }
    rank(1, b, a.shape.len())?;
    let (first, second) = (constant(0, a, axis)?, constant(1, b, axis)?);
    let mut shape = a.shape.clone();
    shape[axis] = Dim::Const(second);
    exact(1, b, &shape)?;
    // Two constants of types that passed `check_extent` cannot overflow.
    shape[axis] = Dim::Const(first.saturating_add(second));
    Ok(shape)
}

fn reshape(x: &Ty, declared: &[Dim]) -> Result<Vec<Dim>, TypeError> {
    check_extent(declared)?;
    check_extent(&x.shape)?;
    let (from, to) = (Size::product(&x.shape), Size::product(declared));
    if from != to {
        return Err(TypeError::Result {
            expected: format!("{from} elements"),
            got: format!("{to} elements"),
        });
    }
    Ok(declared.to_vec())
}

fn cache_write(cache: &Ty, latent: &Ty, k_pe: Option<&Ty>, tail: [&Ty; 3]) -> Result<Vec<Dim>, TypeError> {
    rank(0, cache, 3)?;
    rank(1, latent, 3)?;
    let row = constant(0, cache, 2)?;
    let d_latent = constant(1, latent, 2)?;
    let mut width = d_latent;
    if let Some(k_pe) = k_pe {
        rank(2, k_pe, 3)?;
        let d_rope = constant(2, k_pe, 2)?;
        exact(2, k_pe, &[latent.shape[0], latent.shape[1], Dim::Const(d_rope)])?;
        width = width.saturating_add(d_rope);
    }
    if width != row {
        return Err(wrong(
            0,
            &format!("rows of {width}, the new rows' width"),
            &row.to_string(),
        ));
    }
    let first = 2 + usize::from(k_pe.is_some());
    let [table, q_len, kv_len] = tail;
    rank(first, table, 2)?;
    exact(first, table, &[latent.shape[0], table.shape[1]])?;
    exact(first + 1, q_len, &latent.shape[..1])?;
    exact(first + 2, kv_len, &latent.shape[..1])?;
    Ok(cache.shape.clone())
}

fn cache_read(cache: &Ty, table: &Ty, kv_len: &Ty, declared: &[Dim]) -> Result<Vec<Dim>, TypeError> {
    rank(0, cache, 3)?;
    rank(1, table, 2)?;
    exact(2, kv_len, &table.shape[..1])?;
    let Some(&tokens) = declared.get(1) else {
        return Err(TypeError::Result {
            expected: "3 dimensions".to_string(),
            got: shape_text(declared),
        });
    };
    Ok(vec![table.shape[0], tokens, cache.shape[2]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Symbol;

    fn ty(dtype: DType, shape: &[Dim]) -> Ty {
        Ty {
            dtype,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn einsum_takes_dims_from_both_operands() {
        let b = Dim::Sym(Symbol::B);
        let (x, w) = (ty(DType::BF16, &[b, 3.into()]), ty(DType::BF16, &[5.into(), 3.into()]));
        let op = Op::Einsum("b d, q d -> q b".parse().unwrap());
        assert_eq!(infer_shape(&op, &[&x, &w], &[]).unwrap(), [Dim::Const(5), b]);
        let w = ty(DType::BF16, &[5.into(), 4.into()]);
        assert_eq!(
            infer_shape(&op, &[&x, &w], &[]),
            Err(TypeError::Argument {
                arg: 1,
                expected: "3 along `d`".into(),
                got: "4".into()
            })
        );
    }

    #[test]
    fn lengths_are_i32() {
        let x = ty(DType::F32, &[2.into(), 3.into(), 4.into()]);
        let len = ty(DType::F32, &[2.into()]);
        let error = infer_shape(&Op::Mask, &[&x, &len, &len], &[]).unwrap_err();
        assert_eq!(
            error,
            TypeError::Argument {
                arg: 1,
                expected: "i32".into(),
                got: "f32".into()
            }
        );
    }

    #[test]
    fn huge_and_empty_shapes_are_refused() {
        let op = Op::Input {
            name: "x".into(),
            constant: false,
        };
        for shape in [vec![Dim::Const(usize::MAX), Dim::Const(2)], vec![Dim::Const(0)]] {
            let node = Ty {
                dtype: DType::F32,
                shape,
            };
            assert!(matches!(check_type(&op, &[], &node), Err(TypeError::Result { .. })));
        }
        let x = ty(DType::F32, &[4.into()]);
        let shape = vec![Dim::Const(usize::MAX), Dim::Const(usize::MAX)];
        assert!(infer_shape(&Op::Reshape, &[&x], &shape).is_err());
    }

    #[test]
    fn slices_stay_inside() {
        let x = ty(DType::F32, &[4.into()]);
        let op = Op::Slice {
            axis: 0,
            start: usize::MAX,
            len: 2,
        };
        assert!(matches!(infer_shape(&op, &[&x], &[]), Err(TypeError::Attribute { .. })));
        let op = Op::Slice {
            axis: 1,
            start: 0,
            len: 2,
        };
        assert!(matches!(
            infer_shape(&op, &[&x], &[]),
            Err(TypeError::Attribute { attribute: "axis", .. })
        ));
    }
}
