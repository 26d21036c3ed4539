//! Every seed goes through its target, on any compiler and without libFuzzer.

#![cfg(fuzzing)]

use std::path::Path;
use std::process::Command;

use windlass_fuzz::TARGETS;

#[test]
fn every_target_takes_all_of_its_seeds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder can be made");
    let done = Command::new("bash")
        .arg(root.join("seed.sh"))
        .arg("--into")
        .arg(folder.path())
        .status();
    assert!(done.expect("bash is there").success());
    for (name, target) in TARGETS {
        let seeds: Vec<_> = std::fs::read_dir(folder.path().join(name))
            .unwrap_or_else(|e| panic!("{name} has no seeds: {e}"))
            .map(|entry| entry.expect("a folder can be read").path())
            .collect();
        assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
        for seed in seeds {
            let bytes = std::fs::read(&seed).expect("a file can be read");
            println!("{}", seed.display());
            target(&bytes);
        }
    }
}

#[test]
fn every_target_is_a_program_for_cargo_fuzz() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in TARGETS {
        let program = root.join(format!("targets/{name}.rs"));
        let text = std::fs::read_to_string(&program).expect("the program is there");
        let wanted = format!(
            "#![no_main]\n\nlibfuzzer_sys::fuzz_target!(|data: &[u8]| windlass_fuzz::{name}(data));\n"
        );
        assert_eq!(text, wanted, "{name}");
    }
    let programs = std::fs::read_dir(root.join("targets")).expect("a folder can be read");
    assert_eq!(programs.count(), TARGETS.len());
}
