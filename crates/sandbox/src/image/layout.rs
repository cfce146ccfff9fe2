//! From a reference to the layers and the configuration of one image (image-spec, image-layout.md, image-index.md, manifest.md).

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config::ConfigBlob;
use super::decompress::Compression;
use super::reference::Selection;
use super::{Digest, ImageConfig, ImageError, Reference, blob};

/// An index in an index in an index.
const MAX_DEPTH: usize = 4;

/// Docker's limit; the kernel's is 500 (OVL_MAX_STACK).
const MAX_LAYERS: usize = 128;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name, where containerd and Docker wrote the layout.
const IMAGE_NAME: &str = "io.containerd.image.name";

#[derive(Debug, Deserialize)]
struct LayoutFile {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: Digest,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<HashMap<String, String>>,
}

impl Descriptor {
    fn names(&self) -> impl Iterator<Item = &String> {
        let annotations = self.annotations.iter();
        annotations.flat_map(|annotations| {
            [REF_NAME, IMAGE_NAME]
                .into_iter()
                .filter_map(|key| annotations.get(key))
        })
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Of this host, in Go's words, as image-index.md wants.
    fn of_host() -> Platform {
        Platform {
            os: "linux".to_owned(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
            variant: None,
        }
    }

    /// A variant above the first may need instructions that this processor does not have.
    fn runs_on(&self, host: &Platform) -> bool {
        let base = matches!(
            (host.architecture.as_str(), self.variant.as_deref().unwrap_or_default()),
            (_, "") | ("amd64", "v1") | ("arm64", "v8")
        );
        self.os == host.os && self.architecture == host.architecture && base
    }

    fn text(&self) -> String {
        match self.variant.as_deref().unwrap_or_default() {
            "" => format!("{}/{}", self.os, self.architecture),
            variant => format!("{}/{}/{variant}", self.os, self.architecture),
        }
    }
}

/// What a media type of an index's entry says.
enum Kind {
    Index,
    Manifest,
    Other,
}

impl Kind {
    fn of(media_type: &str) -> Kind {
        match media_type {
            "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                Kind::Index
            }
            "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" => {
                Kind::Manifest
            }
            _ => Kind::Other,
        }
    }
}

/// A layer of an image that was found.
#[derive(Debug, Clone)]
pub(super) struct LayerBlob {
    pub digest: Digest,
    pub size: u64,
    pub diff_id: Digest,
    pub compression: Compression,
}

/// An image that was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    manifest: Digest,
    /// The first is the lowest.
    pub layers: Vec<LayerBlob>,
    pub config: ImageConfig,
}

struct Search<'a> {
    layout: &'a Path,
    host: Platform,
    /// What was passed by, for messages.
    seen: BTreeSet<String>,
}

/// Finds the image for this host.
pub(super) fn find(reference: &Reference) -> Result<Found, ImageError> {
    let layout = reference.layout();
    check_layout(layout)?;
    let path = layout.join("index.json");
    let index: Index = parse("index", &path, &blob::document(&path)?)?;
    check_schema("index", &path, index.schema_version)?;
    let mut search = Search {
        layout,
        host: Platform::of_host(),
        seen: BTreeSet::new(),
    };
    let roots = match reference.selection() {
        Selection::Only => index.manifests,
        Selection::Tag(tag) => tagged(layout, &index.manifests, tag)?,
        Selection::Digest(digest) => {
            vec![
                search
                    .by_digest(index.manifests, digest, 0)?
                    .ok_or_else(|| ImageError::NoDigest {
                        layout: layout.to_owned(),
                        digest: *digest,
                    })?,
            ]
        }
    };
    let mut found: Vec<(Found, String)> = Vec::new();
    for root in &roots {
        if let Some(image) = search.pick(root, 0)?
            && found.iter().all(|(other, _)| other.manifest != image.manifest)
        {
            let name = root.names().next().cloned();
            found.push((image, name.unwrap_or_else(|| root.digest.to_string())));
        }
    }
    let ambiguous = found.len() > 1 && *reference.selection() == Selection::Only;
    if ambiguous {
        let names: Vec<String> = found.into_iter().map(|(_, name)| name).collect();
        return Err(ImageError::Ambiguous {
            image: reference.to_string(),
            platform: search.host.text(),
            found: names.join(", "),
        });
    }
    match found.into_iter().next() {
        Some((image, _)) => Ok(image),
        None => Err(ImageError::NoPlatform {
            image: reference.to_string(),
            platform: search.host.text(),
            found: list(search.seen),
        }),
    }
}

fn list(names: BTreeSet<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    Vec::from_iter(names).join(", ")
}

fn check_layout(layout: &Path) -> Result<(), ImageError> {
    let not_layout = |reason: String| ImageError::NotLayout {
        path: layout.to_owned(),
        reason,
    };
    let bytes = blob::document(&layout.join("oci-layout")).map_err(|error| not_layout(error.to_string()))?;
    let file: LayoutFile =
        serde_json::from_slice(&bytes).map_err(|error| not_layout(format!("its oci-layout is malformed: {error}")))?;
    if !file.version.starts_with("1.") {
        return Err(not_layout(format!("its version is {:?}, not 1", file.version)));
    }
    Ok(())
}

