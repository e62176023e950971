//! [`Traceparent`].

use std::{fmt, str::FromStr};

/// W3C Trace Context, version 00: names a trace and the span that asks, so that what follows elsewhere belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Traceparent(String);

/// The text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct ParseTraceparentError;

impl Traceparent {
    /// The text, as a header carries it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trace's id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }

    /// Parses a field that is empty, or not to be trusted to be well-formed: a bad one is as none.
    #[must_use]
    pub fn from_optional_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromStr for Traceparent {
    type Err = ParseTraceparentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let not_zero = |part: &str| part.bytes().any(|b| b != b'0');
        let parts: Vec<&str> = text.splitn(5, '-').collect();
        let [version, trace, span, flags] = parts[..] else { return Err(ParseTraceparentError) };
        let sizes = version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        if sizes && lower_hex(trace) && lower_hex(span) && lower_hex(flags) && not_zero(trace) && not_zero(span) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseTraceparentError)
        }
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Traceparent> for String {
    fn from(traceparent: Traceparent) -> Self {
        traceparent.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_ones_are_taken() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(good.parse::<Traceparent>().expect("one").trace_id(), "0af7651916cd43dd8448eb211c80319c");
        for bad in
            ["", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", &good.to_uppercase(), &format!("{good}-x")]
        {
            assert_eq!(bad.parse::<Traceparent>(), Err(ParseTraceparentError), "{bad}");
        }
    }
}
