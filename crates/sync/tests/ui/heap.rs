use procession_sync::{Array, Value};

fn main() {
    let _ = Value::new(String::from("text"));
    let _ = Array::from_slice(&[&1]);
}
