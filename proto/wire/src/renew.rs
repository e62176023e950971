//! What a node signs to have its certificate renewed, also when the old one has expired (D4).

/// The bytes that the node's key signs and the server checks: `dwcp renew v1`, a zero byte, the node's uid, the request's
/// time in Unix milliseconds (big-endian), the CSR as DER.
#[must_use]
pub fn message(uid: &[u8; 16], time_ms: i64, csr: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(14 + 16 + 8 + csr.len());
    message.extend_from_slice(b"dwcp renew v1\0");
    message.extend_from_slice(uid);
    message.extend_from_slice(&time_ms.to_be_bytes());
    message.extend_from_slice(csr);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_covered() {
        let base = message(&[1; 16], 5, b"csr");
        assert_ne!(base, message(&[2; 16], 5, b"csr"));
        assert_ne!(base, message(&[1; 16], 6, b"csr"));
        assert_ne!(base, message(&[1; 16], 5, b"csR"));
    }
}
