//! `dwcp.v1.JoinTokenService`.

use chrono::{DateTime, TimeDelta, Utc};
use control_plane_store::join_tokens::{self, CreateError, JoinToken, JoinTokenState, NewJoinToken, RevokeError};
use proto_model::Labels;
use proto_rpc::v1::{self as rpc, join_token_service_server::JoinTokenService};
use tonic::{Request, Response, Status};

use crate::{
    State, error,
    paging::Page,
    request,
    time::{lifetime, parse_time_cursor, time_cursor, timestamp},
};

const DEFAULT_TTL: TimeDelta = TimeDelta::hours(1);
const MAX_TTL: TimeDelta = TimeDelta::days(30);
const MAX_USES: i32 = 10_000;

/// The service.
#[derive(Clone, Debug)]
pub struct JoinTokens(State);

impl JoinTokens {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }
}

#[tonic::async_trait]
impl JoinTokenService for JoinTokens {
    async fn create_join_token(
        &self,
        request: Request<rpc::CreateJoinTokenRequest>,
    ) -> Result<Response<rpc::CreateJoinTokenResponse>, Status> {
        const METHOD: &str = "dwcp.v1.JoinTokenService/CreateJoinToken";
        let context = request::context(&request, METHOD, &request.get_ref().request_id)?;
        let request = request.into_inner();
        let check_only = request.validate_only;
        let new = parse(request)?;
        let created = self.0.db.write("create-join-token", context, move |tx| {
            Box::pin(async move {
                let (token, secret) = join_tokens::create(tx, new).await?;
                if check_only {
                    tx.discard();
                    return Ok((token, None));
                }
                Ok((token, secret))
            })
        });
        let (token, secret) = created.await.map_err(|error| match error {
            CreateError::Database(error) => error::store(error),
            CreateError::Secret(error) => error::internal("no secret could be made", &error),
        })?;
        let secret = secret.map(|secret| secret.expose().to_string()).unwrap_or_default();
        let ca_fingerprint = self.0.keys.ca_fingerprint();
        let join_command = match (secret.as_str(), self.0.advertised.first()) {
            ("", _) | (_, None) => String::new(),
            (secret, Some(address)) => {
                format!("dwcp-agent join {address} --token {secret} --ca-fingerprint {ca_fingerprint}")
            }
        };
        Ok(Response::new(rpc::CreateJoinTokenResponse {
            join_token: Some(translate(token, self.0.clock.utc())),
            token: secret,
            ca_fingerprint,
            join_command,
        }))
    }

    async fn get_join_token(
        &self,
        request: Request<rpc::GetJoinTokenRequest>,
    ) -> Result<Response<rpc::JoinToken>, Status> {
        let name = request.into_inner().name;
        let id = request::resource_id("name", "joinTokens", &name)?;
        let token = join_tokens::get(&self.0.db, id).await.map_err(error::store)?;
        let token = token.ok_or_else(|| error::not_found(&name))?;
        Ok(Response::new(translate(token, self.0.clock.utc())))
    }

    async fn list_join_tokens(
        &self,
        request: Request<rpc::ListJoinTokensRequest>,
    ) -> Result<Response<rpc::ListJoinTokensResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse("joinTokens", "", request.page_size, &request.page_token)?;
        let before = page.cursor.as_deref().map(parse_time_cursor).transpose()?;
        let tokens = join_tokens::list(&self.0.db, before, page.limit()).await.map_err(error::store)?;
        let (tokens, next_page_token) = page.cut(tokens, |token| time_cursor(token.create_time, token.id));
        let now = self.0.clock.utc();
        let join_tokens = tokens.into_iter().map(|token| translate(token, now)).collect();
        Ok(Response::new(rpc::ListJoinTokensResponse { join_tokens, next_page_token }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<rpc::RevokeJoinTokenRequest>,
    ) -> Result<Response<rpc::JoinToken>, Status> {
        const METHOD: &str = "dwcp.v1.JoinTokenService/RevokeJoinToken";
        let context = request::context(&request, METHOD, &request.get_ref().request_id)?;
        let name = request.into_inner().name;
        let id = request::resource_id("name", "joinTokens", &name)?;
        let revoked =
            self.0.db.write("revoke-join-token", context, move |tx| Box::pin(join_tokens::revoke(tx, id))).await;
        let token = revoked.map_err(|error| match error {
            RevokeError::Database(error) => error::store(error),
            RevokeError::NotFound => error::not_found(&name),
        })?;
        Ok(Response::new(translate(token, self.0.clock.utc())))
    }
}

fn parse(request: rpc::CreateJoinTokenRequest) -> Result<NewJoinToken, Status> {
    let ttl = lifetime("ttl", request.ttl, MAX_TTL)?.unwrap_or(DEFAULT_TTL);
    let max_uses = match request.max_uses {
        0 => 1,
        uses @ 1..=MAX_USES => uses,
        _ => return Err(error::invalid("max_uses", format!("must be from 1 to {MAX_USES}"))),
    };
    let node_labels = Labels::try_from(request.node_labels).map_err(error::at("node_labels"))?;
    let node_name = match request.node_name.as_str() {
        "" => None,
        name => {
            let name = name.strip_prefix("nodes/").unwrap_or(name);
            Some(name.parse().map_err(error::at("node_name"))?)
        }
    };
    if node_name.is_some() && max_uses != 1 {
        return Err(error::invalid("max_uses", "must be 1 where node_name is given: a name is one node's"));
    }
    Ok(NewJoinToken { ttl, max_uses, node_labels, relay: request.relay, node_name })
}

fn translate(token: JoinToken, now: DateTime<Utc>) -> rpc::JoinToken {
    let state = match token.state(now) {
        JoinTokenState::Active => rpc::join_token::State::Active,
        JoinTokenState::Used => rpc::join_token::State::Used,
        JoinTokenState::Expired => rpc::join_token::State::Expired,
        JoinTokenState::Revoked => rpc::join_token::State::Revoked,
    };
    rpc::JoinToken {
        name: token.resource_name(),
        max_uses: token.max_uses,
        used_count: token.used_count,
        node_labels: token.node_labels.into(),
        relay: token.relay,
        node_name: token.node_name.map(String::from).unwrap_or_default(),
        created_by: token.created_by,
        create_time: timestamp(token.create_time),
        expire_time: timestamp(token.expire_time),
        revoke_time: token.revoke_time.and_then(timestamp),
        state: state.into(),
    }
}
