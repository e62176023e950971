//! `dwcp check`: how far clocks are apart.

use std::time::Duration;

use foundation_runtime::Clock;
use proto_rpc::v1::{Check, ServerInfo};

use super::finding::{good, warn, wrong};
use crate::units;

/// D4: so much skew is tolerated; more than a tenth of it is worth a word.
const TOLERATED: Duration = Duration::from_secs(300);
pub(super) const NOTED: Duration = Duration::from_secs(30);

/// Between this host and the control plane.
pub(super) fn ours(info: &ServerInfo, clock: &Clock) -> Check {
    const DESCRIPTION: &str = "this host's clock agrees with the control plane's";
    let Some(server) = info.server_time.as_ref().and_then(units::utc) else {
        return warn(DESCRIPTION, "the control plane does not say its time", "");
    };
    check(DESCRIPTION, (clock.utc() - server).abs().to_std().unwrap_or_default())
}

/// What that much of it means.
pub(super) fn check(description: &str, skew: Duration) -> Check {
    const HINT: &str = "keep clocks in step, for example with systemd-timesyncd or chrony";
    let error = format!("it is {} off", units::duration(skew));
    if skew > TOLERATED {
        wrong(description, &error, HINT)
    } else if skew > NOTED {
        warn(description, &error, HINT)
    } else {
        good(description)
    }
}
