//! Functions: their heads, and the performance directives before the body.

use super::{ParseError, Parser};
use crate::ast::{Function, FunctionKind, Linkage, Performance};

impl Parser<'_> {
    /// A function, where the current token is `.entry` or `.func`.
    pub(super) fn function(&mut self, kind: FunctionKind, linkage: Linkage) -> Result<Function, ParseError> {
        self.advance()?;
        self.scopes.reset();
        if self.dot() == Some("attribute") {
            self.skip_attribute()?;
        }
        let returns = if kind == FunctionKind::Func {
            self.parameters()?
        } else {
            Vec::new()
        };
        let line = self.token.line;
        let name = self.name("the name of a function")?.to_owned();
        let params = self.parameters()?;
        let performance = self.performance()?;
        let body = if self.accept(b';')? {
            None
        } else if self.at(b'{') {
            Some(self.block()?)
        } else {
            return Err(self.expected("`{`, `;` or a directive such as `.maxntid`"));
        };
        Ok(Function {
            kind,
            linkage,
            name,
            returns,
            params,
            performance,
            body,
            line,
        })
    }

    fn performance(&mut self) -> Result<Performance, ParseError> {
        let mut performance = Performance::default();
        while let Some(directive) = self.dot() {
            if directive == "pragma" {
                performance.pragmas.extend(self.pragmas()?);
                continue;
            }
            let token = self.advance()?;
            match directive {
                "maxntid" => performance.maxntid = Some(self.extents()?),
                "reqntid" => performance.reqntid = Some(self.extents()?),
                "reqnctapercluster" => performance.reqnctapercluster = Some(self.extents()?),
                "minnctapersm" => performance.minnctapersm = Some(self.unsigned32("a number of blocks")?),
                "maxnctapersm" => performance.maxnctapersm = Some(self.unsigned32("a number of blocks")?),
                "maxnreg" => performance.maxnreg = Some(self.unsigned32("a number of registers")?),
                "maxclusterrank" => performance.maxclusterrank = Some(self.unsigned32("a number of blocks")?),
                "explicitcluster" => performance.explicitcluster = true,
                "blocksareclusters" => performance.blocksareclusters = true,
                "noreturn" => performance.noreturn = true,
                // How many registers a call keeps is the assembler's affair: virtual registers are always kept.
                "abi_preserve" | "abi_preserve_control" => {
                    self.unsigned32("a number of registers")?;
                }
                other => {
                    let found = super::shorten(other);
                    let message = format!("expected `{{`, `;` or a known function directive, found `.{found}`");
                    return Err(self.error(token, message));
                }
            }
        }
        Ok(performance)
    }

    /// One to three extents, as in `.maxntid 128` and `.maxntid 128, 1, 1`.
    fn extents(&mut self) -> Result<[u32; 3], ParseError> {
        let mut extents = [1; 3];
        extents[0] = self.unsigned32("an extent")?;
        for extent in &mut extents[1..] {
            if !self.accept(b',')? {
                break;
            }
            *extent = self.unsigned32("an extent")?;
        }
        Ok(extents)
    }
}
