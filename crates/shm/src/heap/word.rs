//! What a word of the heap says: who owns a block, a slab, a record or a slot.
//!
//! A word is only ever a word: it lies where no value of a user ever does, and every value but `FREE` names somebody or
//! something that never comes again (a life of a member, a token). So a compare-and-swap that was decided on long ago
//! either finds what it was decided on, or fails.

/// Nobody's.
pub(crate) const FREE: u64 = 0;

const OWNED: u64 = 1;
const TRANSIT: u64 = 2;
const TAIL: u64 = 3;
const SLAB: u64 = 4;
const HELD: u64 = 5;
const SHARED: u64 = 6;
const MESSAGE: u64 = 7;

/// The member of a slab that nobody owns.
const NOBODY: u64 = 0xfff;
const LIFE_BITS: u32 = 40;
const TOKEN_BITS: u32 = 48;

const fn of(kind: u64, high: u64, low: u64) -> u64 {
    kind << 60 | high << TOKEN_BITS | low
}

/// One life of a process in the heap: the number that it has in the segment, and how often that number was given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Life {
    pub(crate) member: u16,
    pub(crate) life: u64,
}

impl Life {
    /// The word of what this process owns.
    pub(crate) const fn owned(self) -> u64 {
        of(OWNED, self.member as u64, self.life & mask(LIFE_BITS))
    }

    /// The word of a slab that this process allocates from.
    pub(crate) const fn slab(self, class: usize) -> u64 {
        of(SLAB, self.member as u64, (class as u64) << LIFE_BITS | self.life & mask(LIFE_BITS))
    }
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Something unique in the heap: one way of one block through a parcel, one ring, one message in a ring, or one version of
/// a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token(u64);

impl Token {
    pub(crate) const fn new(number: u64) -> Token {
        Token(number & mask(TOKEN_BITS))
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    /// The word of what is inside a parcel.
    pub(crate) const fn transit(self) -> u64 {
        of(TRANSIT, 0, self.0)
    }

    /// The word of what is inside this message of a ring.
    pub(crate) const fn message(self, ring: u32) -> u64 {
        of(MESSAGE, ring as u64 & 0xfff, self.0)
    }

    /// The word of a slab that nobody allocates from.
    pub(crate) const fn abandoned(self, class: usize) -> u64 {
        of(SLAB, NOBODY, (class as u64) << LIFE_BITS | self.0 & mask(LIFE_BITS))
    }

    /// The word of a record with holders in some of its first `columns` slots.
    pub(crate) const fn shared(self, columns: u32) -> u64 {
        of(SHARED, columns as u64, self.0)
    }
}

/// The word of a span that belongs to the block that starts at span `head`.
pub(crate) const fn tail(head: u32) -> u64 {
    of(TAIL, 0, head as u64)
}

/// The word of a block that lives as long as the holders in a record.
pub(crate) const fn held(record: u32) -> u64 {
    of(HELD, 0, record as u64)
}

/// A word taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    Free,
    /// A process's: a block, the first span of a large one, a record on its way, a holder.
    Owned(Life),
    /// In a parcel: alive as long as somebody has the lock with this number.
    Transit(Token),
    /// In a message of a ring: alive as long as the message is.
    Message {
        ring: u16,
        token: Token,
    },
    /// A span of a large block that starts elsewhere.
    Tail,
    /// A span of small blocks, and who allocates from it.
    Slab {
        class: usize,
        owner: Option<Life>,
    },
    /// Read-only by now: freed with the record.
    Held(u32),
    /// A record in use; columns beyond `columns` are free.
    Shared {
        columns: u32,
    },
    /// Nothing that this program writes.
    Unknown,
}

impl Word {
    pub(crate) const fn read(word: u64) -> Word {
        let high = (word >> TOKEN_BITS) & 0xfff;
        let low = word & mask(TOKEN_BITS);
        let life = Life { member: high as u16, life: low & mask(LIFE_BITS) };
        match word >> 60 {
            0 if word == FREE => Word::Free,
            OWNED => Word::Owned(life),
            TRANSIT => Word::Transit(Token(low)),
            MESSAGE => Word::Message { ring: high as u16, token: Token(low) },
            TAIL => Word::Tail,
            SLAB => Word::Slab {
                class: (low >> LIFE_BITS) as usize,
                owner: if high == NOBODY { None } else { Some(life) },
            },
            HELD if low <= u32::MAX as u64 => Word::Held(low as u32),
            SHARED => Word::Shared { columns: high as u32 },
            _ => Word::Unknown,
        }
    }
}
