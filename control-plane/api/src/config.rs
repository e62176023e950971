//! Configurations: `configs/fleet` and `configs/node.NAME`, with revisions, rollouts, and what they come to on a node.

mod check;
mod syncs;
mod translate;

use control_plane_store::{
    Context, Error,
    configs::{self, Change, Config, ConfigRevision, Expected, WriteError, Written},
    layers::{self, Layers},
    nodes,
    syncs::{Configured, RefuseConfigured},
};
use futures::FutureExt as _;
use proto_model::{
    ConfigName, Etag, NodeRef, Revision,
    config::{self, Diagnostic, Layer},
};
use proto_rpc::v1::{self as rpc, diff_config_revisions_request::Target};
use tonic::{Request, Response, Status};

use self::check::{Checked, check};
use crate::{
    State,
    auth::{Caller, caller},
    error::{self, Reason},
    paging::Page,
    request::context,
    transfers::granter,
};

/// A write is checked against what is stored, and asked again when another came between; so many times, then it is the caller's turn.
const MAX_TRIES: u32 = 8;

/// What a revision was written for fits a few lines.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;

/// The service.
#[derive(Clone, Debug)]
pub struct Configs {
    state: State,
}

/// A write that is asked for, whatever its verb.
struct Write {
    name: ConfigName,
    document: Option<String>,
    message: String,
    expected: Expected,
    action: &'static str,
    validate_only: bool,
    /// The request's field that holds the document.
    field: &'static str,
    /// Who asks.
    caller: Caller,
}

