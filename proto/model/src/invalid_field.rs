//! Why a message is no noun: one field, and what is wrong with it. The same two facts whatever the message is, and just what a
//! `google.rpc.BadRequest.FieldViolation` carries.

use std::fmt;

/// A field of a message that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct InvalidField {
    /// The field's path from the message's root, for example `spec.source_paths[0]`.
    pub field: String,
    /// What is wrong, in a sentence without an end.
    pub description: String,
}

impl InvalidField {
    /// The field, and what is wrong with it.
    #[must_use]
    pub fn new(field: impl Into<String>, description: impl fmt::Display) -> Self {
        Self { field: field.into(), description: description.to_string() }
    }

    /// A field that must be there and is not.
    #[must_use]
    pub fn missing(field: &str) -> Self {
        Self::new(field, "is required")
    }

    /// The same, for a message that stands in a field of another.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), ..self }
    }
}

/// Marks an error with the field it came from: `text.parse().map_err(at("uid"))`.
pub(crate) fn at<E: fmt::Display>(field: &'static str) -> impl FnOnce(E) -> InvalidField {
    move |error| InvalidField::new(field, error)
}

/// Parses each element of a list, naming the one that fails.
pub(crate) fn each<T, U, E: fmt::Display>(
    field: &str,
    values: impl IntoIterator<Item = T>,
    parse: impl Fn(T) -> Result<U, E>,
) -> Result<Vec<U>, InvalidField> {
    values
        .into_iter()
        .enumerate()
        .map(|(i, value)| parse(value).map_err(|error| InvalidField::new(format!("{field}[{i}]"), error)))
        .collect()
}
