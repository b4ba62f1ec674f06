//! The text form of tile programs, for people: what the command line shows and what generated source carries as
//! comments.
//!
//! Names stand for parameters, tiles and variables; an id that names nothing prints as `tile?7`, so that a broken program
//! can still be shown. `a*b` binds tighter than `a / b`; otherwise operators bind as in Rust, and only the parentheses
//! that the tree needs are printed.

use std::fmt;

use super::{
    Access, Axis, BLayout, Binary, Columns, Expr, Form, Param, ParamId, ParamKind, ReduceOp, Rows, Softmax, Space,
    Stmt, Tile, TileId, TileProgram, Unary, VarId, View,
};

/// Columns at which the parameter list is broken.
const WIDTH: usize = 120;

impl fmt::Display for TileProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_head(f, self)?;
        for line in &self.doc {
            writeln!(f, "  # {}", one_line(line))?;
        }
        let [x, y, z] = self.grid.each_ref().map(|blocks| expr_text(self, blocks));
        writeln!(f, "  grid x = {x}, y = {y}, z = {z}")?;
        let width = self.tiles.iter().map(|tile| tile.name.len()).max().unwrap_or(0);
        for tile in &self.tiles {
            writeln!(
                f,
                "  {:<8} {:<width$} {}",
                kind_text(tile),
                tile.name,
                extent_text(tile)
            )?;
        }
        writeln!(f)?;
        write_body(f, self, &self.body, 1)
    }
}

/// One line for a statement: its head alone where it has a body, words marked `#` for a comment.
pub fn stmt_text(program: &TileProgram, stmt: &Stmt) -> String {
    let p = program;
    let expr = |e: &Expr| expr_text(p, e);
    let name = |t: &TileId| tile_name(p, *t);
    match stmt {
        Stmt::Comment(words) => format!("# {}", one_line(words)),
        Stmt::Let { var, value } => format!("let {} = {}", var_name(p, *var), expr(value)),
        Stmt::Sum {
            var,
            index,
            count,
            value,
        } => {
            let (var, index) = (var_name(p, *var), var_name(p, *index));
            format!("let {var} = sum {index} in 0..{}: {}", tight(p, count), expr(value))
        }
        Stmt::For {
            var,
            start,
            end,
            pipelined,
            ..
        } => {
            let (start, end) = (tight(p, start), tight(p, end));
            let pipelined = if *pipelined { " pipelined" } else { "" };
            format!("for {} in {start}..{end}{pipelined}", var_name(p, *var))
        }
        Stmt::If { cond, .. } => format!("if {}", expr(cond)),
        Stmt::Return => "return".to_string(),
        Stmt::Load { dst, cols, src } => {
            format!("load {} <- {}", part_text(p, *dst, cols), view_text(p, src))
        }
        Stmt::Store { dst, src, cols } => format!("store {} <- {}", view_text(p, dst), part_text(p, *src, cols)),
        Stmt::Stage { dst, src } => format!("stage {} <- {}", name(dst), name(src)),
        Stmt::Fill { dst, value } => format!("fill {} <- {value:?}", name(dst)),
        Stmt::Gemm {
            acc,
            a,
            a_start,
            b,
            layout,
            b_cols,
        } => {
            let depth = p.tiles.get(b.0).map_or(0, |b| layout.depth(b, b_cols));
            let a = depth_text(p, *a, a_start, depth);
            let b = part_text(p, *b, b_cols);
            let b = match layout {
                BLayout::Nk => format!("transpose({b})"),
                BLayout::Kn => b,
            };
            format!("gemm {} += {a} * {b}", name(acc))
        }
        Stmt::Map { dst, value } => format!("map {} <- {}", name(dst), expr(value)),
        Stmt::Reduce { op, dst, src } => {
            let op = match op {
                ReduceOp::Max => "max",
                ReduceOp::Sum => "sum",
            };
            format!("reduce {0} <- {op}({0}, {1})", name(dst), name(src))
        }
        Stmt::Finish { dst, src } => format!("finish {} <- {}", name(dst), name(src)),
        Stmt::Softmax(step) => softmax_text(p, step),
        Stmt::Rotate {
            dst,
            src,
            cos,
            sin,
            pairing,
            d,
        } => {
            let (dst, src, cos, sin) = (name(dst), name(src), name(cos), name(sin));
            format!("rotate {dst} <- {src} by cos {cos}, sin {sin}, {pairing}, d {d}")
        }
    }
}

