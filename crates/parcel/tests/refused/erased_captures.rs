use procession_parcel::Erased;

fn main() {
    let factor = 3u64;
    let erased = Erased::new(|n: u64| n * factor);
}
