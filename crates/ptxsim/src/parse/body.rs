//! Statements of a function's body.

use super::{ParseError, Parser};
use crate::ast::{Linkage, Stmt};
use crate::lex::Kind;

impl Parser<'_> {
    /// `{ ... }` with a scope of its own, where the current token is `{`.
    pub(super) fn block(&mut self) -> Result<Vec<Stmt>, ParseError> {
        self.nested(|parser| {
            let open = parser.advance()?;
            parser.scopes.enter();
            let mut statements = Vec::new();
            while !parser.at(b'}') {
                if parser.token.kind == Kind::End {
                    let message = "expected `}` to end this block, found the end of the file";
                    return Err(parser.error(open, message));
                }
                parser.statement(&mut statements)?;
            }
            parser.scopes.leave();
            parser.advance()?;
            Ok(statements)
        })
    }

    fn statement(&mut self, statements: &mut Vec<Stmt>) -> Result<(), ParseError> {
        match self.token.kind {
            Kind::Mark(b'{') => statements.push(Stmt::Block(self.block()?)),
            // Inline assembly often leaves an empty statement.
            Kind::Mark(b';') => {
                self.advance()?;
            }
            Kind::Mark(b'@') => statements.push(Stmt::Inst(self.guarded()?)),
            Kind::Dot(directive) => self.body_directive(directive, statements)?,
            Kind::Name(name) => {
                let token = self.advance()?;
                if self.accept(b':')? {
                    statements.push(self.labelled(name, token.line)?);
                } else {
                    statements.push(Stmt::Inst(self.instruction(token, None)?));
                }
            }
            _ => return Err(self.expected("a statement or `}`")),
        }
        Ok(())
    }

    fn body_directive(&mut self, directive: &str, statements: &mut Vec<Stmt>) -> Result<(), ParseError> {
        match directive {
            "reg" => statements.push(self.registers()?),
            "loc" => {
                let (file, line, column) = self.location()?;
                statements.push(Stmt::Loc { file, line, column });
            }
            "pragma" => statements.extend(self.pragmas()?.into_iter().map(Stmt::Pragma)),
            "param" | "local" | "shared" | "global" | "const" => {
                statements.extend(self.variables(Linkage::None)?.into_iter().map(Stmt::Variable));
            }
            "visible" | "extern" | "weak" | "common" => {
                let linkage = self.linkage()?;
                statements.extend(self.variables(linkage)?.into_iter().map(Stmt::Variable));
            }
            _ => return Err(self.expected("a statement or `}`")),
        }
        Ok(())
    }

    /// What follows `name:`, if it is a table or a prototype; else a plain label.
    fn labelled(&mut self, name: &str, line: u32) -> Result<Stmt, ParseError> {
        let name = name.to_owned();
        match self.dot() {
            Some("branchtargets") => Ok(Stmt::BranchTargets {
                name,
                labels: self.targets()?,
            }),
            Some("calltargets") => Ok(Stmt::CallTargets {
                name,
                functions: self.targets()?,
            }),
            Some("callprototype") => self.prototype(name),
            _ => Ok(Stmt::Label { name, line }),
        }
    }

    fn targets(&mut self) -> Result<Vec<String>, ParseError> {
        self.advance()?;
        self.list(b';', |parser| Ok(parser.name("a label or function")?.to_owned()))
    }

    /// `.callprototype (returns) _ (params);`
    fn prototype(&mut self, name: String) -> Result<Stmt, ParseError> {
        let line = self.advance()?.line;
        let returns = self.parameters()?;
        self.name("`_`, which stands for the function")?;
        let params = self.parameters()?;
        while let Some("noreturn" | "abi_preserve" | "abi_preserve_control") = self.dot() {
            if self.advance()?.kind != Kind::Dot("noreturn") {
                self.unsigned32("a number of registers")?;
            }
        }
        self.expect(b';')?;
        Ok(Stmt::CallPrototype {
            name,
            returns,
            params,
            line,
        })
    }
}
