//! Expressions, in all threads at once.

use super::block::Block;
use super::lanes::{Lanes, Mask, Value};
use super::resolve::{Expr, Kind};
use super::shared::{BASE, count_wavefronts};
use half::{bf16, f16};
use mlafuse_codegen::thread::{Binary, Intrinsic, Ty};
use mlafuse_codegen::tile::Axis;
use mlafuse_tensor::DType;

impl Block<'_, '_> {
    /// The value in every active thread; what inactive threads get means nothing.
    pub(super) fn eval(&mut self, e: &Expr, mask: &Mask) -> Result<Value, String> {
        Ok(match &e.kind {
            Kind::Int(n) => Value::Int(Lanes::Same(*n)),
            Kind::Float(x) => Value::Float(Lanes::Same(*x)),
            Kind::Slot(slot) => self.slots[*slot].clone(),
            Kind::Thread => Value::Int(self.thread_index.clone()),
            Kind::Block(axis) => Value::Int(Lanes::Same(match axis {
                Axis::X => self.index[0],
                Axis::Y => self.index[1],
                Axis::Z => self.index[2],
            } as i64)),
            Kind::Shared => Value::Int(Lanes::Same(BASE as i64)),
            Kind::Register(array, at) => {
                let at = self.register_index(*array, at, 1, mask)?;
                let register = &self.arrays[*array][at];
                register
                    .check(mask)
                    .map_err(|what| format!("{what}: {}[{at}]", self.code.arrays[*array].name))?;
                register.read()
            }
            Kind::Array(_) | Kind::Pointer(_) => return Err("an array or pointer used as a value".into()),
            Kind::Global(pointer, at) => {
                let at = self.ints(at, mask)?;
                self.load_global(*pointer, &at, mask)?
            }
            Kind::Cast(a) => {
                let value = self.eval(a, mask)?;
                convert(value, e.ty, mask)?
            }
            Kind::Binary(Binary::And, a, b) => {
                let a = self.ints(a, mask)?;
                let both = mask.and(&a, true);
                if both.is_empty() {
                    return Ok(Value::Int(Lanes::Same(0)));
                }
                let b = self.ints(b, &both)?;
                Value::Int(a.zip(&b, |a, b| (a != 0 && b != 0).into()))
            }
            Kind::Binary(op, a, b) => {
                let ty = if e.ty == Ty::Bool { common(a.ty, b.ty) } else { e.ty };
                let (a, b) = (self.eval(a, mask)?, self.eval(b, mask)?);
                binary(*op, ty, convert(a, ty, mask)?, convert(b, ty, mask)?, mask)?
            }
            Kind::Select(cond, a, b) => {
                let cond = self.ints(cond, mask)?;
                let (then, otherwise) = (mask.and(&cond, true), mask.and(&cond, false));
                let mut arm = |e_arm: &Expr, mask: &Mask| match mask.is_empty() {
                    true => Ok(None),
                    false => self
                        .eval(e_arm, mask)
                        .and_then(|value| convert(value, e.ty, mask))
                        .map(Some),
                };
                match (arm(a, &then)?, arm(b, &otherwise)?) {
                    (Some(a), None) => a,
                    (None, Some(b)) => b,
                    (Some(Value::Int(a)), Some(Value::Int(b))) => Value::Int(a.blend(&b, &then)),
                    (Some(Value::Float(a)), Some(Value::Float(b))) => Value::Float(a.blend(&b, &then)),
                    _ => return Err("a choice without active threads, or of two kinds".into()),
                }
            }
            Kind::Call(intrinsic, args) => self.call(*intrinsic, args, mask)?,
        })
    }

    pub(super) fn ints(&mut self, e: &Expr, mask: &Mask) -> Result<Lanes<i64>, String> {
        self.eval(e, mask)?.ints()
    }

    pub(super) fn floats(&mut self, e: &Expr, mask: &Mask) -> Result<Lanes<f32>, String> {
        let value = self.eval(e, mask)?;
        convert(value, Ty::F32, mask)?.floats()
    }

    /// The index of `count` registers of an array: the same in every thread, since registers have no addresses.
    pub(super) fn register_index(
        &mut self,
        array: usize,
        at: &Expr,
        count: usize,
        mask: &Mask,
    ) -> Result<usize, String> {
        let at = self.ints(at, mask)?;
        let at = mask.shared_value(&at, "a register's index")?;
        let len = self.code.arrays[array].len;
        let fits = usize::try_from(at).ok().filter(|at| at + count <= len);
        fits.ok_or_else(|| {
            format!(
                "registers {at}..+{count} of `{}`, which has {len}",
                self.code.arrays[array].name
            )
        })
    }

