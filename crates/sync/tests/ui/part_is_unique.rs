use procession_sync::Array;

fn main() {
    let mut part = Array::<u8>::new(10).unwrap().part(0..5).unwrap();
    let elements = part.get_mut().unwrap();
    let _parcel = procession_parcel::Parcel::pack(&part).unwrap();
    elements[0] = 1;
}
