//! The crate `procspawn`: functions in re-executed processes, over `ipc-channel`.

use crate::scenario::Entry;

/// Lets its children run; called first thing in `main`.
pub fn init() {
    #[cfg(feature = "rivals")]
    procspawn::init();
}

/// Start to result to reaped.
///
/// # Errors
///
/// If built without it.
#[cfg(feature = "rivals")]
pub fn start() -> Entry {
    let mut number: u64 = 0;
    Ok(Box::new(move |n| {
        crate::scenario::timed(n, || {
            number += 1;
            let answer = procspawn::spawn(number, |number| number + 1).join()?;
            if answer == number + 1 { Ok(()) } else { Err("wrong answer".into()) }
        })
    }))
}

/// Start to result to reaped.
///
/// # Errors
///
/// Built without it.
#[cfg(not(feature = "rivals"))]
pub fn start() -> Entry {
    Err("built without the feature `rivals`".into())
}
