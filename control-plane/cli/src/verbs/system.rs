//! `dwcp system`: the control plane itself.

use proto_rpc::v1::GetServerInfoRequest;

use crate::{
    args::{Global, System as Verb},
    connection::Connection,
    failure::Failure,
    output::{Output, fields},
    units,
};

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Info => info(&Connection::open(global)?, output).await,
    }
}

async fn info(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let info = connection.system().get_server_info(GetServerInfoRequest {}).await?.into_inner();
    output.message(&info, |info| {
        let limits: Vec<_> = info.limits.iter().map(|(name, value)| format!("{name} {value}")).collect();
        fields([
            ("version", format!("{} {}", info.version, info.commit).trim_end().to_owned()),
            ("fleet", info.fleet_id.clone()),
            ("epoch", info.epoch.to_string()),
            ("generation", info.generation.to_string()),
            ("caller", format!("{} ({})", info.caller, info.caller_role)),
            ("agents", format!("{} connected here", info.connected_agents)),
            ("database", format!("{} {}", info.database, info.database_version)),
            (
                "backup",
                info.last_backup_time.as_ref().map_or_else(|| "never".to_owned(), |time| units::time(Some(time))),
            ),
            ("ca", info.ca_fingerprint.clone()),
            ("addresses", info.advertised_addresses.join("\n")),
            ("dht ring", info.dht_ring.join("\n")),
            ("services", info.services.join("\n")),
            ("since", units::time(info.start_time.as_ref())),
            ("limits", limits.join("\n")),
        ])
    })
}
