//! A bench between two agents: the right to it, its opening, and what both ends say to each other while it runs.

use ed25519_dalek::{SigningKey, VerifyingKey};
use prost::Message;
use proto_model::{BenchGrant, BenchPlan, TimeSpent, Traceparent};
use proto_rpc::{agent, peer as rpc};

use crate::{
    frames::{Abort, BadFrame, bad, digest},
    grant::{OpenError, checked},
    signed::{self, Context, Signed},
};

/// Bytes of an honest grant: ids, keys and numbers.
const MAX_GRANT_BYTES: usize = 4 << 10;
/// Bytes of a text in a frame that are taken.
const MAX_TEXT: usize = 512;
/// Bytes of a frame after the opening: far more than its texts have, and few enough that none is worth counting.
const MAX_FRAME_BYTES: usize = 16 << 10;

/// Signs a grant.
#[must_use]
pub fn sign(key: &SigningKey, grant: &BenchGrant) -> Signed {
    signed::sign(key, Context::BenchGrant, agent::BenchGrant::from(grant.clone()).encode_to_vec())
}

/// The grant, if `key` signed it. Whom it binds and when it holds is for the caller to check.
///
/// # Errors
/// [`OpenError`].
pub fn open(key: &VerifyingKey, grant: &Signed) -> Result<BenchGrant, OpenError> {
    let payload = checked(key, Context::BenchGrant, grant, MAX_GRANT_BYTES)?;
    Ok(agent::BenchGrant::decode(payload).map_err(|_bytes| OpenError::Encoding)?.try_into()?)
}

/// By what right a bench is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BenchAuthority {
    /// A grant; not yet checked.
    Grant(Signed),
    /// Without one: what is asked for.
    Direct(BenchPlan),
}

/// Opens a bench in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchOpen {
    /// By what right.
    pub authority: BenchAuthority,
    /// The trace of the request.
    pub traceparent: Option<Traceparent>,
    /// What the payload of pieces is made from.
    pub seed: [u8; 32],
}

/// What is said in a bench after its opening, by either end.
#[derive(Clone, Debug, PartialEq)]
pub enum BenchFrame {
    /// The other end takes part.
    Opened,
    /// What an end sees.
    Sample(BenchSample),
    /// An end refuses or gives up.
    Abort(Abort),
    /// The last of an end.
    End(BenchEnd),
}

/// What an end sees. Sums are over the whole bench.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BenchSample {
    /// Since data may flow, in milliseconds.
    pub time_ms: u32,
    /// Payload that arrived at this end.
    pub bytes_received: u64,
    /// Of its session: the smoothed round trip, in microseconds.
    pub rtt_us: u64,
    /// UDP bytes that were sent.
    pub bytes_sent: u64,
    /// Bytes that were declared lost.
    pub bytes_lost: u64,
    /// Pieces that may be under way.
    pub streams: u32,
    /// QUIC connections.
    pub lanes: u32,
    /// Bytes that may be under way.
    pub congestion_window: u64,
    /// What the congestion control does.
    pub congestion_mode: String,
    /// The part of the time in which the busiest thread was at work.
    pub busy: f64,
}

/// The last of an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BenchEnd {
    /// What held it up as a sender.
    pub time_spent: TimeSpent,
    /// What governs its rate.
    pub congestion_algorithm: String,
    /// The bound of bandwidth that concerns it, in bits a second, and its name.
    pub limit: Option<(u64, String)>,
    /// What of its host holds it back; empty where nothing does.
    pub host: String,
}

impl From<BenchOpen> for rpc::BenchOpen {
    fn from(open: BenchOpen) -> Self {
        use rpc::bench_open::Authority;
        Self {
            authority: Some(match open.authority {
                BenchAuthority::Grant(signed) => Authority::Grant(signed.into()),
                BenchAuthority::Direct(plan) => Authority::Direct(plan.into()),
            }),
            traceparent: open.traceparent.map(String::from).unwrap_or_default(),
            seed: open.seed.to_vec(),
        }
    }
}

impl TryFrom<rpc::BenchOpen> for BenchOpen {
    type Error = BadFrame;

    fn try_from(open: rpc::BenchOpen) -> Result<Self, BadFrame> {
        use rpc::bench_open::Authority;
        let authority = match open.authority.ok_or_else(|| bad("authority", "is required"))? {
            Authority::Grant(signed) => BenchAuthority::Grant(signed.try_into()?),
            Authority::Direct(asked) => BenchAuthority::Direct(BenchPlan::try_from(&asked)?),
        };
        let traceparent = Traceparent::from_optional_text(&open.traceparent);
        Ok(Self { authority, traceparent, seed: digest("seed", &open.seed)? })
    }
}

