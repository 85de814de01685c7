//! A function of a C library that crashes on some inputs: the other inputs are done, and each crash is one input's error.
//!
//! Python: a segfault in a worker of `Pool` hangs the call, and of `ProcessPoolExecutor` breaks the executor.
//!
//! ```sh
//! cargo run --release --example crash_isolation
//! ```
// ci: => 3 inputs crashed the library, 9 were measured
#![expect(unsafe_code, reason = "calls a C function, and wrongly on purpose")]

use procession::{TaskError, prelude::*};
use std::{
    error::Error,
    ffi::{CString, c_char},
    ptr,
};

unsafe extern "C" {
    /// The C library's own; it reads on until it finds a NUL, from wherever it is told to.
    fn strlen(text: *const c_char) -> usize;
}

/// Hands a text to C, and nothing at all where there is none, as a careless binding would.
fn measure(text: Option<String>) -> usize {
    let text = text.map(|text| CString::new(text).unwrap());
    let pointer = text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: it is not safe: without a text this reads address 0. That is what the worker is for.
    unsafe { strlen(pointer) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(2)?;
    let inputs: Vec<Option<String>> =
        (1..=12).map(|n: usize| (!n.is_multiple_of(4)).then(|| "x".repeat(n))).collect();

    let (mut measured, mut crashed) = (0, 0);
    for (input, result) in inputs.iter().zip(pool.imap(measure, inputs.clone())) {
        match result {
            Ok(length) => {
                assert_eq!(Some(length), input.as_ref().map(String::len));
                measured += 1;
            }
            // The worker is gone; the pool has started another one, and nothing else was lost.
            Err(TaskError::Died(died)) => {
                println!("{died}");
                crashed += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("{crashed} inputs crashed the library, {measured} were measured");
    Ok(())
}
