//! `dwcp.v1.OperatorTokenService`.

use chrono::TimeDelta;
use control_plane_store::operator_tokens::{self, CreateError, NewOperatorToken, OperatorToken, RevokeError};
use proto_model::Role;
use proto_rpc::v1::{self as rpc, operator_token_service_server::OperatorTokenService};
use tonic::{Request, Response, Status};

use crate::{
    State, error,
    paging::Page,
    request,
    time::{lifetime, parse_time_cursor, time_cursor, timestamp},
};

/// Longer than that is "without end".
const MAX_TTL: TimeDelta = TimeDelta::days(3650);
/// The longest name of a holder.
const MAX_NAME_BYTES: usize = 63;

/// The service.
#[derive(Clone, Debug)]
pub struct OperatorTokens(State);

impl OperatorTokens {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }
}

#[tonic::async_trait]
impl OperatorTokenService for OperatorTokens {
    async fn create_operator_token(
        &self,
        request: Request<rpc::CreateOperatorTokenRequest>,
    ) -> Result<Response<rpc::CreateOperatorTokenResponse>, Status> {
        const METHOD: &str = "dwcp.v1.OperatorTokenService/CreateOperatorToken";
        let context = request::context(&request, METHOD, &request.get_ref().request_id)?;
        let request = request.into_inner();
        let check_only = request.validate_only;
        let new = parse(&request)?;
        let created = self.0.db.write("create-operator-token", context, move |tx| {
            Box::pin(async move {
                let (token, secret) = operator_tokens::create(tx, new).await?;
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
        Ok(Response::new(rpc::CreateOperatorTokenResponse {
            operator_token: Some(translate(token)),
            token: secret.map(|secret| secret.expose().to_string()).unwrap_or_default(),
        }))
    }

    async fn list_operator_tokens(
        &self,
        request: Request<rpc::ListOperatorTokensRequest>,
    ) -> Result<Response<rpc::ListOperatorTokensResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse("operatorTokens", "", request.page_size, &request.page_token)?;
        let before = page.cursor.as_deref().map(parse_time_cursor).transpose()?;
        let tokens = operator_tokens::list(&self.0.db, before, page.limit()).await.map_err(error::store)?;
        let (tokens, next_page_token) = page.cut(tokens, |token| time_cursor(token.create_time, token.id));
        let operator_tokens = tokens.into_iter().map(translate).collect();
        Ok(Response::new(rpc::ListOperatorTokensResponse { operator_tokens, next_page_token }))
    }

    async fn revoke_operator_token(
        &self,
        request: Request<rpc::RevokeOperatorTokenRequest>,
    ) -> Result<Response<rpc::OperatorToken>, Status> {
        const METHOD: &str = "dwcp.v1.OperatorTokenService/RevokeOperatorToken";
        let context = request::context(&request, METHOD, &request.get_ref().request_id)?;
        let name = request.into_inner().name;
        let id = request::resource_id("name", "operatorTokens", &name)?;
        let revoked = self
            .0
            .db
            .write("revoke-operator-token", context, move |tx| Box::pin(operator_tokens::revoke(tx, id)))
            .await;
        let token = revoked.map_err(|error| match error {
            RevokeError::Database(error) => error::store(error),
            RevokeError::NotFound => error::not_found(&name),
        })?;
        Ok(Response::new(translate(token)))
    }
}

fn parse(request: &rpc::CreateOperatorTokenRequest) -> Result<NewOperatorToken, Status> {
    let display_name = request.display_name.trim();
    if display_name.is_empty() || display_name.len() > MAX_NAME_BYTES {
        return Err(error::invalid("display_name", format!("1 to {MAX_NAME_BYTES} bytes are expected")));
    }
    // The name stands in the audit log and in tables; what `escape` would have to change is refused.
    if proto_model::escape_str(display_name) != display_name {
        return Err(error::invalid("display_name", "control characters are not allowed"));
    }
    let role = match request.role() {
        rpc::Role::Viewer => Role::Viewer,
        rpc::Role::Operator => Role::Operator,
        rpc::Role::Admin => Role::Admin,
        rpc::Role::Unspecified => return Err(error::invalid("role", "one of VIEWER, OPERATOR, ADMIN is required")),
    };
    let ttl = lifetime("ttl", request.ttl, MAX_TTL)?;
    Ok(NewOperatorToken { display_name: display_name.to_owned(), role, ttl })
}

fn translate(token: OperatorToken) -> rpc::OperatorToken {
    let role = match token.role {
        Role::Viewer => rpc::Role::Viewer,
        Role::Operator => rpc::Role::Operator,
        Role::Admin => rpc::Role::Admin,
    };
    rpc::OperatorToken {
        name: token.resource_name(),
        display_name: token.display_name,
        role: role.into(),
        created_by: token.created_by,
        create_time: timestamp(token.create_time),
        expire_time: token.expire_time.and_then(timestamp),
        revoke_time: token.revoke_time.and_then(timestamp),
    }
}
