//! The likeness of words, for messages that suggest what a misspelt word was meant to be.

/// Returns how many letters have to be inserted, removed, replaced, or exchanged with their neighbour, to
/// make one word of the other.
pub(crate) fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, wanted) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(letter != wanted);
            let mut cheapest = replaced.min(last[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *letter == other[j - 1] && one[i - 1] == *wanted {
                cheapest = cheapest.min(before[j - 1] + 1);
            }
            next.push(cheapest);
        }
        before = std::mem::replace(&mut last, next);
    }
    last[other.len()]
}

/// True if a word is probably a misspelling or the beginning of another one.
pub(crate) fn is_close(word: &str, meant: &str) -> bool {
    let allowed = if word.chars().count() < 6 { 1 } else { 2 };
    edits(word, meant) <= allowed || (word.len() >= 3 && meant.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_has_to_be_changed() {
        for (one, other, expected) in [
            ("size", "size", 0),
            ("sise", "size", 1),
            ("sze", "size", 1),
            ("sizes", "size", 1),
            ("szie", "size", 1),
            ("", "size", 4),
            ("image", "min-age", 3),
            ("größe", "grösse", 2),
        ] {
            assert_eq!(edits(one, other), expected, "{one} {other}");
            assert_eq!(edits(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn knows_likely_mistakes() {
        for (word, meant, expected) in [
            ("max-sise", "max-size", true),
            ("dry", "dry-run", true),
            ("drylrun", "dry-run", true),
            ("dryrun", "dry-run", true),
            ("image", "min-age", false),
            ("log-level", "lock-timeout", false),
            ("keeep", "keep", true),
        ] {
            assert_eq!(is_close(word, meant), expected, "{word} {meant}");
        }
    }
}