impl BenchFrame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        use rpc::bench_frame::Frame;
        let frame = match self {
            Self::Opened => Frame::Opened(rpc::BenchOpened {}),
            Self::Sample(sample) => Frame::Sample(sample.into()),
            Self::Abort(abort) => Frame::Abort(abort.into()),
            Self::End(end) => Frame::End(end.into()),
        };
        rpc::BenchFrame { frame: Some(frame) }.encode_to_vec()
    }

    /// Parses a frame.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        use rpc::bench_frame::Frame;
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(BadFrame::TooLong(bytes.len()));
        }
        let frame = rpc::BenchFrame::decode(bytes).map_err(|_bytes| BadFrame::Encoding)?;
        Ok(match frame.frame.ok_or(BadFrame::Encoding)? {
            Frame::Opened(rpc::BenchOpened {}) => Self::Opened,
            Frame::Sample(sample) => Self::Sample(sample.into()),
            Frame::Abort(abort) => Self::Abort(abort.into()),
            Frame::End(end) => Self::End(end.into()),
        })
    }
}

/// A text of the other end, cut and made safe to show.
fn text(said: &str) -> String {
    proto_model::escape_str(&said.chars().take(MAX_TEXT).collect::<String>())
}

impl From<BenchSample> for rpc::BenchSample {
    fn from(sample: BenchSample) -> Self {
        Self {
            time_ms: sample.time_ms,
            bytes_received: sample.bytes_received,
            rtt_us: sample.rtt_us,
            bytes_sent: sample.bytes_sent,
            bytes_lost: sample.bytes_lost,
            streams: sample.streams,
            lanes: sample.lanes,
            congestion_window_bytes: sample.congestion_window,
            congestion_mode: sample.congestion_mode,
            busy: sample.busy,
        }
    }
}

impl From<rpc::BenchSample> for BenchSample {
    fn from(said: rpc::BenchSample) -> Self {
        Self {
            time_ms: said.time_ms,
            bytes_received: said.bytes_received,
            rtt_us: said.rtt_us,
            bytes_sent: said.bytes_sent,
            bytes_lost: said.bytes_lost,
            streams: said.streams,
            lanes: said.lanes,
            congestion_window: said.congestion_window_bytes,
            congestion_mode: text(&said.congestion_mode),
            busy: if said.busy.is_finite() { said.busy.clamp(0.0, 1024.0) } else { 0.0 },
        }
    }
}

impl From<BenchEnd> for rpc::BenchEnd {
    fn from(end: BenchEnd) -> Self {
        let (limit_bits_per_second, limited_by) = end.limit.unwrap_or_default();
        Self {
            time_spent: (&end.time_spent).into(),
            congestion_algorithm: end.congestion_algorithm,
            limit_bits_per_second,
            limited_by,
            host: end.host,
        }
    }
}

impl From<rpc::BenchEnd> for BenchEnd {
    fn from(said: rpc::BenchEnd) -> Self {
        let limit = Some(said.limit_bits_per_second).filter(|bits| *bits > 0);
        Self {
            time_spent: said.time_spent.into(),
            congestion_algorithm: text(&said.congestion_algorithm),
            limit: limit.map(|bits| (bits, text(&said.limited_by))),
            host: text(&said.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto_model::{BenchDirection, BenchId, GrantParty, NodeUid, PublicKey, from_unix_ms};
    use uuid::Uuid;

    use super::*;
    use crate::{frames::SenderFrame, grant, signed::BadSignature};

    fn party(seed: u8) -> GrantParty {
        let key = PublicKey::try_from(SigningKey::from_bytes(&[seed; 32]).verifying_key()).unwrap();
        GrantParty { uid: NodeUid::new(Uuid::from_u128(seed.into())), key }
    }

    #[test]
    fn only_the_grant_key_makes_a_right_and_no_right_to_a_transfer_is_one() {
        let plan = BenchPlan { seconds: 10, streams: Some(4), direction: BenchDirection::Both };
        let right = BenchGrant {
            fleet: "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse().unwrap(),
            epoch: 1.into(),
            bench: BenchId::from_parts(1, &[1; 10]),
            source: party(1),
            destination: party(2),
            plan,
            not_before: from_unix_ms(1).unwrap(),
            not_after: from_unix_ms(2).unwrap(),
        };
        let key = SigningKey::from_bytes(&[9; 32]);
        let signed = sign(&key, &right);
        assert_eq!(open(&key.verifying_key(), &signed), Ok(right));
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        assert_eq!(open(&other, &signed), Err(OpenError::Signature(BadSignature)));
        assert_eq!(grant::open(&key.verifying_key(), &signed), Err(OpenError::Signature(BadSignature)));

        let opening = BenchOpen { authority: BenchAuthority::Grant(signed), traceparent: None, seed: [3; 32] };
        let frame = SenderFrame::Bench(Box::new(opening));
        assert_eq!(SenderFrame::decode(&frame.clone().encode()), Ok(frame));
    }

    #[test]
    fn what_the_other_end_says_is_made_harmless() {
        let sample = BenchSample { busy: f64::NAN, congestion_mode: "x\n".repeat(1000), ..BenchSample::default() };
        let BenchFrame::Sample(parsed) = BenchFrame::decode(&BenchFrame::Sample(sample).encode()).unwrap() else {
            panic!("a sample");
        };
        assert!(parsed.busy == 0.0 && parsed.congestion_mode.len() < 4 * MAX_TEXT, "{parsed:?}");
        assert!(!parsed.congestion_mode.contains('\n'));
        assert_eq!(BenchFrame::decode(&[0; MAX_FRAME_BYTES + 1]), Err(BadFrame::TooLong(MAX_FRAME_BYTES + 1)));
    }
}
