//! `dwcp node`.

use clap::Subcommand;

use super::key_value;

/// `dwcp node`.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Lists nodes
    #[command(visible_alias = "ls", after_help = "Example:\n  dwcp node list --filter environment=staging,state=READY")]
    List {
        /// `key=value` of a label, or state=READY; several are separated by commas
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Shows one node
    Get {
        /// Its name, uid or node id
        node: String,
    },
    /// Changes labels, or whether the node may relay
    #[command(
        after_help = "Example:\n  dwcp node set site-a --label environment=staging --remove-label old --relay true"
    )]
    Set {
        /// Its name
        node: String,
        /// Adds or replaces a label; may be repeated
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
        labels: Vec<(String, String)>,
        /// Removes a label; may be repeated
        #[arg(long = "remove-label", value_name = "KEY")]
        removed: Vec<String>,
        /// Whether it may relay and store DHT records
        #[arg(long)]
        relay: Option<bool>,
    },
    /// Shows every change as it happens
    Watch {
        /// As for list
        #[arg(long, default_value = "", hide_default_value = true)]
        filter: String,
    },
    /// Revokes a node: it is cut off and never admitted again
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        node: String,
        /// Does not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Frees the name of a deleted node, so that any host may join under it
    #[command(after_help = "\
A deleted node's name stays reserved, so that no other host passes for it unnoticed. A rebuilt host takes its place without
this: dwcp token create --node NAME.

Example:
  dwcp node free site-a")]
    Free {
        /// The name
        node: String,
    },
}
