//! What a node says about itself: CBOR with integer keys, encoded in one way only.
//!
//! | key | what |
//! | --- | --- |
//! | 0 | version, 1 |
//! | 1 | when it was issued, seconds since the Unix epoch |
//! | 2 | for how many seconds it holds; 0 takes the node back |
//! | 3 | fleet, 8 bytes |
//! | 4 | addresses for QUIC, byte strings of 6 (IPv4) or 18 (IPv6), the port last and big-endian |
//! | 5 | node type: 0 public, 1 private, 2 relay |
//! | 6 | NAT: 0 unknown, 1 none, 2 mapping by endpoint, 3 mapping by destination |
//! | 7 | relays it is connected to, node ids of 20 bytes, the one in use first; absent when there is none |
//!
//! Keys are never used again. A reader refuses keys below 16 that it does not know, and skips those from 16 on.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use minicbor::{Decoder, Encoder};
use proto_model::{FleetId, NodeId};

/// The longest record: BEP 44 allows 1,000 bytes for the bencoded value, which is this and its length.
pub const MAX_RECORD_BYTES: usize = 996;
/// What a record should stay below, so that a reply fits the smallest tunnels (1,280 bytes).
pub const WANTED_RECORD_BYTES: usize = 500;
/// The most addresses: two families, a few interfaces, one seen from outside.
pub const MAX_ADDRESSES: usize = 8;
/// The most relays: one in use, two to fail over to.
pub const MAX_RELAYS: usize = 3;
/// The longest validity: a record that nobody renews for a week is of no use.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

const VERSION: u64 = 1;
/// Keys from here on may be skipped.
const FIRST_OPTIONAL_KEY: u64 = 16;

/// The fleet's id, shortened: keeps the records of fleets apart that share a ring by mistake. Not a secret, not a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FleetTag([u8; 8]);

impl FleetTag {
    /// The first eight bytes of the SHA-256 of the id.
    #[must_use]
    pub fn of(fleet: &FleetId) -> Self {
        let hash = digest(&SHA256, fleet.uuid().as_bytes());
        Self(*hash.as_ref().first_chunk().expect("SHA-256 is 32 bytes"))
    }
}

/// How a node can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NodeType {
    /// At its addresses.
    #[default]
    Public,
    /// Only through a relay, or by dialling out itself.
    Private,
    /// At its addresses, and it passes packets on for private ones.
    Relay,
}

impl NodeType {
    /// Its name in tables and logs, as the operations manual queries it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Relay => "relay",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Public => 0,
            Self::Private => 1,
            Self::Relay => 2,
        }
    }
}

/// What stands between a node and the network, as far as it knows (RFC 4787).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Nat {
    /// Not known.
    #[default]
    Unknown,
    /// Nothing.
    None,
    /// Endpoint-independent mapping: holes can be punched.
    Endpoint,
    /// Address-dependent mapping: only a relay helps.
    Destination,
}

impl Nat {
    const fn number(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::None => 1,
            Self::Endpoint => 2,
            Self::Destination => 3,
        }
    }
}

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was issued, seconds since the Unix epoch.
    pub issued_s: u64,
    /// For how many seconds it holds.
    pub ttl_s: u32,
    /// Which fleet it belongs to.
    pub fleet: FleetTag,
    /// Where QUIC listens.
    pub addresses: Vec<SocketAddr>,
    /// How it can be reached.
    pub node_type: NodeType,
    /// What stands before it.
    pub nat: Nat,
    /// The relays it is connected to, the one in use first.
    pub relays: Vec<NodeId>,
}

/// Why bytes are no record, or a record cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`MAX_RECORD_BYTES`].
    #[error("a record of {0} bytes is longer than 996")]
    TooLong(usize),
    /// Not the CBOR it should be.
    #[error("the record is not well-formed")]
    Malformed,
    /// Made by a newer program, in a way that an older one must not ignore.
    #[error("the record has version or key {0}, which is not known")]
    Newer(u64),
    /// A key is missing.
    #[error("the record lacks key {0}")]
    Missing(u64),
    /// More addresses or relays than allowed.
    #[error("the record has more addresses or relays than allowed")]
    TooMany,
    /// A validity above [`MAX_TTL`].
    #[error("the record claims to hold for {0} s")]
    Ttl(u32),
}

