//! What goes wrong with an expression: at compile time (shown as cel-go shows it, `common/errors.go`) and at run time.

use super::library::authz::Question;
use thiserror::Error;

/// One complaint about an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    at: usize,
    /// What is wrong.
    pub message: String,
}

impl Issue {
    pub(super) fn at(at: usize, message: String) -> Self {
        Issue { at, message }
    }
}

/// Why an expression does not compile. Displays as cel-go's issues do: `ERROR: <input>:1:5: …` with the line and a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct CompileError {
    /// Every complaint, by place.
    pub issues: Vec<Issue>,
    text: String,
}

impl CompileError {
    pub(super) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| issue.at);
        let shown: Vec<String> = issues.iter().map(|issue| show(source, issue)).collect();
        CompileError { text: shown.join("\n"), issues }
    }
}

fn show(source: &str, issue: &Issue) -> String {
    let before: Vec<char> = source.chars().take(issue.at).collect();
    let line = before.iter().filter(|c| **c == '\n').count();
    let column = before.iter().rev().take_while(|c| **c != '\n').count();
    let snippet = source.split('\n').nth(line).unwrap_or_default().replace('\t', " ");
    let mut out = format!("ERROR: <input>:{}:{}: {}\n | {snippet}\n | ", line + 1, column + 1, issue.message);
    for c in snippet.chars().take(column) {
        out.push(if c.len_utf8() > 1 { '\u{ff0e}' } else { '.' });
    }
    let wide = snippet.chars().nth(column).is_some_and(|c| c.len_utf8() > 1);
    out.push(if wide { '\u{ff3e}' } else { '^' });
    out
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvalError {
    /// The limit of one evaluation was used up.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// The budget of all evaluations together was used up.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    OutOfBudget,
    /// The authorizer's answer to this question is not known yet. Ask it and evaluate again.
    #[error("the authorizer was not asked yet")]
    Undecided(Box<Question>),
    /// Any other error, in cel-go's words.
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    /// Errors that `||`, `&&` and the like do not swallow.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, EvalError::Failed(_))
    }

    pub(super) fn new(text: impl Into<String>) -> Self {
        EvalError::Failed(text.into())
    }

    pub(super) fn no_overload() -> Self {
        EvalError::Failed("no such overload".to_owned())
    }

    pub(super) fn no_key(key: impl std::fmt::Display) -> Self {
        EvalError::Failed(format!("no such key: {key}"))
    }
}
