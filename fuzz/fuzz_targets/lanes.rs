#![no_main]

// A manager's lanes with one hostile side; what must hold stands beside the function.
libfuzzer_sys::fuzz_target!(|data: &[u8]| procession_manager::fuzz::lanes(data));
