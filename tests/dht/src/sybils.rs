//! Made-up nodes: ids ground close to one key, each at an address of its own, answering by hand.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use dataplane_dht::SignedRecord;
use proto_model::NodeId;
use rand::{RngExt as _, rngs::StdRng};
use tokio::{net::UdpSocket, task::JoinSet};

use crate::krpc::Value;

/// What they say of the key that they stand around.
#[derive(Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lie {
    /// Nothing, not even that there is nothing.
    Silent,
    /// That there is nothing, and that what is put is kept.
    Empty,
    /// An older record.
    Old,
    /// Other nodes, where nobody is.
    Junk,
}

/// Made-up nodes that answer until dropped.
#[derive(Debug)]
pub struct Sybils {
    /// Where they are, with their ids.
    pub nodes: Vec<(NodeId, SocketAddrV4)>,
    /// Questions for the key.
    pub asked: Arc<AtomicUsize>,
    _answering: JoinSet<()>,
}

struct Told {
    lie: Lie,
    target: NodeId,
    old: SignedRecord,
    compact: Vec<Vec<u8>>,
    asked: Arc<AtomicUsize>,
}

impl Sybils {
    /// So many around `target`, who tell `lie`.
    ///
    /// # Errors
    /// No address is free.
    pub async fn start(count: u16, lie: &Lie, target: NodeId, old: &SignedRecord, random: &mut StdRng) -> Result<Self> {
        let (mut nodes, mut sockets) = (Vec::new(), Vec::new());
        for number in 0..count {
            // The first twelve bytes are those of the key: nearer than any honest node.
            let mut id = *target.as_bytes();
            id[12..].iter_mut().for_each(|byte| *byte = random.random());
            let [high, low] = number.to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 66, high + 1, low), 0)).await?;
            let std::net::SocketAddr::V4(address) = socket.local_addr()? else { continue };
            nodes.push((NodeId::from_bytes(id), address));
            sockets.push(socket);
        }
        let asked = Arc::new(AtomicUsize::new(0));
        let told = Arc::new(Told {
            lie: lie.clone(),
            target,
            old: old.clone(),
            compact: nodes.iter().map(|(id, address)| compact(*id, *address)).collect(),
            asked: Arc::clone(&asked),
        });
        let mut answering = JoinSet::new();
        for ((id, _), socket) in nodes.iter().zip(sockets) {
            let (id, told) = (*id, Arc::clone(&told));
            answering.spawn(async move {
                let mut buffer = [0; 2048];
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    if let Some(answer) = Value::decode(&buffer[..length]).and_then(|asked| told.answer(id, &asked)) {
                        drop(socket.send_to(&answer, from).await);
                    }
                }
            });
        }
        Ok(Self { nodes, asked, _answering: answering })
    }
}

fn compact(id: NodeId, address: SocketAddrV4) -> Vec<u8> {
    [id.as_bytes().as_slice(), &address.ip().octets(), &address.port().to_be_bytes()].concat()
}

impl Told {
    fn answer(&self, id: NodeId, asked: &Value) -> Option<Vec<u8>> {
        let what = asked.get("q")?.as_bytes()?;
        let target = asked.get("a").and_then(|a| a.get("target")).and_then(Value::as_bytes);
        let ours = target == Some(self.target.as_bytes());
        let mut reply = vec![("id", Value::bytes(id.as_bytes()))];
        if ours && what == b"get" {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.lie == Lie::Silent {
                return None;
            }
            reply.push(("token", Value::bytes("lies")));
            if self.lie == Lie::Old {
                reply.push(("k", Value::bytes(self.old.key.to_bytes())));
                reply.push(("seq", Value::Number(self.old.seq)));
                reply.push(("sig", Value::bytes(self.old.signature)));
                reply.push(("v", Value::bytes(&self.old.value)));
            }
        }
        if matches!(what, b"get" | b"find_node") {
            reply.push(("nodes", Value::Bytes(self.named(ours))));
            if !ours && what == b"get" {
                reply.push(("token", Value::bytes("lies")));
            }
        }
        let reply = reply.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value)).collect();
        let t = asked.get("t")?.clone();
        Some(Value::map([("r", Value::Map(reply)), ("t", t), ("y", Value::bytes("r"))]).encode())
    }

    /// Whom it names: as many of its own as a packet takes, or nobodies.
    fn named(&self, ours: bool) -> Vec<u8> {
        if self.lie == Lie::Junk && ours {
            let nobody = |number: u8| {
                let mut id = *self.target.as_bytes();
                id[19] ^= number;
                compact(NodeId::from_bytes(id), SocketAddrV4::new(Ipv4Addr::new(127, 67, 0, number), 9))
            };
            return (1..=50).flat_map(nobody).collect();
        }
        // Not always the same fifty.
        let skip = rand::random_range(0..self.compact.len().max(1));
        self.compact.iter().cycle().skip(skip).take(self.compact.len().min(50)).flatten().copied().collect()
    }
}
