//! Rust text with code, string literals and comments told apart, so that a rule looks only where it means to.

/// One Rust file in three layers of equal shape: each line holds only its kind of text, blanks elsewhere.
pub struct Source {
    code: String,
    strings: String,
    comments: String,
    /// For each line, whether it is test code.
    test_lines: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    String,
    Comment,
}

impl Source {
    /// Takes `text` apart; `is_test` says that the whole file is test code.
    pub fn new(text: &str, is_test: bool) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let kinds = kinds(&chars);
        let layer = |kind| -> String {
            let pairs = chars.iter().zip(&kinds);
            pairs
                .map(|(&c, &k)| if k == kind || c == '\n' { c } else { ' ' })
                .collect()
        };
        let code = layer(Kind::Code);
        let test_lines = match is_test || code.contains("#![cfg(test)]") {
            true => vec![true; code.lines().count()],
            false => test_lines(&code),
        };
        Self {
            strings: layer(Kind::String),
            comments: layer(Kind::Comment),
            test_lines,
            code,
        }
    }

    /// Lines of code, numbered from 1, tests included.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.code)
    }

    /// What stands inside string and character literals, by line, tests included.
    pub fn strings(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.strings)
    }

    pub fn comments(&self) -> impl Iterator<Item = (usize, &str)> {
        numbered(&self.comments)
    }

    /// Whether line `line`, counted from 1, is outside test code.
    pub fn is_product_line(&self, line: usize) -> bool {
        self.test_lines.get(line - 1).is_none_or(|test| !test)
    }

    /// The code as one text, with test code left out and lines kept in place.
    pub fn product_code(&self) -> String {
        let kept = self
            .code()
            .map(|(line, text)| if self.is_product_line(line) { text } else { "" });
        kept.collect::<Vec<_>>().join("\n")
    }
}

/// The names and numbers in a line of code.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}

fn numbered(layer: &str) -> impl Iterator<Item = (usize, &str)> {
    layer.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// The kind of each character.
fn kinds(chars: &[char]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(chars.len());
    while kinds.len() < chars.len() {
        let here = kinds.len();
        let (kind, length) = token(chars, here);
        let length = length.clamp(1, chars.len() - here);
        kinds.extend(std::iter::repeat_n(kind, length));
    }
    kinds
}

/// The kind and length of the comment or literal that starts at `here`, or one character of code.
fn token(chars: &[char], here: usize) -> (Kind, usize) {
    let rest = &chars[here..];
    match rest {
        ['/', '/', ..] => (
            Kind::Comment,
            rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ),
        ['/', '*', ..] => (Kind::Comment, block_comment(rest)),
        ['"', ..] => (Kind::String, quoted(rest, '"')),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => (Kind::String, quoted(rest, '\'')),
        ['r', '"' | '#', ..] if starts_word(chars, here) => match raw_string(rest) {
            Some(length) => (Kind::String, length),
            None => (Kind::Code, 1),
        },
        _ => (Kind::Code, 1),
    }
}

/// Whether the `r` at `here` starts a raw string's prefix (`r`, `br`, `cr`) rather than ending a name.
fn starts_word(chars: &[char], here: usize) -> bool {
    let in_name = |back: usize| {
        let before = here.checked_sub(back).and_then(|index| chars.get(index));
        before.is_some_and(|c| c.is_alphanumeric() || *c == '_')
    };
    let prefixed = here > 0 && matches!(chars[here - 1], 'b' | 'c');
    !in_name(1) || (prefixed && !in_name(2))
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The length of the raw string at the start of `rest`; `None` where it is a raw name such as `r#type`.
fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    let open = 1 + hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let closes = |window: &[char]| window[0] == '"' && window[1..].iter().all(|c| *c == '#');
    let body = &rest[open + 1..];
    let end = body.windows(hashes + 1).position(closes);
    Some(end.map_or(rest.len(), |end| open + 1 + end + hashes + 1))
}

/// Marks the lines of each item under `#[cfg(test)]`.
fn test_lines(code: &str) -> Vec<bool> {
    let mut marks = vec![false; code.lines().count()];
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let end = start + item_length(&code[start..]);
        let first = code[..start].matches('\n').count();
        let last = code[..end].matches('\n').count();
        for mark in marks.iter_mut().take(last + 1).skip(first) {
            *mark = true;
        }
    }
    marks
}

/// The length of the item at the start of `code`: to its closing brace, or to a semicolon before any brace.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at,
            '{' => depth += 1,
            '}' if depth <= 1 => return at,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(text: &str) -> [String; 3] {
        let source = Source::new(text, false);
        [&source.code, &source.strings, &source.comments].map(|layer| layer.replace(' ', ""))
    }

    #[test]
    fn comments_strings_and_code_are_told_apart() {
        assert_eq!(layers("a // b \"c\"\nd"), ["a\nd", "\n", "//b\"c\"\n"]);
        assert_eq!(layers("a /* b /* c */ d */ e"), ["ae", "", "/*b/*c*/d*/"]);
        assert_eq!(layers(r#"f("x // \" y")g"#), ["f()g", r#""x//\"y""#, ""]);
        assert_eq!(layers(r##"f(br#"a " b"#) c"##), ["f(b)c", r##"r#"a"b"#"##, ""]);
        assert_eq!(layers(r"f('\'', '/', 'a)"), ["f(,,'a)", r"'\'''/'", ""]);
        assert_eq!(layers("r#type = for\"s\""), ["r#type=for", "\"s\"", ""]);
        assert_eq!(layers("\"open"), ["", "\"open", ""]);
    }

    #[test]
    fn layers_keep_every_line_in_place() {
        let source = Source::new("a\n\"é\nb\"\nc", false);
        assert_eq!(source.code().last(), Some((4, "c")));
        assert_eq!(source.strings().nth(2), Some((3, "b\"")));
    }

    #[test]
    fn test_items_are_marked_to_their_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { { } }\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}\n";
        let source = Source::new(text, false);
        let product: Vec<usize> = (1..=9).filter(|line| source.is_product_line(*line)).collect();
        assert_eq!(product, [1, 6, 9]);
        assert!(!source.product_code().contains('b'));
    }
}
