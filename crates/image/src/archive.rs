//! Images in files: docker-save tars (old and new), OCI layout tars and directories in; OCI layout tars that docker-load
//! reads too out.
//!
//! A tar is read once, front to back: every file in it goes into the content store under its own digest (what turns out
//! to be unneeded is collected later), then the names are interpreted. So nothing is ever extracted under a name that
//! the archive chose.

use crate::content::{Content, ContentError};
use crate::spec::{ConfigFile, Index, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, is_index};
use crate::store::{Image, Inner, LAYERS, Pin, media_type_of};
use crate::unpack::{Compression, decompress};
use crate::{Descriptor, Digest, ImageError, Platform, Reference};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files in one archive: 500 layers of old docker-save have three each.
const FILES: usize = 100_000;

/// The small files that say what the others are.
const METADATA_BYTES: u64 = 8 << 20;

/// An image found in a file. Its blobs are in the content store.
pub(crate) struct FoundImage {
    pub(crate) manifest: Descriptor,
    pub(crate) names: BTreeSet<String>,
}

/// Reads all images for this machine. Blocks.
pub(crate) fn read(inner: &Inner, from: &Path, pin: &mut Pin) -> Result<Vec<FoundImage>, ImageError> {
    let content = &inner.content;
    let what = from.display().to_string();
    let mut files = if from.is_dir() {
        Files { what, content, dir: Some(from.to_owned()), known: HashMap::new(), pin }
    } else {
        let known = read_tar(content, from, &what, pin)?;
        Files { what, content, dir: None, known, pin }
    };
    let docker = files.json::<Vec<DockerImage>>("manifest.json")?;
    let mut found = match files.json::<Index>("index.json")? {
        Some(index) => files.layout(&index)?,
        None => Vec::new(),
    };
    if found.is_empty() {
        for image in docker.iter().flatten() {
            found.push(files.docker(image)?);
        }
    } else {
        // docker-save since version 25 is both; the tags are easier to read here.
        for image in docker.iter().flatten() {
            let id = files.digest(&image.config)?;
            for one in &mut found {
                let manifest: Manifest = parse(&files.what, &content.read(&one.manifest.digest)?)?;
                if Some(&manifest.config.digest) == id.as_ref() {
                    one.names.extend(image.names()?);
                }
            }
        }
    }
    if found.is_empty() {
        let why = "it has neither index.json (OCI layout) nor manifest.json (docker save)".to_owned();
        return Err(ImageError::Malformed { what: files.what, why });
    }
    Ok(found)
}

/// An entry of docker-save's `manifest.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl DockerImage {
    fn names(&self) -> Result<BTreeSet<String>, ImageError> {
        let tags = self.repo_tags.iter().flatten();
        tags.map(|tag| Ok(tag.parse::<Reference>()?.to_string())).collect()
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ImageError::Malformed { what: what.to_owned(), why: error.to_string() })
}

/// Keeps every regular file of a tar. Links of old docker-save archives become their target's digest.
fn read_tar(content: &Content, from: &Path, what: &str, pin: &mut Pin) -> Result<HashMap<String, Digest>, ImageError> {
    let malformed = |why: String| ImageError::Malformed { what: what.to_owned(), why };
    let file = File::open(from).map_err(ContentError::io("open", from))?;
    let stream = decompress(file).map_err(ContentError::io("read", from))?;
    let mut archive = tar::Archive::new(stream);
    let (mut known, mut links) = (HashMap::new(), Vec::new());
    for entry in archive.entries().map_err(|error| malformed(error.to_string()))? {
        let mut entry = entry.map_err(|error| malformed(error.to_string()))?;
        if known.len() + links.len() > FILES {
            return Err(malformed(format!("it has more than {FILES} files")));
        }
        let Some(name) = clean(&String::from_utf8_lossy(&entry.path_bytes())) else { continue };
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let (digest, _) = content.put_stream(&mut entry)?;
                pin.add(&digest);
                known.insert(name, digest);
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = String::from_utf8_lossy(&entry.link_name_bytes().unwrap_or_default()).into_owned();
                let base = match entry.header().entry_type() {
                    tar::EntryType::Symlink => name.rsplit_once('/').map_or("", |(dir, _)| dir),
                    _ => "",
                };
                links.push((name.clone(), clean(&format!("{base}/{target}"))));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(digest) = target.and_then(|target| known.get(&target).cloned()) {
            known.insert(name, digest);
        }
    }
    Ok(known)
}

