//! Images and archives, from outside: hostile ones, layers over layers, random ones, a corpus, and a real registry.

mod hostile;
mod hostile_registry;
mod import;
mod layers;
mod layout;
mod net;
mod random;
mod registry;
mod replay;
mod support;
