//! `dwcp-agent join`: redeems a token, tries the ways in both directions, and says what to type next.

use std::{
    fs,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use dataplane_control_client::{
    BROKE, Endpoint, Enrolment, FORGOTTEN, REVOKED, Rotation,
    enrol::{self, EnrolRequest, Enrolled},
    probe::{self, ProbeError, WayIn},
    visit::{self, Visit},
};
use dataplane_identity::{CaFingerprint, Identity, NodeKey, tls};
use foundation_runtime::{Clock, RememberedPorts, TaskGroup};
use proto_model::{HostFacts, NodeName};
use rustls::ClientConfig;

use crate::{
    apply::chain,
    command::JoinArgs,
    data_dir,
    defaults::QUIC_PORT,
    host,
    reach::{WayOut, way_out},
    run,
};

/// How long a host that has joined looks whether the control plane still knows it: a unit's start waits for this.
const LOOK: Duration = Duration::from_secs(4);

/// How often within that, where the connection is lost without a word.
const LOOKS: u32 = 10;

/// A token is one line; a file that is longer is something else.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Why a host did not join: a sentence for people, to be printed as it is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JoinError(String);

impl JoinError {
    fn of(error: impl std::error::Error) -> Self {
        Self(chain(&error))
    }
}

/// Root joins for whoever owns the data directory, as that user, so that the agent can read what is written. To be called
/// before there are threads.
///
/// # Errors
/// The token cannot be read, or the system refuses.
pub fn as_owner(args: &mut JoinArgs) -> Result<(), JoinError> {
    let dir = args.data_dir.get_or_insert_with(data_dir::default_dir).clone();
    if Enrolment::load(&dir).is_ok_and(|enrolment| enrolment.is_none()) {
        // A file with the token may be root's alone.
        (args.token, args.token_file) = (Some(token(args)?), None);
    }
    data_dir::become_owner(&dir)
        .map_err(|error| JoinError(format!("cannot become the owner of {}: {error}", dir.display())))
}

/// Joins, and writes what happened to `out`.
///
/// # Errors
/// The host did not join; a way that is closed is no error.
pub async fn join(
    args: JoinArgs,
    clock: &Clock,
    tasks: &TaskGroup,
    out: &mut (dyn io::Write + Send),
) -> Result<(), JoinError> {
    let endpoint: Endpoint = args.endpoint.parse().map_err(JoinError::of)?;
    let pinned: CaFingerprint = args.ca_fingerprint.parse().map_err(JoinError::of)?;
    let dir = data_dir::prepare(args.data_dir.clone()).map_err(JoinError::of)?;
    let mut again = false;
    if let Some(enrolment) = Enrolment::load(&dir).map_err(JoinError::of)? {
        let name = enrolment.name.clone();
        let todo = joined_before(enrolment, &endpoint, pinned, &dir, (clock, out)).await?;
        let has_token = args.token.is_some() || args.token_file.is_some();
        if todo == Again::Nothing {
            return match args.name.filter(|wished| *wished != name.to_string()) {
                Some(wished) => say(
                    out,
                    format_args!(
                        "‼ it stays nodes/{name}: a host that has joined takes no other name, so not `{wished}`"
                    ),
                ),
                None => Ok(()),
            };
        }
        if !has_token {
            return Err(JoinError(format!(
                "the control plane at {endpoint} does not know this host: it was restored from a backup that was made before it joined; \
                 give --token-file with a token of `dwcp token create --node NAME`"
            )));
        }
        say(out, format_args!("‼ the control plane does not know this host since it was restored: it joins again"))?;
        again = true;
    }
    let token = token(&args)?;
    let quic = args.quic_listen.unwrap_or(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), QUIC_PORT));
    let key = NodeKey::load_or_create(&dir).map_err(JoinError::of)?;
    let request = EnrolRequest {
        token,
        csr: key.csr_der().map_err(JoinError::of)?,
        name: wished_name(args.name.as_deref())?,
        facts: facts(),
    };
    let enrolled = enrol::enrol(&endpoint, pinned, request).await.map_err(JoinError::of)?;
    say(out, format_args!("√ {endpoint} answers over TCP, and its CA is the one that was named"))?;
    let Enrolled { enrolment, certificate, bundle } = enrolled;
    let kept = (dir.clone(), key.clone());
    let identity = tasks
        .blocking("keep the identity", move || Identity::establish(&kept.0, kept.1, certificate, bundle))
        .await
        .map_err(JoinError::of)?
        .map_err(JoinError::of)?;
    // The rest is worth knowing, but a firewall is no reason not to join.
    let tls = tls::grpc_client_config(&identity).map_err(JoinError::of)?;
    let visit = visit::visit(&endpoint, &tls, facts(), clock).await;
    say_visit(&visit, out)?;
    if let Ok(visit) = &visit {
        try_ways(visit, &dir, quic, out).await?;
    }
    let stored = (enrolment.clone(), dir.clone());
    tasks
        .blocking("keep the enrolment", move || stored.0.store(&stored.1))
        .await
        .map_err(JoinError::of)?
        .map_err(JoinError::of)?;
    let public = key.public_key().to_string();
    say(
        out,
        format_args!("√ joined as nodes/{}   key ed25519:{}…   uid {}", enrolment.name, &public[..8], enrolment.uid),
    )?;
    if again {
        return say(out, format_args!("Next: restart the agent of {}, where it runs", dir.display()));
    }
    next(&enrolment, &dir, out)
}