    pub(super) fn load_global(&self, pointer: usize, at: &Lanes<i64>, mask: &Mask) -> Result<Value, String> {
        let pointer = &self.code.pointers[pointer];
        let size = pointer.dtype.size_bytes();
        let load = |thread: usize| {
            let at = at.at(thread) * size as i64;
            let bytes = self
                .memory
                .read(pointer.buffer, at, size, self.thread_of_launch(thread));
            bytes.map_err(|what| format!("`{}`, thread {thread}: {what}", pointer.name))
        };
        // The same element in all threads is read once.
        let once = matches!(at, Lanes::Same(_));
        let mut bits = vec![0u64; self.threads()];
        for thread in mask.active() {
            let mut word = [0u8; 8];
            word[..size].copy_from_slice(load(thread)?);
            bits[thread] = u64::from_le_bytes(word);
            if once {
                bits = vec![bits[thread]];
                break;
            }
        }
        let lanes = if once { Lanes::Same(bits[0]) } else { Lanes::each(bits) };
        Ok(match pointer.dtype {
            DType::F32 => Value::Float(lanes.map(|bits| f32::from_bits(bits as u32))),
            DType::I32 => Value::Int(lanes.map(|bits| (bits as i32).into())),
            _ => Value::Int(lanes.map(|bits| bits as i64)),
        })
    }

    fn call(&mut self, intrinsic: Intrinsic, args: &[Expr], mask: &Mask) -> Result<Value, String> {
        use Intrinsic::*;
        Ok(match (intrinsic, args) {
            (Exp2, [x]) => Value::Float(self.floats(x, mask)?.map(|x| flushed(flushed(x).exp2()))),
            (Log2, [x]) => Value::Float(self.floats(x, mask)?.map(f32::log2)),
            (Rsqrt, [x]) => Value::Float(self.floats(x, mask)?.map(|x| 1.0 / x.sqrt())),
            (ShuffleXor, [x, lanes]) => {
                mask.warps()?;
                let lanes = self.ints(lanes, mask)?;
                let lanes = mask.shared_value(&lanes, "a shuffle's mask")? as usize;
                let x = self.floats(x, mask)?;
                Value::Float(Lanes::each(
                    (0..self.threads()).map(|t| x.at(t ^ (lanes & 31))).collect(),
                ))
            }
            (WarpSum, [x]) => {
                mask.warps()?;
                let x = self.ints(x, mask)?;
                let lanes = |t: usize| t & !31..(t & !31) + 32;
                let sums = (0..self.threads()).map(|t| lanes(t).map(|lane| x.at(lane)).sum());
                Value::Int(in_range(Lanes::each(sums.collect()), Ty::I32, mask)?)
            }
            (ToFloat(DType::BF16), [x]) => {
                Value::Float(self.ints(x, mask)?.map(|bits| bf16::from_bits(bits as u16).to_f32()))
            }
            (ToFloat(DType::F16), [x]) => {
                Value::Float(self.ints(x, mask)?.map(|bits| f16::from_bits(bits as u16).to_f32()))
            }
            (ToFloat(DType::F32) | FromFloat(DType::F32), [x]) => Value::Float(self.floats(x, mask)?),
            (FromFloat(dtype @ (DType::BF16 | DType::F16)), [x]) => {
                Value::Int(self.floats(x, mask)?.map(|x| rounded(dtype, x).into()))
            }
            (Pack2(dtype @ (DType::BF16 | DType::F16)), [low, high]) => {
                let (low, high) = (self.floats(low, mask)?, self.floats(high, mask)?);
                Value::Int(low.zip(&high, |low, high| {
                    i64::from(rounded(dtype, low)) | i64::from(rounded(dtype, high)) << 16
                }))
            }
            (LoadSharedF32, [at]) => {
                let words = self.load_shared(at, 4, mask)?;
                Value::Float(words.map(|word| f32::from_bits(word as u32)))
            }
            (LoadShared16, [at]) => Value::Int(self.load_shared(at, 2, mask)?),
            _ => return Err(format!("{intrinsic:?} of {} operands gives no value here", args.len())),
        })
    }

    fn load_shared(&mut self, at: &Expr, size: usize, mask: &Mask) -> Result<Lanes<i64>, String> {
        let addresses = self.ints(at, mask)?;
        let mut words = vec![0i64; self.threads()];
        for thread in mask.active() {
            let mut word = [0u8; 8];
            word[..size].copy_from_slice(self.shared.read(addresses.at(thread), size, thread)?);
            words[thread] = i64::from_le_bytes(word);
        }
        self.count_shared(&addresses, mask);
        Ok(Lanes::each(words))
    }

    /// Counts the wavefronts of an access of all warps.
    pub(super) fn count_shared(&mut self, addresses: &Lanes<i64>, mask: &Mask) {
        for warp in 0..self.threads() / 32 {
            let lanes = (warp * 32..warp * 32 + 32)
                .filter(|&t| mask.has(t))
                .map(|t| addresses.at(t));
            count_wavefronts(lanes, self.stats);
        }
    }
}

