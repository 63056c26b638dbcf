//! The fields that any step may have beside those of its kind, apart from them: they say how it runs, not what it makes.

use super::value::{Field, Fields};

/// Their names, sorted. No kind may use one for a parameter or a port.
pub const SETTINGS: [&str; 6] = [
    "checkpoint",
    "priority",
    "resources",
    "retry",
    "timeout",
    "tolerances",
];

/// The settings of a step as the file says them. None of them enters its key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RawSettings(Vec<Field>);

impl RawSettings {
    /// Removes the settings from a step's fields.
    pub(super) fn take(fields: &mut Fields) -> Self {
        let taken = SETTINGS.iter().filter_map(|name| fields.remove(*name));
        RawSettings(taken.collect())
    }

    /// The setting of that name.
    pub fn field(&self, key: &str) -> Option<&Field> {
        self.0.iter().find(|field| field.key == key)
    }

    /// All that are set, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        self.0.iter()
    }
}
