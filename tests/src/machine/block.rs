//! One block: statements in lockstep.

use super::expr::convert;
use super::global::Memory;
use super::lanes::{Lanes, Mask, Register, Value};
use super::resolve::{Act, Code, Expr, Kind, Stmt};
use super::shared::Shared;
use super::tensor_core::{load_matrices, product};
use super::{Arrival, Fault, Stats};
use mlafuse_codegen::thread::{self, Intrinsic};
use mlafuse_tensor::DType;

pub(super) struct Block<'a, 'm> {
    pub code: &'a Code<'a>,
    pub index: [usize; 3],
    pub memory: &'m mut Memory,
    pub shared: Shared,
    pub stats: &'m mut Stats,
    pub slots: Vec<Value>,
    pub arrays: Vec<Vec<Register>>,
    pub thread_index: Lanes<i64>,
    returned: Vec<bool>,
    returns: usize,
}

/// Runs one block to its end and gives its registers.
pub(super) fn run(
    code: &Code,
    index: [usize; 3],
    memory: &mut Memory,
    arrival: Arrival,
    stats: &mut Stats,
) -> Result<Vec<Vec<Register>>, Fault> {
    let threads = code.program.threads;
    let mut slots: Vec<Value> = code
        .scalars
        .iter()
        .map(|&value| Value::Int(Lanes::Same(value)))
        .collect();
    slots.resize(code.slots, Value::Int(Lanes::Same(0)));
    let mut block = Block {
        code,
        index,
        memory,
        shared: Shared::new(code.program.shared_bytes, threads, arrival == Arrival::Eager),
        stats,
        slots,
        arrays: vec![Vec::new(); code.arrays.len()],
        thread_index: Lanes::each((0..threads as i64).collect()),
        returned: vec![false; threads],
        returns: 0,
    };
    block.body(&code.body, Mask::all(threads))?;
    block
        .shared
        .check_done()
        .map_err(|what| block.fault(what, "the end".into()))?;
    Ok(block.arrays)
}

impl Block<'_, '_> {
    pub(super) fn threads(&self) -> usize {
        self.code.program.threads
    }

    /// A number for this thread that no other thread of the launch has.
    pub(super) fn thread_of_launch(&self, thread: usize) -> u64 {
        let [x, y, z] = self.index.map(|i| i as u64);
        (((z << 18) + y) << 22) + (x << 10) + thread as u64
    }

    fn fault(&self, what: String, statement: String) -> Fault {
        Fault {
            kernel: self.code.program.name.clone(),
            block: self.index,
            what,
            statement,
        }
    }

