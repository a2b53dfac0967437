//! The node: what it holds in memory, and the trait's methods, each of which only finds its way to the file that does the work.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ringwall_sandbox::service::{
    BuildId, BuildRequest, BuildStatus, ConnectSandbox, Connected, CreateSandbox, FileChange, Filter, ForkSandbox,
    Forked, LogEntry, Metrics, Network, NewTemplate, Owner, Page, PauseSandbox, Pending, SandboxInfo, SandboxService,
    ServiceError, SnapshotFilter, SnapshotInfo, Stream, TakeSnapshot, TemplateInfo, TemplateTag,
};
use rustix::fs::{FlockOperation, Mode, OFlags};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, Semaphore};

use crate::build::StepRecord;
use crate::clock::now_ms;
use crate::config::{Config, StartNodeError};
use crate::layers::Places;
use crate::live::{Facts, Live};
use crate::pool::Pool;
use crate::record::{SnapshotRecord, TemplateRecord};
use crate::store::{KeyRow, Store, Table};
use crate::{base, build, ids, lifecycle, logs, metrics, recover, templates, timer};

/// How old the keys in memory may be, milliseconds.
const KEYS_FRESH_MS: u64 = 1000;

/// Everything the node's tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) places: Places,
    pub(crate) store: Store,
    pub(crate) facts: Facts,
    pub(crate) sandboxes: RwLock<HashMap<String, Arc<Live>>>,
    pub(crate) snapshots: RwLock<BTreeMap<String, SnapshotRecord>>,
    pub(crate) templates: RwLock<BTreeMap<String, TemplateRecord>>,
    keys: RwLock<Vec<KeyRow>>,
    /// When the keys were read last, milliseconds since 1970.
    keys_read_ms: AtomicU64,
    /// Held while layers are looked up and taken into use, and while unused ones are removed: no layer goes between the two.
    pub(crate) layer_use: Mutex<()>,
    /// How many keepers may be on their way at once: more only makes each of them slower.
    pub(crate) starting: Semaphore,
    /// Told when an end comes nearer.
    pub(crate) ends_changed: Notify,
    pub(crate) pool: Pool,
    pub(crate) created: AtomicU64,
    pub(crate) killed: AtomicU64,
    /// What build steps have made.
    pub(crate) steps: RwLock<BTreeMap<String, StepRecord>>,
    _lock: OwnedFd,
}

/// The sandboxes of this machine.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