impl Configs {
    /// The service over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { state }
    }

    /// Checks and writes; `None` for a repeat of a request that was answered.
    async fn write(&self, context: Context, write: Write) -> Result<Option<(Written, Checked)>, Status> {
        bounded(&write.message)?;
        for _try in 0..MAX_TRIES {
            let layers = layers::read(&self.state.db, &write.name).await.map_err(error::store)?;
            let checked_at = layers.generation;
            let checked = self.check(layers, write.name.clone(), write.document.clone()).await?;
            refuse(&checked, write.field)?;
            let syncs = self.asked_syncs(&write.name, &checked).await?;
            if syncs.is_some() {
                syncs::require_right(&write.caller)?;
            }
            let change = Change {
                name: write.name.clone(),
                document: write.document.clone(),
                message: write.message.clone(),
                expected: write.expected.clone(),
                checked_at,
                action: write.action,
                validate_only: write.validate_only,
            };
            match self.write_once(context.clone(), change, syncs).await {
                Err(NotWritten::Config(WriteError::Overtaken)) => {}
                Err(NotWritten::Config(error)) => return Err(refusal(error)),
                Err(NotWritten::Syncs(refused)) => return Err(syncs::refusal(refused)),
                Ok(written) => return Ok(written.map(|written| (written, checked))),
            }
        }
        Err(error::status(
            tonic::Code::Aborted,
            Reason::Contended,
            "configurations are written too often at this moment; try again",
            &[],
        ))
    }

    async fn write_once(
        &self,
        context: Context,
        change: Change,
        syncs: Option<Configured>,
    ) -> Result<Option<Written>, NotWritten> {
        let (granter, bounds) = (granter(&self.state), self.state.server.sync_bounds);
        let write = self.state.db.write("config.write", context, move |tx| {
            async move {
                if tx.repeated(&change.name.to_string()).await?.is_some() {
                    return Ok(None);
                }
                let written = configs::write(tx, &change).await?;
                if let Some(syncs) = syncs {
                    control_plane_store::syncs::configure(tx, syncs, bounds, &granter).await?;
                }
                Ok(Some(written))
            }
            .boxed()
        });
        write.await
    }

    /// Asks the code that applies it; off the threads that serve others, since a fleet may have many distinct hosts.
    async fn check(&self, layers: Layers, name: ConfigName, document: Option<String>) -> Result<Checked, Status> {
        let asked = self.state.tasks.blocking("config.check", move || check(&layers, &name, document.as_deref()));
        asked.await.map_err(|_cancelled| error::unavailable(Reason::Stopping, "the server is stopping; try again"))
    }

    /// The syncs that a document asks for, where it asks for any, or the one before did.
    async fn asked_syncs(&self, name: &ConfigName, checked: &Checked) -> Result<Option<Configured>, Status> {
        let ConfigName::Node(node) = name else { return Ok(None) };
        let had = control_plane_store::syncs::has_configured(&self.state.db, name).await.map_err(error::store)?;
        Ok((had || !checked.syncs.is_empty()).then(|| syncs::configured(&self.state, node, &checked.syncs)))
    }

    /// The answer to a write, or to its repeat.
    async fn answer(
        &self,
        name: &ConfigName,
        written: Option<(Written, Checked)>,
    ) -> Result<Response<rpc::Config>, Status> {
        let config = match written {
            Some((written, checked)) => translate::config(written.config, written.rollout, checked.not_in_force),
            None => self.read(name).await?,
        };
        Ok(Response::new(config))
    }

    async fn read(&self, name: &ConfigName) -> Result<rpc::Config, Status> {
        let found = configs::find(&self.state.db, name).await.map_err(error::store)?;
        let (config, rollout) = found.ok_or_else(|| error::not_found(&name.to_string()))?;
        let not_in_force = not_in_force(&config);
        Ok(translate::config(config, rollout, not_in_force))
    }

    async fn revision(&self, name: &ConfigName, number: Option<Revision>) -> Result<ConfigRevision, Status> {
        let found = configs::revision(&self.state.db, name, number).await.map_err(error::store)?;
        let shown = number.map_or_else(|| "latest".to_owned(), |number| number.to_string());
        found.ok_or_else(|| error::not_found(&format!("{name}/revisions/{shown}")))
    }

    async fn effective_of_node(&self, name: &str, node: &str) -> Result<rpc::EffectiveConfig, Status> {
        let node: NodeRef = node.parse().map_err(error::at("name"))?;
        let found = nodes::get(&self.state.db, node.clone()).await.map_err(error::store)?;
        let node = found.filter(|found| found.revoke_time.is_none()).ok_or_else(|| error::not_found(name))?;
        let of_node = ConfigName::Node(node.name.clone());
        let mut layers = layers::read(&self.state.db, &of_node).await.map_err(error::store)?;
        let held = layers.nodes.pop().ok_or_else(|| error::not_found(name))?;
        let effective =
            check::node_layers(layers.fleet.as_deref(), &held).map_err(|diagnostics| broken(name, &diagnostics))?;
        let mut answer = translate::effective(name, effective);
        answer.applied_digest = held.applied.map(String::from).unwrap_or_default();
        for key in held.not_in_force {
            if !answer.not_in_force.contains(&key) {
                answer.not_in_force.push(key);
            }
        }
        Ok(answer)
    }

    async fn effective_of_fleet(&self, name: &str) -> Result<rpc::EffectiveConfig, Status> {
        let found = configs::find(&self.state.db, &ConfigName::Fleet).await.map_err(error::store)?;
        let layer = found.map(|(config, _)| Layer::config(config.name, config.revision, config.document));
        let trees: Result<Vec<_>, _> = layer.into_iter().map(config::parse).collect();
        let effective =
            trees.and_then(|trees| config::resolve(&trees)).map_err(|diagnostics| broken(name, &diagnostics))?;
        Ok(translate::effective(name, effective))
    }
}

/// Why a document is not written.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    #[error(transparent)]
    Config(#[from] WriteError),
    #[error(transparent)]
    Syncs(#[from] RefuseConfigured),
}

impl From<Error> for NotWritten {
    fn from(error: Error) -> Self {
        Self::Config(error.into())
    }
}

/// Keys of a stored document that have no effect; what it says alone is enough to know.
fn not_in_force(stored: &Config) -> Vec<String> {
    let tree = config::parse(Layer::config(stored.name.clone(), stored.revision, stored.document.clone()));
    let effective = tree.and_then(|tree| config::resolve(&[tree]));
    effective.map(|effective| effective.not_in_force).unwrap_or_default()
}

fn bounded(message: &str) -> Result<(), Status> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(error::invalid("message", format!("has more than {MAX_MESSAGE_BYTES} bytes")));
    }
    Ok(())
}

