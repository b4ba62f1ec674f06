//! A graph from text.

use super::lex::{Place, Token, lex};
use crate::graph::{EinsumSpec, Graph, Node, Op, Ty, ValueId};
use crate::size::{Dim, Symbol};
use crate::verify::{Site, VerifyError, is_name, verify};
use mlafuse_tensor::DType;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Why a text is not a graph. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text breaks the grammar.
    #[error("{line}:{column}: found {found}, expected {expected}")]
    Syntax {
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// The text reads as a graph that is not sound.
    #[error("{line}:{column}: {error}")]
    Graph {
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
        /// What is wrong with the graph.
        error: VerifyError,
    },
}

impl ParseError {
    pub(super) fn syntax(place: Place, found: impl Into<String>, expected: impl Into<String>) -> ParseError {
        let Place { line, column } = place;
        ParseError::Syntax {
            line,
            column,
            found: found.into(),
            expected: expected.into(),
        }
    }
}

/// Reads a graph in its text form and verifies it.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let tokens = lex(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        next: 0,
        names: BTreeMap::new(),
        map: SourceMap::default(),
    };
    let graph = parser.graph()?;
    verify(&graph).map_err(|error| {
        let Place { line, column } = parser.map.place(error.site());
        ParseError::Graph { line, column, error }
    })?;
    Ok(graph)
}

/// Where each part of the graph stands in the text.
#[derive(Default)]
struct SourceMap {
    graph: Option<Place>,
    nodes: Vec<(Place, Vec<Place>)>,
    outputs: Vec<Place>,
}

impl SourceMap {
    fn place(&self, site: Site) -> Place {
        let place = match site {
            Site::Graph => self.graph,
            Site::Output(index) => self.outputs.get(index).copied(),
            Site::Node { node, arg } => self.nodes.get(node).map(|(place, args)| {
                let of_arg = arg.and_then(|arg| args.get(arg));
                *of_arg.unwrap_or(place)
            }),
        };
        place.unwrap_or(Place { line: 1, column: 1 })
    }
}

/// A recursive-descent parser over the tokens.
struct Parser<'a> {
    tokens: &'a [(Token<'a>, Place)],
    next: usize,
    names: BTreeMap<&'a str, ValueId>,
    map: SourceMap,
}

impl<'a> Parser<'a> {
    /// The next token; the last one, which is the end, for ever.
    fn peek(&self) -> (Token<'a>, Place) {
        match self.tokens.get(self.next).or(self.tokens.last()) {
            Some((token, place)) => (token.clone(), *place),
            None => (Token::End, Place { line: 1, column: 1 }),
        }
    }

    fn take(&mut self) -> (Token<'a>, Place) {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn mark(&mut self, mark: char) -> Result<(), ParseError> {
        match self.take() {
            (Token::Mark(found), _) if found == mark => Ok(()),
            (found, place) => Err(ParseError::syntax(place, found.to_string(), format!("`{mark}`"))),
        }
    }

    /// Takes `mark` if it comes next.
    fn skip(&mut self, mark: char) -> bool {
        let found = self.peek().0 == Token::Mark(mark);
        self.next += usize::from(found);
        found
    }

