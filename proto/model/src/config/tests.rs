//! What the configuration promises.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    in_force::idle_paths,
    merge::merge,
    node::Node,
    shape::{DEFAULT_TREE, conform},
    *,
};
use crate::{ConfigName, Revision};

/// The DW manual's blocks, as one document (its base), and its two environments.
const MANUAL_BASE: &str = r#"
transport:
  min_streams: 16           # Minimum concurrent streams
  max_streams: 256          # Maximum concurrent streams
  initial_streams: 32       # Starting stream count
  stream_scaling_factor: 1.5
  congestion_algorithm: "bbr"  # bbr, cubic, or reno
  enable_rdma: false        # Auto-detect RDMA hardware
compression:
  enabled: true
  algorithm: "zstd"         # zstd, lz4, or snappy
  level: 3                  # 1-22 (3 = balanced)
  enable_delta_encoding: true
  baseline_interval: 5m
  max_delta_chain: 10
  adaptive_threshold: 3.0   # Switch to delta if ratio > 3.0
monitoring:
  prometheus_enabled: true
  metrics_port: 9090
  metrics_path: "/metrics"
  log_level: "info"         # debug, info, warn, error
  health_check_interval: 30s
"#;
const MANUAL_STAGING: &str = r#"
dwcp:
  enabled: true              # Enable DWCP in staging

  transport:
    initial_streams: 16      # Conservative settings
    max_streams: 128
    enable_rdma: false       # Disable for testing

  monitoring:
    log_level: "debug"       # Verbose logging
    enable_tracing: true
    tracing_sample_rate: 0.5  # 50% sampling
"#;
const MANUAL_PRODUCTION: &str = r#"
dwcp:
  enabled: false             # Disabled until Phase 2

  transport:
    initial_streams: 64      # Aggressive settings
    max_streams: 256
    enable_rdma: true        # Enable if available
    pacing_rate: 10000000000 # 10 Gbps

  monitoring:
    log_level: "info"
    tracing_sample_rate: 0.01  # 1% sampling

  security:
    enable_tls: true
    enable_mtls: true
"#;
const MANUAL_TROUBLESHOOTING: &str =
    "transport:\n  read_timeout: 120s\ncompression:\n  level: 5\n  enable_dictionary: true\n";

fn fleet(text: &str) -> Tree {
    parse(Layer::config(ConfigName::Fleet, Revision::new(1), text)).expect("a document")
}

fn host(text: &str) -> Tree {
    parse(Layer::host("dwcp.yaml", text)).expect("a document")
}

fn refusals(layers: &[Tree]) -> Vec<String> {
    let found = resolve(layers).expect_err("refused");
    found.iter().filter(|one| one.is_error()).map(ToString::to_string).collect()
}

#[test]
fn the_built_in_document_is_valid_and_every_key_of_it_is_read() {
    let effective = resolve(&[]).expect("valid");
    let mut keys = Vec::new();
    DEFAULT_TREE.for_each_leaf("", &mut |path, _| keys.push(path.to_owned()));
    let read: Vec<&str> = effective.values.iter().map(|value| value.path.as_str()).collect();
    assert_eq!(read, keys);
    assert!(effective.warnings.is_empty() && effective.not_in_force.is_empty());
    assert_eq!(effective.config.transport.initial_streams, 32);
    assert!(idle_paths().all(|path| effective.value(path).is_some()));
}

#[test]
fn every_document_of_the_manual_is_accepted() {
    let layers = [fleet(MANUAL_BASE), host(MANUAL_PRODUCTION), host(MANUAL_TROUBLESHOOTING)];
    let effective = resolve(&layers).expect("valid");
    assert!(!effective.config.enabled);
    assert_eq!(effective.config.transport.initial_streams, 64);
    assert_eq!(effective.config.transport.pacing_rate, Some(10_000_000_000));
    assert_eq!(effective.config.transport.read_timeout, Duration::from_secs(120));
    assert_eq!(effective.config.transport.congestion_algorithm, CongestionAlgorithm::Bbr);
    assert!(!effective.not_in_force.iter().any(|idle| idle == "compression.enable_dictionary"));
    assert!(!effective.not_in_force.iter().any(|idle| idle == "transport.congestion_algorithm"));
    let staging = resolve(&[fleet(MANUAL_BASE), host(MANUAL_STAGING)]).expect("valid");
    assert_eq!(staging.config.transport.max_streams, 128);
    assert_eq!(staging.config.monitoring.log_level, LogLevel::Debug);
}