/// A document that is not good is refused field by field: `config.transport.max_streams`.
fn refuse(checked: &Checked, field: &'static str) -> Result<(), Status> {
    if checked.is_valid() {
        return Ok(());
    }
    let errors = checked.diagnostics.iter().filter(|diagnostic| diagnostic.is_error());
    let violations = errors.map(|diagnostic| {
        let field = if diagnostic.path.is_empty() { field.to_owned() } else { format!("config.{}", diagnostic.path) };
        (field, diagnostic.to_string())
    });
    Err(error::invalid_fields(violations.collect()))
}

fn refusal(error: WriteError) -> Status {
    match error {
        WriteError::Exists(name) => error::already_exists(&name.to_string()),
        WriteError::NotFound(name) => error::not_found(&name.to_string()),
        WriteError::Stale { name, current } => error::stale(&name.to_string(), &current),
        WriteError::Overtaken => error::store(Error::Stopping),
        WriteError::Database(error) => error::store(error),
    }
}

/// Layers that were written past the check, or a host's own that do not fit.
fn broken(name: &str, diagnostics: &[Diagnostic]) -> Status {
    let first = diagnostics.iter().find(|diagnostic| diagnostic.is_error());
    let first = first.map_or_else(String::new, ToString::to_string);
    error::failed_precondition(Reason::WrongState, name, format!("the layers do not fit together: {first}"))
}

fn config_name(name: &str) -> Result<ConfigName, Status> {
    name.parse().map_err(error::at("name"))
}

/// `configs/{config}/revisions/{revision}`; none for `latest`.
fn revision_name(name: &str) -> Result<(ConfigName, Option<Revision>), Status> {
    let refused = || error::invalid("name", "configs/CONFIG/revisions/NUMBER is expected, or `latest` for the number");
    let (config, number) = name.split_once("/revisions/").ok_or_else(refused)?;
    let number = match number {
        "latest" => None,
        number => Some(Revision::new(number.parse().map_err(|_not_a_number| refused())?)),
    };
    Ok((config_name(config)?, number))
}

#[tonic::async_trait]
impl rpc::config_service_server::ConfigService for Configs {
    async fn create_config(&self, request: Request<rpc::CreateConfigRequest>) -> Result<Response<rpc::Config>, Status> {
        let context = context(&request, "dwcp.v1.ConfigService/CreateConfig", &request.get_ref().request_id)?;
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let name = ConfigName::from_id(&request.config_id).map_err(error::at("config_id"))?;
        let write = Write {
            name: name.clone(),
            document: Some(request.document),
            message: request.message,
            expected: Expected::Absent,
            action: "config.create",
            validate_only: request.validate_only,
            field: "document",
            caller,
        };
        let written = self.write(context, write).await?;
        self.answer(&name, written).await
    }

    async fn get_config(&self, request: Request<rpc::GetConfigRequest>) -> Result<Response<rpc::Config>, Status> {
        let name = config_name(&request.get_ref().name)?;
        self.read(&name).await.map(Response::new)
    }

