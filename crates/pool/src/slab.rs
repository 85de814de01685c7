//! A table whose keys are never used twice: slots are reused, their generation is not.

/// Values by key, in constant time, in memory proportional to the values that are in it at once.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    live: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new(), live: 0 }
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Puts `value` in and returns its key: generation above, slot below. No key is 0.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot { generation: 1, value: None });
                (self.slots.len() - 1) as u32
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        self.live += 1;
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    fn slot(&self, key: u64) -> Option<&Slot<T>> {
        self.slots.get(key as u32 as usize).filter(|slot| u64::from(slot.generation) == key >> 32)
    }

    pub(crate) fn get(&self, key: u64) -> Option<&T> {
        self.slot(key)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(key as u32 as usize)?;
        if u64::from(slot.generation) == key >> 32 { slot.value.as_mut() } else { None }
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<T> {
        let slot = self.slots.get_mut(key as u32 as usize)?;
        if u64::from(slot.generation) != key >> 32 {
            return None;
        }
        let value = slot.value.take()?;
        self.live -= 1;
        // A slot whose generations are used up is left out for good.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(key as u32);
        }
        Some(value)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(index, slot)| u64::from(slot.generation) << 32 | index as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_removed_value_finds_nothing_though_its_slot_is_used_again() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.keys().collect::<Vec<_>>(), [second]);
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_left_out_and_not_counted() {
        let mut slab = Slab::new();
        slab.insert('a');
        slab.slots[0].generation = u32::MAX;
        let last = u64::from(u32::MAX) << 32;
        assert_eq!(slab.remove(last), Some('a'));
        assert_eq!(slab.len(), 0);
        let next = slab.insert('b');
        assert_eq!((next as u32, slab.len()), (1, 1), "in a slot of its own");
        assert_eq!(slab.get(last), None);
    }
}
