//! AMST: adaptive multi-stream transport. Moves opaque pieces between the nodes of a fleet over QUIC; knows no files.
//!
//! * An [`Endpoint`] is one UDP port, served by a fixed number of sockets with a thread each; the kernel steers datagrams
//!   to them by connection id.
//! * A [`Session`] is all there is between two nodes: a few *lanes* (QUIC connections, and where that pays one over TCP with TLS), authenticated in both directions by
//!   the fleet's certificates and the roster. Either end may dial.
//! * A [`Channel`] is one conversation in a session: ordered control frames both ways, and numbered pieces of at most
//!   [`MAX_PIECE`] bytes both ways, each in a stream of its own, arriving in any order.
//!
//! Memory is promised before data is sent: the receiving end grants each channel credit out of a budget of the process,
//! and a sender without credit waits. So what a process holds is bounded whatever its peers do, and a channel whose owner
//! reads nothing stops only itself.

mod budget;
mod channel;
mod close;
pub mod congestion;
mod doorkeeper;
mod endpoint;
mod frames;
mod lane_thread;
mod pace;
pub mod parsers;
mod path_use;
mod pool;
mod profiles;
mod rate;
mod scaler;
mod session;
mod settings;
mod slots;
mod steering;
mod tcp;
mod tcp_choice;
mod telemetry;
mod timer;
mod transport;

pub use channel::{
    Arrivals, Channel, ControlError, ControlReceiver, ControlSender, Piece, PieceReceiver, PieceSender, SendError,
};
pub use close::{CloseReason, Closed};
pub use endpoint::{BindError, DialError, Endpoint, IncomingChannel, MemoryUse, Options, TcpPort};
pub use frames::EARLY;
pub use path_use::PathUse;
pub use profiles::{MAX_PROFILES, PeerProfile};
pub use rate::Rates;
pub use scaler::{Move, Reason, Scaled};
pub use session::{MOVES, OpenChannelError, PastMove, PingError, Session, SessionInfo, TcpLaneInfo};
pub use settings::{Limits, SettingsError, TransportSettings};

/// Bytes of a piece at most: 1 MiB of data and 4 KiB for what a transfer puts before it. At the smallest MTU these are 915
/// packets, so that no loss can make more than the 1,024 gaps at which quinn closes a connection.
pub const MAX_PIECE: usize = 1024 * 1024 + 4 * 1024;

/// Bytes of a control frame at most: a manifest page of 1 MiB with what surrounds it.
pub const MAX_CONTROL_FRAME: usize = 1024 * 1024 + 16 * 1024;