fn check_schema(what: &'static str, path: &Path, version: u32) -> Result<(), ImageError> {
    if version == 2 {
        return Ok(());
    }
    Err(ImageError::Malformed {
        what,
        path: path.to_owned(),
        reason: format!("its schema version is {version}, not 2"),
    })
}

fn parse<T: DeserializeOwned>(what: &'static str, path: &Path, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Malformed {
        what,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn tagged(layout: &Path, roots: &[Descriptor], tag: &str) -> Result<Vec<Descriptor>, ImageError> {
    let named = |root: &&Descriptor| root.names().any(|name| name == tag);
    let tagged: Vec<Descriptor> = roots.iter().filter(named).cloned().collect();
    if tagged.is_empty() {
        return Err(ImageError::NoTag {
            layout: layout.to_owned(),
            tag: tag.to_owned(),
            known: list(roots.iter().flat_map(Descriptor::names).cloned().collect()),
        });
    }
    Ok(tagged)
}

impl Search<'_> {
    fn document<T: DeserializeOwned>(&self, what: &'static str, descriptor: &Descriptor) -> Result<T, ImageError> {
        let bytes = blob::checked_document(self.layout, &descriptor.digest, descriptor.size)?;
        parse(what, &blob::path(self.layout, &descriptor.digest), &bytes)
    }

    fn index(&self, descriptor: &Descriptor, depth: usize) -> Result<Vec<Descriptor>, ImageError> {
        let path = blob::path(self.layout, &descriptor.digest);
        if depth >= MAX_DEPTH {
            return Err(ImageError::Malformed {
                what: "index",
                path,
                reason: format!("it lies in more than {MAX_DEPTH} others"),
            });
        }
        let index: Index = self.document("index", descriptor)?;
        check_schema("index", &path, index.schema_version)?;
        Ok(index.manifests)
    }

    fn by_digest(
        &self,
        descriptors: Vec<Descriptor>,
        digest: &Digest,
        depth: usize,
    ) -> Result<Option<Descriptor>, ImageError> {
        if let Some(found) = descriptors.iter().find(|descriptor| descriptor.digest == *digest) {
            return Ok(Some(found.clone()));
        }
        for descriptor in &descriptors {
            // An index may name what is not in the layout.
            if matches!(Kind::of(&descriptor.media_type), Kind::Index)
                && blob::path(self.layout, &descriptor.digest).exists()
                && let Some(found) = self.by_digest(self.index(descriptor, depth)?, digest, depth + 1)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first that fits, as image-index.md says.
    fn pick(&mut self, descriptor: &Descriptor, depth: usize) -> Result<Option<Found>, ImageError> {
        if let Some(platform) = &descriptor.platform
            && !platform.runs_on(&self.host)
        {
            self.seen.insert(platform.text());
            return Ok(None);
        }
        match Kind::of(&descriptor.media_type) {
            Kind::Index => {
                for descriptor in self.index(descriptor, depth)? {
                    if let Some(found) = self.pick(&descriptor, depth + 1)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
            Kind::Manifest => self.manifest(descriptor),
            Kind::Other => {
                self.seen
                    .insert(format!("something of type {:?}", descriptor.media_type));
                Ok(None)
            }
        }
    }

    fn manifest(&mut self, descriptor: &Descriptor) -> Result<Option<Found>, ImageError> {
        let path = blob::path(self.layout, &descriptor.digest);
        let manifest: Manifest = self.document("manifest", descriptor)?;
        check_schema("manifest", &path, manifest.schema_version)?;
        let Manifest { config, layers, .. } = manifest;
        if !matches!(
            config.media_type.as_str(),
            "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
        ) {
            self.seen.insert(format!(
                "something with a configuration of type {:?}",
                config.media_type
            ));
            return Ok(None);
        }
        let blob: ConfigBlob = self.document("image configuration", &config)?;
        let platform = Platform {
            os: blob.os,
            architecture: blob.architecture,
            variant: None,
        };
        if !platform.runs_on(&self.host) {
            self.seen.insert(platform.text());
            return Ok(None);
        }
        let malformed = |reason| ImageError::Malformed {
            what: "manifest",
            path: path.clone(),
            reason,
        };
        let diff_ids = blob.rootfs.diff_ids;
        if blob.rootfs.kind != "layers" {
            return Err(malformed(format!(
                "its rootfs is of type {:?}, not \"layers\"",
                blob.rootfs.kind
            )));
        }
        if layers.len() != diff_ids.len() {
            let (layers, ids) = (layers.len(), diff_ids.len());
            return Err(malformed(format!(
                "it has {layers} layers, its configuration has {ids} diff ids"
            )));
        }
        if layers.is_empty() {
            return Err(malformed("it has no layers".to_owned()));
        }
        if layers.len() > MAX_LAYERS {
            return Err(malformed(format!("it has more than {MAX_LAYERS} layers")));
        }
        let layers = layers.into_iter().zip(diff_ids).map(|(layer, diff_id)| {
            Ok(LayerBlob {
                compression: Compression::of(&layer.media_type).ok_or_else(|| ImageError::LayerType {
                    digest: layer.digest,
                    media_type: layer.media_type.clone(),
                })?,
                digest: layer.digest,
                size: layer.size,
                diff_id,
            })
        });
        Ok(Some(Found {
            manifest: descriptor.digest,
            layers: layers.collect::<Result<_, ImageError>>()?,
            config: blob.config.unwrap_or_default().into(),
        }))
    }
}
