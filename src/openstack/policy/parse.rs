//! The text of a rule becomes a [`PolicyCheck`].
//!
//! The language is oslo.policy's. Its parser denies what it does not understand, or lets the default rule
//! decide, which allows everybody; here that is an error, so that a mistake stops the start of the service.
//! Pure, never panics, and never nests deeper than [`DEPTH`].

use super::condition::{Pattern, PatternPiece, PolicyCheck};
use crate::openstack::caller::Caller;

/// The deepest nesting of parentheses and `not`. Deeper ones could exhaust the stack.
pub(super) const DEPTH: usize = 64;

/// Words that Python does not take for a name: a check of that kind fails in Glance.
const KEYWORDS: &[&str] = &[
    "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else",
    "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not",
    "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// Parses a rule. Fails with the reason, which quotes what is not understood.
pub(super) fn parse(text: &str) -> Result<PolicyCheck, String> {
    if text.is_empty() {
        return Ok(PolicyCheck::Everybody);
    }
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Err("it has only blanks; write \"!\" for nobody, \"@\" for everybody".to_owned());
    }
    let mut parser = Parser { tokens: tokens.into_iter().peekable() };
    let condition = parser.alternatives(0)?;
    match parser.tokens.next() {
        None => Ok(condition),
        Some(Token::Close) => Err("it closes a parenthesis that is not open".to_owned()),
        Some(token) => Err(format!("there is no \"and\" or \"or\" before {}", token.shown())),
    }
}

/// Parses the items of an older rule that is a list: one of them must be true. An item that is a list itself
/// is true if all its checks are. Empty items do not count.
pub(super) fn parse_list(items: &[Vec<String>]) -> Result<PolicyCheck, String> {
    if items.is_empty() {
        return Ok(PolicyCheck::Everybody);
    }
    let items = items.iter().filter(|item| !item.is_empty());
    let mut any = items
        .map(|item| {
            let all = item.iter().map(|text| single(text)).collect::<Result<Vec<_>, _>>()?;
            Ok(one_or(all, PolicyCheck::And))
        })
        .collect::<Result<Vec<_>, String>>()?;
    if any.is_empty() {
        return Ok(PolicyCheck::Nobody);
    }
    Ok(if any.len() == 1 { any.remove(0) } else { PolicyCheck::Or(any) })
}

/// Parses an item of a list, which is one check: its blanks belong to the names.
fn single(text: &str) -> Result<PolicyCheck, String> {
    let words = text.split(is_blank).filter(|word| !word.is_empty());
    let is_word = |word: &str| matches!(word.to_lowercase().as_str(), "and" | "or" | "not");
    if words.clone().count() > 1 && words.clone().any(is_word) {
        return Err(format!(
            "{text:?} is an item of a list, which is one check without \"and\", \"or\", \"not\""
        ));
    }
    check(text)
}

fn one_or(mut parts: Vec<PolicyCheck>, join: impl FnOnce(Vec<PolicyCheck>) -> PolicyCheck) -> PolicyCheck {
    if parts.len() == 1 { parts.remove(0) } else { join(parts) }
}

/// True for the blanks of Python's regular expressions.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

#[derive(Debug)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Check(PolicyCheck),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Open => "\"(\"".to_owned(),
            Self::Close => "\")\"".to_owned(),
            Self::And => "\"and\"".to_owned(),
            Self::Or => "\"or\"".to_owned(),
            Self::Not => "\"not\"".to_owned(),
            Self::Check(check) => format!("\"{check}\""),
        }
    }
}

/// Splits a text at its blanks. Parentheses count only at the ends of a word: `%(name)s` has its own.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    for word in text.split(is_blank).filter(|word| !word.is_empty()) {
        let rest = word.trim_start_matches('(');
        tokens.extend((rest.len()..word.len()).map(|_| Token::Open));
        let inner = rest.trim_end_matches(')');
        if !inner.is_empty() {
            tokens.push(token(inner)?);
        }
        tokens.extend((inner.len()..rest.len()).map(|_| Token::Close));
    }
    Ok(tokens)
}

