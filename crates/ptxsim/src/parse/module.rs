//! Module level: the header, files, sections, and what declares functions and variables.

use super::{ParseError, Parser};
use crate::ast::{FunctionKind, Item, Linkage, Module};
use crate::lex::Kind;
use std::collections::BTreeMap;

impl Parser<'_> {
    /// A whole file.
    pub(super) fn module(mut self) -> Result<Module, ParseError> {
        let version = self.version()?;
        let (target, target_options) = self.target()?;
        let (files, aliases, items) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut module = Module {
            version,
            target,
            target_options,
            address_size: 32,
            files,
            aliases,
            items,
        };
        while self.token.kind != Kind::End {
            self.top_level(&mut module)?;
        }
        Ok(module)
    }

    fn directive(&mut self, name: &str, what: &str) -> Result<(), ParseError> {
        if self.dot() != Some(name) {
            return Err(self.expected(what));
        }
        self.advance()?;
        Ok(())
    }

    /// `.version 8.8`; the number is two integers, not a fraction (7.10 would follow 7.9).
    fn version(&mut self) -> Result<(u32, u32), ParseError> {
        self.directive("version", "`.version` at the start of the file")?;
        let Kind::Number(text) = self.token.kind else {
            return Err(self.expected("a version such as 8.8"));
        };
        let parts = text
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let Some(version) = parts else {
            return Err(self.expected("a version such as 8.8"));
        };
        self.advance()?;
        Ok(version)
    }

    fn target(&mut self) -> Result<(String, Vec<String>), ParseError> {
        self.directive("target", "`.target` after the version")?;
        let target = self.name("an architecture such as `sm_80`")?.to_owned();
        let mut options = Vec::new();
        while self.accept(b',')? {
            options.push(self.name("a target option")?.to_owned());
        }
        Ok((target, options))
    }

    fn top_level(&mut self, module: &mut Module) -> Result<(), ParseError> {
        match self.dot() {
            Some("address_size") => {
                self.advance()?;
                let token = self.token;
                module.address_size = self.unsigned32("32 or 64")?;
                if !matches!(module.address_size, 32 | 64) {
                    let message = format!("expected an address size of 32 or 64, found {}", module.address_size);
                    return Err(self.error(token, message));
                }
            }
            Some("file") => self.file(module)?,
            Some("section") => self.skip_section()?,
            Some("loc") => {
                self.location()?;
            }
            Some("pragma") => {
                self.pragmas()?;
            }
            Some("alias") => self.alias(module)?,
            Some(_) => self.item(module)?,
            None if self.accept(b';')? => {}
            None => return Err(self.expected("a directive")),
        }
        Ok(())
    }

    /// Linking directive, then a function or variables.
    fn item(&mut self, module: &mut Module) -> Result<(), ParseError> {
        let linkage = self.linkage()?;
        let kind = match self.dot() {
            Some("entry") => FunctionKind::Entry,
            Some("func") => FunctionKind::Func,
            Some("global" | "const" | "shared" | "local") => {
                module
                    .items
                    .extend(self.variables(linkage)?.into_iter().map(Item::Variable));
                return Ok(());
            }
            _ => return Err(self.expected("a directive such as `.entry`, `.func`, `.global` or `.shared`")),
        };
        let function = self.function(kind, linkage)?;
        module.items.push(Item::Function(function));
        Ok(())
    }

    pub(super) fn linkage(&mut self) -> Result<Linkage, ParseError> {
        let linkage = match self.dot() {
            Some("visible") => Linkage::Visible,
            Some("extern") => Linkage::Extern,
            Some("weak") => Linkage::Weak,
            Some("common") => Linkage::Common,
            _ => return Ok(Linkage::None),
        };
        self.advance()?;
        Ok(linkage)
    }

    /// `.file 1 "name"` or `.file 1 "directory" "name"`, with an optional time and size.
    fn file(&mut self, module: &mut Module) -> Result<(), ParseError> {
        self.advance()?;
        let index = self.unsigned32("the number of the file")?;
        let mut path = self.string("the name of the file in quotes")?.to_owned();
        if let Kind::Text(name) = self.token.kind {
            path = if name.starts_with('/') {
                name.to_owned()
            } else {
                format!("{path}/{name}")
            };
            self.advance()?;
        }
        while self.accept(b',')? {
            self.unsigned("the time or size of the file")?;
        }
        module.files.insert(index, path);
        Ok(())
    }

    /// `.section .debug_info { ... }`: debug data, which execution does not need.
    fn skip_section(&mut self) -> Result<(), ParseError> {
        self.advance()?;
        let (Kind::Dot(_) | Kind::Name(_) | Kind::Text(_)) = self.token.kind else {
            return Err(self.expected("the name of the section"));
        };
        self.advance()?;
        let first = self.token;
        self.expect(b'{')?;
        let mut open = 1_u32;
        while open > 0 {
            match self.advance()?.kind {
                Kind::Mark(b'{') => open += 1,
                Kind::Mark(b'}') => open -= 1,
                Kind::End => {
                    return Err(self.error(first, "expected `}` to end this section, found the end of the file"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn alias(&mut self, module: &mut Module) -> Result<(), ParseError> {
        self.advance()?;
        let alias = self.name("the alias")?.to_owned();
        self.expect(b',')?;
        let function = self.name("the function that it stands for")?.to_owned();
        self.expect(b';')?;
        module.aliases.insert(alias, function);
        Ok(())
    }

    /// `.pragma "a", "b";`
    pub(super) fn pragmas(&mut self) -> Result<Vec<String>, ParseError> {
        self.advance()?;
        let mut pragmas = vec![self.string("a pragma in quotes")?.to_owned()];
        while self.accept(b',')? {
            pragmas.push(self.string("a pragma in quotes")?.to_owned());
        }
        self.expect(b';')?;
        Ok(pragmas)
    }

    /// `.loc file line column[, function_name label[+n], inlined_at file line column]`: file, line and column.
    pub(super) fn location(&mut self) -> Result<(u32, u32, u32), ParseError> {
        self.advance()?;
        let place = self.place()?;
        while self.accept(b',')? {
            match self.token.kind {
                Kind::Name("function_name") => {
                    self.advance()?;
                    self.name("the label of a function's name")?;
                    self.offset()?;
                }
                Kind::Name("inlined_at") => {
                    self.advance()?;
                    self.place()?;
                }
                _ => return Err(self.expected("`function_name` or `inlined_at`")),
            }
        }
        Ok(place)
    }

    fn place(&mut self) -> Result<(u32, u32, u32), ParseError> {
        let file = self.unsigned32("the number of a file")?;
        let line = self.unsigned32("a source line")?;
        Ok((file, line, self.unsigned32("a source column")?))
    }
}
