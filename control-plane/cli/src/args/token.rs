//! `dwcp token`.

use std::time::Duration;

use clap::Subcommand;

use super::key_value;
use crate::units::parse_duration;

/// `dwcp token`.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token, and prints what to type on the host
    #[command(after_help = "\
Examples:
  dwcp token create                                one host, within an hour
  dwcp token create --relay --label region=eu
  dwcp token create --node site-a                  lets a rebuilt host take its place
  dwcp token create -o json | jq -r .joinCommand")]
    Create {
        /// How long it lives
        #[arg(long, default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
        /// How many hosts may join with it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        max_uses: i32,
        /// A label for every host that joins with it; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
        labels: Vec<(String, String)>,
        /// Lets these hosts relay and store DHT records
        #[arg(long)]
        relay: bool,
        /// The name the host gets
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
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
