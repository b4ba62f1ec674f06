//! Matrix instructions.

use super::decoder::Decoder;
use super::memory::space;
use super::op::{MatrixMove, MatrixShape, MmaOp, Op};
use super::operands::elements;
use super::{DecodeError, Reg};
use crate::ast::{self, Operand, Type};
use crate::numeric::mma::Mma;

pub(super) fn decode(decoder: &mut Decoder<'_>, inst: &ast::Inst) -> Result<Option<Op>, DecodeError> {
    match inst.opcode[0].as_str() {
        "ldmatrix" => {
            let [registers, address] = decoder.operands::<2>(inst)?;
            decoder
                .matrix_move(inst, registers, address)
                .map(|op| Some(Op::LdMatrix(op)))
        }
        "stmatrix" => {
            let [address, registers] = decoder.operands::<2>(inst)?;
            decoder
                .matrix_move(inst, registers, address)
                .map(|op| Some(Op::StMatrix(op)))
        }
        "movmatrix" => {
            let [dst, src] = decoder.operands::<2>(inst)?;
            Ok(Some(Op::MoveMatrix {
                dst: decoder.destination(dst, Type::B32)?,
                src: decoder.source(src, Type::B32)?,
            }))
        }
        "mma" => decoder.mma(inst).map(Some),
        _ => Ok(None),
    }
}

impl Decoder<'_> {
    fn matrix_move(
        &mut self,
        inst: &ast::Inst,
        registers: &Operand,
        address: &Operand,
    ) -> Result<MatrixMove, DecodeError> {
        let words: Vec<&str> = inst.opcode.iter().map(String::as_str).collect();
        let ["sync", "aligned", shape, count, rest @ ..] = &words[1..] else {
            return Err(self.unknown(inst));
        };
        let shape = match (*shape, rest.last().copied(), words[0]) {
            ("m8n8", Some("b16"), _) => MatrixShape::M8N8B16,
            ("m16n16", Some("b8"), "ldmatrix") => MatrixShape::M16N16B8,
            ("m16n8", Some("b8"), "stmatrix") => MatrixShape::M16N8B8,
            _ => return Err(self.unknown(inst)),
        };
        let transposed = rest.contains(&"trans");
        if shape != MatrixShape::M8N8B16 && !transposed {
            return Err(self.unknown(inst));
        }
        let count = match (*count, shape) {
            ("x1", MatrixShape::M16N16B8) => 2,
            ("x2", MatrixShape::M16N16B8) => 4,
            ("x1", _) => 1,
            ("x2", _) => 2,
            ("x4", MatrixShape::M8N8B16 | MatrixShape::M16N8B8) => 4,
            _ => return Err(self.unknown(inst)),
        };
        let space = rest
            .iter()
            .find_map(|word| space(word))
            .unwrap_or(super::op::Space::Generic);
        let found = elements(registers).len();
        if found != count {
            return Err(self.error(format!("expected {count} registers, found {found}")));
        }
        let load = words[0] == "ldmatrix";
        let register = |element| match load {
            true => self.destination(element, Type::B32),
            false => self.source(element, Type::B32),
        };
        Ok(MatrixMove {
            registers: elements(registers).iter().map(register).collect::<Result<_, _>>()?,
            address: self.address(address, space)?,
            transposed,
            shape,
        })
    }

    fn mma(&mut self, inst: &ast::Inst) -> Result<Op, DecodeError> {
        let mma = Mma::parse(&inst.opcode).map_err(|error| self.error(error.to_string()))?;
        let [d, a, b, c] = self.operands::<4>(inst)?;
        let d = elements(d)
            .iter()
            .map(|element| self.destination(element, Type::B32))
            .collect::<Result<_, _>>()?;
        let op = MmaOp {
            d,
            a: self.fragment(a)?,
            b: self.fragment(b)?,
            c: self.fragment(c)?,
            mma,
        };
        let expected = [
            mma.c_registers(),
            mma.a_registers(),
            mma.b_registers(),
            mma.c_registers(),
        ];
        let found = [op.d.len(), op.a.len(), op.b.len(), op.c.len()];
        if found != expected {
            return Err(self.error(format!(
                "expected {expected:?} registers of D, A, B and C, found {found:?}"
            )));
        }
        Ok(Op::Mma(Box::new(op)))
    }

    fn fragment(&mut self, operand: &Operand) -> Result<Box<[Reg]>, DecodeError> {
        elements(operand)
            .iter()
            .map(|element| self.source(element, Type::B32))
            .collect()
    }
}
