//! Rules of schemas (CEL): as much of the language as this project's own rules use.

use regex::Regex;
use serde_json::{Value, json};

/// A rule that a value has to meet.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) expression: Expression,
    /// It speaks of the value before the change, and is not asked where there is none.
    pub(super) transition: bool,
    pub(super) message: String,
}

/// What a rule computes.
#[derive(Debug)]
pub(super) enum Expression {
    Literal(Value),
    Name(String),
    List(Vec<Expression>),
    Field(Box<Expression>, String),
    Has(Box<Expression>, String),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Compare(Box<Expression>, Comparison, Box<Expression>),
    In(Box<Expression>, Box<Expression>),
    Size(Box<Expression>),
    Text(Box<Expression>, Test),
    Each(Box<Expression>, Quantifier, String, Box<Expression>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A question about a text.
#[derive(Debug)]
pub(super) enum Test {
    Begins(String),
    Contains(String),
    Matches(Regex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    All,
    ExactlyOne,
}

impl Rule {
    /// Reads a rule of a schema.
    ///
    /// # Panics
    /// If it uses words that are not modelled.
    pub(super) fn read(source: &Value) -> Self {
        let fields = source.as_object().expect("a rule is an object");
        let unknown = fields.keys().find(|key| !matches!(key.as_str(), "rule" | "message"));
        assert!(unknown.is_none(), "{source}: {unknown:?} is not modelled");
        let text = source["rule"].as_str().expect("a rule is text");
        let mut parser = Parser { text, rest: text };
        let expression = parser.either();
        parser.demand("");
        let message = source["message"].as_str().unwrap_or("").to_owned();
        Self { expression, transition: text.contains("oldSelf"), message }
    }
}

/// What is left to read of a rule.
struct Parser<'t> {
    text: &'t str,
    rest: &'t str,
}

const COMPARISONS: &[(&str, Comparison)] = &[
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl<'t> Parser<'t> {
    fn fail(&self) -> ! {
        panic!("not modelled in {:?}: {:?}", self.text, self.rest)
    }

    /// Takes `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        let after = rest.strip_prefix(token);
        self.rest = after.unwrap_or(rest);
        after.is_some()
    }

    /// Takes `token`, or nothing more if that is empty.
    fn demand(&mut self, token: &str) {
        if !self.take(token) || token.is_empty() && !self.rest.is_empty() {
            self.fail();
        }
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest.trim_start();
        let inner = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let end = rest.find(|letter| !inner(letter)).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        if word.is_empty() {
            self.fail();
        }
        word
    }

    fn either(&mut self) -> Expression {
        let mut left = self.both();
        while self.take("||") {
            left = Expression::Or(Box::new(left), Box::new(self.both()));
        }
        left
    }

    fn both(&mut self) -> Expression {
        let mut left = self.relation();
        while self.take("&&") {
            left = Expression::And(Box::new(left), Box::new(self.relation()));
        }
        left
    }

    fn relation(&mut self) -> Expression {
        let left = Box::new(self.single());
        for (token, comparison) in COMPARISONS {
            if self.take(token) {
                return Expression::Compare(left, *comparison, Box::new(self.single()));
            }
        }
        match self.take("in ") {
            true => Expression::In(left, Box::new(self.single())),
            false => *left,
        }
    }

    fn single(&mut self) -> Expression {
        if self.take("!") {
            return Expression::Not(Box::new(self.single()));
        }
        let mut value = self.primary();
        while self.take(".") {
            let word = self.word();
            value = match self.take("(") {
                true => self.method(value, word),
                false => Expression::Field(Box::new(value), word.to_owned()),
            };
        }
        value
    }

    fn primary(&mut self) -> Expression {
        if self.take("(") {
            let inner = self.either();
            self.demand(")");
            return inner;
        }
        if self.take("[") {
            return Expression::List(self.list());
        }
        if self.take("'") {
            return Expression::Literal(json!(self.quoted()));
        }
        let negative = self.take("-");
        let word = self.word();
        match (word, word.parse::<i64>()) {
            (_, Ok(number)) => Expression::Literal(json!(if negative { -number } else { number })),
            _ if negative => self.fail(),
            ("true" | "false", _) => Expression::Literal(json!(word == "true")),
            ("has", _) => {
                self.demand("(");
                let Expression::Field(value, key) = self.single() else { self.fail() };
                self.demand(")");
                Expression::Has(value, key)
            }
            _ => Expression::Name(word.to_owned()),
        }
    }

    fn list(&mut self) -> Vec<Expression> {
        let mut items = Vec::new();
        while !self.take("]") {
            items.push(self.either());
            if !self.take(",") {
                self.demand("]");
                break;
            }
        }
        items
    }

    /// A text up to its closing quote, without escapes.
    fn quoted(&mut self) -> String {
        let mut text = String::new();
        let mut letters = self.rest.char_indices();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '\'' => {
                    self.rest = &self.rest[index + 1..];
                    return text;
                }
                '\\' => match letters.next() {
                    Some((_, escaped @ ('\\' | '\''))) => text.push(escaped),
                    _ => self.fail(),
                },
                letter => text.push(letter),
            }
        }
        self.fail()
    }

    fn method(&mut self, value: Expression, name: &str) -> Expression {
        let value = Box::new(value);
        let quantifier = match name {
            "size" => {
                self.demand(")");
                return Expression::Size(value);
            }
            "all" => Quantifier::All,
            "exists_one" => Quantifier::ExactlyOne,
            _ => {
                self.demand("'");
                let text = self.quoted();
                self.demand(")");
                return Expression::Text(value, self.test(name, text));
            }
        };
        let variable = self.word().to_owned();
        self.demand(",");
        let body = Box::new(self.either());
        self.demand(")");
        Expression::Each(value, quantifier, variable, body)
    }

    fn test(&self, name: &str, text: String) -> Test {
        match name {
            "startsWith" => Test::Begins(text),
            "contains" => Test::Contains(text),
            "matches" => Test::Matches(Regex::new(&text).unwrap_or_else(|_| self.fail())),
            _ => self.fail(),
        }
    }
}