/// What is left to do on a host that has joined before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Nothing,
    /// The control plane does not know the host any more.
    Join,
}

/// Takes down where the control plane is now.
async fn joined_before(
    mut enrolment: Enrolment,
    endpoint: &Endpoint,
    pinned: CaFingerprint,
    dir: &Path,
    (clock, out): (&Clock, &mut (dyn io::Write + Send)),
) -> Result<Again, JoinError> {
    if enrolment.ca_fingerprint != pinned {
        return Err(JoinError(format!(
            "{dir} already belongs to another fleet (CA {theirs}, as nodes/{name}); \
             give another --data-dir, or remove that one if the host is to leave its fleet",
            dir = dir.display(),
            theirs = enrolment.ca_fingerprint,
            name = enrolment.name,
        )));
    }
    let identity = Identity::open(dir).map_err(JoinError::of)?.ok_or_else(|| JoinError(run::lost(dir)))?;
    let tls = tls::grpc_client_config(&identity).map_err(JoinError::of)?;
    let visit = tokio::time::timeout(LOOK, look(endpoint, &tls, clock)).await;
    let visit = visit.unwrap_or_else(|_elapsed| Err("it does not answer".to_owned()));
    match &visit {
        Err(why) if why.contains(FORGOTTEN) => return Ok(Again::Join),
        Err(why) if why.contains(REVOKED) => {
            return Err(JoinError(format!("{} was nodes/{}: {why}", dir.display(), enrolment.name)));
        }
        Ok(()) | Err(_) => {}
    }
    let known = enrolment.endpoints.first() == Some(endpoint);
    if !known {
        enrolment.endpoints =
            Rotation::new(std::iter::once(endpoint.clone()).chain(enrolment.endpoints)).all().cloned().collect();
        enrolment.store(dir).map_err(JoinError::of)?;
    }
    match (known, &visit) {
        (true, _) => say(out, format_args!("√ joined before as nodes/{}; nothing to do", enrolment.name))?,
        (false, Ok(())) => {
            say(
                out,
                format_args!(
                    "√ joined before as nodes/{}; the control plane answers at {endpoint}, which is noted",
                    enrolment.name
                ),
            )?;
        }
        (false, Err(why)) => {
            say(out, format_args!("√ joined before as nodes/{}; {endpoint} is noted", enrolment.name))?;
            say(out, format_args!("‼ no session there yet: {why}; the agent goes on trying"))?;
        }
    }
    next(&enrolment, dir, out)?;
    Ok(Again::Nothing)
}

/// Whether a session opens. A control plane that refuses this host's certificate says so after the handshake, and the call is
/// sometimes quicker to find the connection gone than to hear why: then it is asked again.
async fn look(endpoint: &Endpoint, tls: &ClientConfig, clock: &Clock) -> Result<(), String> {
    let mut tries = 1;
    loop {
        match visit::visit(endpoint, tls, facts(), clock).await {
            Err(why) if why.contains(BROKE) && tries < LOOKS => tries += 1,
            visited => return visited.map(drop),
        }
    }
}

fn next(enrolment: &Enrolment, dir: &Path, out: &mut (dyn io::Write + Send)) -> Result<(), JoinError> {
    let running = dir.join(crate::ready::FILE).exists();
    let run = if running {
        "the agent that runs here takes it up by itself".to_owned()
    } else {
        format!("dwcp-agent run --data-dir {} --root data=/srv/data", dir.display())
    };
    say(out, format_args!("Next: {run} · dwcp node get {} · dwcp send FILE {}:data:/", enrolment.name, enrolment.name))
}

/// The token, from where it was given; it is never part of a message.
fn token(args: &JoinArgs) -> Result<String, JoinError> {
    let text = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) if path.as_os_str() == "-" => read_token(io::stdin(), Path::new("standard input"))?,
        (None, Some(path)) => {
            let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
            read_token(file, path)?
        }
        (None, None) => String::new(),
    };
    let token = text.trim();
    if token.is_empty() {
        return Err(JoinError("the token is empty; `dwcp token create` makes one".to_owned()));
    }
    Ok(token.to_owned())
}

