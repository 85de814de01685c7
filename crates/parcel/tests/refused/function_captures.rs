use procession_parcel::Function;

fn main() {
    let factor = 3u64;
    let function = Function::<u64, u64>::new(|n| n * factor);
}
