//! Which image of a layout.

use std::fs;

use serde_json::{Value, json};

use super::layouts::digest;
use super::*;

fn with(descriptor: &Value, key: &str, value: Value) -> Value {
    let mut descriptor = descriptor.clone();
    descriptor[key] = value;
    descriptor
}

fn platform(descriptor: &Value, os: &str, architecture: &str) -> Value {
    with(descriptor, "platform", json!({"os": os, "architecture": architecture}))
}

fn tag(descriptor: &Value, tag: &str) -> Value {
    with(
        descriptor,
        "annotations",
        json!({"org.opencontainers.image.ref.name": tag}),
    )
}

/// An image with one file of this name.
fn image(layout: &Layout, architecture: &str, name: &str) -> Value {
    let layers = Layers(vec![layout.layer(Tar::new().file(name, name), Pack::Gzip)]);
    layout.image_for(architecture, &layers)
}

fn file_of(store: &Store, reference: &Reference) -> Result<String, String> {
    let image = store.unpack(reference).map_err(|error| error.to_string())?;
    Ok(tree(&image.layers[0]).into_keys().collect())
}

/// The architecture of the images that fit, and one of those that do not.
fn architectures() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    }
}

#[test]
fn the_image_of_this_host_is_taken_out_of_indexes_in_indexes() {
    let (host, other) = architectures();
    let layout = Layout::new();
    let nested = layout.nested(&[
        platform(&image(&layout, other, "other"), "linux", other),
        platform(&image(&layout, host, "windows"), "windows", host),
        with(
            &image(&layout, host, "attestation"),
            "platform",
            json!({"os": "unknown", "architecture": "unknown"}),
        ),
        with(
            &image(&layout, host, "newer"),
            "platform",
            json!({"os": "linux", "architecture": host, "variant": "v9"}),
        ),
        platform(&image(&layout, host, "right"), "linux", host),
        platform(&image(&layout, host, "second"), "linux", host),
    ]);
    layout.index(&[layout.nested(std::slice::from_ref(&nested))]);
    let (_guard, store) = store();
    assert_eq!(file_of(&store, &layout.reference()).as_deref(), Ok("right"));
    let by_digest = layout.select(&format!("@{}", digest(&nested)));
    assert_eq!(file_of(&store, &by_digest).as_deref(), Ok("right"));
}

#[test]
fn a_manifest_without_a_platform_is_judged_by_its_configuration() {
    let (host, other) = architectures();
    let layout = Layout::new();
    layout.index(&[image(&layout, other, "other"), image(&layout, host, "right")]);
    let (_guard, store) = store();
    assert_eq!(file_of(&store, &layout.reference()).as_deref(), Ok("right"));
}

#[test]
fn what_does_not_fit_is_listed() {
    let (host, other) = architectures();
    let layout = Layout::new();
    let foreign = image(&layout, other, "other");
    let artifact = json!({"schemaVersion": 2, "layers": [],
        "config": layout.blob("application/vnd.cncf.helm.config.v1+json", b"{}")});
    let artifact = layout.blob(
        "application/vnd.oci.image.manifest.v1+json",
        artifact.to_string().as_bytes(),
    );
    layout.index(&[foreign.clone(), artifact, layout.blob("text/plain", b"x")]);
    let (guard, store) = store();
    let reference = layout.reference();
    assert_eq!(
        file_of(&store, &reference),
        Err(format!(
            "{reference} has no image for linux/{host}; it has linux/{other}, something of type \"text/plain\", something with a \
             configuration of type \"application/vnd.cncf.helm.config.v1+json\""
        ))
    );
    layout.index(&[]);
    let error = file_of(&store, &reference).unwrap_err();
    assert_eq!(error, format!("{reference} has no image for linux/{host}; it has none"));
    assert_eq!(names(&guard), Vec::<String>::new());
}

