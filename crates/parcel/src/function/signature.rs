//! Whether both sides mean the same types.

use std::any::TypeId;
use std::hash::{Hash, Hasher};

/// The types of a function, as one number that only the same build gives again.
///
/// Type ids are constants of the build, so in optimised code this is an immediate operand.
#[inline(always)]
pub(crate) fn signature<K: 'static, A: 'static, R: 'static>() -> u64 {
    let mut mix = Mix(0x9ae1_6a3b_2f90_404f);
    TypeId::of::<K>().hash(&mut mix);
    TypeId::of::<A>().hash(&mut mix);
    TypeId::of::<R>().hash(&mut mix);
    for fact in [size_of::<A>(), align_of::<A>(), size_of::<R>(), align_of::<R>()] {
        mix.write_u64(fact as u64);
    }
    mix.0
}

struct Mix(u64);

impl Hasher for Mix {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    #[inline(always)]
    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
        self.0 = mixed ^ (mixed >> 32);
    }
    #[inline(always)]
    fn finish(&self) -> u64 {
        self.0
    }
}
