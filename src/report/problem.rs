//! The one way in which an error is shown: what, its numbered causes, and what to do.

use std::error::Error;

use super::style::{Palette, paint};
use crate::step::StepError;

/// An error as a person reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What could not be done, lower case.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without causes.
    pub fn new(message: impl Into<String>) -> Self {
        Problem {
            message: message.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// An error with its sources as causes. A source that says the same as
    /// the error it explains is left out.
    pub fn of(error: &dyn Error) -> Self {
        let mut problem = Problem::new(error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if problem.causes.last().unwrap_or(&problem.message) != &text {
                problem.causes.push(text);
            }
            source = cause.source();
        }
        problem
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The lines, the last of them ended too.
    pub fn render(&self, palette: &Palette) -> String {
        let mut text = String::new();
        let mut block = |head: String, width: usize, body: &str| {
            for (i, line) in body.trim_end().lines().enumerate() {
                if i == 0 {
                    text.push_str(&head);
                } else {
                    text.push_str(&" ".repeat(width));
                }
                text.push_str(line);
                text.push('\n');
            }
        };
        block(
            format!("{} ", paint(palette.bad, "error:")),
            7,
            &self.message,
        );
        for (i, cause) in self.causes.iter().enumerate() {
            block(format!("  {}: ", i + 1), 5, cause);
        }
        if let Some(hint) = &self.hint {
            block(format!("{} ", paint(palette.strong, "hint:")), 6, hint);
        }
        text
    }
}

impl From<&StepError> for Problem {
    fn from(error: &StepError) -> Self {
        Problem {
            message: error.message.clone(),
            causes: error.causes.clone(),
            hint: error.hint.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to start")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn causes_are_numbered_and_said_once() {
        let error = Outer(Middle(std::io::Error::other("first line\nsecond line")));
        let problem = Problem::of(&error).hint("look again");
        insta::assert_snapshot!(problem.render(&Palette::new(false)), @r"
        error: failed to start
          1: first line
             second line
        hint: look again
        ");
    }
}
