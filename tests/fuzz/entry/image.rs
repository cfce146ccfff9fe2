//! Image layouts that somebody else wrote.

use std::fs;
use std::path::Path;

use holdfast_sandbox::image::{Reference, Store};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Of all layers, uncompressed.
const LIMIT: u64 = 4 << 20;

/// The first byte says what the others are: a layer of one of three kinds, or one of the documents. A refusal is one line and leaves
/// nothing.
pub fn run(data: &[u8]) {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    let host = tempfile::tempdir().expect("a folder for temporary files");
    let layout = host.path().join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a writable folder");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a writable folder");
    let put = |media_type: &str, content: &[u8]| descriptor(&blobs, media_type, content);
    let (mut layer, mut diff_id) = (put(LAYER, data), digest(data));
    match which % 6 {
        0 => {}
        1 => layer = put(&format!("{LAYER}+gzip"), data),
        2 => layer = put(&format!("{LAYER}+zstd"), data),
        _ => {
            layer = put(LAYER, &[]);
            diff_id = digest(&[]);
        }
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let config = put(CONFIG, if which % 6 == 3 { data } else { config.as_bytes() });
    let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layer}]}}"#);
    let manifest = put(MANIFEST, if which % 6 == 4 { data } else { manifest.as_bytes() });
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    fs::write(layout.join("index.json"), if which % 6 == 5 { data } else { index.as_bytes() })
        .expect("a writable folder");

    let store = Store::at(host.path().join("store")).with_max_image_bytes(LIMIT);
    let reference = Reference::parse(&format!("oci:{}", layout.display())).expect("a path is a reference");
    match store.unpack(&reference) {
        Ok(image) => {
            assert!(image.layers.iter().all(|layer| layer.starts_with(host.path())));
            assert!(store.list().expect("a readable store").len() <= 1);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text:?}");
            assert_eq!(store.list().expect("a readable store"), []);
        }
    }
    let mut names: Vec<_> = (fs::read_dir(host.path()).expect("our own folder"))
        .map(|entry| entry.expect("our own folder").file_name())
        .collect();
    names.sort();
    assert!(names == ["layout", "store"] || names == ["layout"], "{names:?}");
}

fn digest(content: &[u8]) -> String {
    let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Writes a blob; its descriptor as JSON.
fn descriptor(blobs: &Path, media_type: &str, content: &[u8]) -> String {
    let digest = digest(content);
    fs::write(blobs.join(&digest["sha256:".len()..]), content).expect("a writable folder");
    let size = content.len();
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}
