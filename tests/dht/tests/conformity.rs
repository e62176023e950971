//! R29: what a node of our ring says to questions that BEP 44 has an answer for, asked by hand. The table of `docs/testing.md`; what the
//! library does otherwise is written down too, so that a change of it is noticed. And R31: how long an answer is beside its question.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use dataplane_dht::{RingLimits, RingNode, RingOptions};
use foundation_runtime::{Clock, TaskGroup};
use tests_dht::{
    fleet::signer,
    krpc::Value,
    probe::{Item, Probe, Said},
};

fn target(item: &Item) -> Vec<u8> {
    let bytes = [item.key().to_bytes().as_slice(), &item.salt].concat();
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &bytes).as_ref().to_vec()
}

fn put(probe: &Probe, item: &Item) -> Result<Said> {
    probe.put(item, &target(item), |_| {})
}

/// What BEP 44 wants, and what comes: the same, unless it says so.
fn verdicts(probe: &mut Probe) -> Result<Vec<(&'static str, &'static str, String)>> {
    let mut table = Vec::new();
    let mut says = |what, wanted, said: Said| table.push((what, wanted, said.verdict()));
    let item = |seq, value: &[u8]| Item::new(&signer(1), value, seq);
    let change = |name: &'static str, to: Value| {
        move |arguments: &mut Vec<(&str, Value)>| {
            arguments.retain(|(key, _)| *key != name);
            arguments.push((name, to));
        }
    };
    let of = target(&item(0, b""));

    says("a put with the token of a get", "taken", put(probe, &item(10, b"ten"))?);
    says("the same again", "taken", put(probe, &item(10, b"ten"))?);
    says("a lower seq", "302", put(probe, &item(9, b"nine"))?);
    says("the same seq, another value", "302", put(probe, &item(10, b"other"))?);
    says("cas that is the seq kept", "taken", put(probe, &Item { cas: Some(10), ..item(11, b"eleven") })?);
    says("cas that is not", "301", put(probe, &Item { cas: Some(10), ..item(12, b"twelve") })?);
    says("a token that was not given", "203", probe.put(&item(13, b"x"), &of, change("token", Value::bytes("none")))?);
    says("a wrong signature", "206", probe.put(&item(13, b"x"), &of, change("sig", Value::bytes([7; 64])))?);
    says("a value of 996 bytes", "taken", put(probe, &item(14, &[b'v'; 996]))?);
    says("of 997, 1,001 as it is bencoded", "205", put(probe, &item(15, &[b'v'; 997]))?);
    says("of 1,001", "205", put(probe, &item(16, &[b'v'; 1001]))?);
    says("a salt of 64 bytes", "taken", put(probe, &Item { salt: vec![b's'; 64], ..item(1, b"x") })?);
    says("of 65", "207", put(probe, &Item { salt: vec![b's'; 65], ..item(1, b"x") })?);
    says("a value that is a list", "taken", put(probe, &Item { value: Value::List(Vec::new()), ..item(17, b"") })?);
    says(
        "a put without `target`",
        "taken",
        probe.put(&item(18, b"x"), &of, |a| a.retain(|(key, _)| *key != "target"))?,
    );
    says("a method that nobody knows", "204", probe.ask("frobnicate", vec![("target", Value::bytes(&of))])?);
    says("a get without `target`", "203", probe.ask("get", Vec::new())?);
    probe.transaction = b"ab".to_vec();
    says("a `t` of 2 bytes", "taken", probe.ask("ping", Vec::new())?);
    probe.transaction = b"abcd".to_vec();
    says("a `t` of 4 bytes", "taken", probe.ask("ping", Vec::new())?);
    Ok(table)
}

/// Those of which the library answers otherwise; silence where an error is wanted says nothing wrong, and readers refuse the rest.
const OTHERWISE: [(&str, &str); 7] = [
    ("the same seq, another value", "taken"),
    ("of 997, 1,001 as it is bencoded", "taken"),
    ("a value that is a list", "206"),
    ("a put without `target`", "silence"),
    ("a method that nobody knows", "silence"),
    ("a get without `target`", "silence"),
    ("a `t` of 2 bytes", "silence"),
];

/// The BEP's own examples: public key, then value, `seq` 1, salt, signature, target.
const KEY: &str = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";
const VECTORS: [(&str, &str, &str); 2] = [
    (
        "",
        "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
        "4a533d47ec9c7d95b1ad75f576cffc641853b750",
    ),
    (
        "foobar",
        "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17ddf9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
        "411eba73b6f087ca51a3795d9c8c938d365e32c1",
    ),
];

fn vectors(probe: &Probe) -> Result<()> {
    for (salt, signature, target) in VECTORS {
        let target = hex::decode(target)?;
        let token = probe.get(&target, None)?.get("token").context("a token")?.clone();
        let mut arguments = vec![
            ("k", Value::bytes(hex::decode(KEY)?)),
            ("seq", Value::Number(1)),
            ("sig", Value::bytes(hex::decode(signature)?)),
            ("target", Value::bytes(&target)),
            ("token", token),
            ("v", Value::bytes("Hello World!")),
        ];
        arguments.extend((!salt.is_empty()).then(|| ("salt", Value::bytes(salt))));
        assert_eq!(probe.ask("put", arguments)?.verdict(), "taken", "salt {salt:?}");
        let found = probe.get(&target, None)?;
        assert_eq!(found.get("v"), Some(&Value::bytes("Hello World!")));
        assert_eq!(found.get("seq"), Some(&Value::Number(1)));
        // Who has it gets its number only.
        let same = probe.get(&target, Some(1))?;
        assert_eq!((same.get("v"), same.get("seq")), (None, Some(&Value::Number(1))));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_node_answers_as_bep_44_says_but_for_what_the_library_does_otherwise() -> Result<()> {
    let tasks = TaskGroup::new("test");
    let listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let options = RingOptions { listen, ring: Vec::new(), limits: RingLimits::default() };
    let node = RingNode::start(options, Clock::system(), &tasks).await?.local_addr().context("its address")?;
    let mut probe = Probe::new(node, Ipv4Addr::new(127, 9, 9, 8))?;
    let mut otherwise = Vec::new();
    for (what, wanted, said) in verdicts(&mut probe)? {
        eprintln!("| {what} | {wanted} | {said} |");
        if wanted != said {
            otherwise.push((what, said));
        }
    }
    let known: Vec<_> = OTHERWISE.iter().map(|(what, said)| (*what, (*said).to_owned())).collect();
    assert_eq!(otherwise, known, "R29: the library changed; so do docs/testing.md and docs/limits.md");
    vectors(&probe)?;
    for bytes in [170, 500, 996] {
        let item = Item::new(&signer(2), &vec![b'x'; bytes], i64::try_from(bytes)?);
        assert_eq!(put(&probe, &item)?.verdict(), "taken");
        let question = probe.question("get", vec![("target", Value::bytes(target(&item)))]);
        let answer = probe.send(&question)?.context("an answer")?;
        eprintln!("R31: a record of {bytes} bytes: {} bytes asked, {} answered", question.len(), answer.len());
        assert!(answer.len() < 14 * question.len(), "R31: {} bytes", answer.len());
    }
    tasks.shutdown(std::time::Duration::from_secs(5)).await?;
    Ok(())
}
