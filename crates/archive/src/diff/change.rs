//! Lists before and after.

use std::collections::BTreeMap;

use serde::Serialize;

/// Something that is there before and after, and differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed<T> {
    /// As it was.
    pub before: T,
    /// As it is.
    pub after: T,
}

/// How a list differs from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changes<T> {
    /// Only in the second.
    pub new: Vec<T>,
    /// Only in the first.
    pub gone: Vec<T>,
    /// In both, and different.
    pub changed: Vec<Changed<T>>,
}

impl<T> Default for Changes<T> {
    fn default() -> Self {
        Self { new: Vec::new(), gone: Vec::new(), changed: Vec::new() }
    }
}

impl<T> Changes<T> {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty() && self.changed.is_empty()
    }

    /// Compares two lists. Items with the same key belong together, in the order in which they stand; the result is in the order of
    /// keys.
    pub fn between<K: Ord>(
        before: Vec<T>,
        after: Vec<T>,
        key: impl Fn(&T) -> K,
        same: impl Fn(&T, &T) -> bool,
    ) -> Self {
        let mut by_key: BTreeMap<K, (Vec<T>, Vec<T>)> = BTreeMap::new();
        for item in before {
            by_key.entry(key(&item)).or_default().0.push(item);
        }
        for item in after {
            by_key.entry(key(&item)).or_default().1.push(item);
        }
        let mut changes = Self::default();
        for (_, (before, after)) in by_key {
            let (mut before, mut after) = (before.into_iter(), after.into_iter());
            loop {
                match (before.next(), after.next()) {
                    (Some(before), Some(after)) if same(&before, &after) => {}
                    (Some(before), Some(after)) => changes.changed.push(Changed { before, after }),
                    (Some(before), None) => changes.gone.push(before),
                    (None, Some(after)) => changes.new.push(after),
                    (None, None) => break,
                }
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_with_the_same_key_belong_together() {
        let before = vec![(1, "a"), (2, "b"), (3, "c"), (3, "d")];
        let after = vec![(3, "c"), (1, "A"), (4, "e")];
        let changes = Changes::between(before, after, |item| item.0, |one, other| one == other);
        assert_eq!(changes.new, [(4, "e")]);
        assert_eq!(changes.gone, [(2, "b"), (3, "d")]);
        assert_eq!(changes.changed, [Changed { before: (1, "a"), after: (1, "A") }]);
    }
}