/// A name without `.` and with `..` resolved; `None` if it leads out.
fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The files of an archive by name, as content.
struct Files<'a> {
    what: String,
    content: &'a Content,
    /// If it is a directory: files are kept when they are asked for.
    dir: Option<PathBuf>,
    known: HashMap<String, Digest>,
    pin: &'a mut Pin,
}

impl Files<'_> {
    fn malformed(&self, why: impl Into<String>) -> ImageError {
        ImageError::Malformed { what: self.what.clone(), why: why.into() }
    }

    fn digest(&mut self, name: &str) -> Result<Option<Digest>, ImageError> {
        let clean = clean(name).ok_or_else(|| self.malformed(format!("the name {name:?} leads out of it")))?;
        if let (Some(dir), None) = (&self.dir, self.known.get(&clean)) {
            let path = dir.join(&clean);
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(ContentError::io("open", &path)(error).into()),
            };
            let (digest, _) = self.content.put_stream(&mut file)?;
            self.pin.add(&digest);
            self.known.insert(clean.clone(), digest);
        }
        Ok(self.known.get(&clean).cloned())
    }

    fn need(&mut self, name: &str) -> Result<Digest, ImageError> {
        self.digest(name)?.ok_or_else(|| self.malformed(format!("{name} is missing")))
    }

    /// A blob of an OCI layout, which must be what its name says.
    fn blob(&mut self, digest: &Digest) -> Result<(), ImageError> {
        self.pin.add(digest);
        if self.content.has(digest) {
            return Ok(());
        }
        let found = self.need(&format!("blobs/sha256/{}", digest.hex()))?;
        if found == *digest { Ok(()) } else { Err(ContentError::Mismatch { expected: digest.clone(), found }.into()) }
    }

    fn bytes(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let size = self.content.size(digest)?;
        if size > METADATA_BYTES {
            return Err(self.malformed(format!("{digest} should be a small file, but has {size} bytes")));
        }
        Ok(self.content.read(digest)?)
    }

    fn json<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ImageError> {
        match self.digest(name)? {
            Some(digest) => parse(&format!("{name} of {}", self.what), &self.bytes(&digest)?).map(Some),
            None => Ok(None),
        }
    }

    /// The images of an OCI layout: of each multi-platform one, that for this machine.
    fn layout(&mut self, index: &Index) -> Result<Vec<FoundImage>, ImageError> {
        let mut found: BTreeMap<Digest, FoundImage> = BTreeMap::new();
        let host = Platform::host();
        for listed in &index.manifests {
            let mut descriptor = listed.clone();
            let mut media_type = self.kind(&descriptor)?;
            for _ in 0..4 {
                if !is_index(&media_type) {
                    break;
                }
                let inner: Index = parse(&self.what, &self.bytes(&descriptor.digest)?)?;
                let chosen = inner.choose(&host).ok_or_else(|| ImageError::NoPlatform {
                    what: self.what.clone(),
                    wanted: host.to_string(),
                    found: inner.platforms(),
                })?;
                descriptor = chosen.clone();
                media_type = self.kind(&descriptor)?;
            }
            let manifest: Manifest = parse(&self.what, &self.bytes(&descriptor.digest)?)?;
            self.blob(&manifest.config.digest)?;
            for layer in &manifest.layers {
                self.blob(&layer.digest)?;
            }
            let size = self.content.size(&descriptor.digest)?;
            let plain = Descriptor::new(&media_type, descriptor.digest.clone(), size);
            let one = found.entry(descriptor.digest).or_insert(FoundImage { manifest: plain, names: BTreeSet::new() });
            one.names.extend(names(&listed.annotations)?);
        }
        Ok(found.into_values().collect())
    }

    fn kind(&mut self, descriptor: &Descriptor) -> Result<String, ImageError> {
        self.blob(&descriptor.digest)?;
        let bytes = self.bytes(&descriptor.digest)?;
        media_type_of(&descriptor.digest.to_string(), &descriptor.media_type, &bytes)
    }

    /// An image of docker-save gets the manifest that it lacks.
    fn docker(&mut self, image: &DockerImage) -> Result<FoundImage, ImageError> {
        let config = self.need(&image.config)?;
        let file: ConfigFile = parse(&image.config, &self.bytes(&config)?)?;
        if image.layers.len() > LAYERS || image.layers.len() != file.rootfs.diff_ids.len() {
            let (layers, diff_ids) = (image.layers.len(), file.rootfs.diff_ids.len());
            return Err(self.malformed(format!("it has {layers} layers, its configuration {diff_ids}")));
        }
        let mut layers = Vec::new();
        for name in &image.layers {
            let digest = self.need(name)?;
            let mut start = Vec::new();
            let path = self.content.path(&digest);
            let read = self.content.open_blob(&digest)?.take(4).read_to_end(&mut start);
            read.map_err(ContentError::io("read", &path))?;
            let media_type = Compression::of(&start).media_type();
            layers.push(Descriptor::new(media_type, digest.clone(), self.content.size(&digest)?));
        }
        let config = Descriptor::new(OCI_CONFIG, config.clone(), self.content.size(&config)?);
        let manifest = Manifest { schema_version: 2, media_type: Some(OCI_MANIFEST.into()), config, layers };
        let bytes = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        self.pin.add(&Digest::of(&bytes));
        let digest = self.content.put(&bytes)?;
        let manifest = Descriptor::new(OCI_MANIFEST, digest, bytes.len() as u64);
        Ok(FoundImage { manifest, names: image.names()? })
    }
}

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// containerd writes the full name; OCI's own annotation often has the tag alone, which names nothing.
fn names(annotations: &BTreeMap<String, String>) -> Result<BTreeSet<String>, ImageError> {
    let full = annotations.get(CONTAINERD_NAME);
    let own = annotations.get(OCI_NAME).filter(|name| name.contains([':', '/']));
    full.or(own).into_iter().map(|name| Ok(name.parse::<Reference>()?.to_string())).collect()
}

