//! The images of a machine: pull, push, list, tag, remove, and root file systems for containers.
//!
//! ```text
//!   images.json          which images there are and their names; replaced atomically
//!   blobs/ ingest/       content.rs
//!   layers/ trash/       layers.rs
//!   snapshots/<id>/      snapshot.json  upper/  work/    what a container writes
//!   empty/               the lower directory of images without layers
//! ```
//!
//! Always holds: an image that is listed has all its blobs; whatever kill -9 interrupts is either there or not, and what
//! it leaves is resumed or removed by itself; what somebody is working with (a pin), an image names or a container stands
//! on is never collected, because looking and pinning happen under the lock that collecting holds.

use crate::content::{Content, ContentError, read_dir, write_atomically};
use crate::layers::Layers;
use crate::progress::{Progress, Reporter, State};
use crate::registries::Endpoint;
use crate::registry::{Attempts, Client, RegistryError, host};
use crate::spec::{ConfigFile, Index, Manifest, OCI_INDEX, OCI_MANIFEST, is_index, is_layer, is_manifest};
use crate::unpack::UnpackLimits;
use crate::{Credentials, Descriptor, Digest, ImageConfig, ImageError, Merged, Platform, Reference, Registries};
use base::Clock;
use base::backoff::Backoff;
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Blobs downloaded at once, of all pulls together. More only makes each slower.
const DOWNLOADS: usize = 8;

/// Blobs uploaded at once by one push.
const UPLOADS: usize = 4;

/// Tries of one blob from one endpoint, each going on where the last one ended.
const BLOB_TRIES: u32 = 5;

/// Written to the file at once.
const WRITE_BYTES: usize = 1 << 20;

/// A configuration is read into memory.
const CONFIG_BYTES: u64 = 8 << 20;

/// overlayfs takes 500 lower directories; registries refuse far fewer.
pub(crate) const LAYERS: usize = 500;

/// How an [`ImageStore`] is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How registries are reached.
    pub registries: Registries,
    /// Tells when an image came.
    pub clock: Arc<dyn Clock>,
    /// What a layer may cost.
    pub limits: UnpackLimits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            registries: Registries::default(),
            clock: base::SystemClock::shared(),
            limits: UnpackLimits::default(),
        }
    }
}

/// How one pull or push is done.
#[derive(Clone, Default)]
pub struct Transfer {
    /// Instead of the configured ones.
    pub credentials: Option<Credentials>,
    /// Is told what happens. Called from several threads, must not block.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    /// Instead of this machine's (pull).
    pub platform: Option<Platform>,
}

/// An image that is here, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration, as Docker and the CRI call an image.
    pub id: Digest,
    /// Of this platform.
    pub manifest: Descriptor,
    /// `registry/repository:tag`, normalised, ordered.
    pub names: Vec<String>,
    /// `registry/repository@digest`, ordered. The digest is what the registry served: the index's, if there was one.
    pub digests: Vec<String>,
    /// Bottom first.
    pub layers: Vec<ImageLayer>,
    /// Defaults of a container.
    pub config: ImageConfig,
    /// The whole configuration.
    pub file: ConfigFile,
    /// Bytes of all its blobs.
    pub size: u64,
    /// When it came, RFC 3339.
    pub stored: String,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The blob.
    pub blob: Descriptor,
    /// What it unpacks from.
    pub diff_id: Digest,
}

impl Image {
    pub(crate) fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| layer.diff_id.clone()).collect()
    }

    fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().map(|layer| &layer.blob.digest).chain([&self.manifest.digest, &self.id])
    }
}

/// What to mount as a container's root. Nothing is mounted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayMount {
    /// Top first, at least one.
    pub lower: Vec<PathBuf>,
    /// Takes the writes.
    pub upper: PathBuf,
    /// overlayfs's own, on the same file system as `upper`.
    pub work: PathBuf,
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Images that are gone.
    pub deleted: Vec<Digest>,
    /// Bytes freed.
    pub bytes: u64,
}

/// The images of a machine. Clones share it.
#[derive(Clone)]
pub struct ImageStore(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    root: PathBuf,
    pub(crate) content: Content,
    layers: Layers,
    client: Client,
    options: Options,
    state: Mutex<Images>,
    pins: Mutex<HashMap<Digest, usize>>,
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    downloads: Semaphore,
    unpacks: Semaphore,
    _lock: File,
}

#[derive(Default)]
struct Images {
    images: BTreeMap<Digest, Arc<Image>>,
    /// By container id.
    snapshots: BTreeMap<String, Snapshot>,
}

/// A line of `images.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    manifest: Descriptor,
    names: BTreeSet<String>,
    digests: BTreeSet<String>,
    stored: String,
}

#[derive(Default, Serialize, Deserialize)]
struct IndexFile {
    version: u32,
    images: BTreeMap<Digest, Stored>,
}

const INDEX_VERSION: u32 = 1;

/// `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    image: Digest,
    /// Bottom first.
    layers: Vec<ImageLayerRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageLayerRecord {
    blob: Digest,
    diff_id: Digest,
}