#[test]
fn an_error_names_file_line_column_path_and_what_to_do() {
    let wrong = refusals(&[host("transport:\n  max_streams: 8\n")]);
    assert_eq!(wrong, ["dwcp.yaml:2:16: transport.max_streams: 8 is below min_streams (16)"]);
    let wrong = refusals(&[host("dwcp:\n  transport:\n    max_stream: 8\n")]);
    assert_eq!(wrong, ["dwcp.yaml:3:5: transport.max_stream: unknown key (did you mean transport.max_streams?)"]);
    let wrong = refusals(&[host("read_timeout: 1s\n")]);
    assert_eq!(wrong, ["dwcp.yaml:1:1: read_timeout: unknown key (did you mean transport.read_timeout?)"]);
}

#[test]
fn all_errors_are_found_at_once_in_order() {
    let wrong = refusals(&[
        fleet("compression:\n  level: 99\n  algorithm: zst\nmonitoring:\n  log_level: loud\n"),
        host("transport:\n  read_timeout: 5 minutes\nenabled: maybe\nstorage: 3\n"),
    ]);
    let expected = [
        "configs/fleet:2:10: compression.level: 99 is above 22 (1 to 22)",
        "configs/fleet:3:14: compression.algorithm: \"zst\" is none of zstd, lz4, snappy (did you mean zstd?)",
        "configs/fleet:5:14: monitoring.log_level: \"loud\" is none of trace, debug, info, warn, error",
        "dwcp.yaml:2:17: transport.read_timeout: \"5 minutes\" is not a duration (30s, 5m, 250ms, 1h30m; a bare number is seconds)",
        "dwcp.yaml:3:10: enabled: \"maybe\" is neither true nor false",
        "dwcp.yaml:4:10: storage: is a section (its keys: reserve)",
    ];
    assert_eq!(wrong, expected);
}

#[test]
fn the_layer_that_breaks_a_rule_is_to_blame() {
    let wrong = refusals(&[fleet("transport: {max_streams: 64}"), host("transport: {min_streams: 100}")]);
    assert_eq!(wrong, ["dwcp.yaml:1:26: transport.min_streams: 100 is above max_streams (64)"]);
    let follows = resolve(&[fleet("transport: {max_streams: 20}")]).expect("a start that nobody chose follows");
    assert_eq!(follows.config.transport.initial_streams, 20);
    assert_eq!(follows.value("transport.initial_streams").expect("there").yaml, "20");
    let chosen = refusals(&[fleet("transport: {max_streams: 20}"), host("transport: {initial_streams: 30}")]);
    assert_eq!(chosen, ["dwcp.yaml:1:30: transport.initial_streams: 30 is above max_streams (20)"]);
}

#[test]
fn what_a_host_allows_comes_from_the_host_alone() {
    let roots = "roots:\n  data:\n    path: /srv/data\n    accept: [site-a, env=prod, '*']\nlogging: {file: /var/log/dwcp.log}\n";
    let effective = resolve(&[host(roots)]).expect("valid");
    let (name, root) = effective.config.roots.first_key_value().expect("a root");
    assert_eq!((name.as_str(), root.accept.len(), root.read_only), ("data", 3, false));
    assert_eq!(effective.value("roots.data.read_only").expect("there").origin, "default");
    let wrong = refusals(&[fleet(roots), fleet("network: {relay: true}\nhttp: {token_file: /x}\n")]);
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    assert!(wrong[0].starts_with("configs/fleet:1:11: network.relay: is the host's own"), "{wrong:?}");
    let no_path = refusals(&[host("roots:\n  data:\n  'a.b': {path: x}\n")]);
    assert!(no_path[0].starts_with("dwcp.yaml:2:3: roots.data.path: needs a value"), "{no_path:?}");
    assert!(no_path[1].contains("is not a root's name"), "{no_path:?}");
}