#[test]
fn more_than_one_image_wants_a_tag_or_a_digest() {
    let (host, _) = architectures();
    let layout = Layout::new();
    let [one, two] = ["one", "two"].map(|name| tag(&image(&layout, host, name), name));
    layout.index(&[one.clone(), two.clone(), with(&two, "annotations", Value::Null)]);
    let (_guard, store) = store();
    let reference = layout.reference();
    assert_eq!(
        file_of(&store, &reference),
        Err(format!(
            "{reference} has more than one image for linux/{host}, name a tag or a digest: one, two"
        ))
    );
    assert_eq!(file_of(&store, &layout.select(":two")).as_deref(), Ok("two"));
    let by_digest = layout.select(&format!("@{}", digest(&one)));
    assert_eq!(file_of(&store, &by_digest).as_deref(), Ok("one"));
    let folder = layout.path().display();
    assert_eq!(
        file_of(&store, &layout.select(":three")),
        Err(format!("{folder} has no image with tag \"three\"; it has one, two"))
    );
    let nothing = Digest::of(b"nothing");
    assert_eq!(
        file_of(&store, &layout.select(&format!("@{nothing}"))),
        Err(format!("{folder} has no image with digest {nothing} in its index"))
    );
}

#[test]
fn a_layout_that_is_none_is_told_with_what_is_wrong() {
    let (host, _) = architectures();
    let layout = Layout::new();
    layout.index(&[image(&layout, host, "x")]);
    let (_guard, store) = store();
    let error = || file_of(&store, &layout.reference()).unwrap_err();
    let folder = layout.path().display().to_string();

    let good = fs::read(layout.path().join("index.json")).unwrap();
    fs::write(layout.path().join("index.json"), "{").unwrap();
    assert!(
        error().starts_with(&format!("index {folder}/index.json is malformed: ")),
        "{}",
        error()
    );
    fs::write(layout.path().join("index.json"), r#"{"schemaVersion":1}"#).unwrap();
    assert_eq!(
        error(),
        format!("index {folder}/index.json is malformed: its schema version is 1, not 2")
    );
    fs::write(layout.path().join("index.json"), vec![b' '; 5 << 20]).unwrap();
    assert_eq!(
        error(),
        format!("cannot read {folder}/index.json: more than 4194304 bytes")
    );
    fs::remove_file(layout.path().join("index.json")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, layout.path().join("index.json"), 0o600.into()).unwrap();
    // Nor does it wait for somebody who writes.
    assert_eq!(error(), format!("cannot open {folder}/index.json: not a regular file"));
    fs::remove_file(layout.path().join("index.json")).unwrap();
    fs::write(layout.path().join("index.json"), good).unwrap();

    fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert_eq!(
        error(),
        format!("{folder} is not an OCI image layout: its version is \"2.0.0\", not 1")
    );
    fs::remove_file(layout.path().join("oci-layout")).unwrap();
    assert_eq!(
        error(),
        format!(
            "{folder} is not an OCI image layout: cannot open {folder}/oci-layout: No such file or directory (os error 2)"
        )
    );
}

#[test]
fn what_contradicts_itself_is_named() {
    let (host, _) = architectures();
    let layout = Layout::new();
    let layer = layout.layer(Tar::new().file("x", "x"), Pack::Gzip);
    let (guard, store) = store();
    let error = |layers: Vec<(Value, String)>, edit: &dyn Fn(&mut Value)| {
        let mut image = layout.image_for(host, &Layers(layers));
        edit(&mut image);
        layout.index(&[image]);
        file_of(&store, &layout.reference()).unwrap_err()
    };
    let mut unknown = layer.clone();
    unknown.0["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+bzip2");
    assert_eq!(
        error(vec![unknown], &|_| ()),
        format!(
            "layer {} has the unknown media type \"application/vnd.oci.image.layer.v1.tar+bzip2\"",
            digest(&layer.0)
        )
    );
    assert!(error(Vec::new(), &|_| ()).ends_with(" is malformed: it has no layers"));
    assert!(error(vec![layer.clone(); 129], &|_| ()).ends_with(" is malformed: it has more than 128 layers"));
    // A manifest that says it is larger or smaller than it is.
    let text = error(vec![layer.clone()], &|image| image["size"] = json!(5));
    assert!(text.contains(" bytes, not the 5 that its descriptor says"), "{text}");
    // A digest that would be a path.
    let text = error(vec![layer.clone()], &|image| {
        image["digest"] = json!("sha256:../../../etc/passwd")
    });
    assert!(text.contains("is not a digest"), "{text}");
    let text = error(vec![layer], &|image| image["digest"] = json!("sha512:00"));
    assert!(text.contains("only sha256 is supported"), "{text}");
    assert_eq!(names(&guard), Vec::<String>::new());
}
