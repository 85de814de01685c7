use procession_parcel::task;

fn main() {
    let factor = 3u64;
    let offset = 1u64;
    let task = task!(move |n: u64| n * factor + offset; factor);
}
