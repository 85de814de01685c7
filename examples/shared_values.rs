//! A number and an array in shared memory, changed by a child.
//!
//! Python: `num = Value("d", 0.0)`, `arr = Array("i", range(10))`, as in the first pages of its manual.
//!
//! ```sh
//! cargo run --example shared_values
//! ```
// ci: => 2.5 [0, -1, -2, -3, -4, -5, -6, -7, -8, -9]

use procession::prelude::*;
use std::error::Error;

fn change(number: Value<f64>, numbers: Array<i32>, hits: RawValue<u32>) -> Result<(), String> {
    number.set(2.5).map_err(|error| error.to_string())?;
    // `with arr.get_lock():` is `lock`, whose guard is a slice.
    let mut slice = numbers.lock().map_err(|error| error.to_string())?;
    for n in slice.iter_mut() {
        *n = -*n;
        // Without a lock, in one step of the processor: Python's `RawValue` can be read and written only.
        hits.fetch_add(1);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let number = Value::new(0.0)?;
    let numbers = Array::from_slice(&(0..10).collect::<Vec<i32>>())?;
    let hits = RawValue::new(0)?;
    // The type codes are types: what does not fit does not compile.
    spawn!(change(number.clone(), numbers.clone(), hits.clone()))?.join()??;

    // `num.value`, `arr[:]`, `arr[2:5]`.
    assert_eq!(number.get()?, 2.5);
    assert_eq!(numbers.to_vec()?, (0..10).map(|n| -n).collect::<Vec<i32>>());
    assert_eq!(numbers.read(2..5)?, [-2, -3, -4]);
    assert_eq!(hits.load(), 10);
    println!("{} {:?}", number.get()?, numbers.to_vec()?);

    // `num.value += 1` is two steps, between which another process may come; `update` is one.
    number.update(|n| *n += 1.0)?;
    assert_eq!(number.get()?, 3.5);
    Ok(())
}
