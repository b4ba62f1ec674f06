//! Declarations of variables and parameters.

use super::{MAX_REGISTERS, MAX_VARIABLE_BYTES, ParseError, Parser};
use crate::ast::{Linkage, RegisterNames, Space, Stmt, Type, Variable};
use crate::lex::Kind;

/// The largest `.align` taken.
const MAX_ALIGN: u64 = 1 << 16;

/// What stands between the space and the name.
#[derive(Debug, Clone, Copy)]
struct Qualifiers {
    align: Option<u32>,
    vector: u32,
    ty: Type,
}

/// The state space a directive names.
pub(super) fn space(directive: &str) -> Option<Space> {
    Some(match directive {
        "reg" => Space::Reg,
        "param" => Space::Param,
        "local" => Space::Local,
        "shared" => Space::Shared,
        "global" => Space::Global,
        "const" => Space::Const,
        _ => return None,
    })
}

impl Parser<'_> {
    /// `.space qualifiers name[dims] = init, ... ;` where the current token is the space.
    pub(super) fn variables(&mut self, linkage: Linkage) -> Result<Vec<Variable>, ParseError> {
        let Some(space) = self.dot().and_then(space).filter(|space| *space != Space::Reg) else {
            return Err(self.expected("`.global`, `.const`, `.shared`, `.local` or `.param`"));
        };
        self.advance()?;
        let qualifiers = self.qualifiers()?;
        let mut variables = Vec::new();
        loop {
            let mut variable = self.declarator(space, qualifiers, "the name of a variable")?;
            variable.linkage = linkage;
            if self.accept(b'=')? {
                variable.init = Some(self.initializer(&variable)?);
            }
            variables.push(variable);
            if self.accept(b';')? {
                return Ok(variables);
            }
            if !self.accept(b',')? {
                return Err(self.expected("`,`, `=` or `;` after a variable"));
            }
        }
    }

    /// A list of parameters in parentheses, or nothing.
    pub(super) fn parameters(&mut self) -> Result<Vec<Variable>, ParseError> {
        if self.accept(b'(')? {
            self.list(b')', Self::parameter)
        } else {
            Ok(Vec::new())
        }
    }

    fn parameter(&mut self) -> Result<Variable, ParseError> {
        let Some(space) = self
            .dot()
            .and_then(space)
            .filter(|space| matches!(space, Space::Param | Space::Reg))
        else {
            return Err(self.expected("`.param` or `.reg` of a parameter"));
        };
        self.advance()?;
        let qualifiers = self.qualifiers()?;
        let variable = self.declarator(space, qualifiers, "the name of a parameter")?;
        if space == Space::Reg {
            self.scopes.declare(&variable.name);
        }
        Ok(variable)
    }

    /// `.reg` declarations, where the current token is `.reg`.
    pub(super) fn registers(&mut self) -> Result<Stmt, ParseError> {
        let line = self.advance()?.line;
        let Qualifiers { vector, ty, .. } = self.qualifiers()?;
        let mut names = Vec::new();
        loop {
            names.push(self.register_names()?);
            if self.accept(b';')? {
                return Ok(Stmt::Registers {
                    ty,
                    vector,
                    names,
                    line,
                });
            }
            if !self.accept(b',')? {
                return Err(self.expected("`,`, `<` or `;` after a register"));
            }
        }
    }

    fn register_names(&mut self) -> Result<RegisterNames, ParseError> {
        let token = self.token;
        let name = self.name("the name of a register")?;
        let range = self.accept(b'<')?;
        let count = if range { self.unsigned("how many registers")? } else { 1 };
        let counted = u32::try_from(count).unwrap_or(u32::MAX);
        if self.scopes.count(counted) > MAX_REGISTERS {
            let message = format!(
                "with `{}` the function declares more than {MAX_REGISTERS} registers",
                super::shorten(name)
            );
            return Err(self.error(token, message));
        }
        if !range {
            self.scopes.declare(name);
            return Ok(RegisterNames::One(name.to_owned()));
        }
        self.expect(b'>')?;
        self.scopes.declare_range(name, counted);
        Ok(RegisterNames::Range {
            prefix: name.to_owned(),
            count: counted,
        })
    }

    /// Alignment, vector size and type, in any order; the type is required.
    fn qualifiers(&mut self) -> Result<Qualifiers, ParseError> {
        let (mut align, mut vector, mut ty) = (None, 1, None);
        while let Some(word) = self.dot() {
            match word {
                "align" => align = Some(self.alignment()?),
                "ptr" => self.skip_pointer()?,
                "attribute" => self.skip_attribute()?,
                "v2" | "v4" | "v8" => {
                    self.advance()?;
                    vector = u32::from(word.as_bytes()[1] - b'0');
                }
                _ => {
                    let named = word.parse::<Type>().ok().filter(|named| named.declarable());
                    let Some(named) = named else {
                        return Err(self.expected("a type, `.align` or a vector size"));
                    };
                    if let Some(first) = ty.replace(named) {
                        return Err(self.error(self.token, format!("a second type, `.{named}` after `.{first}`")));
                    }
                    self.advance()?;
                }
            }
        }
        let Some(ty) = ty else {
            return Err(self.expected("a type such as `.b32`"));
        };
        Ok(Qualifiers { align, vector, ty })
    }

    fn alignment(&mut self) -> Result<u32, ParseError> {
        self.advance()?;
        let token = self.token;
        let align = self.unsigned("an alignment")?;
        if !align.is_power_of_two() || align > MAX_ALIGN {
            let message = format!("expected an alignment that is a power of two up to {MAX_ALIGN}, found {align}");
            return Err(self.error(token, message));
        }
        Ok(align as u32)
    }

    /// `.ptr .space .align n`: what a kernel's pointer parameter points to. It does not change the parameter itself.
    fn skip_pointer(&mut self) -> Result<(), ParseError> {
        self.advance()?;
        if self.dot().and_then(space).is_some() {
            self.advance()?;
        }
        if self.dot() == Some("align") {
            self.alignment()?;
        }
        Ok(())
    }

    /// `.attribute(.managed)` and `.attribute(.unified(a, b))`: where the host places it.
    pub(super) fn skip_attribute(&mut self) -> Result<(), ParseError> {
        self.advance()?;
        self.expect(b'(')?;
        let mut open = 1_u32;
        while open > 0 {
            match self.token.kind {
                Kind::Mark(b'(') => open += 1,
                Kind::Mark(b')') => open -= 1,
                Kind::Dot(_) | Kind::Number(_) | Kind::Mark(b',') => {}
                _ => return Err(self.expected("`)` to end this attribute")),
            }
            self.advance()?;
        }
        Ok(())
    }

    /// The name and array dimensions of a variable.
    fn declarator(&mut self, space: Space, qualifiers: Qualifiers, what: &str) -> Result<Variable, ParseError> {
        let Qualifiers { align, vector, ty } = qualifiers;
        let token = self.token;
        let name = self.name(what)?.to_owned();
        let mut dims = Vec::new();
        while self.accept(b'[')? {
            if dims.len() == super::MAX_DEPTH as usize {
                return Err(self.error(token, format!("more than {} array dimensions", super::MAX_DEPTH)));
            }
            dims.push(if self.at(b']') {
                None
            } else {
                Some(self.unsigned("an array length or `]`")?)
            });
            self.expect(b']')?;
        }
        let linkage = Linkage::None;
        let variable = Variable {
            space,
            linkage,
            align,
            vector,
            ty,
            name,
            dims,
            init: None,
            line: token.line,
        };
        if variable.bytes().is_none_or(|bytes| bytes > MAX_VARIABLE_BYTES) {
            let message = format!(
                "`{}` has more than {MAX_VARIABLE_BYTES} bytes",
                super::shorten(&variable.name)
            );
            return Err(self.error(token, message));
        }
        Ok(variable)
    }
}