impl ImageStore {
    /// Opens or creates the store in `root`. Blocks for some milliseconds.
    pub fn open(root: &Path, options: Options) -> Result<Self, ImageError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).map_err(ContentError::io("create", root))?;
        let lock = take_lock(root)?;
        for dir in ["snapshots", "empty"].map(|name| root.join(name)) {
            std::fs::create_dir_all(&dir).map_err(ContentError::io("create", &dir))?;
        }
        let content = Content::open(root)?;
        let layers = Layers::open(root)?;
        let mut state = Images { images: load_images(root, &content)?, snapshots: BTreeMap::new() };
        for dir in read_dir(&root.join("snapshots"))? {
            // One that begins with a dot has not got its name yet.
            let named = !dir.file_name().unwrap_or_default().to_string_lossy().starts_with('.');
            let record = std::fs::read(dir.join("snapshot.json")).ok().filter(|_| named);
            match record.and_then(|bytes| serde_json::from_slice::<Snapshot>(&bytes).ok()) {
                Some(snapshot) => {
                    let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    state.snapshots.insert(id, snapshot);
                }
                None => layers.throw_away(&dir)?,
            }
        }
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let inner = Arc::new(Inner {
            root: root.to_owned(),
            content,
            layers,
            client: Client::default(),
            options,
            state: Mutex::new(state),
            pins: Mutex::default(),
            flights: Mutex::default(),
            downloads: Semaphore::new(DOWNLOADS),
            unpacks: Semaphore::new(cores),
            _lock: lock,
        });
        inner.collect()?;
        Ok(ImageStore(inner))
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.state.lock().images.values().cloned().collect()
    }

    /// The image that a name, `name@digest`, id or unique beginning of an id (at least 4 digits) means.
    pub fn find(&self, text: &str) -> Option<Arc<Image>> {
        find(&self.0.state.lock().images, text)
    }

    /// [`Self::find`], or an error that says what to do.
    pub fn inspect(&self, text: &str) -> Result<Arc<Image>, ImageError> {
        self.find(text).ok_or_else(|| ImageError::NotFound(text.to_owned()))
    }

    /// Brings an image here from its registry and unpacks it. What is here already is not fetched again.
    pub async fn pull(&self, reference: &Reference, transfer: &Transfer) -> Result<Arc<Image>, ImageError> {
        self.0.pull(reference, transfer).await
    }

    /// Sends an image to the registry of `reference`, which must be one of its names.
    pub async fn push(&self, reference: &Reference, transfer: &Transfer) -> Result<(), ImageError> {
        self.0.push(reference, transfer).await
    }

    /// Reads images from a file (docker-save or OCI layout, also compressed) or an OCI layout directory, and unpacks them.
    pub async fn import(&self, from: &Path) -> Result<Vec<Arc<Image>>, ImageError> {
        let (inner, from) = (self.0.clone(), from.to_owned());
        let mut pin = Pin::new(self.0.clone());
        let (found, pin) =
            blocking(move || crate::archive::read(&inner, &from, &mut pin).map(|found| (found, pin))).await?;
        let mut images = Vec::new();
        for one in found {
            let image = self.0.complete(one.manifest, one.names, BTreeSet::new(), &Reporter::default(), &[]).await?;
            images.push(image);
        }
        drop(pin);
        self.0.sync_later();
        Ok(images)
    }

    /// Writes images as one OCI layout tar that docker-load reads too.
    pub async fn export(&self, images: &[String], to: impl std::io::Write + Send + 'static) -> Result<(), ImageError> {
        let chosen =
            images.iter().map(|text| Ok((text.clone(), self.inspect(text)?))).collect::<Result<_, ImageError>>()?;
        let mut pin = Pin::new(self.0.clone());
        let inner = self.0.clone();
        blocking(move || {
            let chosen: Vec<(String, Arc<Image>)> = chosen;
            chosen.iter().for_each(|(_, image)| image.blobs().for_each(|digest| pin.add(digest)));
            crate::archive::write(&inner, &chosen, to)
        })
        .await
    }

    /// Gives an image one more name, taking it from whichever had it. Blocks for a sync.
    pub fn tag(&self, image: &str, name: &Reference) -> Result<Arc<Image>, ImageError> {
        if name.digest.is_some() {
            let why = "a name that is given cannot have a digest".to_owned();
            return Err(ImageError::Malformed { what: name.to_string(), why });
        }
        let image = self.inspect(image)?;
        self.0.record(&image.id, image.manifest.clone(), BTreeSet::from([name.to_string()]), BTreeSet::new())
    }

    /// Removes a name; with the last name, or given an id, the image. Refused while a container uses it.
    pub async fn remove(&self, image: &str) -> Result<Removed, ImageError> {
        let (inner, text) = (self.0.clone(), image.to_owned());
        blocking(move || inner.remove(&text)).await
    }

    /// Removes all images that `keep` does not want and no container uses, and all content that nothing needs.
    pub async fn prune(&self, keep: impl Fn(&Image) -> bool + Send + 'static) -> Result<Removed, ImageError> {
        let inner = self.0.clone();
        blocking(move || inner.prune(&keep)).await
    }

    /// A root file system for the container `id`. Repeating it returns the same one. Layers that a power cut may have
    /// damaged are made again.
    pub async fn prepare(&self, id: &str, image: &Image) -> Result<OverlayMount, ImageError> {
        self.0.prepare(id, image).await
    }

    /// Removes what the container `id` wrote. Nothing happens if there is none. It must not be mounted any more.
    pub async fn remove_snapshot(&self, id: &str) -> Result<(), ImageError> {
        let (inner, id) = (self.0.clone(), id.to_owned());
        blocking(move || {
            check_id(&id)?;
            if inner.state.lock().snapshots.remove(&id).is_some() {
                inner.layers.throw_away(&inner.snapshot_dir(&id))?;
            }
            Ok(inner.layers.empty_trash()?)
        })
        .await
    }

    /// Container ids that have a root file system, and the ids of their images.
    pub fn snapshots(&self) -> Vec<(String, Digest)> {
        self.0.state.lock().snapshots.iter().map(|(id, snapshot)| (id.clone(), snapshot.image.clone())).collect()
    }

    /// The directory that takes the writes of container `id`, if it has a root file system.
    pub fn upper(&self, id: &str) -> Option<PathBuf> {
        self.0.state.lock().snapshots.contains_key(id).then(|| self.0.snapshot_dir(id).join("upper"))
    }

    /// The files of an image, without mounting: for `/etc/passwd` and the like.
    pub fn files(&self, image: &Image) -> Merged {
        Merged::new(self.0.lower(&image.diff_ids()))
    }

    /// Bytes used by blobs and unpacked layers.
    pub fn disk_usage(&self) -> Result<u64, ImageError> {
        let blobs = self.0.content.all()?.iter().filter_map(|digest| self.0.content.size(digest).ok()).sum::<u64>();
        let layers =
            self.0.layers.all().iter().filter_map(|id| self.0.layers.get(id)).map(|(_, bytes)| bytes).sum::<u64>();
        Ok(blobs + layers)
    }
}