#[test]
fn syncs_stand_in_the_configuration_of_the_node_that_sends_them_and_nowhere_else() {
    let text = "syncs:\n  photos:\n    source: data:/photos\n    destination: site-b:data:/in\n    every: 1h\n    exclude: ['*.tmp']\n";
    let node = |text: &str| {
        let name = ConfigName::Node("site-a".parse().expect("a name"));
        parse(Layer::config(name, Revision::default(), text)).expect("parses")
    };
    let effective = resolve(&[node(text)]).expect("valid");
    let (name, sync) = effective.config.syncs.first_key_value().expect("a sync");
    let spec = sync.spec(&"site-a".parse().expect("a name"));
    assert_eq!(
        (name.as_str(), spec.source_path.to_string(), spec.every),
        ("photos", "data:/photos".to_owned(), Duration::from_secs(3600))
    );
    assert_eq!(
        (spec.destination_node.resource_name(), spec.destination_path.to_string()),
        ("nodes/site-b".to_owned(), "data:/in".to_owned())
    );
    assert_eq!((spec.exclude.len(), spec.checksum, sync.adopt), (1, false, false));
    assert_eq!(effective.value("syncs.photos.checksum").expect("there").origin, "default");
    for (layer, file) in [(fleet(text), "configs/fleet:2:3"), (host(text), "dwcp.yaml:2:3")] {
        let wrong = refusals(&[layer]);
        assert_eq!(
            wrong,
            [format!(
                "{file}: syncs.photos: is a sync of one node, and cannot be set here (write it into configs/node.NAME of the node that sends, or use `dwcp sync create`)"
            )]
        );
    }
    let wrong = refusals(&[node(
        "syncs:\n  a: {source: data:/x}\n  b: {source: /x, destination: site-b, every: 0s}\n  c: {source: 'data:/x', destination: 'site-a:data:/y'}\n  d.e: {}\n  f: 1\n",
    )]);
    let has = |text: &str| assert!(wrong.iter().any(|line| line.contains(text)), "{text}: {wrong:#?}");
    has("syncs.a.destination: needs a value");
    has("syncs.b.source: ");
    has("syncs.b.destination: \"site-b\" is not of the form NODE:ROOT:/PATH");
    has("syncs.b.every: 0s is below 1s");
    has("syncs.c.destination: is the sender itself");
    has("syncs.d.e: has a dot");
    has("syncs.f");
}

#[test]
fn tls_cannot_be_switched_off() {
    let wrong = refusals(&[host("security:\n  enable_tls: false\n  enable_mtls: false\n")]);
    assert_eq!(wrong.len(), 2);
    assert!(wrong[0].starts_with("dwcp.yaml:2:15: security.enable_tls: false is not possible: "), "{wrong:?}");
}

#[test]
fn variables_are_a_layer_and_short_names_are_the_programs() {
    let tree = environment([
        ("DWCP_TRANSPORT__MAX_STREAMS", "128"),
        ("DWCP__ENABLED", "false"),
        ("DWCP_NETWORK__ADVERTISE", "192.0.2.1, 192.0.2.2:9"),
        ("DWCP_ROOTS__DATA__PATH", "/srv/data"),
        ("DWCP_MONITORING__LOG_LEVEL", "warn"),
        ("DWCP_LOG_LEVEL", "debug"),
        ("DWCP_CONFIG", "/etc/dwcp/dwcp.yaml"),
        ("DWCP_LOGLEVEL", "debug"),
        ("HOME", "/root"),
    ]);
    let effective = resolve(&[tree.expect("a layer")]).expect("valid");
    assert_eq!(effective.config.transport.max_streams, 128);
    assert!(!effective.config.enabled);
    assert_eq!(effective.config.network.advertise.len(), 2);
    assert_eq!(effective.config.roots.len(), 1);
    assert_eq!(effective.config.monitoring.log_level, LogLevel::Debug);
    assert_eq!(effective.value("transport.max_streams").expect("there").origin, "environment");
    let hints: Vec<&str> = effective.warnings.iter().map(|warning| warning.hint.as_str()).collect();
    assert_eq!(hints, ["did you mean DWCP_LOG_LEVEL?"]);
    let wrong = environment([("DWCP_TRANSPORT__MAX_STREAM", "1")]).expect("a layer");
    let wrong = refusals(&[wrong]);
    assert_eq!(wrong, ["environment: transport.max_stream: unknown key (did you mean transport.max_streams?)"]);
}

