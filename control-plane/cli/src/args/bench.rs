//! `dwcp bench`.

/// `dwcp bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Data of the agents' own making flows from the source to NODE, by sessions like those of transfers, and is
dropped there; nothing is read or written. It takes what the path has: bounds of bandwidth hold for it.
Ctrl-C ends it at both ends. docs/bench.md says how to read the result.

Examples:
  dwcp bench site-b                          from this host's agent, for 10 s
  dwcp bench --from site-a site-b --reverse  data flows from site-b to site-a
  dwcp bench site-b --seconds 30 --bidirectional
  dwcp -o json bench site-b | jq '.results[0].steadyBitsPerSecond'")]
pub(crate) struct Bench {
    /// The other end
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// The node that measures [default: this host's agent]
    #[arg(long, value_name = "NODE")]
    pub(crate) from: Option<String>,
    /// For how long data flows
    #[arg(long, short = 't', default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) seconds: u32,
    /// Pieces under way at once, at most [default: as many as the scaler comes to]
    #[arg(long, short = 'P', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) streams: Option<u32>,
    /// Data flows from NODE to the source
    #[arg(long, short = 'R', conflicts_with = "bidirectional")]
    pub(crate) reverse: bool,
    /// Data flows both ways at once
    #[arg(long)]
    pub(crate) bidirectional: bool,
    /// Asks the local agent alone, without the control plane; NODE takes part if one of its roots accepts this node
    #[arg(long, conflicts_with = "from")]
    pub(crate) direct: bool,
}