/// Runs something that blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ImageError::Internal(error.to_string()))?
}

fn take_lock(root: &Path) -> Result<File, ImageError> {
    let path = root.join("LOCK");
    let failed = || ContentError::io("lock", &path);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ImageError::StoreInUse { dir: root.to_owned(), lock: path }),
        Err(TryLockError::Error(error)) => Err(failed()(error).into()),
    }
}

/// Container ids become file names.
fn check_id(id: &str) -> Result<(), ImageError> {
    let good = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !good || id.is_empty() || id.starts_with('.') || id.len() > 200 {
        return Err(ImageError::InvalidId(id.to_owned()));
    }
    Ok(())
}

fn find(images: &BTreeMap<Digest, Arc<Image>>, text: &str) -> Option<Arc<Image>> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() == 64
        && let Ok(id) = format!("sha256:{hex}").parse::<Digest>()
    {
        return images.get(&id).or_else(|| images.values().find(|image| image.manifest.digest == id)).cloned();
    }
    if let Ok(reference) = text.parse::<Reference>() {
        let name = Reference { digest: None, ..reference.clone() }.to_string();
        let exact = reference.digest.as_ref().map(|digest| format!("{}@{digest}", reference.name()));
        let named = images.values().find(|image| match &exact {
            Some(exact) => image.digests.contains(exact),
            None => image.names.contains(&name),
        });
        if named.is_some() {
            return named.cloned();
        }
    }
    let mut beginning = images.values().filter(|image| hex.len() >= 4 && image.id.hex().starts_with(hex));
    match (beginning.next(), beginning.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => None,
    }
}

// === the list of images ===

fn load_images(root: &Path, content: &Content) -> Result<BTreeMap<Digest, Arc<Image>>, ImageError> {
    let path = root.join("images.json");
    let damaged = |why: String| ImageError::IndexDamaged { path: path.clone(), why };
    let index: IndexFile = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => IndexFile::default(),
        Err(error) => return Err(ContentError::io("read", &path)(error).into()),
    };
    if index.version > INDEX_VERSION {
        return Err(damaged(format!("version {} is of a newer dhow", index.version)));
    }
    let mut images = BTreeMap::new();
    for (id, stored) in index.images {
        match assemble(content, stored) {
            Ok(image) => drop(images.insert(id, Arc::new(image))),
            // The others are fine; this one is as good as not there.
            Err(error) => tracing::warn!(image = %id, error = %base::chain(&error), "image is damaged: pull it again"),
        }
    }
    Ok(images)
}

/// An image from its blobs, all of which must be there.
fn assemble(content: &Content, stored: Stored) -> Result<Image, ImageError> {
    let (manifest, file) = read_manifest(content, &stored.manifest)?;
    for layer in &manifest.layers {
        if !content.has(&layer.digest) {
            return Err(ContentError::Missing(layer.digest.clone()).into());
        }
    }
    let size =
        manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + manifest.config.size + stored.manifest.size;
    let diff_ids = file.rootfs.diff_ids.iter().cloned();
    Ok(Image {
        id: manifest.config.digest,
        manifest: stored.manifest,
        names: stored.names.into_iter().collect(),
        digests: stored.digests.into_iter().collect(),
        layers: manifest.layers.into_iter().zip(diff_ids).map(|(blob, diff_id)| ImageLayer { blob, diff_id }).collect(),
        config: file.config.clone(),
        file,
        size,
        stored: stored.stored,
    })
}