// === export ===

/// Writes images (with the text they were asked for by) as one tar. Blocks.
pub(crate) fn write(inner: &Inner, images: &[(String, Arc<Image>)], to: impl Write) -> Result<(), ImageError> {
    let content = &inner.content;
    let failed = || ContentError::io("write", Path::new("the archive"));
    let mut tar = tar::Builder::new(to);
    let mut index = Index { schema_version: 2, media_type: Some(OCI_INDEX.into()), manifests: Vec::new() };
    let mut docker: BTreeMap<Digest, DockerImage> = BTreeMap::new();
    let mut written = BTreeSet::new();
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    for (asked, image) in images {
        let one = docker.entry(image.id.clone()).or_insert_with(|| DockerImage {
            config: blob(&image.id),
            repo_tags: Some(Vec::new()),
            layers: image.layers.iter().map(|layer| blob(&layer.blob.digest)).collect(),
        });
        // Asked for by name, it has this name in the archive; asked for by id, all of its names.
        let asked =
            asked.parse::<Reference>().ok().map(|name| name.to_string()).filter(|name| image.names.contains(name));
        for name in asked.map_or_else(|| image.names.clone(), |name| vec![name]) {
            let short = name.parse::<Reference>()?.familiar();
            let tag = name.rsplit(':').next().unwrap_or_default().to_owned();
            let annotations = BTreeMap::from([(CONTAINERD_NAME.to_owned(), name), (OCI_NAME.to_owned(), tag)]);
            index.manifests.push(Descriptor { annotations, ..image.manifest.clone() });
            one.repo_tags.get_or_insert_default().push(short);
        }
        if image.names.is_empty() {
            index.manifests.push(image.manifest.clone());
        }
        let digests = image.layers.iter().map(|layer| &layer.blob.digest).chain([&image.manifest.digest, &image.id]);
        for digest in digests.filter(|digest| written.insert((*digest).clone())) {
            let file = content.open_blob(digest)?;
            append(&mut tar, &blob(digest), content.size(digest)?, file).map_err(failed())?;
        }
    }
    let docker: Vec<DockerImage> = docker.into_values().collect();
    let small = [
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json", serde_json::to_vec(&index).expect("an index is JSON")),
        ("manifest.json", serde_json::to_vec(&docker).expect("a manifest is JSON")),
    ];
    for (name, bytes) in small {
        append(&mut tar, name, bytes.len() as u64, &*bytes).map_err(failed())?;
    }
    let mut to = tar.into_inner().map_err(failed())?;
    Ok(to.flush().map_err(failed())?)
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, size: u64, from: impl Read) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0); // Two exports of one image are one file.
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, from)
}
