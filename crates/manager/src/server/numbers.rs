//! The numbers of objects and tickets: random ones, so that a client reaches what it has made, found or been given, and cannot
//! guess what is somebody else's.

use super::{Server, Trouble};
use crate::error::ErrorKind;
use rustix::{
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// So many bytes come whole once there is entropy at all (getrandom(2)).
const DRAWN: usize = 256;

/// Numbers that were drawn, and not given away yet.
pub(super) struct Numbers {
    drawn: [u8; DRAWN],
    used: usize,
}

impl Numbers {
    pub(super) fn new() -> Numbers {
        Numbers { drawn: [0; DRAWN], used: DRAWN }
    }

    fn next(&mut self) -> Result<u64, Errno> {
        if self.used == DRAWN {
            loop {
                match getrandom(&mut self.drawn[..], GetRandomFlags::empty()) {
                    Ok(DRAWN) => break,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            self.used = 0;
        }
        let mut number = [0; 8];
        number.copy_from_slice(&self.drawn[self.used..][..8]);
        // Who could read this memory learns nothing of those that were given away.
        self.drawn[self.used..][..8].fill(0);
        self.used += 8;
        Ok(u64::from_le_bytes(number))
    }
}

impl Server {
    /// A number that no object and no ticket has.
    pub(super) fn fresh_number(&mut self) -> Result<u64, Trouble> {
        loop {
            let number = match &mut self.numbers {
                Some(numbers) => numbers.next().map_err(|error| {
                    let text = format!("the server has no random number for it: {error}");
                    Trouble::fault(ErrorKind::System, text)
                })?,
                // The fuzzer's: one after the other.
                None => {
                    self.next += 1;
                    self.next - 1
                }
            };
            let taken = self.objects.contains_key(&number) || self.tickets.contains_key(&number);
            if number != 0 && !taken {
                return Ok(number);
            }
        }
    }
}
