//! Compiles the .proto files without protoc and writes the descriptor set,
//! from which the route × principal test takes its list of methods.

use std::{env, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=flexfs");
    let files = ["common", "ops", "meta", "authority", "admin"]
        .map(|name| format!("flexfs/v1/{name}.proto"));
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // File contents and names: shared buffers instead of copies.
        .bytes(".flexfs.v1.BytesValue.value")
        .bytes(".flexfs.v1.ExtentMap.inline_data")
        .bytes(".flexfs.v1.CommitData.inline_data")
        .bytes(".flexfs.v1.HeldMake.handle")
        .bytes(".flexfs.v1.HeldMake.inline_data")
        .bytes(".flexfs.v1.MintedInode.handle")
        .skip_debug([".flexfs.v1.SecretText", ".flexfs.v1.SecretBytes"])
        .compile_fds(descriptors)?;
    Ok(())
}
