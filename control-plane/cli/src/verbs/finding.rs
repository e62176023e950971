//! What a check found, in the form of the API.

use proto_rpc::v1::{Check as RpcCheck, CheckCategory};

pub(super) fn category(name: &str, checks: Vec<RpcCheck>) -> CheckCategory {
    CheckCategory { category_name: name.to_owned(), checks }
}

pub(super) fn good(description: &str) -> RpcCheck {
    result("success", description, "", "")
}

pub(super) fn warn(description: &str, error: &str, hint: &str) -> RpcCheck {
    result("warning", description, error, hint)
}

pub(super) fn wrong(description: &str, error: &str, hint: &str) -> RpcCheck {
    result("error", description, error, hint)
}

fn result(result: &str, description: &str, error: &str, hint: &str) -> RpcCheck {
    RpcCheck {
        description: description.to_owned(),
        result: result.to_owned(),
        error: error.to_owned(),
        hint: hint.to_owned(),
    }
}
