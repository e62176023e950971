//! KRPC (BEP 5, BEP 44) by hand: what the library would not say, and what it answers.

use std::collections::BTreeMap;

/// A bencoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Self>),
    /// A dictionary.
    Map(BTreeMap<Vec<u8>, Self>),
}

impl Value {
    /// Bytes.
    #[must_use]
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bytes(bytes.as_ref().to_vec())
    }

    /// A dictionary.
    #[must_use]
    pub fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value)).collect())
    }

    /// An entry of a dictionary.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        if let Self::Map(entries) = self { entries.get(key.as_bytes()) } else { None }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// As it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => out.extend_from_slice(format!("i{number}e").as_bytes()),
            Self::Bytes(bytes) => write_bytes(bytes, out),
            Self::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Self::Map(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    write_bytes(key, out);
                    value.write(out);
                }
                out.push(b'e');
            }
        }
    }

    /// Reads one, which must be all there is.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (value, rest) = read(bytes)?;
        rest.is_empty().then_some(value)
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

fn read(bytes: &[u8]) -> Option<(Value, &[u8])> {
    match bytes.first()? {
        b'i' => {
            let (number, rest) = split(&bytes[1..], b'e')?;
            Some((Value::Number(number.parse().ok()?), rest))
        }
        b'l' => {
            let (mut items, mut rest) = (Vec::new(), &bytes[1..]);
            while *rest.first()? != b'e' {
                let (item, after) = read(rest)?;
                items.push(item);
                rest = after;
            }
            Some((Value::List(items), &rest[1..]))
        }
        b'd' => {
            let (mut entries, mut rest) = (BTreeMap::new(), &bytes[1..]);
            while *rest.first()? != b'e' {
                let (Value::Bytes(key), after) = read(rest)? else { return None };
                let (value, after) = read(after)?;
                entries.insert(key, value);
                rest = after;
            }
            Some((Value::Map(entries), &rest[1..]))
        }
        _ => {
            let (length, rest) = split(bytes, b':')?;
            let length = length.parse().ok()?;
            Some((Value::bytes(rest.get(..length)?), &rest[length..]))
        }
    }
}

fn split(bytes: &[u8], end: u8) -> Option<(&str, &[u8])> {
    let at = bytes.iter().position(|byte| *byte == end)?;
    Some((std::str::from_utf8(&bytes[..at]).ok()?, &bytes[at + 1..]))
}
