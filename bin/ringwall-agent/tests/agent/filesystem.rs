//! Paths and watches.

use http::StatusCode;
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, until};

#[tokio::test]
async fn paths_are_made_described_moved_and_removed() {
    let sandbox = Sandbox::start();
    let call = async |method: &str, message| sandbox.unary(&format!("filesystem.Filesystem/{method}"), message).await;
    let made = call("MakeDir", json!({"path": "a/b"})).await;
    assert_eq!(made.json()["entry"]["type"], "FILE_TYPE_DIRECTORY");
    assert_eq!(
        made.json()["entry"]["path"],
        sandbox.home().join("a/b").to_str().unwrap()
    );
    let again = call("MakeDir", json!({"path": "~/a/b"})).await;
    assert_eq!(
        (again.status, again.json()["code"].clone()),
        (StatusCode::CONFLICT, json!("already_exists"))
    );

    std::fs::write(sandbox.home().join("a/file"), "seven!!").unwrap();
    std::os::unix::fs::symlink("file", sandbox.home().join("a/link")).unwrap();
    let entry = call("Stat", json!({"path": "a/file"})).await.json()["entry"].clone();
    assert_eq!(
        (entry["name"].as_str(), entry["size"].as_str()),
        (Some("file"), Some("7"))
    );
    assert_eq!(entry["permissions"].as_str().map(str::len), Some(10));
    assert!(entry["modifiedTime"].as_str().unwrap().ends_with('Z'));
    assert!(entry["owner"].is_string() && entry["group"].is_string() && entry["mode"].is_number());
    let link = call("Stat", json!({"path": "a/link"})).await.json()["entry"].clone();
    assert_eq!(
        (link["isSymlink"].clone(), link["symlinkTarget"].as_str()),
        (json!(true), Some("file"))
    );
    assert_eq!(link["type"], "FILE_TYPE_FILE");

    let names = |listed: Value| -> Vec<String> {
        let entries = listed["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(call("ListDir", json!({"path": "", "depth": 1})).await.json()),
        [""; 0]
    );
    assert_eq!(
        names(call("ListDir", json!({"path": "~", "depth": 1})).await.json()),
        ["a"]
    );
    assert_eq!(
        names(call("ListDir", json!({"path": "~", "depth": 2})).await.json()),
        ["a", "b", "file", "link"]
    );

    let moved = call("Move", json!({"source": "a/file", "destination": "c/d/e"})).await;
    assert_eq!(moved.json()["entry"]["name"], "e");
    let missing = call("Move", json!({"source": "a/file", "destination": "x"})).await;
    assert_eq!(
        (missing.status, missing.json()["code"].clone()),
        (StatusCode::NOT_FOUND, json!("not_found"))
    );
    assert_eq!(call("Remove", json!({"path": "a"})).await.json(), json!({}));
    assert!(!sandbox.home().join("a").exists());
    assert_eq!(call("Stat", json!({"path": "a"})).await.json()["code"], "not_found");
    assert_eq!(call("ListDir", json!({"path": "a"})).await.json()["code"], "not_found");
    assert_eq!(
        call("ListDir", json!({"path": "c/d/e"})).await.json()["code"],
        "invalid_argument"
    );
    assert_eq!(
        call("Stat", json!({"path": "a\u{0}"})).await.json()["code"],
        "invalid_argument"
    );
}

#[tokio::test]
async fn a_stream_tells_of_changes_in_the_whole_tree() {
    let sandbox = Sandbox::start();
    let home = sandbox.home();
    let request = json!({"path": home, "recursive": true, "includeEntry": true});
    let mut events = sandbox.open("filesystem.Filesystem/WatchDir", &[], request).await;
    assert_eq!(events.next().await, Some((0, json!({"start": {}}))));
    std::fs::create_dir(home.join("new")).unwrap();
    let (_, created) = events.next().await.unwrap();
    assert_eq!(created["filesystem"]["type"], "EVENT_TYPE_CREATE");
    assert_eq!(created["filesystem"]["name"], "new");
    assert_eq!(created["filesystem"]["entry"]["type"], "FILE_TYPE_DIRECTORY");
    std::fs::write(home.join("new/file"), "x").unwrap();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&json!("EVENT_TYPE_WRITE")) {
        let (_, event) = events.next().await.unwrap();
        assert_eq!(event["filesystem"]["name"], "new/file");
        kinds.push(event["filesystem"]["type"].clone());
    }
    assert_eq!(kinds[0], "EVENT_TYPE_CREATE");
    let refused = sandbox
        .open("filesystem.Filesystem/WatchDir", &[], json!({"path": "nowhere"}))
        .await
        .rest()
        .await;
    assert_eq!(refused.error.unwrap()["code"], "not_found");
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout() {
    let sandbox = Sandbox::start();
    let headers = [("connect-timeout-ms", "1300"), ("keepalive-ping-interval", "1")];
    let mut events = sandbox
        .open("filesystem.Filesystem/WatchDir", &headers, json!({"path": "~"}))
        .await;
    assert_eq!(events.next().await, Some((0, json!({"start": {}}))));
    assert_eq!(events.next().await, Some((0, json!({"keepalive": {}}))));
    assert_eq!(events.rest().await.error.unwrap()["code"], "deadline_exceeded");
}

#[tokio::test]
async fn a_watcher_keeps_events_until_they_are_fetched() {
    let sandbox = Sandbox::start();
    let call = async |method: &str, message| sandbox.unary(&format!("filesystem.Filesystem/{method}"), message).await;
    let created = call("CreateWatcher", json!({"path": "~", "recursive": false})).await;
    let watcher = json!({"watcherId": created.json()["watcherId"]});
    std::fs::write(sandbox.home().join("one"), "x").unwrap();
    std::fs::rename(sandbox.home().join("one"), sandbox.home().join("two")).unwrap();
    std::fs::remove_file(sandbox.home().join("two")).unwrap();
    let mut seen = Vec::new();
    until("all events came", async || {
        let fetched = call("GetWatcherEvents", watcher.clone()).await.json();
        seen.extend(fetched["events"].as_array().unwrap().clone());
        seen.last().is_some_and(|last| last["type"] == "EVENT_TYPE_REMOVE")
    })
    .await;
    let seen: Vec<String> = seen
        .iter()
        .map(|it| format!("{}:{}", it["name"].as_str().unwrap(), it["type"].as_str().unwrap()))
        .collect();
    let wanted = [
        "one:EVENT_TYPE_CREATE",
        "one:EVENT_TYPE_WRITE",
        "one:EVENT_TYPE_RENAME",
        "two:EVENT_TYPE_CREATE",
        "two:EVENT_TYPE_REMOVE",
    ];
    assert_eq!(seen, wanted);
    assert_eq!(call("RemoveWatcher", watcher.clone()).await.json(), json!({}));
    let gone = call("GetWatcherEvents", watcher.clone()).await;
    assert_eq!(
        (gone.status, gone.json()["code"].clone()),
        (StatusCode::NOT_FOUND, json!("not_found"))
    );
    assert_eq!(call("RemoveWatcher", watcher).await.json()["code"], "not_found");
}

#[tokio::test]
async fn watchers_are_bounded_in_number_and_memory() {
    let sandbox = Sandbox::start();
    let call = async |method: &str, message| sandbox.unary(&format!("filesystem.Filesystem/{method}"), message).await;
    let mut made = 0;
    let refused = loop {
        let answer = call("CreateWatcher", json!({"path": "~"})).await;
        if answer.status != StatusCode::OK {
            break answer;
        }
        made += 1;
        assert!(made <= 64);
    };
    assert_eq!(refused.json()["code"], "resource_exhausted");
    let before = sandbox.memory_kib("RssAnon");
    let script = "for i in $(seq 3000); do : > f$i; rm f$i; done";
    assert_eq!(sandbox.shell(script).await.rest().await.end.unwrap()["exitCode"], 0);
    let grown = sandbox.memory_kib("RssAnon").saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} KiB for {made} full queues");
    assert_eq!(call("Stat", json!({"path": "~"})).await.status, StatusCode::OK);
}
