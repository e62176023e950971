//! `dwcp operator`.

use std::time::Duration;

use clap::Subcommand;

use crate::units::parse_duration;

/// `dwcp operator`.
#[derive(Debug, Subcommand)]
pub(crate) enum Operator {
    /// Makes a token; it is printed once
    #[command(after_help = "Example:\n  dwcp operator create alice --role operator --ttl 90d > alice.token")]
    Create {
        /// Who or what will hold it
        display_name: String,
        /// What its holder may do
        #[arg(long, value_enum)]
        role: Role,
        /// How long it lives [default: without end]
        #[arg(long, value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// Lists tokens
    #[command(visible_alias = "ls")]
    List,
    /// Makes a token useless
    Revoke {
        /// Its name
        token: String,
    },
}

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Role {
    /// Read.
    Viewer,
    /// Read; change configurations, transfers and nodes; make join tokens.
    Operator,
    /// Everything.
    Admin,
}