/// An f32 rounded to nearest even, as bits.
fn rounded(dtype: DType, x: f32) -> u16 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_bits(),
        _ => bf16::from_f32(x).to_bits(),
    }
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0 } else { x }
}

fn common(a: Ty, b: Ty) -> Ty {
    [Ty::F32, Ty::I64, Ty::U32]
        .into_iter()
        .find(|&ty| a == ty || b == ty)
        .unwrap_or(Ty::I32)
}

/// A value in another type. What C would cut off or wrap around is an error, but for 32-bit words.
pub(super) fn convert(value: Value, ty: Ty, mask: &Mask) -> Result<Value, String> {
    match (value, ty) {
        (Value::Int(lanes), Ty::F32) => Ok(Value::Float(lanes.map(|n| n as f32))),
        (Value::Float(lanes), Ty::F32) => Ok(Value::Float(lanes)),
        (Value::Float(_), _) => Err(format!("a float where {ty} is due")),
        (Value::Int(lanes), Ty::I32) => in_range(lanes, ty, mask).map(Value::Int),
        (Value::Int(lanes), Ty::U32) => Ok(Value::Int(lanes.map(|n| n & 0xffff_ffff))),
        (Value::Int(lanes), Ty::Bool) => Ok(Value::Int(lanes.map(|n| (n != 0).into()))),
        (value, Ty::I64) => Ok(value),
    }
}

fn in_range(lanes: Lanes<i64>, ty: Ty, mask: &Mask) -> Result<Lanes<i64>, String> {
    let out = |n: i64| i32::try_from(n).is_err();
    let found = match &lanes {
        Lanes::Same(n) => out(*n).then_some(*n),
        Lanes::Each(values) => mask.active().map(|t| values[t]).find(|&n| out(n)),
    };
    match found {
        Some(n) => Err(format!("{n} does not fit {ty}")),
        None => Ok(lanes),
    }
}

/// `op` of two values of type `ty`.
fn binary(op: Binary, ty: Ty, a: Value, b: Value, mask: &Mask) -> Result<Value, String> {
    use Binary::*;
    let (a, b) = match (a, b) {
        (Value::Float(a), Value::Float(b)) => return float_binary(op, &a, &b),
        (a, b) => (a.ints()?, b.ints()?),
    };
    if matches!(op, Div | Rem | Shl | Shr | Xor | BitAnd) {
        let least = if matches!(op, Div | Rem) { 1 } else { 0 };
        if let Some(t) = mask.active().find(|&t| a.at(t) < 0 || b.at(t) < least) {
            return Err(format!("{op:?} of {} and {} in thread {t}", a.at(t), b.at(t)));
        }
    }
    let lanes = match op {
        Add => a.zip(&b, i64::wrapping_add),
        Sub => a.zip(&b, i64::wrapping_sub),
        Mul => a.zip(&b, i64::wrapping_mul),
        Div => a.zip(&b, |a, b| a.checked_div(b).unwrap_or(0)),
        Rem => a.zip(&b, |a, b| a.checked_rem(b).unwrap_or(0)),
        Shl => a.zip(&b, |a, b| a.wrapping_shl(b as u32)),
        Shr => a.zip(&b, |a, b| a.wrapping_shr(b as u32)),
        Xor => a.zip(&b, |a, b| a ^ b),
        BitAnd => a.zip(&b, |a, b| a & b),
        Min => a.zip(&b, i64::min),
        Max => a.zip(&b, i64::max),
        Lt => a.zip(&b, |a, b| (a < b).into()),
        Le => a.zip(&b, |a, b| (a <= b).into()),
        Eq => a.zip(&b, |a, b| (a == b).into()),
        FMin | FMax | And => return Err(format!("{op:?} of integers")),
    };
    match ty {
        Ty::U32 => Ok(Value::Int(lanes.map(|n| n & 0xffff_ffff))),
        Ty::I32 => in_range(lanes, ty, mask).map(Value::Int),
        _ => Ok(Value::Int(lanes)),
    }
}

fn float_binary(op: Binary, a: &Lanes<f32>, b: &Lanes<f32>) -> Result<Value, String> {
    use Binary::*;
    Ok(match op {
        Add => Value::Float(a.zip(b, |a, b| a + b)),
        Sub => Value::Float(a.zip(b, |a, b| a - b)),
        Mul => Value::Float(a.zip(b, |a, b| a * b)),
        Div => Value::Float(a.zip(b, |a, b| a / b)),
        FMin => Value::Float(a.zip(b, f32::min)),
        FMax => Value::Float(a.zip(b, f32::max)),
        Lt => Value::Int(a.zip(b, |a, b| (a < b).into())),
        Le => Value::Int(a.zip(b, |a, b| (a <= b).into())),
        Eq => Value::Int(a.zip(b, |a, b| (a == b).into())),
        _ => return Err(format!("{op:?} of floats")),
    })
}
