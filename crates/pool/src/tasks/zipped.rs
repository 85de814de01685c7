//! Several inputs side by side, as one.

/// A tuple of two to six inputs, from each of which an item is taken at a time. It ends with the first that does.
pub trait Inputs {
    /// The items, as a tuple.
    type Item;
    /// The iterators, as a tuple.
    type Iterators;

    /// An iterator over tuples.
    fn zip(self) -> Zipped<Self::Iterators>;
}

/// An iterator over tuples of items, one of each input; made by [`Inputs`].
#[derive(Clone, Debug)]
pub struct Zipped<T>(T);

macro_rules! zipped {
    ($($input:ident $index:tt),+) => {
        impl<$($input: IntoIterator),+> Inputs for ($($input,)+) {
            type Item = ($($input::Item,)+);
            type Iterators = ($($input::IntoIter,)+);

            fn zip(self) -> Zipped<Self::Iterators> {
                Zipped(($(self.$index.into_iter(),)+))
            }
        }

        impl<$($input: Iterator),+> Iterator for Zipped<($($input,)+)> {
            type Item = ($($input::Item,)+);

            #[inline]
            fn next(&mut self) -> Option<Self::Item> {
                Some(($(self.0.$index.next()?,)+))
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                let (mut lower, mut upper) = (usize::MAX, None::<usize>);
                $(
                    let (low, high) = self.0.$index.size_hint();
                    lower = lower.min(low);
                    upper = match (upper, high) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                )+
                (lower, upper)
            }
        }
    };
}

zipped!(A 0, B 1);
zipped!(A 0, B 1, C 2);
zipped!(A 0, B 1, C 2, D 3);
zipped!(A 0, B 1, C 2, D 3, E 4);
zipped!(A 0, B 1, C 2, D 3, E 4, F 5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_end_with_the_first_that_does_and_know_their_length() {
        let zipped = (0..3, ["a", "b", "c", "d"], 0..).zip();
        assert_eq!(zipped.size_hint(), (3, Some(3)));
        assert_eq!(zipped.collect::<Vec<_>>(), [(0, "a", 0), (1, "b", 1), (2, "c", 2)]);
    }
}