impl Node {
    /// Opens a node's directory and takes up everything in it that a former server left. Call it within a tokio runtime.
    ///
    /// # Errors
    /// When another server works on the directory, or it can't be used.
    pub async fn start(config: Config) -> Result<Self, StartNodeError> {
        let places = Places::new(config.directory.clone());
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StartNodeError::Io { path, source }
        };
        places.prepare().map_err(io(&places.root))?;
        let lock = lock(&places.root)?;
        let store = Store::open(&places.database())?;
        let base_layer = base::ensure(&places).map_err(StartNodeError::Base)?;
        let templates = templates::load(&store, &base_layer)?;
        let snapshots: Vec<SnapshotRecord> = store.all(Table::Snapshots, "a snapshot")?;
        let steps: Vec<StepRecord> = store.all(Table::Steps, "a build step")?;
        let keys = store.keys()?;
        let facts = Facts::read(&config.limits, &places.root);
        let inner = Arc::new(Inner {
            pool: Pool::new(config.pool),
            starting: Semaphore::new(config.max_starting.max(1)),
            facts,
            sandboxes: RwLock::default(),
            snapshots: RwLock::new(
                snapshots
                    .into_iter()
                    .map(|record| (record.id.clone(), record))
                    .collect(),
            ),
            templates: RwLock::new(templates),
            keys: RwLock::new(keys),
            // Long ago: the operator's own key is made after this.
            keys_read_ms: AtomicU64::new(0),
            layer_use: Mutex::new(()),
            ends_changed: Notify::new(),
            created: AtomicU64::new(0),
            killed: AtomicU64::new(0),
            steps: RwLock::new(steps.into_iter().map(|record| (record.key.clone(), record)).collect()),
            store,
            places,
            config,
            _lock: lock,
        });
        recover::recover(&inner).await?;
        timer::spawn(&inner);
        inner.refill_pool();
        Ok(Node { inner })
    }

    /// Ends what only this server needs: the sandboxes that wait in the pool. All others go on.
    ///
    /// Nothing is recorded from then on. When the runtime ends, tasks that are not done yet see all kinds of errors (what they had handed to
    /// another thread is cancelled), and what they would conclude from those is wrong: that a sandbox can't be taken up, say. The next server
    /// goes on from where each record is now, as after a crash.
    pub async fn stop(&self) {
        self.inner.drain_pool().await;
        if let Err(error) = self.inner.store.close() {
            tracing::warn!(%error, "the database can't be closed");
        }
    }

    /// Makes an API key and returns its id and the key, which is stored nowhere.
    ///
    /// # Errors
    /// What the database says.
    pub fn create_key(&self, name: &str) -> Result<(String, String), rusqlite::Error> {
        let made = add_key(&self.inner.store, name)?;
        *self.inner.keys.write().unwrap_or_else(PoisonError::into_inner) = self.inner.store.keys()?;
        Ok(made)
    }

    /// Returns how many API keys there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.inner.keys.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// API keys, worked on while a server may run: it sees a change at the next key that it does not know.
#[derive(Debug)]
pub struct Keys {
    store: Store,
}

/// An API key as listed.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

impl Keys {
    /// Opens the keys of a node's directory.
    ///
    /// # Errors
    /// When the directory or its database can't be used.
    pub fn open(directory: &Path) -> Result<Self, StartNodeError> {
        let places = Places::new(directory.to_owned());
        places.prepare().map_err(|source| StartNodeError::Io {
            path: directory.to_owned(),
            source,
        })?;
        Ok(Keys {
            store: Store::open(&places.database())?,
        })
    }

    /// Makes a key and returns its id and the key, which is stored nowhere.
    ///
    /// # Errors
    /// What the database says.
    pub fn create(&self, name: &str) -> Result<(String, String), StartNodeError> {
        Ok(add_key(&self.store, name)?)
    }

    /// Returns all keys, oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn list(&self) -> Result<Vec<KeyInfo>, StartNodeError> {
        let rows = self.store.keys()?;
        Ok(rows
            .into_iter()
            .map(|row| KeyInfo {
                id: row.id,
                name: row.name,
                created_ms: row.created_ms,
            })
            .collect())
    }

    /// Removes a key by id or name; returns whether there was one.
    ///
    /// # Errors
    /// What the database says.
    pub fn remove(&self, id: &str) -> Result<bool, StartNodeError> {
        Ok(self.store.remove_key(id)?)
    }
}

fn add_key(store: &Store, name: &str) -> Result<(String, String), rusqlite::Error> {
    let key = ids::api_key();
    let row = KeyRow {
        id: ids::template().replacen('t', "k", 1),
        name: name.to_owned(),
        hash: Sha256::digest(key.as_bytes()).to_vec(),
        created_ms: now_ms(),
    };
    store.add_key(&row)?;
    Ok((row.id, key))
}

fn lock(directory: &Path) -> Result<OwnedFd, StartNodeError> {
    let path = directory.join("lock");
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let io = |error: rustix::io::Errno| StartNodeError::Io {
        path: path.clone(),
        source: error.into(),
    };
    let lock = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(io)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartNodeError::InUse {
            path: directory.to_owned(),
        }),
        Err(error) => Err(io(error)),
    }
}

