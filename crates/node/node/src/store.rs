//! The database: one row a record, one writer, every change a transaction.
//!
//! Write-ahead log with `synchronous = NORMAL`: what is committed survives any end of this process; a power cut may take the last
//! transactions (never half of one). Changes that concern files that must not be lost (snapshots, templates) are followed by a
//! checkpoint, which syncs.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::StartNodeError;

/// Version of the schema below, in `PRAGMA user_version`.
const SCHEMA: i32 = 1;

/// Tables that hold records: an id and the record as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Sandboxes,
    Snapshots,
    Templates,
    /// Layers of build steps, by the hash of everything they depend on.
    Steps,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Sandboxes => "sandboxes",
            Table::Snapshots => "snapshots",
            Table::Templates => "templates",
            Table::Steps => "steps",
        }
    }
}

/// An API key as stored: never the key itself.
#[derive(Debug, Clone)]
pub(crate) struct KeyRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) hash: Vec<u8>,
    pub(crate) created_ms: u64,
}

/// The database.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Mutex<Connection>,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StartNodeError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            connection.execute_batch(&format!(
                "BEGIN;
                 CREATE TABLE sandboxes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
                 CREATE TABLE snapshots (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
                 CREATE TABLE templates (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
                 CREATE TABLE steps (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
                 CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL, created_ms INTEGER NOT NULL) WITHOUT ROWID;
                 PRAGMA user_version = {SCHEMA};
                 COMMIT;"
            ))?;
        }
        Ok(Store {
            connection: Mutex::new(connection),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in here leaves no half-done transaction: it rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one record.
    pub(crate) fn put<T: Serialize>(&self, table: Table, id: &str, record: &T) -> rusqlite::Result<()> {
        self.put_all(&[(table, id, to_json(record)?)], &[])
    }

    /// Writes and removes several records, all or none.
    pub(crate) fn put_all(&self, puts: &[(Table, &str, String)], removals: &[(Table, &str)]) -> rusqlite::Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        for (table, id, json) in puts {
            let name = table.name();
            transaction
                .prepare_cached(&format!("INSERT OR REPLACE INTO {name} (id, record) VALUES (?1, ?2)"))?
                .execute(params![id, json])?;
        }
        for (table, id) in removals {
            let name = table.name();
            transaction
                .prepare_cached(&format!("DELETE FROM {name} WHERE id = ?1"))?
                .execute(params![id])?;
        }
        transaction.commit()
    }

    /// Removes one record.
    pub(crate) fn remove(&self, table: Table, id: &str) -> rusqlite::Result<()> {
        self.put_all(&[], &[(table, id)])
    }

    /// Takes no change any more, as if this process had been killed now.
    pub(crate) fn close(&self) -> rusqlite::Result<()> {
        self.lock().pragma_update(None, "query_only", true)
    }

    /// Makes everything committed so far survive a power cut.
    pub(crate) fn sync(&self) -> rusqlite::Result<()> {
        self.lock().query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))
    }

    /// Reads all records of a table.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table, what: &'static str) -> Result<Vec<T>, StartNodeError> {
        let connection = self.lock();
        let mut statement = connection.prepare(&format!("SELECT record FROM {} ORDER BY id", table.name()))?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut records = Vec::new();
        for json in rows {
            records.push(serde_json::from_str(&json?).map_err(|source| StartNodeError::Record { what, source })?);
        }
        Ok(records)
    }

    pub(crate) fn keys(&self) -> rusqlite::Result<Vec<KeyRow>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT id, name, hash, created_ms FROM keys ORDER BY created_ms")?;
        let rows = statement.query_map([], |row| {
            Ok(KeyRow {
                id: row.get(0)?,
                name: row.get(1)?,
                hash: row.get(2)?,
                created_ms: row.get::<_, i64>(3)?.unsigned_abs(),
            })
        })?;
        rows.collect()
    }

    pub(crate) fn add_key(&self, key: &KeyRow) -> rusqlite::Result<()> {
        let created = i64::try_from(key.created_ms).unwrap_or(i64::MAX);
        self.lock().execute(
            "INSERT INTO keys (id, name, hash, created_ms) VALUES (?1, ?2, ?3, ?4)",
            params![key.id, key.name, key.hash, created],
        )?;
        self.sync()
    }

    pub(crate) fn remove_key(&self, id: &str) -> rusqlite::Result<bool> {
        let removed = self
            .lock()
            .execute("DELETE FROM keys WHERE id = ?1 OR name = ?1", params![id])?;
        self.sync()?;
        Ok(removed > 0)
    }
}

/// Turns a record into the text that is stored.
pub(crate) fn to_json<T: Serialize>(record: &T) -> rusqlite::Result<String> {
    serde_json::to_string(record).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = Store::open(&path).unwrap();
        store.put(Table::Steps, "a", &"one").unwrap();
        store.put(Table::Steps, "a", &"two").unwrap();
        store.put(Table::Steps, "b", &"three").unwrap();
        store.remove(Table::Steps, "b").unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.all::<String>(Table::Steps, "steps").unwrap(), ["two"]);
    }

    #[test]
    fn nothing_is_written_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let store = Store::open(&path).unwrap();
        store.put(Table::Sandboxes, "a", &"running").unwrap();
        store.close().unwrap();
        assert!(store.put(Table::Sandboxes, "a", &"lost").is_err());
        assert!(store.remove(Table::Sandboxes, "a").is_err());
        assert_eq!(store.all::<String>(Table::Sandboxes, "sandboxes").unwrap(), ["running"]);
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.all::<String>(Table::Sandboxes, "sandboxes").unwrap(), ["running"]);
        store.put(Table::Sandboxes, "a", &"again").unwrap();
    }

    #[test]
    fn keys_are_removed_by_id_or_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let key = KeyRow {
            id: "k".into(),
            name: "n".into(),
            hash: vec![1],
            created_ms: 5,
        };
        store.add_key(&key).unwrap();
        assert_eq!(store.keys().unwrap().len(), 1);
        assert!(store.remove_key("n").unwrap());
        assert!(!store.remove_key("n").unwrap());
    }
}
