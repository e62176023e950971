//! Syncs that the configuration of a node asks for.

use proto_rpc::v1::{
    Config, CreateConfigRequest, CreateSyncRequest, DeleteConfigRequest, DeleteSyncRequest, ListSyncsRequest,
    PauseSyncRequest, RollbackConfigRequest, RunSyncRequest, Sync, SyncSpec, UpdateConfigRequest,
    ValidateConfigRequest, config_service_client::ConfigServiceClient, sync::State,
    sync_service_client::SyncServiceClient,
};
use tonic::{Code, Status};

use super::world::{Connection, World, fields, reason};

const PHOTOS: &str = "syncs: {photos: {source: 'data:/set', destination: 'b:data:/in'}}\n";
const CHANGED: &str =
    "syncs: {photos: {source: 'data:/set', destination: 'b:data:/in', every: 1h, exclude: ['*.tmp']}}\n";
const ELSEWHERE: &str = "syncs: {photos: {source: 'data:/set', destination: 'b:data:/other'}}\n";

struct Bed {
    world: World,
    configs: ConfigServiceClient<Connection>,
    syncs: SyncServiceClient<Connection>,
}

impl Bed {
    async fn new() -> Self {
        let world = World::new().await;
        for name in ["a", "b"] {
            world.node(name).await;
        }
        let (configs, syncs) = (ConfigServiceClient::new(world.admin()), SyncServiceClient::new(world.admin()));
        Self { world, configs, syncs }
    }

    async fn create(&mut self, document: &str, validate_only: bool) -> Result<Config, Status> {
        let (config_id, document) = ("node.a".to_owned(), document.to_owned());
        let request = CreateConfigRequest { config_id, document, validate_only, ..CreateConfigRequest::default() };
        self.configs.create_config(request).await.map(tonic::Response::into_inner)
    }

    async fn update(&mut self, of: &Config, document: &str) -> Result<Config, Status> {
        let request = UpdateConfigRequest {
            name: of.name.clone(),
            document: document.to_owned(),
            etag: of.etag.clone(),
            ..UpdateConfigRequest::default()
        };
        self.configs.update_config(request).await.map(tonic::Response::into_inner)
    }

    async fn list(&mut self) -> Vec<Sync> {
        self.syncs.list_syncs(ListSyncsRequest::default()).await.unwrap().into_inner().syncs
    }

    async fn by_hand(&mut self, name: &str, destination: &str) -> Result<Sync, Status> {
        let spec = SyncSpec {
            source_node: "nodes/a".to_owned(),
            source_path: "data:/set".to_owned(),
            destination_node: "nodes/b".to_owned(),
            destination_path: destination.to_owned(),
            every: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
            ..SyncSpec::default()
        };
        let request = CreateSyncRequest { sync_id: name.to_owned(), spec: Some(spec), ..CreateSyncRequest::default() };
        self.syncs.create_sync(request).await.map(tonic::Response::into_inner)
    }

    fn actions(&self) -> String {
        let select = "SELECT coalesce(string_agg(action, ' ' ORDER BY sequence), '') FROM audit_events \
                      WHERE action LIKE 'sync.%' OR action LIKE 'config.%'";
        self.world.sql(select)
    }
}

