//! Puts an executor into the driver: `HOLDFAST_EMBED_EXECUTOR` names the file; unset or empty, nothing is embedded.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=HOLDFAST_EMBED_EXECUTOR");
    let generated = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?).join("embedded.rs");
    let source = match env::var("HOLDFAST_EMBED_EXECUTOR") {
        Ok(path) if !path.is_empty() => {
            let path = fs::canonicalize(&path).map_err(|e| format!("HOLDFAST_EMBED_EXECUTOR={path}: {e}"))?;
            println!("cargo::rerun-if-changed={}", path.display());
            let mut hash = String::new();
            for byte in &Sha256::digest(fs::read(&path)?)[..8] {
                write!(hash, "{byte:02x}")?;
            }
            format!("Some(Embedded {{ bytes: include_bytes!({path:?}), hash: {hash:?} }})")
        }
        _ => "None".to_owned(),
    };
    fs::write(generated, format!("const EMBEDDED: Option<Embedded> = {source};\n"))?;
    Ok(())
}
