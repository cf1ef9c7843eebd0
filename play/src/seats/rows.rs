//! [`Rows`]: a slab whose first row lies in itself.
//!
//! Most stages of many clients have one actor each. What each message looks at is then one piece of
//! memory with the rest of its stage, not another one that is as far from the caches.

use slab::Slab;

/// Values by small numbers, which are used again.
#[derive(Debug)]
pub(super) struct Rows<T> {
    first: Option<T>,
    /// From number 1 on.
    others: Slab<T>,
}

impl<T> Rows<T> {
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            others: Slab::new(),
        }
    }

    /// Puts a value where there is room, and returns its number.
    pub(super) fn insert(&mut self, row: T) -> u32 {
        if self.first.is_none() {
            self.first = Some(row);
            return 0;
        }
        1 + self.others.insert(row) as u32
    }

    /// Takes a value out, if there is one.
    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        match number.checked_sub(1) {
            None => self.first.take(),
            Some(other) => self.others.try_remove(other as usize),
        }
    }

    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        match number.checked_sub(1) {
            None => self.first.as_ref(),
            Some(other) => self.others.get(other as usize),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        match number.checked_sub(1) {
            None => self.first.as_mut(),
            Some(other) => self.others.get_mut(other as usize),
        }
    }

    /// All values with their numbers, in the order of these.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let others = self.others.iter();
        let others = others.map(|(other, row)| (1 + other as u32, row));
        self.first.iter().map(|row| (0, row)).chain(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_their_values_and_are_used_again() {
        let mut rows = Rows::new();
        let numbers: Vec<u32> = "abcd".chars().map(|row| rows.insert(row)).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(rows.remove(0), Some('a'));
        assert_eq!(rows.remove(2), Some('c'));
        assert_eq!(
            (rows.remove(0), rows.remove(2), rows.remove(9)),
            (None, None, None)
        );
        assert_eq!(
            (rows.get(0), rows.get(1), rows.get(4)),
            (None, Some(&'b'), None)
        );
        assert_eq!(
            (rows.insert('e'), rows.insert('f'), rows.insert('g')),
            (0, 2, 4)
        );
        if let Some(row) = rows.get_mut(2) {
            *row = 'h';
        }
        let all: Vec<(u32, char)> = rows.iter().map(|(number, row)| (number, *row)).collect();
        assert_eq!(all, [(0, 'e'), (1, 'b'), (2, 'h'), (3, 'd'), (4, 'g')]);
    }
}
