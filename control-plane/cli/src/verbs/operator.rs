//! `dwcp operator`: tokens with which people and scripts call the API.

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use proto_rpc::v1::{
    CreateOperatorTokenRequest, ListOperatorTokensRequest, ListOperatorTokensResponse, OperatorToken,
    RevokeOperatorTokenRequest, Role as RpcRole,
};

use super::{once, request_id, resource, secret_lost, short};
use crate::{
    args::{Global, Operator as Verb, Role},
    connection::Connection,
    failure::Failure,
    output::{Output, table},
    units,
};

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<(), Failure> {
    let connection = Connection::open(global)?;
    match verb {
        Verb::Create { display_name, role, ttl } => {
            let role = match role {
                Role::Viewer => RpcRole::Viewer,
                Role::Operator => RpcRole::Operator,
                Role::Admin => RpcRole::Admin,
            };
            let request = CreateOperatorTokenRequest {
                display_name,
                role: role.into(),
                ttl: ttl.map(units::to_proto),
                request_id: request_id(),
                validate_only: false,
            };
            create(&connection, output, request).await
        }
        Verb::List => list(&connection, output).await,
        Verb::Revoke { token } => {
            let request =
                RevokeOperatorTokenRequest { name: resource("operatorTokens", &token), request_id: request_id() };
            let token =
                once(request, async |request| connection.operator_tokens().revoke_operator_token(request).await)
                    .await?;
            output.message(&token, |token| format!("√ {} is revoked", token.name))
        }
    }
}

/// The secret alone goes to standard output, so that `> FILE` keeps it.
async fn create(connection: &Connection, output: &Output, request: CreateOperatorTokenRequest) -> Result<(), Failure> {
    let response =
        once(request, async |request| connection.operator_tokens().create_operator_token(request).await).await?;
    if response.token.is_empty() {
        let name = response.operator_token.map(|token| token.name).unwrap_or_default();
        return Err(secret_lost(&name, "operator"));
    }
    if output.for_people() {
        let token = response.operator_token.clone().unwrap_or_default();
        let end = units::time(token.expire_time.as_ref());
        let end = if end.is_empty() { "without end".to_owned() } else { format!("until {end}") };
        output.talk(&format!(
            "{} for {}, {end}; the token is shown this once. Keep it in a file of mode 0600 and give it by --token-file",
            token.name, token.display_name
        ));
    }
    output.message(&response, |response| response.token.clone())
}

async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut all = ListOperatorTokensResponse::default();
    loop {
        let request = ListOperatorTokensRequest { page_size: 1000, page_token: all.next_page_token };
        let page = connection.operator_tokens().list_operator_tokens(request).await?.into_inner();
        all.operator_tokens.extend(page.operator_tokens);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    let now = Clock::system().utc();
    output.list(&all, &all.operator_tokens, |tokens| rows(tokens, now))
}

fn rows(tokens: &[OperatorToken], now: DateTime<Utc>) -> String {
    table(
        ["NAME", "HOLDER", "ROLE", "STATE", "EXPIRES", "BY"],
        tokens.iter().map(|token| {
            let expired = token.expire_time.as_ref().and_then(units::utc).is_some_and(|time| time <= now);
            let state = match (token.revoke_time.is_some(), expired) {
                (true, _) => "REVOKED",
                (false, true) => "EXPIRED",
                (false, false) => "ACTIVE",
            };
            [
                short(&token.name).to_owned(),
                token.display_name.clone(),
                role(token.role()).to_owned(),
                state.to_owned(),
                units::relative(token.expire_time.as_ref(), now),
                token.created_by.clone(),
            ]
        }),
    )
}

fn role(role: RpcRole) -> &'static str {
    match role {
        RpcRole::Unspecified => "",
        RpcRole::Viewer => "viewer",
        RpcRole::Operator => "operator",
        RpcRole::Admin => "admin",
    }
}
