//! A TCP port in front of PostgreSQL's socket, whose connections can be reset.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use foundation_runtime::{OnEnd, TaskGroup};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    sync::broadcast,
};

/// Ends with its tasks.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    reset: broadcast::Sender<()>,
}

impl Gate {
    /// Before the cluster whose socket lies in this folder. Within a runtime.
    pub(crate) async fn start(folder: PathBuf, tasks: &TaskGroup) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, reset) = (listener.local_addr()?, broadcast::Sender::new(1));
        let (socket, orders, carriers) = (folder.join(".s.PGSQL.5432"), reset.clone(), tasks.clone());
        tasks.spawn("gate", OnEnd::Expected, async move {
            while let Ok((tcp, _peer)) = listener.accept().await {
                carriers.spawn("carry", OnEnd::Expected, carry(tcp, socket.clone(), orders.subscribe()));
            }
        });
        Ok(Self { address, reset })
    }

    /// Where a control plane finds the database.
    pub(crate) fn url(&self) -> String {
        format!("postgresql://dwcp@{}/fleet", self.address)
    }

    /// Resets all connections (RST).
    pub(crate) fn reset(&self) {
        // Without connections nobody hears it.
        drop(self.reset.send(()));
    }
}

async fn carry(mut tcp: TcpStream, socket: PathBuf, mut reset: broadcast::Receiver<()>) {
    let Ok(mut unix) = UnixStream::connect(socket).await else { return };
    tokio::select! {
        _ended = copy_bidirectional(&mut tcp, &mut unix) => {}
        _order = reset.recv() => drop(tcp.set_zero_linger()),
    }
}
