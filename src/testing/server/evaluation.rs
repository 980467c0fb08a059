//! Evaluating rules of schemas.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Value, json};

use super::rules::{Comparison, Expression, Quantifier, Rule, Test};

/// What names mean; the last meaning counts.
type Scope<'v> = Vec<(&'v str, &'v Value)>;

/// A value, or why there is none.
type Outcome<'v> = Result<Cow<'v, Value>, String>;

impl Rule {
    /// Whether a value meets the rule; a rule that cannot be evaluated is not met.
    pub(super) fn holds(&self, value: &Value, old: Option<&Value>) -> bool {
        let mut scope = vec![("self", value)];
        scope.extend(old.map(|old| ("oldSelf", old)));
        truth(self.expression.evaluate(&scope)) == Ok(true)
    }
}

impl Expression {
    fn evaluate<'v>(&'v self, scope: &Scope<'v>) -> Outcome<'v> {
        match self {
            Self::Literal(value) => Ok(Cow::Borrowed(value)),
            Self::Name(name) => {
                let found = scope.iter().rev().find(|(known, _)| known == name);
                let (_, value) = found.ok_or_else(|| format!("{name} is not known"))?;
                Ok(Cow::Borrowed(value))
            }
            Self::List(items) => {
                let items = items.iter().map(|item| item.evaluate(scope).map(Cow::into_owned));
                Ok(Cow::Owned(Value::Array(items.collect::<Result<_, _>>()?)))
            }
            Self::Field(value, key) => {
                field(value.evaluate(scope)?, key).ok_or_else(|| format!("no such key: {key}"))
            }
            Self::Has(value, key) => Ok(yes(field(value.evaluate(scope)?, key).is_some())),
            Self::Not(value) => Ok(yes(!truth(value.evaluate(scope))?)),
            Self::And(left, right) => {
                decided(false, truth(left.evaluate(scope)), || truth(right.evaluate(scope)))
            }
            Self::Or(left, right) => {
                decided(true, truth(left.evaluate(scope)), || truth(right.evaluate(scope)))
            }
            Self::Compare(left, comparison, right) => {
                let (left, right) = (left.evaluate(scope)?, right.evaluate(scope)?);
                Ok(yes(comparison.holds(&left, &right)?))
            }
            Self::In(value, list) => {
                let (value, list) = (value.evaluate(scope)?, list.evaluate(scope)?);
                let items = list.as_array().ok_or("no list")?;
                Ok(yes(items.iter().any(|item| equal(item, &value))))
            }
            Self::Size(value) => {
                let value = value.evaluate(scope)?;
                Ok(Cow::Owned(json!(size(&value)?)))
            }
            Self::Text(value, test) => {
                let value = value.evaluate(scope)?;
                Ok(yes(test.holds(value.as_str().ok_or("no text")?)))
            }
            Self::Each(list, quantifier, name, body) => {
                each(scope, list, *quantifier, (name, body))
            }
        }
    }
}

fn each<'v>(
    scope: &Scope<'v>,
    list: &'v Expression,
    quantifier: Quantifier,
    (name, body): (&'v str, &'v Expression),
) -> Outcome<'v> {
    let list = list.evaluate(scope)?;
    let items = list.as_array().ok_or("no list")?;
    let mut meet = 0;
    for item in items {
        let mut inner: Scope<'_> = scope.clone();
        inner.push((name, item));
        meet += usize::from(truth(body.evaluate(&inner))?);
    }
    Ok(yes(match quantifier {
        Quantifier::All => meet == items.len(),
        Quantifier::ExactlyOne => meet == 1,
    }))
}

fn yes<'v>(value: bool) -> Cow<'v, Value> {
    Cow::Owned(Value::Bool(value))
}

fn truth(outcome: Outcome<'_>) -> Result<bool, String> {
    outcome?.as_bool().ok_or_else(|| "no truth value".to_owned())
}

/// Either side may decide alone, even if the other cannot be evaluated.
fn decided<'v>(
    deciding: bool,
    left: Result<bool, String>,
    right: impl FnOnce() -> Result<bool, String>,
) -> Outcome<'v> {
    if left == Ok(deciding) {
        return Ok(yes(deciding));
    }
    let right = right()?;
    Ok(yes(if right == deciding { deciding } else { left? }))
}

fn field<'v>(value: Cow<'v, Value>, key: &str) -> Option<Cow<'v, Value>> {
    match value {
        Cow::Borrowed(value) => value.get(key).filter(|value| !value.is_null()).map(Cow::Borrowed),
        Cow::Owned(value) => value.get(key).cloned().map(Cow::Owned),
    }
}

fn size(value: &Value) -> Result<usize, String> {
    match value {
        Value::String(text) => Ok(text.chars().count()),
        Value::Array(items) => Ok(items.len()),
        Value::Object(fields) => Ok(fields.len()),
        _ => Err("no size".to_owned()),
    }
}

fn equal(left: &Value, right: &Value) -> bool {
    left == right || left.as_f64().is_some() && left.as_f64() == right.as_f64()
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> Result<bool, String> {
        match self {
            Self::Equal => return Ok(equal(left, right)),
            Self::Unequal => return Ok(!equal(left, right)),
            _ => {}
        }
        let order = match (left, right) {
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            _ => match (left.as_i64(), right.as_i64()) {
                (Some(left), Some(right)) => Some(left.cmp(&right)),
                _ => left.as_f64().zip(right.as_f64()).and_then(|(l, r)| l.partial_cmp(&r)),
            },
        };
        let order = order.ok_or_else(|| format!("{left} and {right} have no order"))?;
        Ok(match self {
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            _ => order != Ordering::Less,
        })
    }
}

impl Test {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::Begins(start) => text.starts_with(start.as_str()),
            Self::Contains(part) => text.contains(part.as_str()),
            Self::Matches(pattern) => pattern.is_match(text),
        }
    }
}
