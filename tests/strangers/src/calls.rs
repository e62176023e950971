//! Calls of gRPC that are too large, in the open method that a stranger may call.

use anyhow::Result;
use dataplane_identity::CaFingerprint;
use proto_rpc::agent::EnrollRequest;
use tests_harness::agent_service;
use tonic::{Code, codec::CompressionEncoding};

/// How the server answers a request of so many bytes, compressed or not.
///
/// # Errors
/// There is no connection.
pub async fn oversized(endpoint: &str, ca: CaFingerprint, bytes: usize, compressed: bool) -> Result<Code> {
    let mut client = agent_service(endpoint, ca, None).await?;
    if compressed {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    let request = EnrollRequest { token: "x".repeat(bytes), ..EnrollRequest::default() };
    Ok(client.enroll(request).await.err().map_or(Code::Ok, |status| status.code()))
}
