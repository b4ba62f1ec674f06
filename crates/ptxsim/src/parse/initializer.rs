//! Initial values of variables.

use super::number::Literal;
use super::{MAX_FILL, ParseError, Parser};
use crate::ast::{Init, InitScalar, Variable};
use crate::lex::Kind;

impl Parser<'_> {
    /// What follows `=`.
    pub(super) fn initializer(&mut self, variable: &Variable) -> Result<Init, ParseError> {
        let token = self.token;
        let mut shape: Vec<Option<u64>> = variable.dims.clone();
        if variable.vector > 1 {
            shape.push(Some(u64::from(variable.vector)));
        }
        let mut scalars = Vec::new();
        if self.at(b'{') {
            self.braces(&shape, &mut scalars)?;
        } else {
            scalars.push(self.scalar()?);
        }
        let fixed = shape
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul((*dim)?));
        match fixed {
            Some(most) if scalars.len() as u64 > most => {
                let message = format!("expected at most {most} initial values, found {}", scalars.len());
                Err(self.error(token, message))
            }
            _ => Ok(Init::Scalars(scalars)),
        }
    }

    /// A list in braces of the elements of `shape`'s first dimension.
    fn braces(&mut self, shape: &[Option<u64>], scalars: &mut Vec<InitScalar>) -> Result<(), ParseError> {
        self.expect(b'{')?;
        let inner = shape.get(1..).unwrap_or(&[]);
        self.list(b'}', |parser| {
            if !parser.at(b'{') {
                scalars.push(parser.scalar()?);
                return Ok(());
            }
            if inner.is_empty() {
                return Err(parser.expected("a value, as the array has no further dimension"));
            }
            let start = scalars.len();
            parser.nested(|parser| parser.braces(inner, scalars))?;
            parser.fill(inner, start, scalars)
        })?;
        Ok(())
    }

    /// Zeros after a short inner brace, so that the next element starts where it belongs.
    fn fill(&mut self, shape: &[Option<u64>], start: usize, scalars: &mut Vec<InitScalar>) -> Result<(), ParseError> {
        let size = shape
            .iter()
            .try_fold(1_u64, |product, dim| product.checked_mul((*dim)?));
        let Some(size) = size else {
            return Err(self.error(self.token, "only the first dimension of an array may be left open"));
        };
        let given = (scalars.len() - start) as u64;
        let Some(missing) = size.checked_sub(given) else {
            let message = format!("expected at most {size} values in these braces, found {given}");
            return Err(self.error(self.token, message));
        };
        self.filled = self.filled.saturating_add(missing);
        if self.filled > MAX_FILL {
            return Err(self.error(
                self.token,
                format!("short braces leave more than {MAX_FILL} values out"),
            ));
        }
        scalars.extend((0..missing).map(|_| InitScalar::Int(0)));
        Ok(())
    }

    fn scalar(&mut self) -> Result<InitScalar, ParseError> {
        if let Kind::Name(_) = self.token.kind {
            return self.address(None);
        }
        let token = self.token;
        match self.literal("a number or the name of a variable")? {
            Literal::Int(mask) if self.at(b'(') => {
                self.advance()?;
                let mask =
                    u64::try_from(mask).map_err(|_| self.error(token, "expected a mask that is not negative"))?;
                let scalar = self.address(Some(mask))?;
                self.expect(b')')?;
                Ok(scalar)
            }
            Literal::Int(value) => Ok(InitScalar::Int(value)),
            Literal::F32(bits) => Ok(InitScalar::F32(bits)),
            Literal::F64(bits) => Ok(InitScalar::F64(bits)),
        }
    }

    /// `name`, `name+4`, `generic(name)` or `generic(name)+4`.
    fn address(&mut self, mask: Option<u64>) -> Result<InitScalar, ParseError> {
        let mut name = self.name("the name of a variable")?;
        let mut offset = 0;
        let generic = name == "generic" && self.accept(b'(')?;
        if generic {
            name = self.name("the name of a variable")?;
            offset = self.offset()?;
            self.expect(b')')?;
        }
        let token = self.token;
        let Some(offset) = self.offset()?.checked_add(offset) else {
            return Err(self.error(token, "the offset passes 64 bits"));
        };
        Ok(InitScalar::Symbol {
            name: name.to_owned(),
            offset,
            generic,
            mask,
        })
    }
}
