//! An environment of a project, wired: the store, storages, targets and notifiers that it names.
//!
//! The same project gives the same engine in every environment, but for what the names stand for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use windlass_project::{
    ComputeBinding, EnvironmentSpec, Jinja, NotifierBinding, Project, StorageBinding, StoreBinding,
};

use crate::{
    AlertReactor, CacheRetention, Engine, EngineBuilder, Explained, Implementations, LargeValues,
    LocalStorage, LogNotifier, LogicalName, Notifier, ObjectKey, Pipeline, ProcessTarget, Redactor,
    Retention, Routes, RunId, RunStore, SandboxLevel, Secret, Settings, SqliteStore, Storage,
    TargetCapabilities, error_chain,
};

/// The folder of the storage for runs that large values lie in, one folder a run.
const LARGE_VALUES: &str = "windlass-values";

/// Looks up an environment variable of the host.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Something that an environment names and that can't be had here.
#[derive(Debug, thiserror::Error)]
#[error("environment {environment}: {what}: {why}")]
pub struct WiringError {
    environment: String,
    what: String,
    why: String,
    held: bool,
}

impl WiringError {
    /// Returns true if another engine has the store, which ends by itself.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.held
    }
}

/// An environment that is open and not yet running.
#[derive(Debug)]
#[non_exhaustive]
pub struct Wired {
    /// The engine with everything in it; build it to start.
    pub builder: EngineBuilder,
    /// Where the state of runs lives.
    pub store: Arc<dyn RunStore>,
    /// The storages.
    pub storages: BTreeMap<LogicalName, Arc<dyn Storage>>,
    /// One line for each compute target: what it isolates, and what it can't here.
    pub targets: Vec<(LogicalName, String, Vec<String>)>,
}

impl Wired {
    /// Builds the engine and deploys every pipeline of the project.
    ///
    /// # Errors
    /// Those of [`EngineBuilder::build`].
    pub async fn start(self, project: &Project) -> Result<Engine, crate::Error> {
        let mut pipelines = Vec::new();
        for loaded in &project.pipelines {
            let checks = self.builder.checks();
            let mut checks = checks;
            checks.secrets = Some(project.environment.secrets.keys().cloned().collect());
            let pipeline = Pipeline::new(loaded.spec.clone(), Implementations::new(), &checks);
            pipelines.push(pipeline.map_err(|e| crate::Error::invalid(e.to_string()))?);
        }
        let engine = self.builder.build().await?;
        for pipeline in pipelines {
            engine.deploy(pipeline).await?;
        }
        Ok(engine)
    }
}

/// Returns where the environment keeps the state of runs, for readers.
#[must_use]
pub fn store_path(environment: &EnvironmentSpec) -> Option<PathBuf> {
    match &environment.store {
        StoreBinding::Sqlite(path) => Some(path.clone()),
        _ => None,
    }
}

/// Opens everything that the project's environment names.
///
/// # Errors
/// [`WiringError`] names what can't be had: a store that another engine holds, a storage, a target,
/// a secret that a notifier needs.
pub async fn open(project: &Project, variables: Variables) -> Result<Wired, WiringError> {
    Wiring {
        environment: &project.environment,
        project,
        variables,
    }
    .open()
    .await
}

/// Says what the steps of an unfinished run wait for, from the store alone, beside the engine that is
/// at work or where none is.
///
/// # Errors
/// Those of [`EngineBuilder::explain`].
pub async fn explain(
    project: &Project,
    store: Arc<dyn RunStore>,
    run: RunId,
) -> Result<Vec<Explained>, crate::Error> {
    let targets = project.environment.compute.iter().map(|(name, binding)| {
        let total = match binding {
            ComputeBinding::Process { capacity, .. } if !capacity.is_empty() => capacity.clone(),
            _ => windlass_compute::machine_capacity(),
        };
        (name.clone(), total)
    });
    let targets: Vec<_> = targets.collect();
    builder(project, store).explain(run, targets).await
}