fn softmax_text(program: &TileProgram, step: &Softmax) -> String {
    let [scores, visible, max, sum, decay, weights, max_before, base] = step.tiles().map(|id| tile_name(program, id));
    let (scale, first) = (step.scale, tight(program, &step.first));
    format!(
        "softmax {weights} <- {scores}*{scale:?}, keys {first}.. < {visible}, max {max}, sum {sum}, decay {decay}, by way of \
         {max_before}, {base}"
    )
}

/// An expression, on one line.
pub(crate) fn expr_text(program: &TileProgram, expr: &Expr) -> String {
    bound_text(program, expr, 0)
}

/// A tile's declaration without its name: `shared bf16[32, 576]`.
pub(super) fn decl_text(tile: &Tile) -> String {
    format!("{} {}", kind_text(tile), extent_text(tile))
}

/// The name of a tile.
pub(super) fn tile_name(program: &TileProgram, id: TileId) -> String {
    program
        .tiles
        .get(id.0)
        .map_or_else(|| format!("tile?{}", id.0), |tile| tile.name.clone())
}

/// The name of a parameter.
pub(super) fn param_name(program: &TileProgram, id: ParamId) -> String {
    program
        .params
        .get(id.0)
        .map_or_else(|| format!("param?{}", id.0), |param| param.name.clone())
}

/// The name of a variable.
pub(super) fn var_name(program: &TileProgram, id: VarId) -> String {
    program
        .vars
        .get(id.0)
        .cloned()
        .unwrap_or_else(|| format!("var?{}", id.0))
}

/// `read` or `write`.
pub(super) fn access_text(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
    }
}

fn write_head(f: &mut fmt::Formatter<'_>, program: &TileProgram) -> fmt::Result {
    let mut line = format!("tile_program {}(", program.name);
    let last = program.params.len().saturating_sub(1);
    for (i, param) in program.params.iter().enumerate() {
        let text = format!("{}{}", param_text(param), if i == last { ")" } else { "," });
        let gap = if line.ends_with('(') { "" } else { " " };
        if line.len() + gap.len() + text.len() > WIDTH {
            writeln!(f, "{line}")?;
            line = format!("    {text}");
        } else {
            line = format!("{line}{gap}{text}");
        }
    }
    writeln!(f, "{line}{}", if program.params.is_empty() { ")" } else { "" })
}

fn write_body(f: &mut fmt::Formatter<'_>, program: &TileProgram, body: &[Stmt], depth: usize) -> fmt::Result {
    let indent = "  ".repeat(depth);
    for stmt in body {
        let head = stmt_text(program, stmt);
        match stmt {
            Stmt::For { body, .. } | Stmt::If { body, .. } => {
                writeln!(f, "{indent}{head} {{")?;
                write_body(f, program, body, depth + 1)?;
                writeln!(f, "{indent}}}")?;
            }
            _ => writeln!(f, "{indent}{head}")?,
        }
    }
    Ok(())
}

fn one_line(words: &str) -> String {
    words.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn param_text(param: &Param) -> String {
    let name = &param.name;
    match param.kind {
        ParamKind::Tensor { dtype, access, .. } => {
            format!("{name}: {dtype} {}", access_text(access))
        }
        ParamKind::Scalar(symbol) => {
            let width = if symbol.is_stride() { "i64" } else { "i32" };
            let letter = symbol.to_string();
            if *name == letter {
                format!("{name}: {width}")
            } else {
                format!("{name}: {width} = {letter}")
            }
        }
    }
}

fn kind_text(tile: &Tile) -> &'static str {
    match (tile.form, tile.space) {
        (Form::RowVector, _) => "row",
        (Form::RowPartial | Form::MatrixPartial, _) => "partial",
        (Form::Matrix, Space::Shared) => "shared",
        (Form::Matrix, Space::Fragment) => "fragment",
    }
}

fn extent_text(tile: &Tile) -> String {
    match tile.form {
        Form::Matrix | Form::MatrixPartial => format!("{}[{}, {}]", tile.dtype, tile.rows, tile.cols),
        Form::RowVector | Form::RowPartial => format!("{}[{}]", tile.dtype, tile.rows),
    }
}

/// Columns of a tile; a vector's name alone.
fn part_text(program: &TileProgram, id: TileId, cols: &Columns) -> String {
    let name = tile_name(program, id);
    let vector = program.tiles.get(id.0).is_some_and(|tile| tile.form.is_vector());
    if vector && *cols == (0..1) {
        name
    } else {
        format!("{name}[:, {}..{}]", cols.start, cols.end)
    }
}