impl Inner {
    /// Reads the keys anew, at most once a second: `ringwall key` makes and removes them while the server runs.
    fn refresh_keys(&self) {
        let now = now_ms();
        let before = self.keys_read_ms.load(Relaxed);
        if now.abs_diff(before) < KEYS_FRESH_MS
            || self
                .keys_read_ms
                .compare_exchange(before, now, Relaxed, Relaxed)
                .is_err()
        {
            return;
        }
        match self.store.keys() {
            Ok(fresh) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = fresh,
            Err(error) => tracing::warn!(%error, "can't read the keys"),
        }
    }

    /// Finds a sandbox of anybody's.
    pub(crate) fn any(&self, id: &str) -> Result<Arc<Live>, ServiceError> {
        let held = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        held.get(id).cloned().ok_or_else(|| ServiceError::no_sandbox(id))
    }

    /// Finds a sandbox of this owner's; another's is as unknown as none.
    pub(crate) fn owned(&self, owner: &Owner, id: &str) -> Result<Arc<Live>, ServiceError> {
        let live = self.any(id)?;
        if live.look(|record| record.owner == owner.0) {
            Ok(live)
        } else {
            Err(ServiceError::no_sandbox(id))
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        let held = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
        held.values().cloned().collect()
    }
}

/// Does a transition to its end in a task of its own: a caller that hangs up must not leave a sandbox between two states.
fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> Pending<'static, T> {
    let task = tokio::spawn(work);
    Box::pin(async move {
        task.await
            .map_err(ServiceError::internal("the request was interrupted"))?
    })
}

impl SandboxService for Node {
    fn create<'a>(&'a self, owner: &'a Owner, request: CreateSandbox) -> Pending<'a, SandboxInfo> {
        let (inner, owner) = (Arc::clone(&self.inner), owner.clone());
        detached(async move { lifecycle::create::create(&inner, &owner, request).await })
    }