/// Manifest and configuration, checked against each other.
pub(crate) fn read_manifest(content: &Content, of: &Descriptor) -> Result<(Manifest, ConfigFile), ImageError> {
    let what = of.digest.to_string();
    let malformed = |why: String| ImageError::Malformed { what: what.clone(), why };
    let manifest: Manifest =
        serde_json::from_slice(&content.read(&of.digest)?).map_err(|error| malformed(error.to_string()))?;
    check_layers(&what, &manifest)?;
    let bytes = content.read(&manifest.config.digest)?;
    let file: ConfigFile =
        serde_json::from_slice(&bytes).map_err(|error| malformed(format!("its configuration: {error}")))?;
    let (layers, diff_ids) = (manifest.layers.len(), file.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(malformed(format!("the manifest has {layers} layers, the configuration {diff_ids}")));
    }
    Ok((manifest, file))
}

fn check_layers(what: &str, manifest: &Manifest) -> Result<(), ImageError> {
    if manifest.layers.len() > LAYERS {
        let why = format!("it has {} layers, at most {LAYERS} are possible", manifest.layers.len());
        return Err(ImageError::Malformed { what: what.to_owned(), why });
    }
    if manifest.config.size > CONFIG_BYTES {
        let why = format!("its configuration has {} bytes", manifest.config.size);
        return Err(ImageError::Malformed { what: what.to_owned(), why });
    }
    match manifest.layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        Some(other) => {
            let media_type = other.media_type.clone();
            Err(ImageError::UnsupportedMediaType { what: format!("layer {} of {what}", other.digest), media_type })
        }
        None => Ok(()),
    }
}

// === pins and flights ===

/// Content that is being worked with: not collected until this is dropped.
pub(crate) struct Pin {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Pin {
    fn new(inner: Arc<Inner>) -> Self {
        Pin { inner, digests: Vec::new() }
    }

    /// Call it before looking whether it is there.
    pub(crate) fn add(&mut self, digest: &Digest) {
        *self.inner.pins.lock().entry(digest.clone()).or_default() += 1;
        self.digests.push(digest.clone());
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.inner.pins.lock();
        for digest in &self.digests {
            if let Some(count) = pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(digest);
                }
            }
        }
    }
}

impl Inner {
    /// Whoever holds it is the only one to make the thing with this digest. If it gives up, the next one goes on.
    async fn flight(&self, digest: &Digest) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut flights = self.flights.lock();
            flights.retain(|_, lock| Arc::strong_count(lock) > 1);
            flights.entry(digest.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }

    // === pull ===

