//! The signals that a program obeys: a wish to stop, and a wish to read its files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Which signal asked the program to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// Waits for a wish to stop.
///
/// # Errors
/// The signals cannot be listened to.
pub async fn stop_signal() -> io::Result<Stop> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => Stop::Interrupt,
        _ = terminate.recv() => Stop::Terminate,
    })
}

/// The stream of SIGHUPs.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Listens from now on.
    ///
    /// # Errors
    /// The signal cannot be listened to.
    pub fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one. Cancel safe.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