    async fn list_configs(
        &self,
        request: Request<rpc::ListConfigsRequest>,
    ) -> Result<Response<rpc::ListConfigsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse("configs", "", request.page_size, &request.page_token)?;
        let found = configs::list(&self.state.db, page.cursor.as_deref(), page.limit()).await.map_err(error::store)?;
        let (found, next_page_token) = page.cut(found, |(config, _)| config.name.id());
        let configs = found.into_iter().map(|(config, rollout)| {
            let not_in_force = not_in_force(&config);
            translate::config(config, rollout, not_in_force)
        });
        Ok(Response::new(rpc::ListConfigsResponse { configs: configs.collect(), next_page_token }))
    }

    async fn update_config(&self, request: Request<rpc::UpdateConfigRequest>) -> Result<Response<rpc::Config>, Status> {
        let context = context(&request, "dwcp.v1.ConfigService/UpdateConfig", &request.get_ref().request_id)?;
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let name = config_name(&request.name)?;
        let write = Write {
            name: name.clone(),
            document: Some(request.document),
            message: request.message,
            expected: Expected::Etag(required_etag(&request.etag)?),
            action: "config.update",
            validate_only: request.validate_only,
            field: "document",
            caller,
        };
        let written = self.write(context, write).await?;
        self.answer(&name, written).await
    }

    async fn delete_config(&self, request: Request<rpc::DeleteConfigRequest>) -> Result<Response<()>, Status> {
        let context = context(&request, "dwcp.v1.ConfigService/DeleteConfig", &request.get_ref().request_id)?;
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let name = config_name(&request.name)?;
        if name == ConfigName::Fleet {
            let text = "configs/fleet stays; write an empty document to set nothing in it";
            return Err(error::failed_precondition(Reason::WrongState, "configs/fleet", text));
        }
        let write = Write {
            name,
            document: None,
            message: String::new(),
            expected: Expected::Etag(required_etag(&request.etag)?),
            action: "config.delete",
            validate_only: false,
            field: "name",
            caller,
        };
        self.write(context, write).await?;
        Ok(Response::new(()))
    }

    async fn validate_config(
        &self,
        request: Request<rpc::ValidateConfigRequest>,
    ) -> Result<Response<rpc::ValidateConfigResponse>, Status> {
        let context = context(&request, "dwcp.v1.ConfigService/ValidateConfig", "")?;
        let request = request.into_inner();
        let name = if request.name.is_empty() { ConfigName::Fleet } else { config_name(&request.name)? };
        let layers = layers::read(&self.state.db, &name).await.map_err(error::store)?;
        let mut checked = self.check(layers, name.clone(), Some(request.document)).await?;
        if checked.is_valid()
            && let Some(syncs) = self.asked_syncs(&name, &checked).await?
        {
            checked.add(syncs::try_out(&self.state, context, syncs).await?);
        }
        let valid = checked.is_valid();
        let diagnostics = checked.diagnostics.into_iter().map(Into::into).collect();
        Ok(Response::new(rpc::ValidateConfigResponse { diagnostics, valid }))
    }

    async fn get_config_revision(
        &self,
        request: Request<rpc::GetConfigRevisionRequest>,
    ) -> Result<Response<rpc::ConfigRevision>, Status> {
        let (name, number) = revision_name(&request.get_ref().name)?;
        Ok(Response::new(translate::revision(self.revision(&name, number).await?)))
    }

    async fn list_config_revisions(
        &self,
        request: Request<rpc::ListConfigRevisionsRequest>,
    ) -> Result<Response<rpc::ListConfigRevisionsResponse>, Status> {
        let request = request.into_inner();
        let name: ConfigName = request.parent.parse().map_err(error::at("parent"))?;
        let page = Page::parse("revisions", &request.parent, request.page_size, &request.page_token)?;
        let before = page.cursor.as_deref().and_then(|cursor| cursor.parse().ok()).map(Revision::new);
        let found = configs::revisions(&self.state.db, &name, before, page.limit()).await.map_err(error::store)?;
        if found.is_empty() && before.is_none() {
            return Err(error::not_found(&request.parent));
        }
        let (found, next_page_token) = page.cut(found, |revision| revision.revision.to_string());
        let revisions = found.into_iter().map(translate::revision).collect();
        Ok(Response::new(rpc::ListConfigRevisionsResponse { revisions, next_page_token }))
    }

    async fn diff_config_revisions(
        &self,
        request: Request<rpc::DiffConfigRevisionsRequest>,
    ) -> Result<Response<rpc::DiffConfigRevisionsResponse>, Status> {
        let request = request.into_inner();
        let name = config_name(&request.name)?;
        let newest = configs::revision(&self.state.db, &name, None).await.map_err(error::store)?;
        let first = matches!(request.target, Some(Target::TargetDocument(_))) && request.base_revision == 0;
        let base = match (request.base_revision, &newest) {
            (0, Some(newest)) => Some(newest.clone()),
            // Before a configuration is there it sets nothing.
            (0, None) if first => None,
            (0, None) => return Err(error::not_found(&name.to_string())),
            (number, _) => Some(self.revision(&name, Some(Revision::new(number))).await?),
        };
        let (base_document, base_number) =
            base.map_or_else(Default::default, |base| (base.document, base.revision.value()));
        let (target, target_name) = match request.target {
            None => return Err(error::invalid("target", "a revision or a document is required")),
            Some(Target::TargetRevision(number)) => {
                let number = (number > 0).then(|| Revision::new(number));
                let revision = self.revision(&name, number).await?;
                (revision.document, format!("{name}/revisions/{}", revision.revision))
            }
            Some(Target::TargetDocument(document)) => (document, format!("{name} (not written)")),
        };
        let tree = |document: &str| config::parse(Layer::config(name.clone(), Revision::default(), document));
        let old = tree(&base_document).map_err(|diagnostics| broken(&request.name, &diagnostics))?;
        let new = tree(&target).map_err(|diagnostics| refused_document("target_document", &diagnostics))?;
        let base_name = format!("{name}/revisions/{base_number}");
        Ok(Response::new(rpc::DiffConfigRevisionsResponse {
            changes: config::diff(&old, &new).into_iter().map(Into::into).collect(),
            unified_diff: config::unified_diff(&base_name, &base_document, &target_name, &target),
            etag: newest.map(|newest| Etag::of_number(newest.revision.value()).into()).unwrap_or_default(),
        }))
    }

    async fn rollback_config(
        &self,
        request: Request<rpc::RollbackConfigRequest>,
    ) -> Result<Response<rpc::Config>, Status> {
        let context = context(&request, "dwcp.v1.ConfigService/RollbackConfig", &request.get_ref().request_id)?;
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let (name, number) = revision_name(&request.name)?;
        let etag = Etag::from_optional_text(&request.etag).map_err(error::at("etag"))?;
        let to = self.revision(&name, number).await?;
        let message = match request.message {
            message if message.is_empty() => format!("back to revision {}", to.revision),
            message => message,
        };
        let write = Write {
            name: name.clone(),
            document: Some(to.document),
            message,
            expected: etag.map_or(Expected::Present, Expected::Etag),
            action: "config.rollback",
            validate_only: false,
            field: "name",
            caller,
        };
        let written = self.write(context, write).await?;
        self.answer(&name, written).await
    }

    async fn get_effective_config(
        &self,
        request: Request<rpc::GetEffectiveConfigRequest>,
    ) -> Result<Response<rpc::EffectiveConfig>, Status> {
        let name = &request.get_ref().name;
        let node = name.strip_prefix("nodes/").and_then(|rest| rest.strip_suffix("/effectiveConfig"));
        match node {
            Some(node) => self.effective_of_node(name, node).await,
            None if name == "configs/fleet" => self.effective_of_fleet(name).await,
            None => Err(error::invalid("name", "nodes/NODE/effectiveConfig or configs/fleet is expected")),
        }
        .map(Response::new)
    }
}

fn required_etag(text: &str) -> Result<Etag, Status> {
    let etag = Etag::from_optional_text(text).map_err(error::at("etag"))?;
    etag.ok_or_else(|| error::invalid("etag", "is required: read the configuration and give back its etag"))
}

fn refused_document(field: &'static str, diagnostics: &[Diagnostic]) -> Status {
    error::invalid_fields(diagnostics.iter().map(|diagnostic| (field.to_owned(), diagnostic.to_string())).collect())
}
