#![no_main]

// Requests of two clients to a manager's server; what must hold afterwards stands beside the function.
libfuzzer_sys::fuzz_target!(|data: &[u8]| procession_manager::fuzz::requests(data));
