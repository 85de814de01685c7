//! Warm memory: the regime of every measurement of large buffers.
#![expect(unsafe_code, reason = "mallopt")]

/// From now on the allocator keeps what is freed. Otherwise it gives large buffers back to the kernel, and whoever
/// happens to get fresh pages next pays for mapping them, ten times the cost of a copy.
pub fn keep_what_is_freed() {
    #[cfg(target_env = "gnu")]
    for setting in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: sets a number in the allocator.
        unsafe { libc::mallopt(setting, 1 << 30) };
    }
}