#[test]
fn what_hides_or_explodes_is_refused_with_its_place() {
    let cases = [
        ("a: &x 1\nb: *x\n", "f:1:4: a: an anchor is not allowed"),
        ("a: *x\n", "f:1:4: a: "),
        ("a: !!int 1\n", "f:1:4: a: a tag is not allowed"),
        ("enabled: true\nenabled: false\n", "f:2:1: enabled: the key is there twice"),
        ("transport:\n  lanes: 1\n  lanes: 2\n", "f:3:3: transport.lanes: the key is there twice"),
        ("a: 1\n---\nb: 2\n", "f:2:1: a second document is not allowed"),
        ("<<: {a: 1}\n", "f:1:1: <<: a merge key is not allowed"),
        ("[1, 2]\n", "f:1:1: a configuration is a mapping"),
        ("a: [1\n", "not YAML: "),
        ("? [a]\n: 1\n", "a key is a word"),
    ];
    for (text, expected) in cases {
        let found = parse(Layer::host("f", text)).expect_err(text);
        assert!(found[0].to_string().contains(expected), "{text}: {}", found[0]);
    }
    for deep in ["- ".repeat(100_000), "[".repeat(100_000), "{a: ".repeat(50_000)] {
        let found = parse(Layer::host("f", deep)).expect_err("too deep");
        // The scanner has a limit of its own for brackets, which it reads ahead.
        let told = ["nested more than", "recursion limit"].iter().any(|text| found[0].message.contains(text));
        assert!(told && found[0].line == 1, "{}", found[0]);
    }
    let wide = "a,".repeat(MAX_NODES);
    assert!(parse(Layer::host("f", format!("a: [{wide}]"))).expect_err("too many")[0].message.contains("more than"));
    assert!(parse(Layer::host("f", " ".repeat(MAX_DOCUMENT_BYTES + 1))).is_err());
}

#[test]
fn empty_documents_and_sections_say_nothing() {
    for text in [
        "",
        "# nothing\n",
        "dwcp:\n",
        "transport:\n",
        "dwcp:\n  transport:\n",
        "dht:\n  bootstrap:\n",
        "\u{feff}enabled: true\n",
    ] {
        let effective = resolve(&[host(text)]).expect(text);
        assert_eq!(effective.digest, resolve(&[]).expect("valid").digest, "{text}");
    }
    assert_eq!(refusals(&[host("enabled:\n")]), ["dwcp.yaml:1:8: enabled: needs a value"]);
    let mixed = refusals(&[host("dwcp: {enabled: true}\nenabled: false\n")]);
    assert_eq!(
        mixed,
        ["dwcp.yaml:1:1: dwcp: the `dwcp:` root is not the only key (move all keys below it, or all of them out)"]
    );
}

#[test]
fn a_host_reports_its_layers_without_secrets_and_both_planes_come_to_the_same() {
    let key = "-----BEGIN PRIVATE KEY-----\\nMC4=\\n-----END PRIVATE KEY-----\\n";
    let file = host(&format!(
        "dwcp:\n  roots: {{data: {{path: '/srv/my data'}}}}\n  http:\n    tls_certificate: /c.pem\n    tls_private_key: \"{key}\"\n"
    ));
    let variables = environment([("DWCP_TRANSPORT__READ_TIMEOUT", "90")]).expect("a layer");
    let mut flags = Tree::empty(LayerName::Flag);
    flags.assign("network.quic_listen", "[::]:0");
    flags.assign_list("network.advertise", ["192.0.2.7", "[2001:db8::1]:7"]);
    let report = Tree::report(&[file.clone(), variables.clone(), flags.clone()]);
    assert!(!report.contains("MC4="), "{report}");
    let fleet = fleet("compression: {level: 5}");
    let here = resolve(&[fleet.clone(), file, variables, flags]).expect("valid");
    let there = resolve(&[fleet, host(&report)]).expect("valid");
    assert_eq!(here.digest, there.digest);
    assert!(!here.document.contains("MC4=") && here.document.contains("[redacted]"));
    assert!(!format!("{:?}", here.config).contains("MC4="));
    assert_eq!(here.value("transport.read_timeout").expect("there").yaml, "1m30s");
}

#[test]
fn documents_are_compared_by_value() {
    let (old, new) = (
        fleet("dwcp:\n  transport: {lanes: 4}\n  enabled: true\n"),
        fleet("enabled: true\ntransport:\n  lanes: 2\n  sockets: 2\n"),
    );
    let changes = diff(&old, &new);
    let change = |path: &str, old: Option<&str>, new: Option<&str>| Change {
        path: path.to_owned(),
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
    };
    let expected = [change("transport.lanes", Some("4"), Some("2")), change("transport.sockets", None, Some("2"))];
    assert_eq!(changes, expected);
    assert!(diff(&old, &old).is_empty());
}

