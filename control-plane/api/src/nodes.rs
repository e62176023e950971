//! `dwcp.v1.NodeService`.

use std::collections::HashSet;

use control_plane_store::nodes::{self, Change, ChangeError, Node, NodeFilter, NodeState};
use futures::stream::BoxStream;
use proto_model::{Epoch, Etag, Filter, Labels, NodeName, NodeRef, NodeUid, Revision};
use proto_rpc::v1::{self as rpc, WatchType, node_service_server::NodeService};
use tonic::{Request, Response, Status};

use crate::{
    State,
    auth::caller,
    error::{self, Reason},
    paging::Page,
    request,
    time::timestamp,
    watch::{self, Batch, Follow},
};

/// The service.
#[derive(Clone, Debug)]
pub struct Nodes(State);

impl Nodes {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }

    /// An empty list may be the answer to a key that was typed wrong: that is said.
    async fn require_known(&self, keys: &[String]) -> Result<(), Status> {
        if keys.is_empty() {
            return Ok(());
        }
        let known = nodes::label_keys(&self.0.db).await.map_err(error::store)?;
        let Some(unknown) = keys.iter().find(|key| !known.contains(key)) else { return Ok(()) };
        let labels = if known.is_empty() { "no node has a label".to_owned() } else { known.join(", ") };
        let text = format!("no node has a label {unknown:?}; known are state, and of labels: {labels}");
        Err(error::invalid("filter", text))
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn get_node(&self, request: Request<rpc::GetNodeRequest>) -> Result<Response<rpc::Node>, Status> {
        let name = request.into_inner().name;
        let node = node_ref("name", &name)?;
        let node = nodes::get(&self.0.db, node).await.map_err(error::store)?;
        node.map(|node| Response::new(translate(node))).ok_or_else(|| error::not_found(&name))
    }

    async fn list_nodes(
        &self,
        request: Request<rpc::ListNodesRequest>,
    ) -> Result<Response<rpc::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let filter = parse_filter(&request.filter)?;
        let page = Page::parse("nodes", &request.filter, request.page_size, &request.page_token)?;
        let after = page.cursor.as_deref().map(parse_cursor).transpose()?;
        let keys: Vec<String> = filter.labels.iter().map(|(key, _)| key.to_string()).collect();
        let found = nodes::list(&self.0.db, filter, after, page.limit()).await.map_err(error::store)?;
        if found.is_empty() {
            self.require_known(&keys).await?;
        }
        let (found, next_page_token) = page.cut(found, |node| format!("{}/{}", node.name, node.uid));
        Ok(Response::new(rpc::ListNodesResponse { nodes: found.into_iter().map(translate).collect(), next_page_token }))
    }

    async fn update_node(&self, request: Request<rpc::UpdateNodeRequest>) -> Result<Response<rpc::Node>, Status> {
        let context = request::context(&request, "dwcp.v1.NodeService/UpdateNode", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let given = request.node.ok_or_else(|| error::invalid("node", "is required"))?;
        let node = node_ref("node.name", &given.name)?;
        let etag = Etag::from_optional_text(&given.etag).map_err(error::at("node.etag"))?;
        let change = parse_change(given.labels, given.relay, request.update_mask.map(|mask| mask.paths))?;
        let (keys, check_only) = (self.0.keys.clone(), request.validate_only);
        let updated = self.0.db.write("update-node", context, move |tx| {
            Box::pin(async move {
                let updated = nodes::update(tx, &keys, &node, etag.as_ref(), change).await?;
                if check_only {
                    tx.discard();
                }
                Ok(updated)
            })
        });
        updated.await.map(|node| Response::new(translate(node))).map_err(|error| refuse(error, &given.name))
    }

    async fn delete_node(&self, request: Request<rpc::DeleteNodeRequest>) -> Result<Response<()>, Status> {
        let context = request::context(&request, "dwcp.v1.NodeService/DeleteNode", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let node = node_ref("name", &request.name)?;
        let etag = Etag::from_optional_text(&request.etag).map_err(error::at("etag"))?;
        let (keys, check_only) = (self.0.keys.clone(), request.validate_only);
        let deleted = self.0.db.write("delete-node", context, move |tx| {
            Box::pin(async move {
                nodes::delete(tx, &keys, &node, etag.as_ref()).await?;
                if check_only {
                    tx.discard();
                }
                Ok(())
            })
        });
        deleted.await.map(Response::new).map_err(|error| refuse(error, &request.name))
    }

    async fn free_node_name(&self, request: Request<rpc::FreeNodeNameRequest>) -> Result<Response<()>, Status> {
        let context = request::context(&request, "dwcp.v1.NodeService/FreeNodeName", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let node = node_ref("name", &request.name)?;
        let check_only = request.validate_only;
        let freed = self.0.db.write("free-node-name", context, move |tx| {
            Box::pin(async move {
                nodes::free_name(tx, &node).await?;
                if check_only {
                    tx.discard();
                }
                Ok(())
            })
        });
        freed.await.map(Response::new).map_err(|error| refuse(error, &request.name))
    }

    type WatchNodesStream = BoxStream<'static, Result<rpc::WatchNodesResponse, Status>>;

    async fn watch_nodes(
        &self,
        request: Request<rpc::WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let filter = parse_filter(&request.filter)?;
        let epoch = self.0.keys.epoch();
        let resumed = watch::parse_resume_token(epoch, &request.resume_token)?;
        let follow = FollowNodes {
            state: self.0.clone(),
            filter,
            epoch,
            resumed: resumed.is_some(),
            begun_at: resumed.unwrap_or_default(),
            cursor: resumed.unwrap_or_default(),
            shown: HashSet::new(),
        };
        Ok(Response::new(Box::pin(watch::follow(self.0.clone(), caller, follow))))
    }
}

/// Nodes that match, as they change.
struct FollowNodes {
    state: State,
    filter: NodeFilter,
    epoch: Epoch,
    resumed: bool,
    begun_at: Revision,
    cursor: Revision,
    /// Nodes that this watch has shown: as many as the fleet has at most.
    shown: HashSet<NodeUid>,
}

impl FollowNodes {
    fn response(&self, kind: WatchType, node: Option<Node>) -> rpc::WatchNodesResponse {
        rpc::WatchNodesResponse {
            r#type: kind.into(),
            node: node.map(translate),
            resume_token: watch::resume_token(self.epoch, self.cursor),
        }
    }

    fn change(&mut self, node: Node) -> Option<rpc::WatchNodesResponse> {
        self.cursor = node.revision;
        // A resumed watch may have shown before what existed then.
        let known = self.shown.contains(&node.uid) || (self.resumed && node.create_revision <= self.begun_at);
        if !self.filter.matches(&node) {
            self.shown.remove(&node.uid);
            return known.then(|| self.response(WatchType::Deleted, Some(node)));
        }
        self.shown.insert(node.uid);
        Some(self.response(if known { WatchType::Modified } else { WatchType::Added }, Some(node)))
    }
}

impl Follow for FollowNodes {
    type Item = rpc::WatchNodesResponse;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let changed = nodes::changed_after(&self.state.db, self.cursor, watch::READ_AT_ONCE);
        let changed = changed.await.map_err(error::store)?;
        let more = u32::try_from(changed.len()) == Ok(watch::READ_AT_ONCE);
        Ok(Batch { items: changed.into_iter().filter_map(|node| self.change(node)).collect(), more })
    }

    fn synced(&self) -> Option<Self::Item> {
        Some(self.response(WatchType::Synced, None))
    }

    fn bookmark(&self) -> Option<Self::Item> {
        Some(self.response(WatchType::Bookmark, None))
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Parsing and translating

/// A node by `nodes/NAME`, with a name, a uid or a node id.
pub(crate) fn node_ref(field: &'static str, name: &str) -> Result<NodeRef, Status> {
    NodeRef::from_resource_name(name).map_err(error::at(field))
}

fn parse_cursor(cursor: &str) -> Result<(NodeName, NodeUid), Status> {
    let parsed = cursor.split_once('/').and_then(|(name, uid)| Some((name.parse().ok()?, uid.parse().ok()?)));
    parsed.ok_or_else(|| error::invalid("page_token", "is damaged"))
}

fn parse_filter(text: &str) -> Result<NodeFilter, Status> {
    let filter: Filter = text.parse().map_err(error::at("filter"))?;
    let mut parsed = NodeFilter::default();
    let mut labels = Vec::new();
    for term in filter.terms() {
        if term.prefix {
            return Err(error::invalid("filter", "a trailing * is not understood here"));
        }
        if term.key != "state" {
            labels.push((term.key.as_str(), term.value.as_str()));
            continue;
        }
        parsed.state = Some(match term.value.as_str() {
            "READY" => NodeState::Ready,
            "DEGRADED" => NodeState::Degraded,
            "OFFLINE" => NodeState::Offline,
            "REVOKED" => NodeState::Revoked,
            _ => return Err(error::invalid("filter", "state is one of READY, DEGRADED, OFFLINE, REVOKED")),
        });
    }
    parsed.labels = Labels::from_pairs(labels).map_err(error::at("filter"))?;
    Ok(parsed)
}

fn parse_change(
    labels: std::collections::BTreeMap<String, String>,
    relay: bool,
    mask: Option<Vec<String>>,
) -> Result<Change, Status> {
    let mask = mask.unwrap_or_default();
    if let Some(other) = mask.iter().find(|path| !["labels", "relay"].contains(&path.as_str())) {
        let path = proto_model::escape_str(other);
        return Err(error::invalid("update_mask", format!("{path} cannot be changed; labels and relay can")));
    }
    let asked = |field: &str| mask.is_empty() || mask.iter().any(|path| path == field);
    let labels = if asked("labels") { Some(Labels::try_from(labels).map_err(error::at("node.labels"))?) } else { None };
    Ok(Change { labels, relay: asked("relay").then_some(relay) })
}

fn refuse(error: ChangeError, name: &str) -> Status {
    match error {
        ChangeError::Database(error) => error::store(error),
        ChangeError::NotFound => error::not_found(name),
        ChangeError::Revoked => {
            error::failed_precondition(Reason::Revoked, name, format!("{name} was deleted and is never admitted again"))
        }
        ChangeError::Stale { current } => error::stale(name, &current),
        ChangeError::NotDeleted => error::failed_precondition(
            Reason::WrongState,
            name,
            format!("{name} is in the fleet and needs its name; only that of a deleted node can be freed"),
        ),
    }
}

/// A node as the API shows it.
pub(crate) fn translate(node: Node) -> rpc::Node {
    let state = match node.state {
        NodeState::Ready => rpc::node::State::Ready,
        NodeState::Degraded => rpc::node::State::Degraded,
        NodeState::Offline => rpc::node::State::Offline,
        NodeState::Revoked => rpc::node::State::Revoked,
    };
    rpc::Node {
        name: node.resource_name(),
        uid: node.uid.to_string(),
        node_id: node.node_id().to_string(),
        public_key: node.public_key.into(),
        etag: node.etag().into(),
        labels: node.labels.into(),
        relay: node.relay,
        state: state.into(),
        state_reason: node.state_reason,
        agent_version: node.facts.agent_version,
        os: node.facts.os,
        quic_addresses: node.facts.quic_addresses.iter().map(ToString::to_string).collect(),
        dht_addresses: node.facts.dht_addresses.iter().map(ToString::to_string).collect(),
        roots: node.facts.roots.iter().map(ToString::to_string).collect(),
        applied_config: Some(node.applied.into()),
        components: node.components.into_iter().map(Into::into).collect(),
        clock_skew_ms: node.clock_skew_ms,
        create_time: timestamp(node.create_time),
        update_time: timestamp(node.update_time),
        last_seen_time: node.last_seen_time.and_then(timestamp),
        certificate_expire_time: timestamp(node.certificate_expire_time),
    }
}
