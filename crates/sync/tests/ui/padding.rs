use procession_sync::{Value, bytemuck};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[bytemuck(crate = "procession_sync::bytemuck")]
#[repr(C)]
struct Padded {
    byte: u8,
    word: u32,
}

fn main() {
    let _ = Value::new(Padded { byte: 1, word: 2 });
}
