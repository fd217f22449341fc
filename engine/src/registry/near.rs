//! Which names are most like one that was mistyped.

/// The known names that begin with the given one, or are few changes away from it; the nearest first.
pub(super) fn nearest<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
    names_max: usize,
) -> Vec<&'a str> {
    let far = (name.chars().count() / 3).max(1);
    let mut near: Vec<_> = known
        .into_iter()
        .filter_map(|other| {
            let begins = !name.is_empty() && other.starts_with(name);
            let distance = if begins { 1 } else { changes(name, other) };
            (distance <= far).then_some((distance, other))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, other)| other).take(names_max).collect()
}

/// How many letters have to be added, left out or changed to make one text of the other.
fn changes(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    // What it takes to make the letters of `one` so far of the first so many of `other`.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (letter, place) in one.chars().zip(1..) {
        let mut diagonal = std::mem::replace(&mut row[0], place);
        for (column, &wanted) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != wanted);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kind of change counts one.
    #[test]
    fn changes_are_counted() {
        let rows = [
            ("", "", 0),
            ("a", "", 1),
            ("ab", "ba", 2),
            ("words", "wrds", 1),
            ("words", "swords", 1),
            ("kitten", "sitting", 3),
        ];
        for (one, other, count) in rows {
            assert_eq!((changes(one, other), changes(other, one)), (count, count), "{one} {other}");
        }
    }

    /// The nearest come first, what is too far is left out, and beginnings count as near.
    #[test]
    fn near_names_are_found() {
        let known = ["echo", "words", "words~1", "words~2", "sword", "tools"];
        let check = |name, expected: &[&str]| assert_eq!(nearest(name, known, 3), expected, "{name}");
        check("words~", &["words", "words~1", "words~2"]);
        check("word", &["sword", "words", "words~1"]);
        check("wrods", &[]);
        check("wordz", &["words"]);
        check("eco", &["echo"]);
        check("", &[]);
    }
}
