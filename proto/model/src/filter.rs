//! [`Filter`], which rows of a list are meant.

use std::{fmt, str::FromStr};

use crate::escape::shortened;

/// `key=value`, several separated by commas, all of which must hold. What the keys mean is the list's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<FilterTerm>);

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterTerm {
    /// What is compared.
    pub key: String,
    /// With what; without the `*`.
    pub value: String,
    /// Whether the value is only the beginning (`value*`).
    pub prefix: bool,
}

/// The text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseFilterError {
    /// A term has no `=`, an empty key, or characters that cannot be compared.
    #[error("\"{0}\" is not a filter: key=value is expected, several separated by commas")]
    Term(String),
    /// Too long or too many.
    #[error("a filter has at most {max} conditions and {bytes} bytes", max = Filter::MAX_TERMS, bytes = Filter::MAX_BYTES)]
    TooLong,
}

impl Filter {
    /// More conditions than any list has keys for.
    pub const MAX_TERMS: usize = 16;
    /// Enough for as many terms of full length.
    pub const MAX_BYTES: usize = 4096;

    /// The conditions, in their order.
    #[must_use]
    pub fn terms(&self) -> &[FilterTerm] {
        &self.0
    }

    /// Whether everything is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FilterTerm {
    /// Whether the condition holds for this value.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        if self.prefix { value.starts_with(&self.value) } else { value == self.value }
    }
}

impl FromStr for Filter {
    type Err = ParseFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::MAX_BYTES || text.split(',').count() > Self::MAX_TERMS {
            return Err(ParseFilterError::TooLong);
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let term = |term: &str| {
            let refused = || ParseFilterError::Term(shortened(term));
            let (key, value) = term.split_once('=').ok_or_else(refused)?;
            let (key, value) = (key.trim(), value.trim());
            if key.is_empty() || term.chars().any(char::is_control) {
                return Err(refused());
            }
            let prefix = value.ends_with('*');
            let value = value.strip_suffix('*').unwrap_or(value);
            Ok(FilterTerm { key: key.to_owned(), value: value.to_owned(), prefix })
        };
        text.split(',').map(term).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}={}{}", term.key, term.value, if term.prefix { "*" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_bad_ones_named() {
        let filter: Filter = "state=READY, action=config.*".parse().expect("a filter");
        assert_eq!(filter.to_string(), "state=READY,action=config.*");
        assert!(filter.terms()[1].matches("config.update"));
        assert!(!filter.terms()[0].matches("READY2"));
        assert!("".parse::<Filter>().expect("all").is_empty());
        assert_eq!("a=1,oops".parse::<Filter>(), Err(ParseFilterError::Term("oops".to_owned())));
    }
}
