use super::*;

fn asked(line: &str) -> Result<Asked, clap::Error> {
    parse(line.split_whitespace().map(OsString::from))
}

fn run(line: &str) -> RunArgs {
    match asked(line).unwrap() {
        Asked::Run(args) => *args,
        Asked::Join(_) | Asked::Content(_) => panic!("not run: {line}"),
    }
}

#[test]
fn the_definition_is_sound() {
    CommandLine::command().debug_assert();
}

#[test]
fn a_configuration_file_alone_means_run() {
    let args = run("dwcp-agent --config /etc/dwcp/agent.yaml --verbose");
    assert_eq!(args.config, Some(PathBuf::from("/etc/dwcp/agent.yaml")));
    assert!(args.verbose);
    let args = run("dwcp-agent run --config /etc/dwcp/agent.yaml");
    assert_eq!(args.config, Some(PathBuf::from("/etc/dwcp/agent.yaml")));
}

#[test]
fn nothing_at_all_is_a_usage_error() {
    assert_eq!(asked("dwcp-agent").unwrap_err().exit_code(), 2);
    assert_eq!(asked("dwcp-agent --version").unwrap_err().exit_code(), 0);
}

#[test]
fn run_takes_every_flag_of_the_interface() {
    let args = run("dwcp-agent run --data-dir /d --quic-listen [::]:0 --dht-listen none --http-listen 127.0.0.1:0 \
         --metrics-listen 127.0.0.1:0 --advertise 203.0.113.7 --advertise [2001:db8::7]:9 \
         --dht-bootstrap a:1,b:2 --reach private --relay --root data=/srv/data --root ro=/srv:ro --socket-group dwcp");
    assert_eq!(args.dht_listen, Some(AddressOrNone::None));
    assert_eq!(args.advertise[0].port, None);
    assert_eq!(args.advertise[1].port, Some(9));
    assert_eq!(args.dht_bootstrap, ["a:1", "b:2"]);
    assert_eq!(args.reach, Some(Reach::Private));
    assert!(args.relay && !args.roots[0].read_only && args.roots[1].read_only);
    assert_eq!(args.roots[1].path, PathBuf::from("/srv"));
}

#[test]
fn join_takes_one_source_of_the_token_and_none_where_the_host_has_joined() {
    let join = "dwcp-agent join ctl:7442 --ca-fingerprint sha256:00 --data-dir /d --name n";
    assert!(asked(join).is_ok());
    assert!(asked(&format!("{join} --token t")).is_ok());
    assert!(asked(&format!("{join} --token-file f")).is_ok());
    assert_eq!(asked(&format!("{join} --token t --token-file f")).unwrap_err().exit_code(), 2);
}

#[test]
fn a_root_must_be_an_absolute_folder_with_a_name() {
    for bad in ["data", "=/srv", "data=srv", "data=:ro"] {
        assert!(bad.parse::<RootArg>().is_err(), "{bad}");
    }
}