/// Returns the token of a word without its parentheses.
fn token(word: &str) -> Result<Token, String> {
    let is_between = |quote: char| word.len() >= 2 && word.starts_with(quote) && word.ends_with(quote);
    Ok(match word.to_lowercase().as_str() {
        "and" => Token::And,
        "or" => Token::Or,
        "not" => Token::Not,
        _ if is_between('"') || is_between('\'') => {
            return Err(format!("{word} begins and ends with a quote, which is no check"));
        }
        _ => Token::Check(check(word)?),
    })
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Parser {
    fn takes(&mut self, is_wanted: impl FnOnce(&Token) -> bool) -> bool {
        self.tokens.next_if(is_wanted).is_some()
    }

    fn alternatives(&mut self, depth: usize) -> Result<PolicyCheck, String> {
        let mut parts = vec![self.conjunction(depth)?];
        while self.takes(|token| matches!(token, Token::Or)) {
            parts.push(self.conjunction(depth)?);
        }
        Ok(one_or(parts, PolicyCheck::Or))
    }

    fn conjunction(&mut self, depth: usize) -> Result<PolicyCheck, String> {
        let mut parts = vec![self.primary(depth)?];
        while self.takes(|token| matches!(token, Token::And)) {
            parts.push(self.primary(depth)?);
        }
        Ok(one_or(parts, PolicyCheck::And))
    }

    fn primary(&mut self, depth: usize) -> Result<PolicyCheck, String> {
        if depth == DEPTH {
            return Err(format!("it is nested more than {DEPTH} deep"));
        }
        match self.tokens.next() {
            Some(Token::Check(check)) => Ok(check),
            Some(Token::Not) => Ok(PolicyCheck::Not(Box::new(self.primary(depth + 1)?))),
            Some(Token::Open) => {
                let inner = self.alternatives(depth + 1)?;
                if self.takes(|token| matches!(token, Token::Close)) {
                    Ok(inner)
                } else {
                    Err(match self.tokens.next() {
                        Some(token) => format!("there is no \"and\" or \"or\" before {}", token.shown()),
                        None => "it opens a parenthesis that it does not close".to_owned(),
                    })
                }
            }
            Some(token) => Err(format!("there is no check before {}", token.shown())),
            None => Err("a check is missing at its end".to_owned()),
        }
    }
}

/// Parses one check: `@`, `!` or `kind:match`.
fn check(text: &str) -> Result<PolicyCheck, String> {
    match text {
        "@" => return Ok(PolicyCheck::Everybody),
        "!" => return Ok(PolicyCheck::Nobody),
        _ => {}
    }
    let Some((kind, pattern)) = text.split_once(':') else {
        return Err(format!("{text:?} is not a check; one is, for example, \"role:admin\""));
    };
    match kind {
        // Glance does not look for %(name)s in names of rules.
        "rule" => return Ok(PolicyCheck::Rule(pattern.to_owned())),
        "role" => return Ok(PolicyCheck::Role(self::pattern(pattern)?)),
        "http" | "https" => {
            return Err(format!("it asks a remote server ({text:?}), which is not supported"));
        }
        _ => {}
    }
    let pattern = self::pattern(pattern)?;
    if let Some(value) = literal(kind) {
        return Ok(PolicyCheck::Literal { source: kind.to_owned(), value, pattern });
    }
    match name(kind) {
        Ok(name) => Ok(PolicyCheck::Credential { name, pattern }),
        Err(reason) => Err(format!("{text:?} compares {kind:?}, {reason}")),
    }
}

/// Returns a Python literal as Python shows it. Of the many forms, those without escapes are known.
fn literal(kind: &str) -> Option<String> {
    if matches!(kind, "True" | "False" | "None") {
        return Some(kind.to_owned());
    }
    for quote in ['\'', '"'] {
        let inner = kind.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        if let Some(inner) = inner {
            let is_plain = !inner.contains(|c: char| c == quote || c == '\\' || c.is_control());
            return is_plain.then(|| inner.to_owned());
        }
    }
    let digits = kind.strip_prefix('-').unwrap_or(kind);
    let is_number = (1..=18).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit())
        && (!digits.starts_with('0') || kind == "0");
    is_number.then(|| kind.to_owned())
}

/// Returns the name of a credential, or of something that is none.
fn name(kind: &str) -> Result<String, &'static str> {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
            && part.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
            && !KEYWORDS.contains(&part)
    };
    if !kind.split('.').all(is_name) {
        return Err("which is neither a credential nor a text in quotes");
    }
    match kind.split_once('.') {
        Some((first, _)) if Caller::is_credential(first) => Err("but that credential has no parts"),
        _ => Ok(kind.to_owned()),
    }
}

/// Parses the right side of a check, in which `%(name)s` stands for an attribute and `%%` for a percent sign.
fn pattern(text: &str) -> Result<Pattern, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain += before;
        if let Some(after) = after.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let named = after.strip_prefix('(').and_then(|after| after.split_once(")s"));
        let named = named.filter(|(name, _)| !name.is_empty() && !name.contains(['(', ')']));
        let Some((name, after)) = named else {
            return Err(format!("{text:?} has a \"%\" that is neither \"%(name)s\" nor \"%%\""));
        };
        if !plain.is_empty() {
            pieces.push(PatternPiece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(PatternPiece::Attribute(name.to_owned()));
        rest = after;
    }
    plain += rest;
    if !plain.is_empty() {
        pieces.push(PatternPiece::Text(plain));
    }
    Ok(Pattern(pieces))
}
