//! Source text without what only looks like code: comments and the insides of literals.
//!
//! Blanked, not removed: every line keeps its number.

/// A manifest without its comments.
pub fn of_manifest(text: &str) -> String {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().to_owned() + "\n").collect()
}

/// Rust without its comments and literals.
pub fn of_rust(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let blank = blank_bytes(rest, after_word);
        let (taken, left) = rest.split_at(if blank == 0 { first.len_utf8() } else { blank });
        if blank == 0 {
            code.push(first);
        } else {
            code.extend(taken.chars().map(|c| if c == '\n' { c } else { ' ' }));
        }
        rest = left;
    }
    code
}

/// Identifiers and keywords.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// A function with a body.
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where its `fn` stands, from 1.
    pub line: usize,
    /// How many lines up to its closing brace.
    pub lines: usize,
}

/// The functions with a body, from `fn` to the closing brace, nested ones too.
pub fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let inside_word = code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let name = words(&code[at + 3..]).next().filter(|name| code[at + 3..].starts_with(name));
        let (false, Some(name)) = (inside_word, name) else { continue };
        if let Some(bytes) = function_bytes(&code[at..]) {
            let line = code[..at].matches('\n').count() + 1;
            found.push(Function { name, line, lines: code[at..at + bytes].matches('\n').count() + 1 });
        }
    }
    found
}

/// Bytes up to the closing brace; `None` for a declaration.
fn function_bytes(code: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0usize, 0usize);
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets = brackets.saturating_sub(1),
            b';' if brackets == 0 && braces == 0 => return None,
            b'{' => braces += 1,
            b'}' if braces == 1 && brackets == 0 => return Some(at + 1),
            b'}' => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// Bytes of the comment or literal that begins here; 0 if none does.
fn blank_bytes(rest: &str, after_word: bool) -> usize {
    let to_end_of =
        |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_bytes(rest);
    }
    if rest.starts_with('"') {
        return closing_quote(rest, '"');
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        // Anything else behind a quote is a lifetime.
        let char_literal = inner.starts_with('\\') || inner.chars().nth(1) == Some('\'');
        return if char_literal { closing_quote(rest, '\'') } else { 0 };
    }
    let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r').filter(|_| !after_word);
    let Some(raw) = raw else { return 0 };
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if !raw[hashes..].starts_with('"') {
        return 0;
    }
    to_end_of(&format!("\"{}", "#".repeat(hashes)), rest.len() - raw.len() + hashes + 1)
}

/// Bytes of a literal that begins with a quote, up to the next one that is not escaped.
fn closing_quote(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Bytes of a block comment and of those inside it.
fn block_comment_bytes(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        let step = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth = depth.saturating_add_signed(step.0);
        at += step.1;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}