    /// Runs statements; threads that have returned meanwhile drop out.
    fn body(&mut self, body: &[Stmt], mut mask: Mask) -> Result<(), Fault> {
        for stmt in body {
            let returns = self.returns;
            self.statement(stmt, &mask)?;
            if self.returns != returns {
                mask = mask.without(&self.returned);
                if mask.is_empty() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn statement(&mut self, stmt: &Stmt, mask: &Mask) -> Result<(), Fault> {
        match &stmt.act {
            Act::If { cond, body } => {
                let cond = self
                    .ints(cond, mask)
                    .map_err(|what| self.fault(what, words(stmt.source)))?;
                let taken = mask.and(&cond, true);
                if taken.is_empty() {
                    Ok(())
                } else {
                    self.body(body, taken)
                }
            }
            Act::For { slot, start, end, body } => {
                let (start, end) = self
                    .bounds(start, end, mask)
                    .map_err(|what| self.fault(what, words(stmt.source)))?;
                for value in start..end {
                    let mask = mask.without(&self.returned);
                    if mask.is_empty() {
                        break;
                    }
                    self.slots[*slot] = Value::Int(Lanes::Same(value));
                    self.body(body, mask)?;
                }
                Ok(())
            }
            Act::Scope(body) => self.body(body, mask.clone()),
            _ => self
                .simple(stmt, mask)
                .map_err(|what| self.fault(what, words(stmt.source))),
        }
    }

    fn bounds(&mut self, start: &Expr, end: &Expr, mask: &Mask) -> Result<(i64, i64), String> {
        let (start, end) = (self.ints(start, mask)?, self.ints(end, mask)?);
        Ok((
            mask.shared_value(&start, "a loop's start")?,
            mask.shared_value(&end, "a loop's end")?,
        ))
    }

    fn simple(&mut self, stmt: &Stmt, mask: &Mask) -> Result<(), String> {
        match &stmt.act {
            Act::Let(slot, ty, value) => {
                let value = self.eval(value, mask)?;
                self.slots[*slot] = convert(value, *ty, mask)?;
            }
            Act::Array(index) => {
                let array = &self.code.arrays[*index];
                self.arrays[*index] = vec![Register::new(array.float, self.threads()); array.len];
            }
            Act::Set(array, at, value) => {
                let at = self.register_index(*array, at, 1, mask)?;
                let value = self.eval(value, mask)?;
                self.arrays[*array][at].write(value, mask)?;
            }
            Act::Store(pointer, index, value) => self.store(*pointer, index, value, mask)?,
            Act::Do(intrinsic, args) => {
                self.shared.next_statement();
                self.intrinsic(*intrinsic, args, mask)?;
            }
            Act::Return => {
                mask.active().for_each(|thread| self.returned[thread] = true);
                self.returns += 1;
            }
            Act::Nothing | Act::If { .. } | Act::For { .. } | Act::Scope(_) => {}
        }
        Ok(())
    }

    fn store(&mut self, pointer: usize, index: &Expr, value: &Expr, mask: &Mask) -> Result<(), String> {
        let index = self.ints(index, mask)?;
        match self.code.pointers[pointer].dtype {
            DType::F32 => {
                let values = self.floats(value, mask)?;
                self.store_bytes(pointer, &index, mask, |thread| values.at(thread).to_le_bytes())
            }
            DType::BF16 | DType::F16 => {
                let values = self.ints(value, mask)?;
                self.store_bytes(pointer, &index, mask, |thread| (values.at(thread) as u16).to_le_bytes())
            }
            dtype => Err(format!("stores of {dtype} are not modelled")),
        }
    }

    /// N bytes of each active thread at an element of device memory.
    fn store_bytes<const N: usize>(
        &mut self,
        pointer: usize,
        index: &Lanes<i64>,
        mask: &Mask,
        bytes: impl Fn(usize) -> [u8; N],
    ) -> Result<(), String> {
        let pointer = &self.code.pointers[pointer];
        if !pointer.written {
            return Err(format!("`{}` is written, and is declared as only read", pointer.name));
        }
        for thread in mask.active() {
            let at = index.at(thread) * pointer.dtype.size_bytes() as i64;
            let who = self.thread_of_launch(thread);
            let stored = self.memory.write(pointer.buffer, at, &bytes(thread), who);
            stored.map_err(|what| format!("`{}`, thread {thread}: {what}", pointer.name))?;
        }
        Ok(())
    }

    fn store_shared<const N: usize>(
        &mut self,
        address: &Expr,
        mask: &Mask,
        bytes: impl Fn(usize) -> [u8; N],
    ) -> Result<(), String> {
        let addresses = self.ints(address, mask)?;
        for thread in mask.active() {
            self.shared.write(addresses.at(thread), &bytes(thread), thread)?;
        }
        self.count_shared(&addresses, mask);
        Ok(())
    }

    fn intrinsic(&mut self, intrinsic: Intrinsic, args: &[Expr], mask: &Mask) -> Result<(), String> {
        use Intrinsic::*;
        match (intrinsic, args) {
            (StoreSharedF32, [at, x]) => {
                let x = self.floats(x, mask)?;
                self.store_shared(at, mask, |thread| x.at(thread).to_le_bytes())
            }
            (StoreShared32, [at, word]) => {
                let word = self.ints(word, mask)?;
                self.store_shared(at, mask, |thread| (word.at(thread) as u32).to_le_bytes())
            }
            (StoreShared16, [at, element]) => {
                let element = self.ints(element, mask)?;
                self.store_shared(at, mask, |thread| (element.at(thread) as u16).to_le_bytes())
            }
            (LoadGlobalF32x2, [array, at, pointer, index]) => {
                let (array, at) = self.registers(array, at, 2, mask)?;
                let (pointer, index) = (self.pointer(pointer)?, self.ints(index, mask)?);
                if let Some(thread) = mask.active().find(|&thread| index.at(thread) % 2 != 0) {
                    return Err(format!(
                        "thread {thread} loads two elements from element {}",
                        index.at(thread)
                    ));
                }
                for i in 0..2 {
                    let value = self.load_global(pointer, &index.map(|index| index + i), mask)?;
                    self.arrays[array][at + i as usize].write(value, mask)?;
                }
                Ok(())
            }
            (StoreGlobalF32x2, [pointer, index, low, high]) => {
                let (pointer, index) = (self.pointer(pointer)?, self.ints(index, mask)?);
                let (low, high) = (self.floats(low, mask)?, self.floats(high, mask)?);
                let word =
                    |thread: usize| u64::from(low.at(thread).to_bits()) | u64::from(high.at(thread).to_bits()) << 32;
                self.store_bytes(pointer, &index, mask, |thread| word(thread).to_le_bytes())
            }
            (StoreGlobal16x2, [pointer, index, word]) => {
                let (pointer, index) = (self.pointer(pointer)?, self.ints(index, mask)?);
                let word = self.ints(word, mask)?;
                self.store_bytes(pointer, &index, mask, |thread| (word.at(thread) as u32).to_le_bytes())
            }
            (StoreGlobal16x4, [pointer, index, low, high]) => {
                let (pointer, index) = (self.pointer(pointer)?, self.ints(index, mask)?);
                let (low, high) = (self.ints(low, mask)?, self.ints(high, mask)?);
                let word = |thread: usize| low.at(thread) as u32 as u64 | (high.at(thread) as u32 as u64) << 32;
                self.store_bytes(pointer, &index, mask, |thread| word(thread).to_le_bytes())
            }
            (CopyAsync(_, bytes), [to, pointer, index, there]) => {
                let pointer = self.pointer(pointer)?;
                self.copy_async(bytes.into(), [to, index, there], pointer, mask)
            }
            (CopyCommit, []) => {
                mask.active().for_each(|thread| self.shared.commit(thread));
                Ok(())
            }
            (CopyWait(left), []) => {
                mask.active().for_each(|thread| self.shared.wait(left.into(), thread));
                Ok(())
            }
            (LoadMatrix4, [array, at, row]) => self.load_matrix(4, false, array, at, row, mask),
            (LoadMatrix4Transposed, [array, at, row]) => self.load_matrix(4, true, array, at, row, mask),
            (LoadMatrix2, [array, at, row]) => self.load_matrix(2, false, array, at, row, mask),
            (LoadMatrix2Transposed, [array, at, row]) => self.load_matrix(2, true, array, at, row, mask),
            (Mma(dtype), [acc, acc_at, a, a_at, b, b_at]) => {
                let acc = self.registers(acc, acc_at, 4, mask)?;
                let a = self.registers(a, a_at, 4, mask)?;
                let b = self.registers(b, b_at, 2, mask)?;
                self.product(dtype, acc, a, b, mask)
            }
            (Barrier, []) => {
                if !mask.without(&self.returned).is_full() {
                    return Err("a barrier that not every thread of the block reaches".into());
                }
                self.stats.barriers += 1;
                self.shared.barrier();
                Ok(())
            }
            _ => Err(format!("{intrinsic:?} of {} operands does nothing", args.len())),
        }
    }

    fn pointer(&self, e: &Expr) -> Result<usize, String> {
        match e.kind {
            Kind::Pointer(index) => Ok(index),
            _ => Err("no pointer where one is due".into()),
        }
    }

    /// Copies what is there, zeros for the rest; only what is there is read.
    fn copy_async(
        &mut self,
        bytes: usize,
        [to, index, there]: [&Expr; 3],
        pointer: usize,
        mask: &Mask,
    ) -> Result<(), String> {
        let to = self.ints(to, mask)?;
        let (index, there) = (self.ints(index, mask)?, self.ints(there, mask)?);
        let pointer = &self.code.pointers[pointer];
        let size = pointer.dtype.size_bytes();
        for thread in mask.active() {
            let count = there.at(thread);
            let count = usize::try_from(count).ok().filter(|&count| count <= bytes);
            let count = count.ok_or_else(|| format!("{} of {bytes} bytes are there", there.at(thread)))?;
            let at = index.at(thread) * size as i64;
            if at % bytes as i64 != 0 {
                return Err(format!(
                    "thread {thread} copies {bytes} bytes from byte {at}, which is not a multiple"
                ));
            }
            let mut copied = vec![0u8; bytes];
            // In pieces of an element, so that the last element of a buffer may be copied alone.
            for piece in (0..count).step_by(size) {
                let who = self.thread_of_launch(thread);
                let read = self.memory.read(pointer.buffer, at + piece as i64, size, who);
                let read = read.map_err(|what| format!("`{}`, thread {thread}: {what}", pointer.name))?;
                copied[piece..piece + size].copy_from_slice(read);
            }
            self.shared.copy(to.at(thread), copied, thread)?;
        }
        Ok(())
    }

    /// The array and first index of `count` registers.
    fn registers(&mut self, array: &Expr, at: &Expr, count: usize, mask: &Mask) -> Result<(usize, usize), String> {
        let Kind::Array(index) = array.kind else {
            return Err("no register array where one is due".into());
        };
        Ok((index, self.register_index(index, at, count, mask)?))
    }

    fn load_matrix(
        &mut self,
        count: usize,
        transposed: bool,
        array: &Expr,
        at: &Expr,
        row: &Expr,
        mask: &Mask,
    ) -> Result<(), String> {
        let (array, at) = self.registers(array, at, count, mask)?;
        let addresses = self.ints(row, mask)?;
        let mut loaded = vec![vec![0i64; self.threads()]; count];
        for warp in mask.warps()? {
            let rows: Vec<i64> = (0..count * 8).map(|lane| addresses.at(warp * 32 + lane)).collect();
            let words = load_matrices(&mut self.shared, warp, &rows, transposed, self.stats)?;
            for (register, words) in loaded.iter_mut().zip(words) {
                let lanes = register[warp * 32..].iter_mut().zip(words);
                lanes.for_each(|(lane, word)| *lane = word.into());
            }
        }
        for (i, values) in loaded.into_iter().enumerate() {
            self.arrays[array][at + i].write(Value::Int(Lanes::each(values)), mask)?;
        }
        Ok(())
    }

    fn product(
        &mut self,
        dtype: DType,
        (acc, acc_at): (usize, usize),
        (a, a_at): (usize, usize),
        (b, b_at): (usize, usize),
        mask: &Mask,
    ) -> Result<(), String> {
        let all = [(acc, acc_at, 4), (a, a_at, 4), (b, b_at, 2)];
        for (array, at, count) in all {
            self.arrays[array][at..at + count]
                .iter()
                .try_for_each(|register| register.check(mask))?;
        }
        for warp in mask.warps()? {
            let a = self.words(a, a_at, warp)?;
            let b = self.words(b, b_at, warp)?;
            let mut c = [[0f32; 32]; 4];
            for (register, values) in self.arrays[acc][acc_at..].iter().zip(&mut c) {
                let Register::Float { values: from, .. } = register else {
                    return Err("an accumulator of integers".into());
                };
                values.copy_from_slice(&from[warp * 32..warp * 32 + 32]);
            }
            product(dtype, &mut c, &a, &b);
            for (register, values) in self.arrays[acc][acc_at..].iter_mut().zip(&c) {
                if let Register::Float { values: to, .. } = register {
                    to[warp * 32..warp * 32 + 32].copy_from_slice(values);
                }
            }
            self.stats.products += 1;
        }
        Ok(())
    }

    /// N integer registers of one warp.
    fn words<const N: usize>(&self, array: usize, at: usize, warp: usize) -> Result<[[u32; 32]; N], String> {
        let mut out = [[0u32; 32]; N];
        for (register, values) in self.arrays[array][at..].iter().zip(&mut out) {
            let Register::Int { values: from, .. } = register else {
                return Err("an operand of floats".into());
            };
            values.copy_from_slice(&from[warp * 32..warp * 32 + 32]);
        }
        Ok(out)
    }
}

/// A statement in a line, without the statements in it.
fn words(stmt: &thread::Stmt) -> String {
    use thread::Stmt;
    match stmt {
        Stmt::Let { name, value, .. } => format!("let {name} = {value}"),
        Stmt::Set { name, at, value } => format!("{name}[{at}] = {value}"),
        Stmt::StoreGlobal { pointer, index, value } => format!("global {pointer}[{index}] = {value}"),
        Stmt::For { var, start, end, .. } => format!("for {var} in {start}..{end}"),
        Stmt::If { cond, .. } => format!("if {cond}"),
        Stmt::Do { intrinsic, args } => {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            format!("{intrinsic:?} {}", args.join(", "))
        }
        other => format!("{other:?}"),
    }
}