    async fn pull(self: &Arc<Self>, reference: &Reference, transfer: &Transfer) -> Result<Arc<Image>, ImageError> {
        let endpoints = self.options.registries.pull_endpoints(&reference.registry, transfer.credentials.as_ref());
        let reporter = Reporter::new(transfer.progress.clone());
        let mut pin = Pin::new(self.clone());
        let platform = transfer.platform.clone().unwrap_or_else(Platform::host);
        let (served, manifest) = self.resolve(&endpoints, reference, &platform, &mut pin).await?;
        reporter.report(Progress::Resolved { reference: reference.to_string(), digest: served.clone() });
        let (bytes, content) = (self.content.read(&manifest.digest)?, &manifest.digest);
        let parsed: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::Malformed { what: content.to_string(), why: error.to_string() })?;
        check_layers(&reference.to_string(), &parsed)?;
        pin.add(&parsed.config.digest);
        parsed.layers.iter().for_each(|layer| pin.add(&layer.digest));
        self.fetch(&endpoints, &reference.repository, &parsed.config, &Reporter::default()).await?;
        self.check_platform(reference, &manifest, &platform)?;
        let name = Reference { digest: None, ..reference.clone() };
        let names = reference.tag.iter().map(|_| name.to_string()).collect();
        let digests = BTreeSet::from([reference.at(&served)]).iter().map(Reference::to_string).collect();
        let from = Source { endpoints: &endpoints, repository: &reference.repository };
        let image = self.complete(manifest, names, digests, &reporter, &[from]).await?;
        drop(pin);
        self.sync_later();
        Ok(image)
    }

    /// The digest that the registry serves for `reference`, and the manifest for `platform`, which is here then.
    async fn resolve(
        self: &Arc<Self>,
        endpoints: &[Endpoint],
        reference: &Reference,
        platform: &Platform,
        pin: &mut Pin,
    ) -> Result<(Digest, Descriptor), ImageError> {
        let what = reference.to_string();
        let mut identifier = reference.identifier();
        let mut expected = reference.digest.clone();
        let mut served = None;
        // An index may contain indexes; nobody nests them deeper.
        for _ in 0..4 {
            let fetched = self.client.manifest(endpoints, reference, &identifier).await?;
            let found = Digest::of(&fetched.bytes);
            if let Some(expected) = expected.take().filter(|expected| *expected != found) {
                return Err(ContentError::Mismatch { expected, found }.into());
            }
            served.get_or_insert(found.clone());
            let media_type = media_type_of(&what, &fetched.media_type, &fetched.bytes)?;
            if is_manifest(&media_type) {
                pin.add(&found);
                let (inner, bytes) = (self.clone(), fetched.bytes.clone());
                blocking(move || Ok(inner.content.put(&bytes)?)).await?;
                let descriptor = Descriptor::new(&media_type, found.clone(), fetched.bytes.len() as u64);
                return Ok((served.unwrap_or(found), descriptor));
            }
            let index: Index = serde_json::from_slice(&fetched.bytes)
                .map_err(|error| ImageError::Malformed { what: what.clone(), why: error.to_string() })?;
            let chosen = index.choose(platform).ok_or_else(|| ImageError::NoPlatform {
                what: what.clone(),
                wanted: platform.to_string(),
                found: index.platforms(),
            })?;
            (identifier, expected) = (chosen.digest.to_string(), Some(chosen.digest.clone()));
        }
        Err(ImageError::Malformed { what, why: "its indexes are nested too deeply".into() })
    }

    /// A manifest without an index may be for any machine.
    fn check_platform(
        &self,
        reference: &Reference,
        manifest: &Descriptor,
        wanted: &Platform,
    ) -> Result<(), ImageError> {
        let (_, file) = read_manifest(&self.content, manifest)?;
        let unknown = file.architecture.is_empty() || file.os.is_empty();
        if unknown || (file.architecture == wanted.architecture && file.os == wanted.os) {
            return Ok(());
        }
        let found = Platform { architecture: file.architecture, os: file.os, variant: file.variant }.to_string();
        Err(ImageError::NoPlatform { what: reference.to_string(), wanted: wanted.to_string(), found })
    }

    /// Fetches what is missing (if there is a source), unpacks, and lists the image.
    async fn complete(
        self: &Arc<Self>,
        manifest: Descriptor,
        names: BTreeSet<String>,
        digests: BTreeSet<String>,
        reporter: &Reporter,
        from: &[Source<'_>],
    ) -> Result<Arc<Image>, ImageError> {
        let (parsed, file) = read_manifest(&self.content, &manifest)?;
        let mut pin = Pin::new(self.clone());
        file.rootfs.diff_ids.iter().for_each(|diff_id| pin.add(diff_id));
        let layers = parsed.layers.iter().zip(&file.rootfs.diff_ids).map(async |(blob, diff_id)| {
            for source in from {
                self.fetch(source.endpoints, source.repository, blob, reporter).await?;
            }
            self.unpack(&blob.digest, diff_id, reporter).await
        });
        try_join_all(layers).await?;
        let inner = self.clone();
        blocking(move || {
            inner.layers.settle(&file.rootfs.diff_ids)?;
            let image = inner.record(&parsed.config.digest, manifest, names, digests);
            drop(pin);
            image
        })
        .await
    }

    /// Makes sure that a blob is here.
    async fn fetch(
        self: &Arc<Self>,
        endpoints: &[Endpoint],
        repository: &str,
        blob: &Descriptor,
        reporter: &Reporter,
    ) -> Result<(), ImageError> {
        let _flight = self.flight(&blob.digest).await;
        if self.content.has(&blob.digest) {
            reporter.layer(&blob.digest, State::Exists);
            return Ok(());
        }
        let _permit = self.downloads.acquire().await.map_err(|error| ImageError::Internal(error.to_string()))?;
        let mut attempts = Attempts::default();
        for endpoint in endpoints {
            match self.fetch_from(endpoint, repository, blob, reporter).await {
                Ok(()) => {
                    reporter.layer(&blob.digest, State::Downloaded);
                    return Ok(());
                }
                Err(ImageError::Registry(error)) => attempts.failed(endpoint, error),
                // A mirror with wrong content is no reason to give up, unless it is the last one to ask.
                Err(ImageError::Content(error @ (ContentError::Mismatch { .. } | ContentError::Size { .. })))
                    if endpoint.mirror_of.is_some() =>
                {
                    tracing::warn!(endpoint = %endpoint.base, %error, "mirror has wrong content");
                }
                Err(other) => return Err(other),
            }
        }
        Err(attempts.error().into())
    }

    async fn fetch_from(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        repository: &str,
        blob: &Descriptor,
        reporter: &Reporter,
    ) -> Result<(), ImageError> {
        let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(10));
        loop {
            let (inner, wanted) = (self.clone(), blob.clone());
            let mut ingest = blocking(move || Ok(inner.content.ingest(&wanted.digest, wanted.size)?)).await?;
            let broken = if ingest.is_complete() {
                None
            } else {
                let answer = self.client.blob(endpoint, repository, &blob.digest, ingest.offset()).await;
                let (response, resumed) = match answer {
                    // What we have begun is not what they have: begin again.
                    Err(RegistryError::Status { status: 416, .. }) if ingest.offset() > 0 => {
                        ingest.restart()?;
                        continue;
                    }
                    other => other?,
                };
                if !resumed {
                    ingest.restart()?;
                }
                let mut body = response.into_body();
                let outcome;
                (ingest, outcome) = copy_body(&host(endpoint), &mut body, ingest, blob, reporter).await?;
                outcome
            };
            match broken {
                None => {
                    let inner = self.clone();
                    return blocking(move || Ok(inner.content.finish(ingest)?)).await;
                }
                Some(_) if backoff.failures() + 1 < BLOB_TRIES => tokio::time::sleep(backoff.fail()).await,
                Some(source) => {
                    let (what, registry) = (blob.digest.to_string(), host(endpoint));
                    return Err(RegistryError::Http { what, registry, source }.into());
                }
            }
        }
    }

    /// Makes sure that a layer is unpacked.
    async fn unpack(self: &Arc<Self>, blob: &Digest, diff_id: &Digest, reporter: &Reporter) -> Result<(), ImageError> {
        let flight = self.flight(diff_id).await;
        if self.layers.get(diff_id).is_none() {
            let _permit = self.unpacks.acquire().await.map_err(|error| ImageError::Internal(error.to_string()))?;
            reporter.layer(blob, State::Unpacking);
            let (inner, blob, diff_id) = (self.clone(), blob.clone(), diff_id.clone());
            blocking(move || {
                let _flight = flight; // Also if nobody waits any more.
                let file = inner.content.open_blob(&blob)?;
                inner.layers.create(&diff_id, file, inner.options.limits)
            })
            .await?;
        }
        reporter.layer(blob, State::Ready);
        Ok(())
    }

    /// Adds an image, or names to it. A name that another image had moves.
    fn record(
        &self,
        id: &Digest,
        manifest: Descriptor,
        names: BTreeSet<String>,
        digests: BTreeSet<String>,
    ) -> Result<Arc<Image>, ImageError> {
        let mut state = self.state.lock();
        let mut images = state.images.clone();
        for other in images.values_mut() {
            if other.names.iter().any(|name| names.contains(name)) {
                Arc::make_mut(other).names.retain(|name| !names.contains(name));
            }
        }
        let known = images.get(id);
        let merge = |new: BTreeSet<String>, old: Option<&Vec<String>>| {
            new.into_iter().chain(old.into_iter().flatten().cloned()).collect()
        };
        let stored = Stored {
            manifest,
            names: merge(names, known.map(|known| &known.names)),
            digests: merge(digests, known.map(|known| &known.digests)),
            stored: known.map_or_else(|| self.options.clock.now().to_string(), |known| known.stored.clone()),
        };
        let image = Arc::new(assemble(&self.content, stored)?);
        images.insert(id.clone(), image.clone());
        self.save(&images)?;
        state.images = images;
        Ok(image)
    }

    fn save(&self, images: &BTreeMap<Digest, Arc<Image>>) -> Result<(), ImageError> {
        let line = |image: &Image| Stored {
            manifest: image.manifest.clone(),
            names: image.names.iter().cloned().collect(),
            digests: image.digests.iter().cloned().collect(),
            stored: image.stored.clone(),
        };
        let images = images.iter().map(|(id, image)| (id.clone(), line(image))).collect();
        let bytes =
            serde_json::to_vec_pretty(&IndexFile { version: INDEX_VERSION, images }).expect("the index is JSON");
        Ok(write_atomically(&self.root.join("images.json"), &bytes)?)
    }

    /// Syncs new layers without anybody waiting for it.
    fn sync_later(self: &Arc<Self>) {
        let inner = self.clone();
        base::tasks::detach("image-sync", async move {
            if let Err(error) = blocking(move || Ok(inner.layers.sync()?)).await {
                tracing::warn!(error = %base::chain(&error), "layers are not synced yet; a power cut would cost unpacking them again");
            }
        });
    }

    // === push ===

    async fn push(self: &Arc<Self>, reference: &Reference, transfer: &Transfer) -> Result<(), ImageError> {
        let image = find(&self.state.lock().images, &reference.to_string());
        let image = image.ok_or_else(|| ImageError::NotFound(reference.to_string()))?;
        let mut pin = Pin::new(self.clone());
        image.blobs().for_each(|digest| pin.add(digest));
        let reporter = Reporter::new(transfer.progress.clone());
        let endpoints = self.options.registries.push_endpoints(&reference.registry, transfer.credentials.as_ref());
        let endpoint = self.client.reach(endpoints, reference).await?;
        let places = Semaphore::new(UPLOADS);
        let config = Descriptor::new("", image.id.clone(), self.content.size(&image.id)?);
        let mut blobs: Vec<&Descriptor> = image.layers.iter().map(|layer| &layer.blob).chain([&config]).collect();
        blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        blobs.dedup_by(|a, b| a.digest == b.digest);
        let uploads = blobs.into_iter().map(async |blob| {
            let _place = places.acquire().await.map_err(|error| ImageError::Internal(error.to_string()))?;
            reporter.layer(&blob.digest, State::Uploading { total: blob.size });
            let path = self.content.path(&blob.digest);
            let sent = self.client.push_blob(&endpoint, &reference.repository, &blob.digest, &path, blob.size).await?;
            reporter.layer(&blob.digest, if sent { State::Uploaded } else { State::Exists });
            Ok::<_, ImageError>(())
        });
        try_join_all(uploads).await?;
        let manifest = Bytes::from(self.content.read(&image.manifest.digest)?);
        self.client.push_manifest(&endpoint, reference, &image.manifest.media_type, &manifest).await?;
        let digest = reference.at(&image.manifest.digest).to_string();
        self.record(&image.id, image.manifest.clone(), BTreeSet::new(), BTreeSet::from([digest]))?;
        Ok(())
    }

    // === removal ===

    fn remove(&self, text: &str) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        {
            let mut state = self.state.lock();
            let image = find(&state.images, text).ok_or_else(|| ImageError::NotFound(text.to_owned()))?;
            let mut images = state.images.clone();
            let name = text.parse::<Reference>().ok().filter(|name| name.digest.is_none()).map(|name| name.to_string());
            let name = name.filter(|name| image.names.contains(name));
            match name.filter(|_| image.names.len() > 1) {
                Some(name) => {
                    let left: Vec<String> = image.names.iter().filter(|other| **other != name).cloned().collect();
                    images.insert(image.id.clone(), Arc::new(Image { names: left, ..(*image).clone() }));
                    removed.untagged.push(name);
                }
                None => {
                    if let Some((container, _)) =
                        state.snapshots.iter().find(|(_, snapshot)| snapshot.image == image.id)
                    {
                        return Err(ImageError::InUse { image: text.to_owned(), container: container.clone() });
                    }
                    images.remove(&image.id);
                    removed.untagged.extend(image.names.iter().cloned());
                    removed.deleted.push(image.id.clone());
                }
            }
            self.save(&images)?;
            state.images = images;
        }
        removed.bytes = self.collect()?;
        Ok(removed)
    }

    fn prune(&self, keep: &dyn Fn(&Image) -> bool) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        {
            let mut state = self.state.lock();
            let used: BTreeSet<&Digest> = state.snapshots.values().map(|snapshot| &snapshot.image).collect();
            let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
                state.images.clone().into_iter().partition(|(id, image)| used.contains(id) || keep(image));
            if !gone.is_empty() {
                self.save(&kept)?;
                state.images = kept;
            }
            for (id, image) in gone {
                removed.untagged.extend(image.names.iter().cloned());
                removed.deleted.push(id);
            }
        }
        self.collect_ingests()?;
        removed.bytes = self.collect()?;
        Ok(removed)
    }

    /// Removes content that no image, container or pin needs. Returns the bytes freed.
    fn collect(&self) -> Result<u64, ImageError> {
        let mut bytes = 0;
        {
            // Nobody can begin to work with something between our looking and our removing.
            let pins = self.pins.lock();
            let state = self.state.lock();
            let mut needed: BTreeSet<&Digest> = pins.keys().collect();
            for image in state.images.values() {
                needed.extend(image.blobs());
                needed.extend(image.layers.iter().map(|layer| &layer.diff_id));
            }
            for layer in state.snapshots.values().flat_map(|snapshot| &snapshot.layers) {
                needed.extend([&layer.blob, &layer.diff_id]);
            }
            for digest in self.content.all()?.iter().filter(|digest| !needed.contains(digest)) {
                bytes += self.content.remove(digest)?;
            }
            for diff_id in self.layers.all().iter().filter(|diff_id| !needed.contains(diff_id)) {
                bytes += self.layers.remove(diff_id)?;
            }
        }
        self.layers.empty_trash()?;
        Ok(bytes)
    }

    /// Downloads that were begun and that nobody goes on with.
    fn collect_ingests(&self) -> Result<(), ImageError> {
        let pins = self.pins.lock();
        Ok(self.content.remove_ingests(|digest| pins.contains_key(digest))?)
    }

    // === snapshots ===

    fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.root.join("snapshots").join(id)
    }

    async fn prepare(self: &Arc<Self>, id: &str, image: &Image) -> Result<OverlayMount, ImageError> {
        check_id(id)?;
        let record =
            |layer: &ImageLayer| ImageLayerRecord { blob: layer.blob.digest.clone(), diff_id: layer.diff_id.clone() };
        let wanted = Snapshot { image: image.id.clone(), layers: image.layers.iter().map(record).collect() };
        if self.state.lock().snapshots.get(id).is_some_and(|known| *known != wanted) {
            return Err(ImageError::SnapshotExists(id.to_owned()));
        }
        let mut pin = Pin::new(self.clone());
        image.blobs().chain(image.layers.iter().map(|layer| &layer.diff_id)).for_each(|digest| pin.add(digest));
        let reporter = Reporter::default();
        try_join_all(image.layers.iter().map(|layer| self.unpack(&layer.blob.digest, &layer.diff_id, &reporter)))
            .await?;
        let diff_ids = image.diff_ids();
        self.layers.settle(&diff_ids)?;
        let (inner, id) = (self.clone(), id.to_owned());
        blocking(move || {
            let lower = inner.lower(&diff_ids);
            let dir = inner.snapshot_dir(&id);
            let mut state = inner.state.lock();
            if let std::collections::btree_map::Entry::Vacant(free) = state.snapshots.entry(id) {
                make_snapshot(&dir, &lower[0], &wanted)?;
                free.insert(wanted);
            }
            drop(state);
            drop(pin); // After the lock: collecting takes them the other way round.
            Ok(OverlayMount { lower, upper: dir.join("upper"), work: dir.join("work") })
        })
        .await
    }

    /// Directories for overlayfs, top first. Of a layer that occurs twice only the upper one counts: overlayfs refuses
    /// the same directory twice, and all that the lower one shows is shown or hidden by the upper one.
    fn lower(&self, diff_ids: &[Digest]) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let top_first = diff_ids.iter().rev().filter(|diff_id| seen.insert(*diff_id));
        let dirs: Vec<PathBuf> = top_first.filter_map(|diff_id| self.layers.get(diff_id)).map(|(dir, _)| dir).collect();
        if dirs.is_empty() { vec![self.root.join("empty")] } else { dirs }
    }
}

