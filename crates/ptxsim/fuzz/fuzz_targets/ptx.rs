//! PTX text, parsed and decoded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ptxsim::parse::parse;
use ptxsim::program::Kernel;

fuzz_target!(|text: &str| {
    if let Ok(module) = parse(text) {
        for entry in Kernel::entries(&module) {
            let _ = Kernel::new(&module, entry);
        }
    }
});
