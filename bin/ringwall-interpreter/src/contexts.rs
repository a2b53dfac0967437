//! All contexts, and which of them is a language's default.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::context::Context;
use crate::kernel::{Places, StartKernelError};
use crate::language::Language;

/// The contexts of this interpreter.
#[derive(Debug)]
pub(crate) struct Contexts {
    places: Arc<Places>,
    home: PathBuf,
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    context: Arc<Context>,
    is_default: bool,
}

/// Why a context isn't created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateContextError {
    /// Its working directory isn't one.
    #[error("the working directory {0:?} doesn't exist")]
    Directory(PathBuf),
    /// It has no kernel.
    #[error(transparent)]
    Kernel(#[from] StartKernelError),
}

impl Contexts {
    /// Makes an empty list.
    pub(crate) fn new() -> Self {
        let home = std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute() && home.is_dir());
        Self {
            places: Arc::new(Places::from_environment()),
            home: home.unwrap_or_else(|| PathBuf::from("/")),
            entries: Mutex::default(),
        }
    }

    /// Creates a context and starts its kernel.
    ///
    /// # Errors
    /// The working directory doesn't exist, or the kernel doesn't start.
    pub(crate) async fn create(
        &self,
        language: Language,
        cwd: Option<&Path>,
    ) -> Result<Arc<Context>, CreateContextError> {
        // A relative path is meant from home, as the clients' file paths are.
        let cwd = cwd.map_or_else(|| self.home.clone(), |cwd| self.home.join(cwd));
        if !cwd.is_dir() {
            return Err(CreateContextError::Directory(cwd));
        }
        let context = Context::new(language, cwd, Arc::clone(&self.places));
        context.ensure_kernel(&mut context.slot().await).await?;
        self.entries().push(Entry {
            context: Arc::clone(&context),
            is_default: false,
        });
        Ok(context)
    }

    /// The default context of `language`, made without a kernel if it is new.
    pub(crate) fn default_of(&self, language: Language) -> Arc<Context> {
        let mut entries = self.entries();
        let known = entries
            .iter()
            .find(|entry| entry.is_default && *entry.context.language() == language);
        if let Some(entry) = known {
            return Arc::clone(&entry.context);
        }
        let context = Context::new(language, self.home.clone(), Arc::clone(&self.places));
        entries.push(Entry {
            context: Arc::clone(&context),
            is_default: true,
        });
        context
    }

    /// The context with this identifier.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Context>> {
        self.entries()
            .iter()
            .find(|entry| entry.context.id() == id)
            .map(|entry| Arc::clone(&entry.context))
    }

    /// All contexts, the oldest first.
    pub(crate) fn list(&self) -> Vec<Arc<Context>> {
        self.entries().iter().map(|entry| Arc::clone(&entry.context)).collect()
    }

    /// Takes a context from the list.
    pub(crate) fn remove(&self, id: &str) -> Option<Arc<Context>> {
        let mut entries = self.entries();
        let index = entries.iter().position(|entry| entry.context.id() == id)?;
        Some(entries.remove(index).context)
    }

    /// Takes a default context from the list whose kernel couldn't be started, so that it isn't shown.
    pub(crate) fn forget_default(&self, id: &str) {
        self.entries()
            .retain(|entry| !entry.is_default || entry.context.id() != id);
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