/// Where blobs come from.
struct Source<'a> {
    endpoints: &'a [Endpoint],
    repository: &'a str,
}

/// Copies a body to its file. `Ok` with an error inside: the connection broke, and it can go on from there.
async fn copy_body(
    host: &str,
    body: &mut hyper::body::Incoming,
    mut ingest: crate::content::Ingest,
    blob: &Descriptor,
    reporter: &Reporter,
) -> Result<(crate::content::Ingest, Option<crate::http::HttpError>), ImageError> {
    let mut buffer = BytesMut::with_capacity(WRITE_BYTES);
    loop {
        let piece = crate::http::piece(host, body).await;
        let (ended, broken) = match piece {
            Ok(Some(bytes)) => {
                buffer.extend_from_slice(&bytes);
                (false, None)
            }
            Ok(None) => (true, None),
            Err(error) => (true, Some(error)),
        };
        if ended || buffer.len() >= WRITE_BYTES {
            let bytes = buffer.split().freeze();
            ingest = blocking(move || {
                ingest.write(&bytes)?;
                Ok(ingest)
            })
            .await?;
            reporter.layer(&blob.digest, State::Downloading { done: ingest.offset(), total: blob.size });
        }
        if ended {
            let short =
                || crate::http::HttpError::Broken { host: host.to_owned(), why: "the answer ended early".into() };
            let broken = broken.or_else(|| (!ingest.is_complete()).then(short));
            return Ok((ingest, broken));
        }
    }
}

