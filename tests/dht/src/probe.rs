//! One stranger with a socket, who asks a node by hand.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use dataplane_dht::RecordSigner as _;
use ed25519_dalek::SigningKey;
use proto_model::PublicKey;

use crate::krpc::Value;

/// Nobody answers later than that on this host.
const LIMIT: Duration = Duration::from_millis(500);

/// A stranger.
#[derive(Debug)]
pub struct Probe {
    socket: UdpSocket,
    node: SocketAddrV4,
    /// The transaction of each question.
    pub transaction: Vec<u8>,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It took it, or has an answer.
    Yes(Value),
    /// An error of this number.
    Error(i64),
    /// Nothing.
    Nothing,
}

impl Said {
    /// In a word.
    #[must_use]
    pub fn verdict(&self) -> String {
        match self {
            Self::Yes(_) => "taken".to_owned(),
            Self::Error(code) => code.to_string(),
            Self::Nothing => "silence".to_owned(),
        }
    }

    /// An entry of its answer.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        if let Self::Yes(answer) = self { answer.get(key) } else { None }
    }
}

/// An item to put, by BEP 44's names.
#[derive(Clone, Debug)]
pub struct Item {
    /// Whose.
    pub signer: SigningKey,
    /// What, as it is bencoded.
    pub value: Value,
    /// `seq`.
    pub seq: i64,
    /// `salt`.
    pub salt: Vec<u8>,
    /// `cas`.
    pub cas: Option<i64>,
}

impl Item {
    /// Without salt or `cas`.
    #[must_use]
    pub fn new(signer: &SigningKey, value: &[u8], seq: i64) -> Self {
        Self { signer: signer.clone(), value: Value::bytes(value), seq, salt: Vec::new(), cas: None }
    }

    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.signer.public_key()
    }

    /// What is signed, by BEP 44.
    #[must_use]
    pub fn signable(&self) -> Vec<u8> {
        let mut message = Vec::new();
        if !self.salt.is_empty() {
            message.extend_from_slice(format!("4:salt{}:", self.salt.len()).as_bytes());
            message.extend_from_slice(&self.salt);
        }
        message.extend_from_slice(format!("3:seqi{}e1:v", self.seq).as_bytes());
        message.extend_from_slice(&self.value.encode());
        message
    }
}

impl Probe {
    /// One who asks this node from an address of 127.0.0.0/8.
    ///
    /// # Errors
    /// No socket.
    pub fn new(node: SocketAddrV4, from: Ipv4Addr) -> Result<Self> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self { socket, node, transaction: b"abcd".to_vec() })
    }

    /// Sends bytes; the answer as it came, and none where nothing did.
    ///
    /// # Errors
    /// They cannot be sent.
    pub fn send(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        self.socket.send_to(bytes, self.node)?;
        let mut buffer = vec![0; 4096];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, _)) => Ok(Some(buffer[..length].to_vec())),
            Err(_nothing_came) => Ok(None),
        }
    }

    /// A question, as it is sent.
    #[must_use]
    pub fn question(&self, what: &str, arguments: Vec<(&str, Value)>) -> Vec<u8> {
        let id = ("id", Value::bytes(b"strangerstrangerstra"));
        let arguments = arguments.into_iter().chain([id]);
        let arguments = Value::Map(arguments.map(|(key, value)| (key.as_bytes().to_vec(), value)).collect());
        let entries = [
            ("a", arguments),
            ("q", Value::bytes(what)),
            ("t", Value::bytes(&self.transaction)),
            ("y", Value::bytes("q")),
        ];
        Value::map(entries).encode()
    }

    /// Asks.
    ///
    /// # Errors
    /// It cannot be sent, or the answer is none.
    pub fn ask(&self, what: &str, arguments: Vec<(&str, Value)>) -> Result<Said> {
        let Some(answer) = self.send(&self.question(what, arguments))? else { return Ok(Said::Nothing) };
        let answer = Value::decode(&answer).context("the answer is not bencoded")?;
        anyhow::ensure!(answer.get("t").and_then(Value::as_bytes) == Some(&self.transaction), "{answer:?}");
        match (answer.get("r"), answer.get("e")) {
            (Some(reply), _) => Ok(Said::Yes(reply.clone())),
            (None, Some(Value::List(error))) => match error.first() {
                Some(Value::Number(code)) => Ok(Said::Error(*code)),
                _ => anyhow::bail!("{error:?}"),
            },
            _ => anyhow::bail!("{answer:?}"),
        }
    }

    /// What lies under a key.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn get(&self, target: &[u8], seq: Option<i64>) -> Result<Said> {
        let mut arguments = vec![("target", Value::bytes(target))];
        arguments.extend(seq.map(|seq| ("seq", Value::Number(seq))));
        self.ask("get", arguments)
    }

    /// Puts an item by the BEP's own form, after a `get` for the token; `change` may change what is sent.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn put(&self, item: &Item, target: &[u8], change: impl FnOnce(&mut Vec<(&str, Value)>)) -> Result<Said> {
        let token = self.get(target, None)?.get("token").context("a token")?.clone();
        let mut arguments = vec![
            ("k", Value::bytes(item.key().to_bytes())),
            ("seq", Value::Number(item.seq)),
            ("sig", Value::bytes(item.signer.sign(&item.signable()))),
            ("target", Value::bytes(target)),
            ("token", token),
            ("v", item.value.clone()),
        ];
        if !item.salt.is_empty() {
            arguments.push(("salt", Value::bytes(&item.salt)));
        }
        arguments.extend(item.cas.map(|cas| ("cas", Value::Number(cas))));
        change(&mut arguments);
        self.ask("put", arguments)
    }
}
