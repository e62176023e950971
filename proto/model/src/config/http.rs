//! Section `http`: the host's own HTTP side (D27, D32).

use std::{fmt, path::PathBuf};

use super::{roots::parse_absolute, section::Reader};

/// The host's own HTTP side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// For callers from elsewhere.
    pub tls_certificate: Option<PemSource>,
    /// Its key.
    pub tls_private_key: Option<PemSource>,
    /// Holds the token that callers from elsewhere need.
    pub token_file: Option<PathBuf>,
    /// Holds a token that is good for metrics only.
    pub metrics_token_file: Option<PathBuf>,
}

/// PEM, in a file or as it is.
#[derive(Clone, PartialEq, Eq)]
pub enum PemSource {
    /// In this file.
    File(PathBuf),
    /// This text.
    Text(String),
}

impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text([redacted])"),
        }
    }
}

impl Http {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("http");
        let http = Self {
            tls_certificate: section.optional("tls_certificate", parse_pem),
            tls_private_key: section.optional("tls_private_key", parse_pem),
            token_file: section.optional("token_file", parse_absolute),
            metrics_token_file: section.optional("metrics_token_file", parse_absolute),
        };
        // A key is a secret and may have been left out of what a host reports; a certificate is not.
        if http.tls_private_key.is_some() && http.tls_certificate.is_none() {
            section.refuse("tls_private_key", "is given without tls_certificate", "give both or none");
        }
        http
    }
}

fn parse_pem(text: &str) -> Result<PemSource, &'static str> {
    if text.trim_start().starts_with("-----BEGIN ") {
        Ok(PemSource::Text(text.to_owned()))
    } else {
        parse_absolute(text).map(PemSource::File).map_err(|_neither| "is neither an absolute path nor PEM text")
    }
}