#[test]
fn a_secret_is_not_in_the_error_about_it() {
    let wrong = refusals(&[host("http: {tls_private_key: hunter2}")]);
    assert_eq!(wrong, ["dwcp.yaml:1:25: http.tls_private_key: is not usable"]);
    let endpoint = refusals(&[host("monitoring: {tracing_endpoint: 'http://me:secret@x:4317'}")]);
    assert_eq!(endpoint.len(), 1);
}

#[test]
fn a_document_of_nonsense_is_answered_in_bounds() {
    let keys: String = (0..MAX_NODES / 2 - 10).map(|i| format!("max_strem{i}: 1\n")).collect();
    assert!(refusals(&[host(&keys)]).len() <= 200);
    let roots: String = (0..300).map(|i| format!("  r{i}: {{path: /x}}\n")).collect();
    assert_eq!(refusals(&[host(&format!("roots:\n{roots}"))]), ["dwcp.yaml:2:3: roots: 300 names are more than 256"]);
}

#[test]
fn layers_have_names_that_are_read_again() {
    for name in ["default", "configs/fleet", "configs/node.site-a", "host:/etc/dwcp/dwcp.yaml", "environment", "flag"] {
        assert_eq!(name.parse::<LayerName>().expect(name).to_string(), name);
    }
    assert!("configs/x".parse::<LayerName>().is_err());
}

#[test]
fn the_example_in_the_documentation_of_the_effective_document_holds() {
    let effective =
        resolve(&[host("roots: {data: {path: /srv/data}, logs: {path: /var/log, read_only: true}}")]).expect("valid");
    assert!(
        effective
            .document
            .contains("roots:\n  data:\n    path: /srv/data\n    read_only: false\n    accept: []\n  logs:\n")
    );
}

/// YAML of our keys and others, well-formed more often than not.
fn yamlish() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "enabled",
        "transport",
        "max_streams",
        "lanes",
        "roots",
        "data",
        "path",
        "accept",
        "dwcp",
        "x",
        "network",
        "advertise",
        "level",
        "compression",
        "tls_private_key",
        "http",
    ]);
    let value = prop::sample::select(vec![
        "",
        "true",
        "16",
        "-1",
        "5m",
        "[a, b]",
        "{}",
        "{path: /x}",
        "'q'",
        "null",
        "99999999999999999999",
        "1e999",
        "\"\\u0007\"",
        "*a",
        "|",
    ]);
    let line = (0_usize..4, key, value).prop_map(|(depth, key, value)| format!("{}{key}: {value}", "  ".repeat(depth)));
    prop::collection::vec(line, 0..10).prop_map(|lines| lines.join("\n"))
}

fn small_tree() -> impl Strategy<Value = Node> {
    yamlish()
        .prop_filter_map("not a document", |text| parse(Layer::host("f", text)).ok())
        .prop_map(|tree| conform(&tree.root).0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics(text in "\\PC{0,80}|[-\\[\\]{}:,&*!|>'\"%@`#?~ \n\ta-c0-9<]{0,60}") {
        if let Ok(tree) = parse(Layer::host("f", text)) {
            let _resolved = resolve(&[tree]);
        }
    }

    #[test]
    fn no_document_panics_and_what_is_accepted_is_accepted_again(text in yamlish()) {
        if let Ok(tree) = parse(Layer::host("f", text)) {
            let report = Tree::report(std::slice::from_ref(&tree));
            if let Ok(effective) = resolve(&[tree]) {
                let again = resolve(&[host(&effective.document.replace(render::REDACTED, "null"))]).expect("the effective document is valid");
                prop_assert_eq!(again.digest, effective.digest);
                prop_assert_eq!(resolve(&[host(&report)]).expect("the report is valid").digest, effective.digest);
            }
        }
    }

    #[test]
    fn layers_can_be_merged_in_any_grouping(a in small_tree(), b in small_tree(), c in small_tree()) {
        let over = |base: &Node, above: &Node| { let mut merged = base.clone(); merge(&mut merged, above); merged };
        prop_assert_eq!(over(&over(&a, &b), &c), over(&a, &over(&b, &c)));
    }
}