    fn word(&mut self, expected: &str) -> Result<(&'a str, Place), ParseError> {
        match self.take() {
            (Token::Word(word), place) => Ok((word, place)),
            (found, place) => Err(ParseError::syntax(place, found.to_string(), expected)),
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), ParseError> {
        match self.take() {
            (Token::Word(word), _) if word == keyword => Ok(()),
            (found, place) => Err(ParseError::syntax(place, found.to_string(), format!("`{keyword}`"))),
        }
    }

    fn quoted(&mut self, expected: &str) -> Result<(&'a str, Place), ParseError> {
        match self.take() {
            (Token::Quoted(text), place) => Ok((text, place)),
            (found, place) => Err(ParseError::syntax(place, found.to_string(), expected)),
        }
    }

    fn graph(&mut self) -> Result<Graph, ParseError> {
        self.keyword("graph")?;
        let (name, place) = self.word("the graph's name")?;
        self.map.graph = Some(place);
        self.mark('{')?;
        let mut graph = Graph {
            name: name.to_string(),
            ..Graph::default()
        };
        loop {
            match self.take() {
                (Token::Value(name), place) => self.node(&mut graph, name, place)?,
                (Token::Word("output"), place) => self.output(&mut graph, place)?,
                (Token::Mark('}'), _) => break,
                (found, place) => {
                    let expected = "`%name = ...`, `output` or `}`";
                    return Err(ParseError::syntax(place, found.to_string(), expected));
                }
            }
        }
        match self.take() {
            (Token::End, _) => Ok(graph),
            (found, place) => Err(ParseError::syntax(place, found.to_string(), "the end of the text")),
        }
    }

    fn output(&mut self, graph: &mut Graph, place: Place) -> Result<(), ParseError> {
        let (name, _) = self.quoted("the output's name in quotes")?;
        let (value, _) = self.value()?;
        self.map.outputs.push(place);
        graph.outputs.push((name.to_string(), value));
        Ok(())
    }

    /// A node, from the `=` on.
    fn node(&mut self, graph: &mut Graph, name: &'a str, place: Place) -> Result<(), ParseError> {
        if !is_name(name) {
            let expected = "a name that starts with a letter or `_`";
            return Err(ParseError::syntax(place, Token::Value(name).to_string(), expected));
        }
        if self.names.contains_key(name) {
            return Err(ParseError::syntax(
                place,
                Token::Value(name).to_string(),
                "a name no other node has",
            ));
        }
        self.mark('=')?;
        let op = self.op()?;
        let (mut args, mut places) = (Vec::new(), Vec::new());
        while matches!(self.peek().0, Token::Value(_)) {
            let (value, place) = self.value()?;
            args.push(value);
            places.push(place);
            if !self.skip(',') {
                break;
            }
        }
        self.mark(':')?;
        let ty = self.ty()?;
        self.names.insert(name, ValueId(graph.nodes.len()));
        self.map.nodes.push((place, places));
        graph.nodes.push(Node {
            name: name.to_string(),
            op,
            args,
            ty,
        });
        Ok(())
    }

    /// The name of a value made before.
    fn value(&mut self) -> Result<(ValueId, Place), ParseError> {
        match self.take() {
            (Token::Value(name), place) => match self.names.get(name) {
                Some(&value) => Ok((value, place)),
                None => Err(ParseError::syntax(
                    place,
                    Token::Value(name).to_string(),
                    "the name of a node above this one",
                )),
            },
            (found, place) => Err(ParseError::syntax(place, found.to_string(), "`%name`")),
        }
    }

    fn op(&mut self) -> Result<Op, ParseError> {
        let expected = "an op such as `einsum`";
        let (word, place) = self.word(expected)?;
        Ok(match word {
            "input" | "weight" => Op::Input {
                name: self.quoted("the input's name in quotes")?.0.to_string(),
                constant: word == "weight",
            },
            "einsum" => Op::Einsum(self.einsum()?),
            "rms_norm" => Op::RmsNorm {
                eps: self.attribute("eps", "a number")?,
            },
            "rope" => Op::Rope {
                pairing: self.attribute("pairing", "`interleaved` or `halves`")?,
            },
            "scale" => Op::Scale {
                factor: self.attribute("factor", "a number")?,
            },
            "add" => Op::Add,
            "mul" => Op::Mul,
            "scale_rows" => Op::ScaleRows,
            "inv_rms" => Op::InvRms {
                eps: self.attribute("eps", "a number")?,
            },
            "mask" => Op::Mask,
            "softmax" => Op::Softmax,
            "slice" => Op::Slice {
                axis: self.attribute("axis", "a count")?,
                start: self.attribute("start", "a count")?,
                len: self.attribute("len", "a count")?,
            },
            "concat" => Op::Concat {
                axis: self.attribute("axis", "a count")?,
            },
            "reshape" => Op::Reshape,
            "cast" => Op::Cast,
            "cache_write" => Op::CacheWrite,
            "cache_read" => Op::CacheRead,
            _ => return Err(ParseError::syntax(place, format!("`{word}`"), expected)),
        })
    }

    fn einsum(&mut self) -> Result<EinsumSpec, ParseError> {
        let (text, place) = self.quoted("labels in quotes, as in \"a b, b c -> a c\"")?;
        text.parse()
            .map_err(|error| ParseError::syntax(place, format!("\"{text}\""), format!("labels ({error})")))
    }

    /// `name=value`.
    fn attribute<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<T, ParseError> {
        self.keyword(name)?;
        self.mark('=')?;
        let (word, place) = self.word(expected)?;
        word.parse()
            .map_err(|_| ParseError::syntax(place, format!("`{word}`"), expected))
    }

    fn ty(&mut self) -> Result<Ty, ParseError> {
        let expected = "a storage type such as `bf16`";
        let (word, place) = self.word(expected)?;
        let dtype = DType::from_str(word).map_err(|_| ParseError::syntax(place, format!("`{word}`"), expected))?;
        self.mark('[')?;
        let mut shape = Vec::new();
        while !self.skip(']') {
            if !shape.is_empty() {
                self.mark(',')?;
            }
            shape.push(self.dim()?);
        }
        Ok(Ty { dtype, shape })
    }

    fn dim(&mut self) -> Result<Dim, ParseError> {
        let expected = "a dimension: a number or one upper-case letter";
        let (word, place) = self.word(expected)?;
        let mut letters = word.chars();
        let symbol = match (letters.next(), letters.next()) {
            (Some(letter), None) => Symbol::new(letter),
            _ => None,
        };
        let constant = || word.parse().ok().map(Dim::Const);
        symbol
            .map(Dim::Sym)
            .or_else(constant)
            .ok_or_else(|| ParseError::syntax(place, format!("`{word}`"), expected))
    }
}