/// The columns of a gemm's first operand; its name alone where they are all.
fn depth_text(program: &TileProgram, id: TileId, start: &Expr, depth: usize) -> String {
    let name = tile_name(program, id);
    match start {
        Expr::Int(0) if program.tiles.get(id.0).is_some_and(|tile| tile.cols == depth) => name,
        Expr::Int(start) => format!("{name}[:, {start}..{}]", start.saturating_add_unsigned(depth as u64)),
        start => format!("{name}[:, {}.. + {depth}]", tight(program, start)),
    }
}

fn view_text(program: &TileProgram, view: &View) -> String {
    let p = program;
    let mut text = param_name(p, view.param);
    if view.offset != Expr::Int(0) {
        text += &format!("[{}..]", tight(p, &view.offset));
    }
    text += &match &view.rows {
        Rows::Strided { start, stride, limit } => {
            format!(
                " strided({}, row {})",
                span_text(p, "rows", start, limit),
                expr_text(p, stride)
            )
        }
        Rows::Gathered { index, stride, limit } => format!(
            " gathered(row {} < {}, row {})",
            bound_text(p, index, ADD),
            bound_text(p, limit, ADD),
            expr_text(p, stride)
        ),
        Rows::Paged {
            start,
            limit,
            table,
            table_offset,
            page_size,
            page_stride,
            row_stride,
        } => format!(
            " paged({}, table {}[{}..], page {page_size} x {}, row {})",
            span_text(p, "rows", start, limit),
            param_name(p, *table),
            tight(p, table_offset),
            tight(p, page_stride),
            expr_text(p, row_stride),
        ),
    };
    text += &format!(", {}", span_text(p, "cols", &view.col_start, &view.col_limit));
    if view.col_stride != Expr::Int(1) {
        text += &format!(" by {}", tight(p, &view.col_stride));
    }
    text += &format!(", align {}", view.align);
    if let Some(mask) = view.mask {
        text += &format!(", where {} > 0", tile_name(p, mask));
    }
    text
}

/// `rows start.. < limit`.
fn span_text(program: &TileProgram, what: &str, start: &Expr, limit: &Expr) -> String {
    format!(
        "{what} {}.. < {}",
        tight(program, start),
        bound_text(program, limit, ADD)
    )
}

/// Sums, comparisons and conjunctions in parentheses, for places where a range or a word follows.
fn tight(program: &TileProgram, expr: &Expr) -> String {
    bound_text(program, expr, DIV)
}

// How tightly operators bind, and everything that is no operator.
const AND: u8 = 1;
const COMPARE: u8 = 2;
const ADD: u8 = 3;
const DIV: u8 = 4;
const MUL: u8 = 5;
const ATOM: u8 = 6;

/// How an operator is written, how tightly it binds and what its left and right operands need; `None` for functions.
fn operator(op: Binary) -> Option<(&'static str, u8, u8, u8)> {
    match op {
        Binary::And => Some((" && ", AND, AND, COMPARE)),
        Binary::Lt => Some((" < ", COMPARE, ADD, ADD)),
        Binary::Le => Some((" <= ", COMPARE, ADD, ADD)),
        Binary::Eq => Some((" == ", COMPARE, ADD, ADD)),
        Binary::Add => Some((" + ", ADD, ADD, DIV)),
        Binary::Sub => Some((" - ", ADD, ADD, DIV)),
        // `a / b*c` would be read both ways: a factor on the right always has parentheses.
        Binary::Div => Some((" / ", DIV, DIV, ATOM)),
        Binary::Rem => Some((" % ", DIV, DIV, ATOM)),
        Binary::Mul => Some(("*", MUL, MUL, ATOM)),
        Binary::Min | Binary::Max => None,
    }
}