/// Returns a builder that has what the environment says, but nothing that must be opened.
fn builder(project: &Project, store: Arc<dyn RunStore>) -> EngineBuilder {
    let environment = &project.environment;
    let settings = Settings {
        environment: environment.name.clone(),
        run_storage: Some(environment.run_storage.clone()),
        default_target: environment.default_compute.clone(),
        code_root: Some(project.root.clone()),
        retention: Retention {
            max_age: environment.retention.max_age,
            keep_last: environment.retention.keep_last,
        },
        cache_retention: CacheRetention {
            max_age: environment.cache.max_age,
            max_bytes: environment.cache.max_bytes,
        },
        ..Settings::default()
    };
    let builder = Engine::builder_shared(store)
        .with_settings(settings)
        .with_expressions(Arc::new(Jinja::new()));
    let quotas = environment.quotas.iter().cloned();
    let builder = quotas.fold(builder, EngineBuilder::with_quota);
    let weights = environment.weights.iter();
    weights.fold(builder, |builder, (owner, weight)| {
        builder.with_weight(owner.clone(), *weight)
    })
}

/// Opens the storages of an environment alone, for readers.
///
/// # Errors
/// [`WiringError`] names the storage.
pub async fn open_storages(
    project: &Project,
    variables: Variables,
) -> Result<BTreeMap<LogicalName, Arc<dyn Storage>>, WiringError> {
    Wiring {
        environment: &project.environment,
        project,
        variables,
    }
    .storages()
    .await
}

/// Returns where each storage of an environment lies, for [`crate::SweepOptions::places`].
#[must_use]
pub fn storage_places(environment: &EnvironmentSpec) -> BTreeMap<LogicalName, String> {
    let place = |url: &str| {
        let path = url
            .strip_prefix("file://")
            .map_or(url, |path| path.strip_prefix("localhost").unwrap_or(path));
        if path.contains("://") {
            return path.to_owned();
        }
        // Two paths may lead to one folder.
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        real.to_string_lossy().into_owned()
    };
    let all = environment.storages.iter();
    all.map(|(name, binding)| (name.clone(), place(&binding.url)))
        .collect()
}

/// Opens each storage of an environment by itself, so that one which can't be had hides no other.
pub async fn probe_storages(
    project: &Project,
    variables: Variables,
) -> BTreeMap<LogicalName, Result<Arc<dyn Storage>, WiringError>> {
    let wiring = Wiring {
        environment: &project.environment,
        project,
        variables,
    };
    let mut found = BTreeMap::new();
    for (name, binding) in &project.environment.storages {
        found.insert(name.clone(), wiring.storage(name, binding).await);
    }
    found
}

/// Finds out what each compute target of an environment can do here, beside an engine that may be
/// running: nothing of its jobs is touched. `scratch` is an empty folder.
pub async fn probe_targets(
    project: &Project,
    variables: Variables,
    scratch: &std::path::Path,
) -> BTreeMap<LogicalName, Result<TargetCapabilities, WiringError>> {
    let wiring = Wiring {
        environment: &project.environment,
        project,
        variables,
    };
    let state = scratch.join("probe");
    let mut found = BTreeMap::new();
    for (name, binding) in &project.environment.compute {
        let target = wiring.compute(name, binding, &state).await;
        let can = target.map(|t| crate::ComputeTarget::capabilities(&t).clone());
        found.insert(name.clone(), can);
    }
    found
}

type Notifiers = Vec<(LogicalName, Arc<dyn Notifier>)>;

struct Wiring<'a> {
    environment: &'a EnvironmentSpec,
    project: &'a Project,
    variables: Variables,
}