impl Record {
    /// The one encoding of this record.
    ///
    /// # Errors
    /// Where it is beyond its bounds.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        self.check_bounds()?;
        let mut bytes = Vec::with_capacity(WANTED_RECORD_BYTES);
        self.write(&mut Encoder::new(&mut bytes)).expect("a Vec takes what is written");
        if bytes.len() > MAX_RECORD_BYTES { Err(RecordError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    fn write(&self, cbor: &mut Encoder<&mut Vec<u8>>) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        cbor.map(if self.relays.is_empty() { 7 } else { 8 })?;
        cbor.u8(0)?.u64(VERSION)?;
        cbor.u8(1)?.u64(self.issued_s)?;
        cbor.u8(2)?.u32(self.ttl_s)?;
        cbor.u8(3)?.bytes(&self.fleet.0)?;
        cbor.u8(4)?.array(u64::try_from(self.addresses.len()).unwrap_or(u64::MAX))?;
        for address in &self.addresses {
            cbor.bytes(&address_bytes(*address))?;
        }
        cbor.u8(5)?.u8(self.node_type.number())?;
        cbor.u8(6)?.u8(self.nat.number())?;
        if !self.relays.is_empty() {
            cbor.u8(7)?.array(u64::try_from(self.relays.len()).unwrap_or(u64::MAX))?;
            for relay in &self.relays {
                cbor.bytes(relay.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Reads a record; takes any bytes.
    ///
    /// # Errors
    /// On whatever is not the form described above.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let mut parts = Parts::default();
        let mut cbor = Decoder::new(bytes);
        let entries = cbor.map().map_err(malformed)?.ok_or(RecordError::Malformed)?;
        let mut before = None;
        for _ in 0..entries {
            let key = cbor.u64().map_err(malformed)?;
            // Keys in ascending order: one encoding only, and none twice.
            if before.replace(key).is_some_and(|before| before >= key) {
                return Err(RecordError::Malformed);
            }
            parts.read(key, &mut cbor)?;
        }
        if cbor.position() != bytes.len() {
            return Err(RecordError::Malformed);
        }
        let record = parts.whole()?;
        record.check_bounds()?;
        Ok(record)
    }

    fn check_bounds(&self) -> Result<(), RecordError> {
        if self.addresses.len() > MAX_ADDRESSES || self.relays.len() > MAX_RELAYS {
            return Err(RecordError::TooMany);
        }
        if u64::from(self.ttl_s) > MAX_TTL.as_secs() { Err(RecordError::Ttl(self.ttl_s)) } else { Ok(()) }
    }

    /// Whether it has run out.
    #[must_use]
    pub fn expired(&self, now_s: u64) -> bool {
        now_s >= self.issued_s.saturating_add(u64::from(self.ttl_s))
    }
}

#[derive(Default)]
struct Parts {
    version: Option<u64>,
    issued_s: Option<u64>,
    ttl_s: Option<u32>,
    fleet: Option<FleetTag>,
    addresses: Option<Vec<SocketAddr>>,
    node_type: Option<NodeType>,
    nat: Option<Nat>,
    relays: Vec<NodeId>,
}

impl Parts {
    fn read(&mut self, key: u64, cbor: &mut Decoder<'_>) -> Result<(), RecordError> {
        match key {
            0 => match cbor.u64().map_err(malformed)? {
                VERSION => self.version = Some(VERSION),
                other => return Err(RecordError::Newer(other)),
            },
            1 => self.issued_s = Some(cbor.u64().map_err(malformed)?),
            2 => self.ttl_s = Some(cbor.u32().map_err(malformed)?),
            3 => {
                let tag = cbor.bytes().map_err(malformed)?.try_into().map_err(malformed)?;
                self.fleet = Some(FleetTag(tag));
            }
            4 => self.addresses = Some(list(cbor, MAX_ADDRESSES, address)?),
            5 => self.node_type = Some(node_type(cbor.u8().map_err(malformed)?)?),
            6 => self.nat = Some(nat(cbor.u8().map_err(malformed)?)?),
            7 => self.relays = list(cbor, MAX_RELAYS, |bytes| bytes.try_into().ok().map(NodeId::from_bytes))?,
            unknown if unknown < FIRST_OPTIONAL_KEY => return Err(RecordError::Newer(unknown)),
            _ => cbor.skip().map_err(malformed)?,
        }
        Ok(())
    }

    fn whole(self) -> Result<Record, RecordError> {
        self.version.ok_or(RecordError::Missing(0))?;
        Ok(Record {
            issued_s: self.issued_s.ok_or(RecordError::Missing(1))?,
            ttl_s: self.ttl_s.ok_or(RecordError::Missing(2))?,
            fleet: self.fleet.ok_or(RecordError::Missing(3))?,
            addresses: self.addresses.ok_or(RecordError::Missing(4))?,
            node_type: self.node_type.ok_or(RecordError::Missing(5))?,
            nat: self.nat.ok_or(RecordError::Missing(6))?,
            relays: self.relays,
        })
    }
}

fn list<T>(cbor: &mut Decoder<'_>, most: usize, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, RecordError> {
    let count = cbor.array().map_err(malformed)?.ok_or(RecordError::Malformed)?;
    let count = usize::try_from(count).ok().filter(|count| *count <= most).ok_or(RecordError::TooMany)?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(parse(cbor.bytes().map_err(malformed)?).ok_or(RecordError::Malformed)?);
    }
    Ok(items)
}

fn malformed<E>(_detail: E) -> RecordError {
    RecordError::Malformed
}

fn node_type(number: u8) -> Result<NodeType, RecordError> {
    [NodeType::Public, NodeType::Private, NodeType::Relay]
        .into_iter()
        .find(|kind| kind.number() == number)
        .ok_or(RecordError::Malformed)
}

fn nat(number: u8) -> Result<Nat, RecordError> {
    [Nat::Unknown, Nat::None, Nat::Endpoint, Nat::Destination]
        .into_iter()
        .find(|kind| kind.number() == number)
        .ok_or(RecordError::Malformed)
}

fn address_bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes
}

fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let ip = match ip.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        _ => return None,
    };
    let port = u16::from_be_bytes(*port);
    // Nobody listens there; a dialler should not be sent there either.
    if port == 0 || ip.is_unspecified() || ip.is_multicast() { None } else { Some(SocketAddr::new(ip, port)) }
}

#[cfg(test)]
pub(crate) mod tests;
