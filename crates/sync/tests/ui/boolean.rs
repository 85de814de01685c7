use procession_sync::{Value, bytemuck};

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[bytemuck(crate = "procession_sync::bytemuck")]
#[repr(C)]
struct Flag {
    on: bool,
}

fn main() {
    let _ = Value::new(Flag { on: true });
}