#[tokio::test]
async fn a_nodes_syncs_come_change_and_go_with_its_document() {
    let mut bed = Bed::new().await;
    bed.create(PHOTOS, true).await.unwrap();
    assert_eq!((bed.list().await.len(), bed.actions().as_str()), (0, ""));
    let config = bed.create(PHOTOS, false).await.unwrap();
    let made = bed.list().await.remove(0);
    assert_eq!(
        (made.name.as_str(), made.config.as_str(), made.state()),
        ("syncs/photos", "configs/node.a", State::Pending)
    );
    assert_eq!(bed.actions(), "config.create sync.create");

    // Another interval and other options: the same sync, by a newer grant. What is unchanged is left alone.
    let config = bed.update(&config, CHANGED).await.unwrap();
    let changed = bed.list().await.remove(0);
    let spec = changed.spec.clone().unwrap();
    assert_eq!((&changed.uid, spec.exclude.len(), spec.every.unwrap().seconds), (&made.uid, 1, 3600));
    assert_eq!(bed.world.sql("SELECT grant_serial FROM syncs"), "2");
    let config = bed.update(&config, &format!("{CHANGED}transport: {{max_streams: 99}}\n")).await.unwrap();
    assert_eq!(bed.list().await.remove(0).etag, changed.etag);

    // It is the configuration's: it can be held and run, not deleted.
    let name = made.name.clone();
    let delete = DeleteSyncRequest { name: name.clone(), ..DeleteSyncRequest::default() };
    let refused = bed.syncs.delete_sync(delete).await.unwrap_err();
    assert_eq!(reason(&refused), "WRONG_STATE");
    assert!(refused.message().contains("dwcp config set node.a"), "{}", refused.message());
    bed.syncs.run_sync(RunSyncRequest { name: name.clone(), ..RunSyncRequest::default() }).await.unwrap();
    bed.syncs.pause_sync(PauseSyncRequest { name, ..PauseSyncRequest::default() }).await.unwrap();

    // Another place: another sync.
    let config = bed.update(&config, ELSEWHERE).await.unwrap();
    let moved = bed.list().await;
    assert_eq!(moved.len(), 1);
    assert!(moved[0].uid != made.uid && moved[0].state() == State::Pending);

    // Back to a former revision, and away with the document.
    let back =
        RollbackConfigRequest { name: "configs/node.a/revisions/1".to_owned(), ..RollbackConfigRequest::default() };
    let config_back = bed.configs.rollback_config(back).await.unwrap().into_inner();
    assert_eq!(bed.list().await[0].spec.as_ref().unwrap().destination_path, "data:/in");
    assert_ne!(config_back.etag, config.etag);
    let delete =
        DeleteConfigRequest { name: config_back.name, etag: config_back.etag, ..DeleteConfigRequest::default() };
    bed.configs.delete_config(delete).await.unwrap();
    assert_eq!(bed.list().await, []);
    assert_eq!(
        bed.actions(),
        "config.create sync.create config.update sync.update config.update sync.run sync.pause \
         config.update sync.delete sync.create config.rollback sync.delete sync.create config.delete sync.delete"
    );
}

#[tokio::test]
async fn a_document_whose_syncs_cannot_be_is_not_stored() {
    let mut bed = Bed::new().await;
    bed.by_hand("mine", "data:/in/set/below").await.unwrap();
    let sync =
        |destination: &str| format!("syncs: {{photos: {{source: 'data:/set', destination: '{destination}'}}}}\n");
    let mine = "syncs: {mine: {source: 'data:/set', destination: 'b:data:/else'}}\n".to_owned();
    for (document, says) in [
        (sync("nobody:data:/in"), "nodes/nobody is not in the fleet"),
        (sync("b:data:/in"), "syncs/mine keeps this destination"),
        (mine, "dwcp sync delete mine"),
    ] {
        let refused = bed.create(&document, false).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(says), "{}", refused.message());
        assert!(fields(&refused)[0].starts_with("config.syncs."), "{refused:?}");
        let asked = ValidateConfigRequest { name: "configs/node.a".to_owned(), document };
        let answer = bed.configs.validate_config(asked).await.unwrap().into_inner();
        assert!(!answer.valid && answer.diagnostics[0].message.contains(says), "{answer:?}");
    }
    let fleet = CreateConfigRequest {
        config_id: "fleet".to_owned(),
        document: PHOTOS.to_owned(),
        ..CreateConfigRequest::default()
    };
    let refused = bed.configs.create_config(fleet).await.unwrap_err();
    assert!(refused.message().contains("configs/node.NAME"), "{}", refused.message());
    // Two of one document in one place, and more than there may be: one is a document's whole fate.
    let two = |n: usize, at: &str| {
        let lines = (0..n).map(|i| format!("  s{i}: {{source: 'data:/set', destination: 'b:data:/{at}{i}'}}\n"));
        format!("syncs:\n{}", lines.collect::<String>())
    };
    let same = two(2, "x").replace("x1", "x0");
    assert!(bed.create(&same, false).await.unwrap_err().message().contains("keeps this destination"));
    let full = bed.create(&two(3, "y"), false).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains("limits.syncs_of_a_node"), "{}", full.message());
    assert_eq!((bed.list().await.len(), bed.actions().as_str()), (1, "sync.create"));
    assert_eq!(bed.world.sql("SELECT count(*) FROM configs"), "0");
    bed.create(&two(2, "y"), false).await.unwrap();
    assert_eq!(bed.list().await.len(), 3);
}

#[test]
fn who_may_write_a_configuration_may_make_syncs() {
    let rule = |path: &str| crate::auth::Rule::of(path);
    for verb in ["CreateConfig", "UpdateConfig", "RollbackConfig", "DeleteConfig"] {
        assert_eq!(rule(&format!("/dwcp.v1.ConfigService/{verb}")), rule("/dwcp.v1.SyncService/CreateSync"), "{verb}");
    }
}
