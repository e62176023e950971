//! Syncs that the configuration of the node that sends them asks for.

use std::collections::BTreeMap;

use control_plane_store::{
    Context,
    syncs::{Configured, CreateSync, RefuseConfigured, RefuseSync, configure},
};
use futures::FutureExt as _;
use proto_model::{
    ConfigName, NodeName, SyncName,
    config::{ConfiguredSync, Diagnostic, Severity},
};
use tonic::Status;

use crate::{
    State,
    auth::{Caller, Rule},
    error::{self, Reason},
    syncs::{next_id, refuse_create},
    transfers::granter,
};

/// What makes a sync: who writes one into a configuration needs the same right.
const CREATE: &str = "/dwcp.v1.SyncService/CreateSync";

/// What a document asks for.
pub(super) fn configured(state: &State, node: &NodeName, syncs: &BTreeMap<SyncName, ConfiguredSync>) -> Configured {
    let create = |(name, sync): (&SyncName, &ConfiguredSync)| CreateSync {
        id: next_id(state),
        name: name.clone(),
        spec: sync.spec(node),
        adopt: sync.adopt,
        validate_only: false,
    };
    Configured { config: ConfigName::Node(node.clone()), syncs: syncs.iter().map(create).collect() }
}

/// Sees to it that who writes a document that makes, changes or ends syncs may do that.
pub(super) fn require_right(caller: &Caller) -> Result<(), Status> {
    match Rule::of(CREATE) {
        Rule::Role(needed) if !caller.role.is_some_and(|role| role.covers(needed)) => {
            let message = format!("a document that makes, changes or ends syncs needs the role {needed}");
            Err(error::permission_denied(Reason::RoleTooLow, message, &[("needed", needed.as_str())]))
        }
        Rule::Role(_) | Rule::Open | Rule::Node => Ok(()),
    }
}

/// What would be refused, without doing it.
pub(super) async fn try_out(state: &State, context: Context, syncs: Configured) -> Result<Option<Diagnostic>, Status> {
    let (config, granter, bounds) = (syncs.config.to_string(), granter(state), state.server.sync_bounds);
    let tried = state.db.write("config.validate", context, move |tx| {
        async move {
            tx.discard();
            configure(tx, syncs, bounds, &granter).await
        }
        .boxed()
    });
    match tried.await {
        Ok(()) => Ok(None),
        Err(RefuseConfigured::Database(error)) => Err(error::store(error)),
        Err(RefuseConfigured::Sync { name, why }) => Ok(Some(Diagnostic {
            severity: Severity::Error,
            path: format!("syncs.{name}"),
            file: config,
            line: 0,
            column: 0,
            message: message(why, &name).1,
            hint: String::new(),
        })),
    }
}

/// A document whose syncs cannot be.
pub(super) fn refusal(refused: RefuseConfigured) -> Status {
    match refused {
        RefuseConfigured::Database(error) => error::store(error),
        RefuseConfigured::Sync { name, why } => {
            let own = matches!(why, RefuseSync::TooMany(_) | RefuseSync::TooManyOfNode(..));
            let (status, text) = message(why, &name);
            // What the server cannot do now stays that.
            if own || status.code() == tonic::Code::Unavailable {
                return status;
            }
            error::invalid(format!("config.syncs.{name}"), text)
        }
    }
}

/// As `dwcp sync create` is answered; and why, without the name of that request's field.
fn message(why: RefuseSync, name: &SyncName) -> (Status, String) {
    let taken = matches!(why, RefuseSync::NameTaken);
    let status = refuse_create(why, name);
    let text = status.message();
    let text = match text.split_once(": ") {
        _ if taken => format!(
            "{} exists and was not made by this configuration: take another name, or end that one first (`dwcp sync delete {name}`)",
            name.resource_name()
        ),
        Some((field, text)) if field.starts_with("spec.") => text.to_owned(),
        Some(_) | None => text.to_owned(),
    };
    (status, text)
}