impl Wiring<'_> {
    fn error(&self, what: impl Into<String>, why: impl Into<String>) -> WiringError {
        WiringError {
            environment: self.environment.name.to_string(),
            what: what.into(),
            why: why.into(),
            held: false,
        }
    }

    fn secret(&self, name: &LogicalName) -> Result<Secret, WiringError> {
        let binding = self
            .environment
            .secrets
            .get(name)
            .ok_or_else(|| self.error(format!("secret `{name}`"), "it is not defined"))?;
        binding
            .resolve(|v| (self.variables)(v))
            .map_err(|why| self.error(format!("secret `{name}`"), why))
    }

    async fn open(&self) -> Result<Wired, WiringError> {
        let path = store_path(self.environment)
            .ok_or_else(|| self.error("store", "a kind that this build doesn't know"))?;
        let store = SqliteStore::open(&path).await.map_err(|e| WiringError {
            held: e.kind() == crate::StoreErrorKind::Held,
            ..self.error("store", error_chain(&e))
        })?;
        let storages = self.storages().await?;
        let store = self.with_large_values(Arc::new(store), &storages)?;
        let mut builder = builder(self.project, Arc::clone(&store));
        for (name, storage) in &storages {
            builder = builder.with_storage(name.clone(), Arc::clone(storage));
        }
        for (kind, step) in windlass_storage::steps() {
            builder = builder.with_step(kind, step);
        }
        let mut targets = Vec::new();
        for (name, binding) in &self.environment.compute {
            let target = self.compute(name, binding, &path).await?;
            let capabilities = crate::ComputeTarget::capabilities(&target);
            let missing = capabilities
                .missing
                .iter()
                .map(|(what, why)| format!("no isolation of {what}: {why}"))
                .collect();
            targets.push((name.clone(), capabilities.summary.clone(), missing));
            builder = builder.with_compute(name.clone(), Arc::new(target));
        }
        for (name, notifier) in self.notifiers()? {
            builder = builder.with_notifier(name, notifier);
        }
        let builder = builder
            .with_reactor(Box::new(self.reactor()))
            .with_secrets(self.secrets());
        Ok(Wired {
            builder,
            store,
            storages,
            targets,
        })
    }

    /// Keeps large values where runs keep their files.
    fn with_large_values(
        &self,
        store: Arc<dyn RunStore>,
        storages: &BTreeMap<LogicalName, Arc<dyn Storage>>,
    ) -> Result<Arc<dyn RunStore>, WiringError> {
        let Some(storage) = storages.get(&self.environment.run_storage) else {
            return Ok(store);
        };
        let folder = ObjectKey::parse(LARGE_VALUES)
            .map_err(|e| self.error("the folder of large values", e.to_string()))?;
        let store = LargeValues::new(store, Arc::clone(storage), folder);
        Ok(Arc::new(store))
    }

    async fn storages(&self) -> Result<BTreeMap<LogicalName, Arc<dyn Storage>>, WiringError> {
        let mut storages = BTreeMap::new();
        for (name, binding) in &self.environment.storages {
            storages.insert(name.clone(), self.storage(name, binding).await?);
        }
        Ok(storages)
    }

    async fn storage(
        &self,
        name: &LogicalName,
        binding: &StorageBinding,
    ) -> Result<Arc<dyn Storage>, WiringError> {
        let failed =
            |e: crate::StorageError| self.error(format!("storage `{name}`"), error_chain(&e));
        if binding.url.starts_with('/') {
            return Ok(Arc::new(LocalStorage::open(&binding.url).map_err(failed)?));
        }
        let mut options = binding.options.clone();
        for (option, secret) in &binding.secrets {
            options.insert(option.clone(), self.secret(secret)?.expose().to_owned());
        }
        windlass_storage::open_url(&binding.url, &options)
            .await
            .map_err(failed)
    }

    async fn compute(
        &self,
        name: &LogicalName,
        binding: &ComputeBinding,
        store: &std::path::Path,
    ) -> Result<ProcessTarget, WiringError> {
        let what = || format!("compute target `{name}`");
        let ComputeBinding::Process { capacity, isolated } = binding else {
            return Err(self.error(what(), "a kind that this build doesn't know"));
        };
        let mut state = store.as_os_str().to_owned();
        state.push(format!(".{name}"));
        let mut builder = ProcessTarget::builder(PathBuf::from(state));
        if !capacity.is_empty() {
            builder = builder.capacity(capacity.clone());
        }
        if !isolated {
            builder = builder.level(SandboxLevel::Nothing);
        }
        if let Some(path) = (self.variables)("PATH") {
            builder = builder.search_path(path);
        }
        builder
            .build()
            .await
            .map_err(|e| self.error(what(), error_chain(&e)))
    }

    fn notifiers(&self) -> Result<Notifiers, WiringError> {
        self.environment
            .notifiers
            .iter()
            .map(|(name, binding)| Ok((name.clone(), self.notifier(name, binding)?)))
            .collect()
    }

    fn notifier(
        &self,
        name: &LogicalName,
        binding: &NotifierBinding,
    ) -> Result<Arc<dyn Notifier>, WiringError> {
        match binding {
            NotifierBinding::Log => Ok(Arc::new(
                LogNotifier::new().with_redactor(Arc::new(self.redactor())),
            )),
            #[cfg(feature = "webhook")]
            NotifierBinding::Webhook {
                url,
                signing_key,
                allow_private,
            } => {
                let failed = |why: String| self.error(format!("notifier `{name}`"), why);
                let mut webhook = crate::WebhookNotifier::builder(
                    self.secret(url)?,
                    Arc::new(crate::SystemClock::new()),
                )
                .redactor(self.redactor())
                .allow_private(*allow_private);
                if let Some(key) = signing_key {
                    let key = crate::SigningKey::parse(&self.secret(key)?)
                        .map_err(|e| failed(error_chain(&e)))?;
                    webhook = webhook.signing_key(key);
                }
                Ok(Arc::new(
                    webhook.build().map_err(|e| failed(error_chain(&e)))?,
                ))
            }
            _ => Err(self.error(
                format!("notifier `{name}`"),
                "a kind that this build doesn't know: turn on feature `webhook`",
            )),
        }
    }

    /// Knows every secret of the environment that can be read now.
    fn redactor(&self) -> Redactor {
        let known = self
            .environment
            .secrets
            .values()
            .filter_map(|s| s.resolve(|v| (self.variables)(v)).ok());
        Redactor::patterns().and(known)
    }

    fn reactor(&self) -> AlertReactor {
        let mut routes = Routes::new(self.environment.notify.clone());
        for (team, notifiers) in &self.environment.owners {
            routes = routes.owner(team, notifiers.clone());
        }
        AlertReactor::new(routes).with_redactor(self.redactor())
    }

    /// Returns the lookup that steps use: each secret is read when a job needs it.
    fn secrets(&self) -> windlass_engine::SecretLookup {
        let (bindings, variables) = (
            self.environment.secrets.clone(),
            Arc::clone(&self.variables),
        );
        Arc::new(move |name| {
            let binding = bindings
                .get(name)
                .ok_or_else(|| "it is not defined in the environment".to_owned())?;
            binding.resolve(|v| variables(v))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_storages_are_urls_and_paths_without_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let write = |at: &str, text: &str| {
            let path = root.join(at);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("windlass.yaml", "name: shop\n");
        write(
            "environments/dev.yaml",
            "store: { sqlite: .windlass/dev.db }\n\
             storage: { runs: { file: lake }, same: { file: link }, far: { url: 's3://bucket/a' } }\n\
             run_storage: runs\nowners: {}\n",
        );
        write("lake/x", "");
        std::os::unix::fs::symlink(root.join("lake"), root.join("link")).unwrap();
        let project = Project::load(&root, Some("dev")).unwrap();
        let places = storage_places(&project.environment);
        let lake = root.join("lake").to_string_lossy().into_owned();
        let places: Vec<_> = places.iter().map(|(n, p)| (n.as_str(), &**p)).collect();
        assert_eq!(
            places,
            [("far", "s3://bucket/a"), ("runs", &*lake), ("same", &*lake)]
        );
    }
}
