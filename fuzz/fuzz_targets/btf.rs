//! Fuzzes the BTF parser with arbitrary bytes: it returns offsets or an error that names the missing type.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tcptrace::kernel::btf::KernelTypes;

fuzz_target!(|bytes: &[u8]| {
    let Ok(types) = KernelTypes::parse(bytes) else { return };
    if let Err(error) = types.offsets() {
        assert!(!format!("{error:#}").is_empty());
    }
    let _ = types.hook_arguments("kfree_skb");
    let _ = types.has_function("bpf_get_socket_ptr_cookie");
});
