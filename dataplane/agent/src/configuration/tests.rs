use super::*;

fn host(text: &str) -> HostLayers {
    let trees = vec![config::parse(Layer::host("/etc/dwcp.yaml", text)).unwrap()];
    HostLayers { report: Tree::report(&trees), trees, origin: "/etc/dwcp.yaml".to_owned() }
}

fn desired(number: u64, document: &str) -> Desired {
    Desired {
        generation: Generation { epoch: Epoch::new(1), number },
        nonce: number,
        digest: proto_model::Digest::sha256(document.as_bytes()).as_bytes().to_vec(),
        layers: vec![DesiredLayer {
            name: "configs/fleet".to_owned(),
            revision: number,
            document: document.to_owned(),
        }],
    }
}

fn apply(configuration: &mut Configuration, desired: &Desired) -> Arc<Effective> {
    match configuration.desired(desired) {
        Verdict::Apply(effective) => {
            configuration.applied(desired, Arc::clone(&effective));
            configuration.keep()().unwrap();
            effective
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_one_is_applied_once_and_answered_with_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let mut configuration = Configuration::restore(dir.path(), host("transport: {min_streams: 2}")).unwrap();
    assert_eq!(configuration.answer().status, ApplyStatus::Unknown);
    let effective = apply(&mut configuration, &desired(1, "transport: {max_streams: 64}"));
    assert_eq!((effective.config.transport.min_streams, effective.config.transport.max_streams), (2, 64));
    let answer = configuration.answer();
    assert_eq!((answer.status, answer.generation, answer.digest), (ApplyStatus::Applied, 1, Some(effective.digest)));
    // The same layers under a new generation change nothing but the answer.
    assert!(matches!(configuration.desired(&desired(2, "transport: {max_streams: 64}")), Verdict::Unchanged));
    assert_eq!(configuration.answer().generation, 2);
}

#[test]
fn a_bad_one_is_rejected_with_its_path_and_the_last_good_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut configuration = Configuration::restore(dir.path(), host("{}")).unwrap();
    let good = apply(&mut configuration, &desired(1, "transport: {max_streams: 64}"));
    assert!(matches!(configuration.desired(&desired(2, "transport: {max_streams: 8}")), Verdict::Rejected));
    let answer = configuration.answer();
    assert_eq!((answer.status, answer.generation, answer.digest), (ApplyStatus::Rejected, 2, Some(good.digest)));
    assert!(answer.errors.iter().any(|error| error.contains("transport.max_streams")), "{:?}", answer.errors);
    // Not even YAML, and a layer that nobody knows.
    assert!(matches!(configuration.desired(&desired(3, "- - [")), Verdict::Rejected));
    let mut strange = desired(4, "{}");
    strange.layers[0].name = "configs/\u{1b}nobody".to_owned();
    assert!(matches!(configuration.desired(&strange), Verdict::Rejected));
    // Back to the good one.
    assert!(matches!(configuration.desired(&desired(5, "transport: {max_streams: 64}")), Verdict::Unchanged));
    assert_eq!(configuration.answer().status, ApplyStatus::Applied);
}

#[test]
fn what_a_part_refuses_is_rejected_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut configuration = Configuration::restore(dir.path(), host("{}")).unwrap();
    let wish = desired(1, "logging: {format: json}");
    assert!(matches!(configuration.desired(&wish), Verdict::Apply(_)));
    configuration.refused(&wish, vec!["logging.file: no".to_owned()]);
    assert_eq!(configuration.answer().status, ApplyStatus::Rejected);
    assert_eq!(configuration.in_force().generation, None);
}

#[test]
fn a_restart_without_a_control_plane_brings_back_what_was_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let mut configuration = Configuration::restore(dir.path(), host("{}")).unwrap();
    let good = apply(&mut configuration, &desired(1, "transport: {max_streams: 64}"));
    configuration.desired(&desired(2, "nonsense: 1"));
    configuration.keep()().unwrap();

    let restored = Configuration::restore(dir.path(), host("{}")).unwrap();
    assert_eq!(restored.in_force().effective.digest, good.digest);
    assert_eq!(restored.answer().status, ApplyStatus::Rejected);
    fs::write(dir.path().join(NEWEST), b"{").unwrap();
    let restored = Configuration::restore(dir.path(), host("{}")).unwrap();
    assert_eq!(restored.answer().status, ApplyStatus::Applied);
}

#[test]
fn a_changed_host_layer_counts_and_a_wrong_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut configuration = Configuration::restore(dir.path(), host("{}")).unwrap();
    apply(&mut configuration, &desired(1, "transport: {max_streams: 64}"));
    let effective = configuration.host_changed(host("transport: {max_streams: 32}")).unwrap();
    assert_eq!(effective.config.transport.max_streams, 32);
    let before = configuration.answer();
    assert!(configuration.host_changed(host("transport: {max_streams: 1}")).is_err());
    assert_eq!(configuration.answer(), before);
}

#[test]
fn an_older_generation_is_refused_and_a_new_epoch_is_newer_than_all_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut configuration = Configuration::restore(dir.path(), host("{}")).unwrap();
    let good = apply(&mut configuration, &desired(8, "transport: {max_streams: 64}"));
    // The database was put back behind our back.
    for mut configuration in [configuration, Configuration::restore(dir.path(), host("{}")).unwrap()] {
        assert!(matches!(configuration.desired(&desired(5, "transport: {max_streams: 32}")), Verdict::Rejected));
        let answer = configuration.answer();
        assert_eq!((answer.status, answer.digest), (ApplyStatus::Rejected, Some(good.digest)));
        assert!(answer.errors[0].contains("1.5 is older than 1.8"), "{:?}", answer.errors);
        // A restore opens an epoch.
        let mut restored = desired(1, "transport: {max_streams: 32}");
        restored.generation.epoch = Epoch::new(2);
        let effective = apply(&mut configuration, &restored);
        assert_eq!((effective.config.transport.max_streams, configuration.answer().status), (32, ApplyStatus::Applied));
    }
}