fn read_token(source: impl io::Read, path: &Path) -> Result<String, JoinError> {
    let mut text = String::new();
    source.take(MAX_TOKEN_BYTES).read_to_string(&mut text).map_err(|error| unreadable(path, &error))?;
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> JoinError {
    JoinError(format!("cannot read the token from {}: {error}", path.display()))
}

fn wished_name(given: Option<&str>) -> Result<String, JoinError> {
    match given {
        Some(name) => Ok(name.parse::<NodeName>().map_err(JoinError::of)?.to_string()),
        None => Ok(NodeName::from_hostname(&host::hostname()).map_or_else(String::new, String::from)),
    }
}

fn facts() -> HostFacts {
    HostFacts {
        agent_version: crate::VERSION.to_owned(),
        os: host::operating_system(),
        hostname: host::hostname(),
        ..HostFacts::default()
    }
}

fn say_visit(visit: &Result<Visit, String>, out: &mut (dyn io::Write + Send)) -> Result<(), JoinError> {
    match visit {
        Ok(visit) => match visit.skew_ms {
            Some(skew) if skew.abs() > 60_000 => say(
                out,
                format_args!(
                    "‼ this host's clock is {} s off the control plane's: set it (5 min are tolerated)",
                    skew / 1000
                ),
            ),
            _fine => {
                say(out, format_args!("√ a session with the control plane opens with this host's own certificate"))
            }
        },
        Err(why) => say(out, format_args!("‼ no session yet: {why}; the agent goes on trying")),
    }
}

async fn try_ways(
    visit: &Visit,
    dir: &Path,
    quic: SocketAddr,
    out: &mut (dyn io::Write + Send),
) -> Result<(), JoinError> {
    if visit.ring.is_empty() {
        say(out, format_args!("‼ udp out: not tried, the control plane has no DHT port"))?;
    } else {
        say_way_out(&way_out(&visit.ring).await, out)?;
    }
    let listen = kept_port(dir, quic)?;
    let way_in = match probe::way_in(visit.channel.clone(), listen).await {
        // An old kernel without IPv6 still has all its IPv4 addresses.
        Err(ProbeError::Bind { .. }) if listen.is_ipv6() => {
            probe::way_in(visit.channel.clone(), SocketAddr::new([0, 0, 0, 0].into(), listen.port())).await
        }
        tried => tried,
    };
    say_way_in(&way_in, listen.port(), out)
}

/// The port that the agent will use, chosen now where it was given as 0.
fn kept_port(dir: &Path, listen: SocketAddr) -> Result<SocketAddr, JoinError> {
    let mut ports = RememberedPorts::load(dir).map_err(JoinError::of)?;
    let wanted = ports.wanted("quic", listen.port());
    let port = if wanted == 0 {
        let free = std::net::UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).and_then(|socket| socket.local_addr());
        free.map_err(JoinError::of)?.port()
    } else {
        wanted
    };
    ports.keep("quic", listen.port(), port).map_err(JoinError::of)?;
    Ok(SocketAddr::new(listen.ip(), port))
}

fn say_way_out(way: &WayOut, out: &mut (dyn io::Write + Send)) -> Result<(), JoinError> {
    match way {
        WayOut::Open(node) => say(out, format_args!("√ udp out: the DHT at {node} answers")),
        WayOut::Closed(asked) => {
            let asked: Vec<_> = asked.iter().map(ToString::to_string).collect();
            let port = asked.first().and_then(|node| node.rsplit(':').next()).unwrap_or("30610").to_owned();
            say(out, format_args!("× udp out: no answer from {}", asked.join(", ")))?;
            say(out, format_args!("    open on the control plane's host: sudo ufw allow {port}/udp"))?;
            say(out, format_args!("    open in this host's firewall:     UDP to {}", asked.join(", ")))?;
            say(out, format_args!("    until then peers are found through the control plane"))
        }
    }
}

fn say_way_in(way: &Result<WayIn, ProbeError>, port: u16, out: &mut (dyn io::Write + Send)) -> Result<(), JoinError> {
    match way {
        Ok(WayIn::Open { observed }) => {
            let at = observed.map_or_else(String::new, |ip| format!(" ({ip})"));
            say(out, format_args!("√ udp in: the control plane reaches port {port} of this host{at}   path: direct"))
        }
        Ok(WayIn::Closed { observed }) => {
            let at = observed.map_or_else(String::new, |ip| format!(", sent to {ip}"));
            say(out, format_args!("× udp in: nothing arrived on port {port}{at}"))?;
            say(out, format_args!("    open on this host:         sudo ufw allow {port}/udp"))?;
            say(out, format_args!("    open in front of it:       UDP port {port}, forwarded to this host"))?;
            say(out, format_args!("    until then this host can send to others, but they cannot begin to send to it"))
        }
        Err(ProbeError::Bind { port, .. }) => say(
            out,
            format_args!("‼ udp in: not tried, port {port} is in use here (by the agent itself, if it runs already)"),
        ),
        Err(error @ (ProbeError::Call(_) | ProbeError::TimedOut)) => {
            say(out, format_args!("‼ udp in: not tried, {error}"))
        }
    }
}

fn say(out: &mut (dyn io::Write + Send), line: std::fmt::Arguments<'_>) -> Result<(), JoinError> {
    match writeln!(out, "{line}") {
        // Who closed the pipe does not want to read on; the join goes on all the same.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(JoinError::of),
    }
}
