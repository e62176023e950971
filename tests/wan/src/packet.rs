//! What the emulator reads of a packet: whose it is, what of it is payload, whether it may be cut; and the answer of a hop that it
//! is too large for.

use crate::tally::Flow;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the transport header begins, and the protocol; `None` for what is no IP.
fn transport(packet: &[u8]) -> Option<(usize, u8)> {
    match packet.first()? >> 4 {
        4 => Some((usize::from(packet[0] & 0xf) * 4, *packet.get(9)?)),
        // Extension headers are not looked into: what has some counts as a flow of its own protocol.
        6 => Some((40, *packet.get(6)?)),
        _ => None,
    }
}

/// Whose packet it is.
pub(crate) fn flow(packet: &[u8]) -> Flow {
    let Some((start, protocol)) = transport(packet) else { return Flow::default() };
    let port =
        |at: usize| packet.get(start + at..start + at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    match protocol {
        TCP | UDP => Flow { protocol, from_port: port(0), to_port: port(2) },
        _ => Flow { protocol, from_port: 0, to_port: 0 },
    }
}

/// Bytes behind the TCP or UDP header.
pub(crate) fn payload(packet: &[u8]) -> u64 {
    let Some((start, protocol)) = transport(packet) else { return 0 };
    let header = match protocol {
        TCP => packet.get(start + 12).map_or(0, |offset| usize::from(offset >> 4) * 4),
        UDP => 8,
        _ => return 0,
    };
    packet.len().saturating_sub(start + header) as u64
}

/// What a hop sends back for a packet that is larger than `mtu`: ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too big"
/// (RFC 4443, 3.2). It comes from the packet's own target, which both ends have a way to.
pub(crate) fn too_big(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => too_big_v4(packet, mtu),
        6 => too_big_v6(packet, mtu),
        _ => None,
    }
}

fn too_big_v4(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    /// Don't fragment, in the byte of flags.
    const DF: u8 = 0x40;
    let header = usize::from(packet[0] & 0xf) * 4;
    if packet.get(6)? & DF == 0 {
        return None;
    }
    // RFC 792: the header and eight bytes behind it.
    let quoted = packet.get(..(header + 8).min(packet.len()))?;
    let total = u16::try_from(28 + quoted.len()).ok()?;
    let mut answer = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    answer[2..4].copy_from_slice(&total.to_be_bytes());
    answer.extend_from_slice(packet.get(16..20)?);
    answer.extend_from_slice(packet.get(12..16)?);
    let sum = checksum(&[&answer]);
    answer[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut icmp = vec![3, 4, 0, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(quoted);
    let sum = checksum(&[&icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    answer.extend_from_slice(&icmp);
    Some(answer)
}

fn too_big_v6(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    // RFC 4443: as much as fits into the least MTU of 1,280.
    let quoted = packet.get(..packet.len().min(1232))?;
    let (from, to) = (packet.get(24..40)?, packet.get(8..24)?);
    let mut icmp = vec![2, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&mtu.to_be_bytes());
    icmp.extend_from_slice(quoted);
    let length = u16::try_from(icmp.len()).ok()?;
    let pseudo = [0, 0, length.to_be_bytes()[0], length.to_be_bytes()[1], 0, 0, 0, 58];
    let sum = checksum(&[from, to, &pseudo, &icmp]);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut answer = vec![0x60, 0, 0, 0, 0, 0, 58, 64];
    answer[4..6].copy_from_slice(&length.to_be_bytes());
    answer.extend_from_slice(from);
    answer.extend_from_slice(to);
    answer.extend_from_slice(&icmp);
    Some(answer)
}

/// RFC 1071, over parts of which only the last may have an odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for word in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
