use procession_parcel::Erased;

fn length(text: &'static str) -> usize {
    text.len()
}

fn main() {
    let erased = Erased::new(length);
}
