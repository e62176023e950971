//! What somebody may have meant.

/// The candidate that comes nearest, if one comes near.
pub(super) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let longest = text.chars().count().max(1);
    // Beyond 64 characters nobody mistyped a key.
    if longest > 64 {
        return None;
    }
    let near = (longest / 3).clamp(1, 3);
    let scored = candidates.into_iter().map(|candidate| (distance(text, candidate), candidate));
    scored
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters are to be changed, added, left out or swapped (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.to_lowercase().chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 0..from.len() {
        let mut row = vec![i + 1];
        for j in 0..to.len() {
            let changed = last[j] + usize::from(from[i] != to[j]);
            let mut best = changed.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i] == to[j - 1] && from[i - 1] == to[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_far_ones_not() {
        let keys = ["min_streams", "max_streams", "lanes"];
        assert_eq!(nearest("max_stream", keys), Some("max_streams"));
        assert_eq!(nearest("Lanse", keys), Some("lanes"));
        assert_eq!(nearest("colour", keys), None);
    }
}
