//! The layers that configurations are merged of, node by node.

use futures::FutureExt as _;
use prost::Message as _;
use proto_model::{AppliedConfig, ConfigName, Digest, Generation, NodeName};
use proto_rpc::v1;
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    Db, Error,
    configs::{Lock, find_in, read_generation},
};

/// A node that a write may affect, with the layers that the write is merged with there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLayers {
    /// The node.
    pub node: NodeName,
    /// The document of the node's own configuration, if there is one.
    pub own: Option<String>,
    /// The host's own layer, as it last reported it; empty where it has none.
    pub host_layer: String,
    /// Where that comes from, for people.
    pub host_layer_origin: String,
    /// Keys that the node says have no effect there.
    pub not_in_force: Vec<String>,
    /// The digest of what is in force on the node, as it last said.
    pub applied: Option<Digest>,
}

/// All layers of the fleet at one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// The generation.
    pub generation: Generation,
    /// The document of `configs/fleet`, if there is one.
    pub fleet: Option<String>,
    /// The nodes that are in the fleet, by name; only one where one was asked for.
    pub nodes: Vec<NodeLayers>,
}

/// The layers that a write of this configuration is merged with.
///
/// # Errors
/// The database failed.
pub async fn read(db: &Db, name: &ConfigName) -> Result<Layers, Error> {
    let node = match name {
        ConfigName::Fleet => None,
        ConfigName::Node(node) => Some(node.to_string()),
    };
    db.read(move |connection| {
        async move {
            let generation = read_generation(connection, Lock::No).await?;
            let fleet = find_in(connection, &ConfigName::Fleet).await?.filter(|config| config.live);
            let rows = sqlx::query(
                "SELECT n.name, n.applied, r.document, l.host_layer, l.host_layer_origin, l.not_in_force FROM nodes n \
                 LEFT JOIN node_layers l ON l.node = n.uid \
                 LEFT JOIN configs c ON c.name = 'node.' || n.name AND c.live \
                 LEFT JOIN config_revisions r ON r.config = c.name AND r.revision = c.revision \
                 WHERE n.revoke_time IS NULL AND ($1::text IS NULL OR n.name = $1) ORDER BY n.name",
            )
            .bind(node)
            .fetch_all(connection)
            .await?;
            let nodes = rows.iter().map(of_row).collect::<Result<_, _>>()?;
            Ok(Layers { generation, fleet: fleet.map(|config| config.document), nodes })
        }
        .boxed()
    })
    .await
}

fn of_row(row: &PgRow) -> Result<NodeLayers, Error> {
    let damaged = || Error::Damaged("node");
    let applied = v1::AppliedConfig::decode(row.try_get::<&[u8], _>("applied")?).map_err(|_bytes| damaged())?;
    let applied = AppliedConfig::try_from(applied).map_err(|_bad| damaged())?;
    Ok(NodeLayers {
        node: row.try_get::<String, _>("name")?.parse().map_err(|_bad| damaged())?,
        own: row.try_get("document")?,
        host_layer: row.try_get::<Option<_>, _>("host_layer")?.unwrap_or_default(),
        host_layer_origin: row.try_get::<Option<_>, _>("host_layer_origin")?.unwrap_or_default(),
        not_in_force: row.try_get::<Option<_>, _>("not_in_force")?.unwrap_or_default(),
        applied: applied.digest,
    })
}