/// An expression, in parentheses where it binds less tightly than `need`.
fn bound_text(program: &TileProgram, expr: &Expr, need: u8) -> String {
    let inner = |e: &Expr| bound_text(program, e, 0);
    match expr {
        Expr::Int(n) => n.to_string(),
        Expr::Float(x) => format!("{x:?}"),
        Expr::Param(id) => param_name(program, *id),
        Expr::Var(id) => var_name(program, *id),
        Expr::Block(Axis::X) => "block.x".to_string(),
        Expr::Block(Axis::Y) => "block.y".to_string(),
        Expr::Block(Axis::Z) => "block.z".to_string(),
        Expr::Tile(id) => tile_name(program, *id),
        Expr::Row => "row".to_string(),
        Expr::Col => "col".to_string(),
        Expr::Load(id, index) => format!("{}[{}]", param_name(program, *id), inner(index)),
        Expr::Unary(op, a) => format!("{}({})", unary_name(*op), inner(a)),
        Expr::Select(cond, a, b) => format!("select({}, {}, {})", inner(cond), inner(a), inner(b)),
        Expr::Binary(op, a, b) => match operator(*op) {
            Some((symbol, binds, left, right)) => {
                let text = format!(
                    "{}{symbol}{}",
                    bound_text(program, a, left),
                    bound_text(program, b, right)
                );
                if binds < need { format!("({text})") } else { text }
            }
            None => {
                let name = if *op == Binary::Min { "min" } else { "max" };
                format!("{name}({}, {})", inner(a), inner(b))
            }
        },
    }
}

