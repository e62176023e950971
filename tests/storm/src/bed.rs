//! Two servers over one PostgreSQL, and hosts that have joined.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use dataplane_control_client::{
    Endpoint,
    enrol::{EnrolRequest, Enrolled, enrol},
};
use dataplane_identity::{CaFingerprint, Identity, NodeKey};
use proto_model::HostFacts;
use proto_rpc::v1::CreateJoinTokenRequest;
use tempfile::TempDir;
use tests_harness::{Api, ControlPlane, Scratch, two_servers};
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinSet};

/// Joins at the same time.
const JOINING: usize = 16;

/// Where hosts are simulated. What is above ends first.
#[derive(Debug)]
pub struct Bed {
    /// The hosts' folders, in memory where there is some: what a disk takes for their small files is not what is measured.
    folders: TempDir,
    /// The servers.
    pub servers: Vec<ControlPlane>,
    /// The database.
    pub url: String,
    /// The folder of all else.
    pub scratch: Scratch,
    /// Where hosts run, and whoever calls the API.
    pub runtime: Runtime,
}

impl Bed {
    /// Starts the servers, with these arguments too.
    ///
    /// # Errors
    /// They do not start.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        // Another may have been chosen already.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        foundation_listener::raise_open_files();
        let scratch = Scratch::new()?;
        let url = tests_postgres::cluster().database();
        let servers = two_servers(&scratch, &url, arguments)?;
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory } else { Path::new("/tmp") };
        let folders = tempfile::Builder::new().prefix("dwcp-storm-").tempdir_in(parent)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { folders, servers, url, scratch, runtime })
    }

    /// The API at a server, as the administrator.
    ///
    /// # Errors
    /// There is no token.
    pub fn api(&self, server: usize) -> Result<Api> {
        let files = self.servers.iter().map(ControlPlane::admin_token_file);
        let file = files.into_iter().find(|file| file.exists()).context("an administrator's token")?;
        let _entered = self.runtime.enter();
        Api::with_token(&self.servers[server].grpc(), &self.servers[server].ca(), fs::read_to_string(file)?.trim())
    }

    /// Lets so many hosts join, one server after the other; their folders.
    ///
    /// # Errors
    /// One is refused.
    pub fn join(&self, count: u16, prefix: &str) -> Result<Vec<PathBuf>> {
        let api = self.api(0)?;
        let request = CreateJoinTokenRequest { max_uses: count.into(), ..CreateJoinTokenRequest::default() };
        let endpoints: Vec<Endpoint> =
            self.servers.iter().map(|server| server.grpc().parse()).collect::<Result<_, _>>()?;
        self.runtime.block_on(async {
            let token = api.join_tokens().create_join_token(request).await?.into_inner();
            let pinned: CaFingerprint = token.ca_fingerprint.parse()?;
            let (secret, room) = (Arc::<str>::from(token.token), Arc::new(Semaphore::new(JOINING)));
            let mut joining = JoinSet::new();
            let mut folders = Vec::new();
            for number in 0..count {
                let name = format!("{prefix}-{number:04}");
                let folder = self.folders.path().join(&name);
                folders.push(folder.clone());
                let endpoint = endpoints[usize::from(number) % endpoints.len()].clone();
                let (secret, room) = (Arc::clone(&secret), Arc::clone(&room));
                joining.spawn(async move {
                    let _place = room.acquire().await?;
                    join_one(&folder, name, &endpoint, pinned, &secret).await
                });
            }
            while let Some(joined) = joining.join_next().await {
                joined??;
            }
            anyhow::Ok(folders)
        })
    }

    /// Kills all servers at once.
    ///
    /// # Errors
    /// One cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.servers.iter_mut().try_for_each(ControlPlane::kill)
    }

    /// Starts all servers at once, and waits until they serve.
    ///
    /// # Errors
    /// One does not come to serve.
    pub fn restart(&mut self) -> Result<()> {
        thread::scope(|scope| {
            let starting: Vec<_> = self.servers.iter_mut().map(|server| scope.spawn(|| server.restart())).collect();
            let started = starting.into_iter().map(|start| start.join().expect("a start does not panic"));
            started.collect::<Result<Vec<()>>>().map(drop)
        })
    }

    /// What `psql` answers.
    #[must_use]
    pub fn sql(&self, statement: &str) -> String {
        tests_postgres::sql(&self.url, statement)
    }
}

async fn join_one(folder: &Path, name: String, endpoint: &Endpoint, pinned: CaFingerprint, token: &str) -> Result<()> {
    fs::create_dir(folder)?;
    let key = NodeKey::load_or_create(folder)?;
    let facts = HostFacts { agent_version: "0.1.0".to_owned(), hostname: name.clone(), ..HostFacts::default() };
    let request = EnrolRequest { token: token.to_owned(), csr: key.csr_der()?, name, facts };
    let Enrolled { enrolment, certificate, bundle } = enrol(endpoint, pinned, request).await?;
    Identity::establish(folder, key, certificate, bundle)?;
    Ok(enrolment.store(folder)?)
}