/// What a manifest is, from the answer's header, or from itself if the header does not say.
pub(crate) fn media_type_of(what: &str, header: &str, bytes: &[u8]) -> Result<String, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    if is_manifest(header) || is_index(header) {
        return Ok(header.to_owned());
    }
    let unsupported = |media_type: &str| ImageError::UnsupportedMediaType {
        what: what.to_owned(),
        media_type: media_type.to_owned(),
    };
    let shape: Shape = serde_json::from_slice(bytes).map_err(|_| unsupported(header))?;
    match shape {
        Shape { media_type: Some(own), .. } if is_manifest(&own) || is_index(&own) => Ok(own),
        Shape { media_type: Some(own), .. } => Err(unsupported(&own)),
        Shape { manifests: Some(_), .. } => Ok(OCI_INDEX.to_owned()),
        Shape { layers: Some(_), .. } if header.is_empty() || header.ends_with("json") => Ok(OCI_MANIFEST.to_owned()),
        _ => Err(unsupported(header)),
    }
}

/// Made beside its name, then named. The upper directory is the root that the container sees, so it looks like the image's.
fn make_snapshot(dir: &Path, top: &Path, snapshot: &Snapshot) -> Result<(), ImageError> {
    let unfinished = dir.with_file_name(format!(".{}", dir.file_name().unwrap_or_default().to_string_lossy()));
    let failed = |action| ContentError::io(action, dir);
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(failed("clear"))?;
    }
    let (upper, work) = (unfinished.join("upper"), unfinished.join("work"));
    std::fs::create_dir_all(&upper).and_then(|()| std::fs::create_dir(&work)).map_err(failed("create"))?;
    let root = std::fs::metadata(top).map_err(ContentError::io("stat", top))?;
    std::os::unix::fs::chown(&upper, Some(root.uid()), Some(root.gid()))
        .and_then(|()| std::fs::set_permissions(&upper, root.permissions()))
        .map_err(failed("create"))?;
    // Not synced, as what the container will write is not: this is on the way of every start.
    let record = serde_json::to_vec(snapshot).expect("a snapshot is JSON");
    std::fs::write(unfinished.join("snapshot.json"), record).map_err(failed("create"))?;
    Ok(std::fs::rename(&unfinished, dir).map_err(failed("create"))?)
}