    fn connect<'a>(&'a self, owner: &'a Owner, id: &'a str, request: ConnectSandbox) -> Pending<'a, Connected> {
        let (inner, found) = (Arc::clone(&self.inner), self.inner.owned(owner, id));
        detached(async move {
            let live = found?;
            lifecycle::pause::connect(&inner, &live, request).await
        })
    }

    fn get<'a>(&'a self, owner: &'a Owner, id: &'a str) -> Pending<'a, SandboxInfo> {
        Box::pin(async move { Ok(self.inner.owned(owner, id)?.info(&self.inner.facts)) })
    }

    fn list<'a>(&'a self, owner: &'a Owner, filter: Filter) -> Pending<'a, Page<SandboxInfo>> {
        Box::pin(async move { lifecycle::list::sandboxes(&self.inner, owner, &filter) })
    }

    fn kill<'a>(&'a self, owner: &'a Owner, id: &'a str) -> Pending<'a, ()> {
        let (inner, found) = (Arc::clone(&self.inner), self.inner.owned(owner, id));
        detached(async move {
            let live = found?;
            lifecycle::kill::kill(&inner, &live).await
        })
    }

    fn set_timeout<'a>(&'a self, owner: &'a Owner, id: &'a str, seconds: u64) -> Pending<'a, ()> {
        Box::pin(async move {
            let live = self.inner.owned(owner, id)?;
            lifecycle::pause::set_end(&self.inner, &live, seconds, false)
        })
    }

    fn refresh<'a>(&'a self, owner: &'a Owner, id: &'a str, seconds: u64) -> Pending<'a, ()> {
        Box::pin(async move {
            let live = self.inner.owned(owner, id)?;
            lifecycle::pause::set_end(&self.inner, &live, seconds, true)
        })
    }

    fn pause<'a>(&'a self, owner: &'a Owner, id: &'a str, request: PauseSandbox) -> Pending<'a, ()> {
        let (inner, found) = (Arc::clone(&self.inner), self.inner.owned(owner, id));
        detached(async move {
            let live = found?;
            lifecycle::pause::pause(&inner, &live, request).await
        })
    }

    fn snapshot<'a>(&'a self, owner: &'a Owner, id: &'a str, request: TakeSnapshot) -> Pending<'a, SnapshotInfo> {
        let (inner, found) = (Arc::clone(&self.inner), self.inner.owned(owner, id));
        detached(async move {
            let live = found?;
            lifecycle::snapshot::snapshot(&inner, &live, request).await
        })
    }

    fn snapshots<'a>(&'a self, owner: &'a Owner, filter: SnapshotFilter) -> Pending<'a, Page<SnapshotInfo>> {
        Box::pin(async move { Ok(lifecycle::list::snapshots(&self.inner, owner, &filter)) })
    }

    fn fork<'a>(&'a self, owner: &'a Owner, id: &'a str, request: ForkSandbox) -> Pending<'a, Vec<Forked>> {
        let (inner, found) = (Arc::clone(&self.inner), self.inner.owned(owner, id));
        detached(async move {
            let live = found?;
            lifecycle::snapshot::fork(&inner, &live, request).await
        })
    }

    fn metrics<'a>(
        &'a self,
        owner: &'a Owner,
        id: &'a str,
        start: Option<i64>,
        end: Option<i64>,
    ) -> Pending<'a, Vec<Metrics>> {
        Box::pin(async move {
            let live = self.inner.owned(owner, id)?;
            if live.phase() != crate::record::Phase::Running {
                let held = live.metrics.lock().unwrap_or_else(PoisonError::into_inner);
                return Ok(held.iter().copied().collect());
            }
            metrics::between(&live, &self.inner.places.sandbox(id), &self.inner.facts, start, end).await
        })
    }

    fn logs<'a>(&'a self, owner: &'a Owner, id: &'a str) -> Pending<'a, Vec<LogEntry>> {
        Box::pin(async move {
            let live = self.inner.owned(owner, id)?;
            Ok(logs::read(&self.inner.places.sandbox(&live.id)))
        })
    }

    fn set_network<'a>(&'a self, owner: &'a Owner, id: &'a str, network: Network) -> Pending<'a, ()> {
        Box::pin(async move {
            let live = self.inner.owned(owner, id)?;
            lifecycle::create::check_network(&network)?;
            live.change(&self.inner.store, |record| {
                record.network = Network {
                    public_traffic: network.public_traffic.or(record.network.public_traffic),
                    mask_request_host: network
                        .mask_request_host
                        .clone()
                        .or(record.network.mask_request_host.take()),
                    ..network
                };
            })
        })
    }

    fn diff<'a>(&'a self, owner: &'a Owner, from: &'a str, to: &'a str) -> Pending<'a, Vec<FileChange>> {
        Box::pin(lifecycle::compare::compare(&self.inner, owner, from, to))
    }

    fn find<'a>(&'a self, id: &'a str) -> Pending<'a, SandboxInfo> {
        Box::pin(async move { Ok(self.inner.any(id)?.info(&self.inner.facts)) })
    }

    fn tokens(&self) -> Vec<(String, String)> {
        let all = self.inner.all();
        all.iter()
            .map(|live| (live.id.clone(), live.look(|record| record.token.clone())))
            .collect()
    }

    fn open_agent<'a>(&'a self, id: &'a str) -> Pending<'a, Stream> {
        Box::pin(lifecycle::open::agent(&self.inner, id))
    }

    fn open_port<'a>(&'a self, id: &'a str, port: u16) -> Pending<'a, Stream> {
        Box::pin(lifecycle::open::port(&self.inner, id, port))
    }

    fn new_template<'a>(&'a self, owner: &'a Owner, request: NewTemplate) -> Pending<'a, (TemplateInfo, BuildId)> {
        Box::pin(async move { templates::announce(&self.inner, owner, request) })
    }

    fn has_upload<'a>(&'a self, owner: &'a Owner, template: &'a str, hash: &'a str) -> Pending<'a, bool> {
        Box::pin(async move { templates::has_upload(&self.inner, owner, template, hash) })
    }

    fn begin_upload<'a>(
        &'a self,
        owner: &'a Owner,
        template: &'a str,
        hash: &'a str,
    ) -> Pending<'a, std::path::PathBuf> {
        Box::pin(async move { templates::begin_upload(&self.inner, owner, template, hash) })
    }

    fn finish_upload<'a>(&'a self, owner: &'a Owner, hash: &'a str, file: &'a Path) -> Pending<'a, ()> {
        Box::pin(async move { templates::finish_upload(&self.inner, owner, hash, file) })
    }

    fn import_template<'a>(
        &'a self,
        owner: &'a Owner,
        request: NewTemplate,
        archive: &'a Path,
    ) -> Pending<'a, TemplateInfo> {
        Box::pin(templates::import(&self.inner, owner, request, archive))
    }

    fn begin_import(&self) -> std::path::PathBuf {
        self.inner.places.fresh().join(format!("import-{}", ids::layer()))
    }

    fn build<'a>(
        &'a self,
        owner: &'a Owner,
        template: &'a str,
        build: &'a str,
        request: BuildRequest,
    ) -> Pending<'a, ()> {
        Box::pin(async move { build::begin(&self.inner, owner, template, build, request) })
    }

    fn build_status<'a>(
        &'a self,
        owner: &'a Owner,
        template: &'a str,
        build: &'a str,
        offset: usize,
        limit: usize,
    ) -> Pending<'a, BuildStatus> {
        Box::pin(async move { templates::status(&self.inner, owner, template, build, offset, limit) })
    }

    fn templates<'a>(&'a self, owner: &'a Owner) -> Pending<'a, Vec<TemplateInfo>> {
        Box::pin(async move { Ok(templates::list(&self.inner, owner)) })
    }

    fn template<'a>(&'a self, owner: &'a Owner, name: &'a str) -> Pending<'a, TemplateInfo> {
        Box::pin(async move { templates::get(&self.inner, owner, name) })
    }

    fn remove_template<'a>(&'a self, owner: &'a Owner, name: &'a str) -> Pending<'a, ()> {
        Box::pin(async move {
            // In the order in which a name is resolved: a template first.
            match templates::remove(&self.inner, owner, name) {
                Err(ServiceError::NotFound { .. }) if lifecycle::snapshot::remove(&self.inner, owner, name)? => Ok(()),
                result => result,
            }
        })
    }

    fn tag<'a>(&'a self, owner: &'a Owner, target: &'a str, tags: Vec<String>) -> Pending<'a, TemplateTag> {
        Box::pin(async move { templates::tag(&self.inner, owner, target, &tags) })
    }

    fn untag<'a>(&'a self, owner: &'a Owner, name: &'a str, tags: Vec<String>) -> Pending<'a, ()> {
        Box::pin(async move { templates::untag(&self.inner, owner, name, &tags) })
    }

    fn authenticate(&self, key: &str) -> Option<Owner> {
        self.inner.refresh_keys();
        let hash = Sha256::digest(key.as_bytes());
        // Every row is compared, in the same time whether or not it matches.
        let mut found = None;
        for row in self.inner.keys.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if bool::from(row.hash.as_slice().ct_eq(hash.as_slice())) {
                found = Some(Owner(row.id.clone()));
            }
        }
        found
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let all = self.inner.all();
        let paused = all
            .iter()
            .filter(|live| matches!(live.phase(), crate::record::Phase::Paused(_)))
            .count();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        vec![
            ("sandboxes_running", count(all.len() - paused)),
            ("sandboxes_paused", count(paused)),
            ("sandboxes_ready_in_pool", count(self.inner.pool.len())),
            ("sandboxes_created_total", self.inner.created.load(Relaxed)),
            ("sandboxes_killed_total", self.inner.killed.load(Relaxed)),
        ]
    }
}
