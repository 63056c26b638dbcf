//! What rows are grouped by: a metadata field, or an expression over the metadata.

use minijinja::{Environment, Expression, UndefinedBehavior, context, value::Serde};

use super::{DataError, Row};
use crate::hash::{Digest, Encoder};

/// The digest of what comes before the answer, or of the whole text.
pub fn prompt_digest(row: &Row) -> Digest {
    let mut encoder = Encoder::new("retune.prompt.1");
    match row.prompt() {
        [] => encoder.digest(&row.id.0),
        prompt => {
            for message in prompt {
                encoder.str(message.role.name()).str(&message.content);
            }
            &mut encoder
        }
    };
    encoder.digest_of()
}

/// One thing that rows are grouped by.
pub struct GroupKey {
    /// The parameter it stands in.
    param: &'static str,
    /// As the pipeline file has it.
    text: String,
    environment: Option<Environment<'static>>,
}

impl GroupKey {
    /// A name is a metadata field, anything else a minijinja expression over
    /// `meta`, `origin` and `id`, such as `meta.cve or meta.package`. `param`
    /// is the parameter it stands in.
    pub fn new(text: &str, param: &'static str) -> Result<Self, DataError> {
        let name = text
            .chars()
            .all(|c| c.is_alphanumeric() || "_-".contains(c));
        let key = GroupKey {
            param,
            text: text.to_owned(),
            environment: (!name).then(|| {
                let mut environment = Environment::new();
                environment.set_undefined_behavior(UndefinedBehavior::Chainable);
                environment
            }),
        };
        key.expression()?;
        Ok(key)
    }

    /// All of a list.
    pub fn all(texts: &[String], param: &'static str) -> Result<Vec<Self>, DataError> {
        texts
            .iter()
            .map(|text| GroupKey::new(text, param))
            .collect()
    }

    fn expression(&self) -> Result<Option<Expression<'_, '_>>, DataError> {
        let Some(environment) = &self.environment else {
            return Ok(None);
        };
        let compiled = environment.compile_expression(&self.text).map(Some);
        compiled.map_err(|e| {
            DataError::Invalid(format!(
                "`{}`: '{}' is no expression: {e}",
                self.param, self.text
            ))
        })
    }

    /// The row's group; an error where it has none.
    pub fn of(&self, row: &Row) -> Result<String, DataError> {
        self.get(row)?.ok_or_else(|| self.missing(row))
    }

    /// The row's group, if it has one.
    pub fn get(&self, row: &Row) -> Result<Option<String>, DataError> {
        let Some(expression) = self.expression()? else {
            return Ok(row.meta_text(&self.text));
        };
        let scope = context! {
            id => row.id.to_string(),
            origin => row.origin.as_str(),
            meta => minijinja::Value::from(Serde(&row.meta)),
        };
        let value = expression.eval(scope).map_err(|e| {
            let (param, text, origin) = (self.param, &self.text, &row.origin);
            DataError::Invalid(format!("`{param}`: '{text}' at the row of {origin}: {e}"))
        })?;
        let none = value.is_undefined() || value.is_none();
        Ok((!none)
            .then(|| value.to_string())
            .filter(|text| !text.is_empty()))
    }

    fn missing(&self, row: &Row) -> DataError {
        let known: Vec<&str> = row.meta.keys().map(String::as_str).collect();
        let (id, origin, text, param) = (row.id.0.short(), &row.origin, &self.text, self.param);
        let lacks = match self.environment {
            None => format!("has no metadata field `{text}`, which `{param}` names"),
            Some(_) => format!("gives nothing for '{text}' of `{param}`"),
        };
        DataError::Invalid(format!(
            "row {id} ({origin}) {lacks}; it has: {}",
            known.join(", ")
        ))
    }
}
