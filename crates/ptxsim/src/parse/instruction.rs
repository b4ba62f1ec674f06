//! Instructions and their operands.

use super::number::Literal;
use super::{ParseError, Parser};
use crate::ast::{AddressBase, Guard, Inst, Operand};
use crate::lex::{Kind, Token};

impl<'a> Parser<'a> {
    /// `@p` or `@!p`, then an instruction.
    pub(super) fn guarded(&mut self) -> Result<Inst, ParseError> {
        let line = self.advance()?.line;
        let negated = self.accept(b'!')?;
        let register = self.register("a predicate register")?;
        let opcode = self.token;
        self.name("an instruction after the guard")?;
        let mut inst = self.instruction(opcode, Some(Guard { register, negated }))?;
        inst.line = line;
        Ok(inst)
    }

    /// An instruction whose first word has been taken.
    pub(super) fn instruction(&mut self, first: Token<'a>, guard: Option<Guard>) -> Result<Inst, ParseError> {
        let Kind::Name(mnemonic) = first.kind else {
            return Err(self.error(first, "expected an instruction"));
        };
        let mut opcode = vec![mnemonic.to_owned()];
        while let Kind::Dot(word) = self.token.kind
            && self.token.line == first.line
        {
            opcode.push(word.to_owned());
            self.advance()?;
        }
        let operands = if mnemonic == "call" {
            vec![self.call()?]
        } else {
            self.operands()?
        };
        Ok(Inst {
            guard,
            opcode,
            operands,
            line: first.line,
        })
    }

    /// Operands up to and with `;`.
    fn operands(&mut self) -> Result<Vec<Operand>, ParseError> {
        self.list(b';', Self::operand)
    }

    /// `(returns), target, (params), prototype;` where all but the target may be missing.
    fn call(&mut self) -> Result<Operand, ParseError> {
        let mut returns = Vec::new();
        if self.accept(b'(')? {
            returns = self.list(b')', Self::operand)?;
            self.expect(b',')?;
        }
        let target = Box::new(self.named("the function to call")?);
        let (mut params, mut prototype) = (Vec::new(), None);
        let mut more = self.accept(b',')?;
        if more && self.accept(b'(')? {
            params = self.list(b')', Self::operand)?;
            more = self.accept(b',')?;
        }
        if more {
            prototype = Some(self.name("a call prototype")?.to_owned());
        }
        self.expect(b';')?;
        Ok(Operand::Call {
            returns,
            target,
            params,
            prototype,
        })
    }

    /// An operand, with `|` after it if there is one.
    fn operand(&mut self) -> Result<Operand, ParseError> {
        let first = self.single()?;
        if !self.accept(b'|')? {
            return Ok(first);
        }
        Ok(Operand::Pair(Box::new(first), Box::new(self.single()?)))
    }

    fn single(&mut self) -> Result<Operand, ParseError> {
        match self.token.kind {
            Kind::Name("_") => {
                self.advance()?;
                Ok(Operand::Sink)
            }
            Kind::Name(_) => self.named("an operand"),
            Kind::Number(_) => Ok(self.unsigned_literal("a number")?.into()),
            Kind::Mark(b'-') => self.negative(),
            Kind::Mark(b'!') => {
                self.advance()?;
                let register = self.register("a predicate register after `!`")?;
                Ok(Operand::Negated(Box::new(Operand::Register(register))))
            }
            Kind::Mark(b'{') => self.nested(|parser| {
                parser.advance()?;
                Ok(Operand::Vector(parser.list(b'}', Self::operand)?))
            }),
            Kind::Mark(b'[') => self.nested(Self::address_operand),
            _ => Err(self.expected("an operand")),
        }
    }

    /// A negative literal or a negated register.
    fn negative(&mut self) -> Result<Operand, ParseError> {
        self.advance()?;
        if let Kind::Name(_) = self.token.kind {
            let register = self.register("a number or register after `-`")?;
            return Ok(Operand::Negated(Box::new(Operand::Register(register))));
        }
        Ok(self
            .unsigned_literal("a number or register after `-`")?
            .negated()
            .into())
    }

    /// A register, with `.x` and the like; or a symbol with an optional offset.
    fn named(&mut self, what: &str) -> Result<Operand, ParseError> {
        let Kind::Name(name) = self.token.kind else {
            return Err(self.expected(what));
        };
        if self.scopes.is_register(name) {
            return Ok(Operand::Register(self.register(what)?));
        }
        self.advance()?;
        let name = name.to_owned();
        if !self.at(b'+') && !self.at(b'-') {
            return Ok(Operand::Symbol(name));
        }
        Ok(Operand::SymbolOffset {
            name,
            offset: self.offset()?,
        })
    }

    fn register(&mut self, what: &str) -> Result<String, ParseError> {
        let token = self.token;
        let name = self.name(what)?;
        if !self.scopes.is_register(name) {
            let message = format!(
                "expected {what}, found `{}`, which no `.reg` here declares",
                super::shorten(name)
            );
            return Err(self.error(token, message));
        }
        self.component(name)
    }

    /// `name`, or `name.x` if a component follows without a gap.
    fn component(&mut self, name: &str) -> Result<String, ParseError> {
        match self.token.kind {
            Kind::Dot(word) if self.token.start == self.previous_end => {
                if !matches!(word, "x" | "y" | "z" | "w" | "r" | "g" | "b" | "a") {
                    return Err(self.expected("a component such as `.x`"));
                }
                self.advance()?;
                Ok(format!("{name}.{word}"))
            }
            _ => Ok(name.to_owned()),
        }
    }

    /// `[base+offset]`, or `[base+offset, coordinates]`, where the current token is `[`.
    fn address_operand(&mut self) -> Result<Operand, ParseError> {
        self.advance()?;
        let base = match self.token.kind {
            Kind::Name(name) => {
                self.advance()?;
                AddressBase::Name(self.component(name)?)
            }
            _ => AddressBase::Int(self.unsigned("a register, variable or address")?),
        };
        let offset = self.offset()?;
        if self.accept(b']')? {
            return Ok(Operand::Address { base, offset });
        }
        if !self.accept(b',')? {
            return Err(self.expected("`+`, `,` or `]` in an address"));
        }
        let coordinates = self.list(b']', Self::operand)?;
        Ok(Operand::TensorAddress {
            base,
            offset,
            coordinates,
        })
    }
}

impl From<Literal> for Operand {
    fn from(literal: Literal) -> Operand {
        match literal {
            Literal::Int(value) => Operand::Int(value),
            Literal::F32(bits) => Operand::F32(bits),
            Literal::F64(bits) => Operand::F64(bits),
        }
    }
}
