//! A signature made for one use is refused in every other; so are its malleable twin and keys of small order (R37).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

use dataplane_dht::SignedRecord;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use foundation_merkle::{Checkpoint, VerifierKey};
use proto_model::PublicKey;
use proto_wire::{
    Signed,
    signed::{self, Context},
};
use tests_parsers::seeds;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// What is signed, and how: the name of the use, the payload, the signature.
type Made = (&'static str, Vec<u8>, [u8; 64]);

const CSR: &[u8] = b"csr";

fn made() -> Vec<Made> {
    let of = |target: &str, number: usize| {
        let (_, seeds) = seeds().into_iter().find(|(name, _)| *name == target).unwrap();
        seeds[number].clone()
    };
    let in_context = |context, payload: Vec<u8>| signed::sign(&key(), context, payload);
    let mut all = Vec::new();
    for (name, context, payload) in [
        ("grant", Context::Grant, of("grant", 0)),
        ("roster entry", Context::RosterEntry, of("roster", 0)),
        ("roster head", Context::RosterHead, of("roster", 1)),
    ] {
        let signed = in_context(context, payload);
        all.push((name, signed.payload, signed.signature));
    }
    let checkpoint = Checkpoint::parse_unverified(std::str::from_utf8(&of("checkpoint", 0)).unwrap()).unwrap();
    let body = checkpoint.body().into_bytes();
    all.push(("checkpoint", body.clone(), key().sign(&body).to_bytes()));
    let record = dataplane_dht::Record::decode(&of("dht_record", 0)).unwrap();
    let record = SignedRecord::sign(&key(), 5, &record).unwrap();
    all.push(("dht record", record.value, record.signature));
    let renew = proto_wire::renew::message(&[1; 16], 5, CSR);
    all.push(("renew", renew[14 + 16 + 8..].to_vec(), key().sign(&renew).to_bytes()));
    all
}

/// Whether a use takes these bytes with this signature.
fn takes(usage: &str, payload: &[u8], signature: [u8; 64]) -> bool {
    let verifying = key().verifying_key();
    let in_context = Signed { payload: payload.to_vec(), signature };
    match usage {
        "grant" => proto_wire::grant::open(&verifying, &in_context).is_ok(),
        "roster entry" => proto_wire::roster::open_entry(&verifying, &in_context).is_ok(),
        "roster head" => proto_wire::roster::open_head(&verifying, &in_context).is_ok(),
        "checkpoint" => {
            let verifier = VerifierKey::new("fuzz", verifying).unwrap();
            let line = [verifier.id().as_slice(), &signature].concat();
            let Ok(body) = std::str::from_utf8(payload) else { return false };
            let note = format!("{body}\n\u{2014} fuzz {}\n", base64(&line));
            Checkpoint::parse_and_verify(&note, &verifier).is_ok()
        }
        "dht record" => {
            let key = PublicKey::try_from(verifying).unwrap();
            SignedRecord { key, seq: 5, value: payload.to_vec(), signature }.verify_signature().is_ok()
        }
        "renew" => {
            let message = proto_wire::renew::message(&[1; 16], 5, payload);
            verifying.verify_strict(&message, &Signature::from_bytes(&signature)).is_ok()
        }
        other => panic!("{other}"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = usize::try_from(word >> (18 - 6 * at) & 63).unwrap();
            out.push(if at <= chunk.len() { char::from(LETTERS[letter]) } else { '=' });
        }
    }
    out
}

#[test]
fn every_use_takes_its_own_signatures_and_no_others() {
    let all = made();
    for (made_for, payload, signature) in &all {
        for (usage, ..) in &all {
            assert_eq!(takes(usage, payload, *signature), usage == made_for, "{made_for} as {usage}");
        }
        let mut changed = payload.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(!takes(made_for, &changed, *signature), "{made_for} with a bit of the payload changed");
        for byte in [0, 31, 32, 63] {
            let mut other = *signature;
            other[byte] ^= 1;
            assert!(!takes(made_for, payload, other), "{made_for} with a bit of the signature changed");
        }
    }
}

#[test]
fn the_malleable_twin_of_a_signature_is_refused() {
    // The order of the group, little-endian: S + L is the same scalar, written in another way.
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10_u8,
    ];
    for (name, payload, signature) in made() {
        let mut twin = signature;
        let mut carry = 0_u16;
        for (byte, more) in twin[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(more);
            *byte = u8::try_from(carry & 0xff).unwrap();
            carry >>= 8;
        }
        assert!(!takes(name, &payload, twin), "{name}");
    }
}

#[test]
fn keys_of_small_order_are_nobodys() {
    // Encodings of the eight points of small order, and of the identity with a sign: under them anybody signs anything.
    let points = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];
    for text in points {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
        let bytes: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect();
        let Ok(weak) = VerifyingKey::from_bytes(bytes.as_slice().try_into().unwrap()) else { continue };
        // The neutral element and zero: what a sloppy check takes for a signature of anything.
        let mut forged = [0; 64];
        forged[0] = 1;
        let forged = Signed { payload: b"anything".to_vec(), signature: forged };
        for context in [Context::Grant, Context::RosterEntry, Context::RosterHead] {
            assert!(signed::open(&weak, context, &forged).is_err(), "{text}");
        }
    }
}