fn unary_name(op: Unary) -> &'static str {
    match op {
        Unary::Wide => "i64",
        Unary::ToFloat => "f32",
        Unary::Exp2 => "exp2",
        Unary::Log2 => "log2",
        Unary::Rsqrt => "rsqrt",
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::{self, ALPHA, M, TILE, attention};
    use super::*;

    fn text(expr: Expr) -> String {
        expr_text(&attention(), &expr)
    }

    #[test]
    fn a_program_reads_as_written() {
        let expected = "\
tile_program mla_tiny(q: bf16 read, cache: bf16 read, block_table: i32 read, kv_len: i32 read, cos: f32 read,
    sin: f32 read, out: bf16 write, T: i32, B: i32, entries: i32 = P, R: i64, G: i64)
  # softmax(q · kᵀ) · v over each sequence's pages
  grid x = (T*4 + 15) / 16, y = B, z = 1
  shared   q_raw bf16[16, 48]
  shared   cos_s f32[16, 8]
  shared   sin_s f32[16, 8]
  fragment q_rot f32[16, 48]
  shared   q_s   bf16[16, 48]
  shared   kv    bf16[16, 48]
  fragment s     f32[16, 16]
  shared   p     bf16[16, 16]
  fragment o     f32[16, 32]
  row      limit f32[16]
  row      m     f32[16]
  row      m_old f32[16]
  row      alpha f32[16]
  partial  part  f32[16]
  row      l     f32[16]

  # Sequences without tokens have no output.
  let len = kv_len[block.y]
  if len <= 0 {
    return
  }
  load q_raw[:, 0..48] <- q[block.y*(T*4)*48..] strided(rows block.x*16.. < T*4, row 48), cols 0.. < 48, align 8
  load cos_s[:, 0..8] <- cos[block.y*(T*4)*8..] strided(rows block.x*16.. < T*4, row 8), cols 0.. < 8, align 8
  load sin_s[:, 0..8] <- sin[block.y*(T*4)*8..] strided(rows block.x*16.. < T*4, row 8), cols 0.. < 8, align 8
  load limit <- kv_len[block.y..] strided(rows 0.. < 16, row 0), cols 0.. < 1, align 1
  rotate q_rot <- q_raw by cos cos_s, sin sin_s, interleaved, d 16
  stage q_s <- q_rot
  fill o <- 0.0
  fill m <- -1e30
  fill part <- 0.0
  for t in 0..(len + 15) / 16 pipelined {
    load kv[:, 0..48] <- cache paged(rows t*16.. < len, table block_table[block.y*entries..], page 64 x G, row R), cols 0.. < 48, align 8
    fill s <- 0.0
    gemm s += q_s * transpose(kv[:, 0..48])
    map s <- select(f32(t*16 + col) < limit, s*0.125, -inf)
    map m_old <- m
    reduce m <- max(m, s)
    map alpha <- exp2(m_old - m)
    map part <- part*alpha
    map o <- o*alpha
    map s <- exp2(s - m)
    reduce part <- sum(part, s)
    stage p <- s
    gemm o += p * kv[:, 0..32]
  }
  finish l <- part
  map o <- o / max(l, 1e-30)
  store out[block.y*(T*4)*32..] strided(rows block.x*16.. < T*4, row 32), cols 0.. < 32, align 8, where limit > 0 <- o[:, 0..32]
  let total = sum b in 0..B: kv_len[b]
";
        assert_eq!(attention().to_string(), expected);
    }

    #[test]
    fn parentheses_stand_where_the_tree_needs_them() {
        let (a, b, c) = (
            || Expr::from(example::T),
            || Expr::from(TILE),
            || Expr::from(example::P),
        );
        assert_eq!(text(a() * b() / c()), "T*t / entries");
        assert_eq!(text(a() / b() * c()), "(T / t)*entries");
        assert_eq!(text(a() / (b() * c())), "T / (t*entries)");
        assert_eq!(text(a() * (b() * c())), "T*(t*entries)");
        assert_eq!(text(a() - b() - c()), "T - t - entries");
        assert_eq!(text(a() - (b() - c())), "T - (t - entries)");
        assert_eq!(text(a() + b() * c()), "T + t*entries");
        assert_eq!(text((a() + b()) % c()), "(T + t) % entries");
        assert_eq!(
            text((a() + b()).lt(c()).and(b().equals(3))),
            "T + t < entries && t == 3"
        );
        assert_eq!(text(a().and(b().and(c()))), "T && (t && entries)");
        assert_eq!(text((a() + 1).min(b()) * c()), "min(T + 1, t)*entries");
        assert_eq!(text((Expr::Tile(M) - ALPHA).exp2() * 1.0f32), "exp2(m - alpha)*1.0");
        assert_eq!(text((b() + 1).wide() * c()), "i64(t + 1)*entries");
        assert_eq!(
            text(Expr::Row.le(Expr::Col).select(b().to_float(), -1e-6f32)),
            "select(row <= col, f32(t), -1e-6)"
        );
    }

    #[test]
    fn ids_that_name_nothing_still_print() {
        let broken = Expr::Tile(TileId(99)) + Expr::Var(VarId(98)) + Expr::Load(ParamId(97), Box::new(0.into()));
        assert_eq!(text(broken), "tile?99 + var?98 + param?97[0]");
    }

    #[test]
    fn a_statement_is_one_line_without_its_body() {
        let p = attention();
        assert_eq!(
            stmt_text(&p, &p.body[example::at::FOR]),
            "for t in 0..(len + 15) / 16 pipelined"
        );
        assert_eq!(stmt_text(&p, &Stmt::Comment("two\n  lines".to_string())), "# two lines");
    }

    #[test]
    fn a_gemm_shows_the_columns_of_a_where_they_are_not_all() {
        let p = attention();
        let gemm = |a_start: Expr| {
            let gemm = Stmt::Gemm {
                acc: example::S,
                a: example::Q_S,
                a_start,
                b: example::KV,
                layout: BLayout::Nk,
                b_cols: 0..16,
            };
            stmt_text(&p, &gemm)
        };
        assert_eq!(gemm(32.into()), "gemm s += q_s[:, 32..48] * transpose(kv[:, 0..16])");
        assert_eq!(
            gemm(Expr::from(TILE) * 16),
            "gemm s += q_s[:, t*16.. + 16] * transpose(kv[:, 0..16])"
        );
    }

    #[test]
    fn long_parameter_lists_are_broken() {
        let mut p = attention();
        p.params[0].name = "q".repeat(80);
        let text = p.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].ends_with(": bf16 read,") && lines[1].starts_with("    cache: bf16 read, "),
            "{text}"
        );
        assert!(lines[1].len() <= WIDTH && lines[3].starts_with("  #"), "{text}");
        p.params.clear();
        assert!(p.to_string().starts_with("tile_program mla_tiny()\n"));
    }

    #[test]
    fn a_strided_view_shows_only_what_is_unusual() {
        let p = attention();
        let Stmt::Load { src, .. } = &p.body[example::at::LOAD_Q] else {
            panic!("expected a load")
        };
        let plain = View {
            offset: 0.into(),
            ..src.clone()
        };
        assert_eq!(
            view_text(&p, &plain),
            "q strided(rows block.x*16.. < T*4, row 48), cols 0.. < 48, align 8"
        );
        let rare = View {
            offset: Expr::from(TILE) + 1,
            col_start: Expr::from(TILE) + 2,
            col_stride: example::R.into(),
            mask: Some(M),
            ..src.clone()
        };
        let expected =
            "q[(t + 1)..] strided(rows block.x*16.. < T*4, row 48), cols (t + 2).. < 48 by R, align 8, where m > 0";
        assert_eq!(view_text(&p, &rare), expected);
    }
}
