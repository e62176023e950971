//! Two documents compared line by line, as `diff -u` writes it.

use std::fmt::Write as _;

/// Lines shown around what differs.
const CONTEXT: usize = 3;
/// Cells of the table that finds the longest common subsequence: 4 MiB, two documents of 1,000 different lines each. Beyond it
/// the whole middle is shown as replaced.
const MAX_CELLS: usize = 1 << 20;

/// A line of either document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Line<'a> {
    Same(&'a str),
    Old(&'a str),
    New(&'a str),
}

/// The difference in unified form; empty where there is none.
#[must_use]
pub fn unified_diff(old_name: &str, old: &str, new_name: &str, new: &str) -> String {
    let lines = compare(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let changed: Vec<usize> = (0..lines.len()).filter(|&i| !matches!(lines[i], Line::Same(_))).collect();
    let mut out = String::new();
    if changed.is_empty() {
        return out;
    }
    out.push_str(&format!("--- {old_name}\n+++ {new_name}\n"));
    let mut rest = changed.as_slice();
    while let Some(&first) = rest.first() {
        let joined = rest.windows(2).take_while(|pair| pair[1] - pair[0] <= 2 * CONTEXT + 1).count();
        let start = first.saturating_sub(CONTEXT);
        let end = (rest[joined] + CONTEXT + 1).min(lines.len());
        hunk(&mut out, &lines, start, end);
        rest = &rest[joined + 1..];
    }
    out
}

fn hunk(out: &mut String, lines: &[Line<'_>], start: usize, end: usize) {
    let olds = |lines: &[Line<'_>]| lines.iter().filter(|line| !matches!(line, Line::New(_))).count();
    let news = |lines: &[Line<'_>]| lines.iter().filter(|line| !matches!(line, Line::Old(_))).count();
    let (before, within) = (&lines[..start], &lines[start..end]);
    let range = |before: usize, count: usize| match count {
        0 => format!("{before},0"),
        1 => format!("{}", before + 1),
        _ => format!("{},{count}", before + 1),
    };
    let (old, new) = (range(olds(before), olds(within)), range(news(before), news(within)));
    writeln!(out, "@@ -{old} +{new} @@").expect("a String takes whatever is written");
    for line in within {
        let (sign, text) = match line {
            Line::Same(text) => (' ', text),
            Line::Old(text) => ('-', text),
            Line::New(text) => ('+', text),
        };
        writeln!(out, "{sign}{text}").expect("a String takes whatever is written");
    }
}

fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);
    let mut lines: Vec<Line<'a>> = old[..head].iter().map(|line| Line::Same(line)).collect();
    lines.extend(middle(old_middle, new_middle));
    lines.extend(old_rest[old_middle.len()..].iter().map(|line| Line::Same(line)));
    lines
}

/// By the longest common subsequence.
fn middle<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > MAX_CELLS {
        return old.iter().map(|line| Line::Old(line)).chain(new.iter().map(|line| Line::New(line))).collect();
    }
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let (down, right) = (common[(i + 1) * width + j], common[i * width + j + 1]);
            let both = common[(i + 1) * width + j + 1] + 1;
            common[i * width + j] = if old[i] == new[j] { both } else { down.max(right) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j >= new.len() || i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1] {
            lines.push(Line::Old(old[i]));
            i += 1;
        } else {
            lines.push(Line::New(new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn looks_like_diff_u() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\n";
        let new = "a\nb\nc\nD\ne\nf\ng\nh\ni\nj\n";
        let expected = "--- x\n+++ y\n@@ -1,9 +1,10 @@\n a\n b\n c\n-d\n+D\n e\n f\n g\n h\n i\n+j\n";
        assert_eq!(unified_diff("x", old, "y", new), expected);
        assert_eq!(unified_diff("x", old, "y", old), "");
        assert_eq!(unified_diff("x", "", "y", "a\n"), "--- x\n+++ y\n@@ -0,0 +1 @@\n+a\n");
    }

    proptest! {
        #[test]
        fn both_documents_can_be_read_from_it(old in proptest::collection::vec("[ab]", 0..12), new in proptest::collection::vec("[ab]", 0..12)) {
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            let new: Vec<&str> = new.iter().map(String::as_str).collect();
            let lines = compare(&old, &new);
            let left = lines.iter().filter_map(|l| match l { Line::Same(t) | Line::Old(t) => Some(*t), Line::New(_) => None });
            let right = lines.iter().filter_map(|l| match l { Line::Same(t) | Line::New(t) => Some(*t), Line::Old(_) => None });
            prop_assert_eq!(left.collect::<Vec<_>>(), old);
            prop_assert_eq!(right.collect::<Vec<_>>(), new);
        }
    }
}
