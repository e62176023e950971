//! What a path answers where it has nothing better.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde_json::json;

use crate::Unavailable;

/// An error, in JSON.
pub(crate) fn error(code: StatusCode, message: &str) -> Response {
    (code, Json(json!({"error": {"code": code.as_u16(), "message": message}}))).into_response()
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        error(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer")
    }
}
