//! `dwcp token`: tokens with which hosts join.

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use proto_rpc::v1::{
    CreateJoinTokenRequest, JoinToken, ListJoinTokensRequest, ListJoinTokensResponse, RevokeJoinTokenRequest,
    join_token::State,
};

use super::{labels, once, request_id, resource, secret_lost, short};
use crate::{
    args::{Global, Token as Verb},
    connection::Connection,
    failure::Failure,
    output::{Output, table},
    units,
};

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<(), Failure> {
    let connection = Connection::open(global)?;
    match verb {
        Verb::Create { ttl, max_uses, labels, relay, node } => {
            let request = CreateJoinTokenRequest {
                ttl: Some(units::to_proto(ttl)),
                max_uses,
                node_labels: labels.into_iter().collect(),
                relay,
                node_name: node.unwrap_or_default(),
                request_id: request_id(),
                validate_only: false,
            };
            create(&connection, output, request).await
        }
        Verb::List => list(&connection, output).await,
        Verb::Revoke { token } => {
            let request = RevokeJoinTokenRequest { name: resource("joinTokens", &token), request_id: request_id() };
            let token =
                once(request, async |request| connection.join_tokens().revoke_join_token(request).await).await?;
            output.message(&token, |token| format!("√ {} is revoked", token.name))
        }
    }
}

async fn create(connection: &Connection, output: &Output, request: CreateJoinTokenRequest) -> Result<(), Failure> {
    let response = once(request, async |request| connection.join_tokens().create_join_token(request).await).await?;
    if response.token.is_empty() {
        let name = response.join_token.map(|token| token.name).unwrap_or_default();
        return Err(secret_lost(&name, "token"));
    }
    output.message(&response, |response| {
        let token = response.join_token.clone().unwrap_or_default();
        let uses = if token.max_uses == 1 { "one host".to_owned() } else { format!("{} hosts", token.max_uses) };
        format!(
            "{} lets {uses} join until {}. On the host, run:\n\n    {}\n\nNext: dwcp node list\n",
            token.name,
            units::time(token.expire_time.as_ref()),
            response.join_command,
        )
    })
}

async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut all = ListJoinTokensResponse::default();
    loop {
        let request = ListJoinTokensRequest { page_size: 1000, page_token: all.next_page_token };
        let page = connection.join_tokens().list_join_tokens(request).await?.into_inner();
        all.join_tokens.extend(page.join_tokens);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    let now = Clock::system().utc();
    output.list(&all, &all.join_tokens, |tokens| rows(tokens, now))
}

fn rows(tokens: &[JoinToken], now: DateTime<Utc>) -> String {
    table(
        ["NAME", "STATE", "USES", "EXPIRES", "NODE", "RELAY", "LABELS", "BY"],
        tokens.iter().map(|token| {
            [
                short(&token.name).to_owned(),
                state(token.state()).to_owned(),
                format!("{}/{}", token.used_count, token.max_uses),
                units::relative(token.expire_time.as_ref(), now),
                token.node_name.clone(),
                if token.relay { "yes" } else { "-" }.to_owned(),
                labels(&token.node_labels),
                token.created_by.clone(),
            ]
        }),
    )
}

fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => "",
        State::Active => "ACTIVE",
        State::Used => "USED",
        State::Expired => "EXPIRED",
        State::Revoked => "REVOKED",
    }
}
