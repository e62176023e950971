//! What the service manager is told (sd_notify(3), `Type=notify` and `notify-reload`). Where nobody asked by `NOTIFY_SOCKET`,
//! nothing happens: a program says these things whoever started it.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::{OnEnd, TaskGroup};

/// It serves; with a sentence for `systemctl status`.
pub fn ready(status: &str) {
    notify(&format!("READY=1\nSTATUS={}", line(status)));
}

/// It was told to stop.
pub fn stopping() {
    notify("STOPPING=1\nSTATUS=Stopping");
}

/// A sentence for `systemctl status`.
pub fn status(status: &str) {
    notify(&format!("STATUS={}", line(status)));
}

/// It reads its files again; [`ready`] is to follow. The time lets the manager tell this reload from an earlier one.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// Tells the manager twice in each of its intervals that this program's tasks still run, where the unit asks for that by
/// `WatchdogSec=`.
pub fn keep_alive(tasks: &TaskGroup) {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let Some(interval) = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0).map(Duration::from_micros) else {
        return;
    };
    let token = tasks.token().clone();
    tasks.spawn("watchdog", OnEnd::Expected, async move {
        let mut ticks = tokio::time::interval(interval / 2);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            notify("WATCHDOG=1");
        }
    });
}

fn notify(state: &str) {
    if let Err(error) = send(state) {
        tracing::warn!(component = "service_manager", %error, state, "The service manager cannot be told");
    }
}

fn send(state: &str) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return Ok(()) };
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

/// One line: another one would be another assignment.
fn line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_status_stays_one_assignment() {
        assert_eq!(super::line("a\nREADY=1"), "a READY=1");
    }
}
