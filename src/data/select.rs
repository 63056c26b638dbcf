//! Choosing rows by an expression over their metadata.

use minijinja::{Environment, UndefinedBehavior, context, value::Serde};

use super::{DataError, Row};

/// The rows for which the minijinja expression `keep` is true, in their order.
///
/// The expression sees `id`, `origin` and `meta`; a field of `meta` that a row
/// lacks is an error naming the row, unless the expression asks `is defined`.
/// Fails as well when no row is left.
pub fn select(rows: Vec<Row>, keep: &str) -> Result<Vec<Row>, DataError> {
    let invalid = |message: String| DataError::Invalid(format!("failed to select rows: {message}"));
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let expression = environment
        .compile_expression(keep)
        .map_err(|e| invalid(format!("'{keep}' is not an expression: {e}")))?;
    let total = rows.len();
    let mut kept = Vec::new();
    for row in rows {
        let scope = context! {
            id => row.id.to_string(),
            origin => row.origin.as_str(),
            meta => minijinja::Value::from(Serde(&row.meta)),
        };
        let value = expression
            .eval(scope)
            .map_err(|e| invalid(format!("'{keep}' at the row of {}: {e}", row.origin)))?;
        if value.is_true() {
            kept.push(row);
        }
    }
    match kept.is_empty() {
        true => Err(invalid(format!("'{keep}' holds for none of {total} rows"))),
        false => Ok(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Content, Message, Role};

    fn row(task: &str) -> Row {
        let messages = vec![
            Message::new(Role::User, task),
            Message::new(Role::Assistant, "a"),
        ];
        let meta = [("task".to_owned(), serde_json::json!(task))].into();
        Row::new(Content::Messages(messages), meta, "data/x:1".to_owned())
    }

    #[test]
    fn keeps_what_the_expression_holds_for() {
        let rows = vec![row("fix"), row("analysis"), row("fix")];
        let kept = select(rows, "meta.task == 'fix'").unwrap();
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn faults_are_said() {
        let fault = |keep| select(vec![row("fix")], keep).unwrap_err().to_string();
        assert!(fault("meta.task ==").contains("is not an expression"));
        assert!(fault("meta.tusk == 'fix'").contains("at the row of data/x:1"));
        assert_eq!(
            fault("meta.task == 'x'"),
            "failed to select rows: 'meta.task == 'x'' holds for none of 1 rows"
        );
    }
}
