//! What `ringwall serve` has acknowledged holds, however it, a keeper or an agent ends.
//!
//! `RINGWALL_CRASH_ROUNDS` says how often the server is killed under load (10 when nothing is said).

#![expect(
    clippy::print_stdout,
    reason = "what a long run has done must be seen, and stdout is where tests report"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringwall_e2e::serve::{
    Answered, Client, Events, PATIENCE, Sandbox, Server, eventually, family, free_port, kill, percent, stat, text,
};
use ringwall_e2e::users;
use serde_json::{Value, json};

fn each_user(check: impl Fn(&mut Server)) {
    for user in users() {
        let mut server = Server::new(user);
        check(&mut server);
        server.assert_sound();
        server.remove_all();
        server.assert_nothing_left();
    }
}

fn rounds() -> u64 {
    std::env::var("RINGWALL_CRASH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What the server has acknowledged about one sandbox.
#[derive(Debug, Clone, Default)]
struct Promised {
    token: String,
    label: String,
    /// Files that must be there.
    files: BTreeMap<String, String>,
    /// Files of which a write was begun and not acknowledged: their content may be either.
    unsure: BTreeMap<String, String>,
    /// Whether it is known to be paused; nothing when a change was begun and not acknowledged.
    paused: Option<bool>,
    /// Whether its end was begun and not acknowledged.
    may_be_gone: bool,
}

/// Everything acknowledged, by sandbox.
#[derive(Debug, Default)]
struct Ledger {
    there: BTreeMap<String, Promised>,
    killed: Vec<String>,
    /// Snapshots, and the files they must hold.
    snapshots: BTreeMap<String, BTreeMap<String, String>>,
    /// Something was begun that may have made sandboxes which nobody was told of.
    unsure_makes: u64,
}

impl Promised {
    fn sandbox(&self, id: &str) -> Sandbox {
        Sandbox {
            id: id.to_owned(),
            token: self.token.clone(),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker: does things to sandboxes of its own and writes down what was acknowledged, until told to stop.
fn work(client: &Client, number: u64, round: u64, stop: &AtomicBool, done: &AtomicU64, ledger: &Mutex<Ledger>) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number << 32) ^ (round + 1));
    let mark = format!("worker{number}-");
    let mut serial = 0_u64;
    while !stop.load(Relaxed) {
        serial += 1;
        let own: Vec<(String, Promised)> = locked(ledger)
            .there
            .iter()
            .filter(|(_, promised)| promised.label.starts_with(&mark) && !promised.may_be_gone)
            .map(|(id, promised)| (id.clone(), promised.clone()))
            .collect();
        let pick = usize::try_from(dice.below(own.len().max(1) as u64)).unwrap_or(0);
        let act = if own.len() < 2 { 0 } else { dice.below(10) };
        let acknowledged = match (act, own.get(pick)) {
            (0, _) | (_, None) => make(client, &format!("{mark}{round}-{serial}"), ledger),
            (1, Some((id, promised))) if own.len() > 3 => end(client, id, promised, ledger),
            (1..=3, Some((id, promised))) => store(client, id, promised, &format!("f{}", serial % 5), serial, ledger),
            (4 | 5, Some((id, promised))) => command(client, id, promised, &format!("c{}", serial % 5), serial, ledger),
            (6, Some((id, promised))) => pause(client, id, promised, dice.below(2) == 0, ledger),
            (7, Some((id, promised))) => resume(client, id, promised, ledger),
            // Of running ones; snapshots of paused ones have a test of their own.
            (8, Some((id, promised))) if promised.paused == Some(false) => snapshot(client, id, promised, ledger),
            (9, Some((id, promised))) if promised.paused == Some(false) && own.len() < 5 => {
                fork(client, id, promised, ledger)
            }
            _ => Some(()),
        };
        if acknowledged.is_some() {
            done.fetch_add(1, Relaxed);
        } else {
            // The server is on its way down or up.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn make(client: &Client, label: &str, ledger: &Mutex<Ledger>) -> Option<()> {
    locked(ledger).unsure_makes += 1;
    let answer = client.try_create(&json!({"metadata": {"label": label}})).ok()?;
    assert_eq!(answer.status, 201, "create: {answer:?}");
    let sandbox = Sandbox::from_json(&answer.json());
    let mut ledger = locked(ledger);
    ledger.unsure_makes -= 1;
    let promised = Promised {
        token: sandbox.token,
        label: label.to_owned(),
        paused: Some(false),
        ..Promised::default()
    };
    ledger.there.insert(sandbox.id, promised);
    Some(())
}

fn change(ledger: &Mutex<Ledger>, id: &str, change: impl FnOnce(&mut Promised)) {
    if let Some(promised) = locked(ledger).there.get_mut(id) {
        change(promised);
    }
}

fn store(
    client: &Client,
    id: &str,
    promised: &Promised,
    name: &str,
    serial: u64,
    ledger: &Mutex<Ledger>,
) -> Option<()> {
    if promised.paused != Some(false) {
        return None;
    }
    let content = format!("{serial} {}", "x".repeat(usize::try_from(serial % 3000).unwrap_or(0)));
    change(ledger, id, |held| {
        drop(held.unsure.insert(name.to_owned(), content.clone()))
    });
    let answer = client
        .write(&promised.sandbox(id), &format!("/home/user/{name}"), content.as_bytes())
        .ok()?;
    assert!(matches!(answer.status, 200 | 502), "write: {answer:?}");
    if answer.status != 200 {
        return None;
    }
    change(ledger, id, |held| {
        held.unsure.remove(name);
        held.files.insert(name.to_owned(), content);
    });
    Some(())
}

fn command(
    client: &Client,
    id: &str,
    promised: &Promised,
    name: &str,
    serial: u64,
    ledger: &Mutex<Ledger>,
) -> Option<()> {
    if promised.paused != Some(false) {
        return None;
    }
    let content = format!("command {serial}");
    change(ledger, id, |held| {
        drop(held.unsure.insert(name.to_owned(), content.clone()))
    });
    let script = format!(
        "printf '%s' '{content}' > ~/{name}.new && sync ~/{name}.new && mv ~/{name}.new ~/{name} && echo acknowledged"
    );
    let mut events = client.start(&promised.sandbox(id), &script).ok()?;
    let said = events.output().ok()?;
    assert_eq!(said, "acknowledged\n");
    change(ledger, id, |held| {
        held.unsure.remove(name);
        held.files.insert(name.to_owned(), content);
    });
    Some(())
}

fn pause(client: &Client, id: &str, promised: &Promised, memory: bool, ledger: &Mutex<Ledger>) -> Option<()> {
    change(ledger, id, |held| held.paused = None);
    let answer = client
        .act(&promised.sandbox(id), "pause", &json!({"memory": memory}))
        .ok()?;
    assert!(matches!(answer.status, 204 | 409), "pause: {answer:?}");
    change(ledger, id, |held| held.paused = Some(true));
    Some(())
}

fn resume(client: &Client, id: &str, promised: &Promised, ledger: &Mutex<Ledger>) -> Option<()> {
    change(ledger, id, |held| held.paused = None);
    let answer = client.resume(&promised.sandbox(id), &json!({"timeout": 600})).ok()?;
    assert!(matches!(answer.status, 200 | 201), "connect: {answer:?}");
    change(ledger, id, |held| held.paused = Some(false));
    Some(())
}

fn snapshot(client: &Client, id: &str, promised: &Promised, ledger: &Mutex<Ledger>) -> Option<()> {
    let answer = client.act(&promised.sandbox(id), "snapshots", &json!({})).ok()?;
    // A sandbox may stand on 100 layers.
    assert!(matches!(answer.status, 201 | 409), "snapshot: {answer:?}");
    if answer.status == 201 {
        let snapshot = text(&answer.json(), "snapshotID");
        let mut ledger = locked(ledger);
        let sure = ledger.there.get(id).map(|held| {
            let mut files = held.files.clone();
            files.retain(|name, _| !held.unsure.contains_key(name));
            files
        });
        ledger.snapshots.insert(snapshot, sure.unwrap_or_default());
    }
    Some(())
}

fn fork(client: &Client, id: &str, promised: &Promised, ledger: &Mutex<Ledger>) -> Option<()> {
    locked(ledger).unsure_makes += 1;
    let answer = client
        .act(&promised.sandbox(id), "fork", &json!({"count": 1, "timeout": 600}))
        .ok()?;
    assert!(matches!(answer.status, 201 | 409), "fork: {answer:?}");
    let mut ledger = locked(ledger);
    ledger.unsure_makes -= 1;
    let fork = answer.json();
    if answer.status == 201 && fork[0].get("sandbox").is_some() {
        let sandbox = Sandbox::from_json(&fork[0]["sandbox"]);
        let held = ledger.there.get(id).cloned().unwrap_or_default();
        let copy = Promised {
            token: sandbox.token,
            paused: Some(false),
            ..held
        };
        ledger.there.insert(sandbox.id, copy);
    }
    Some(())
}

fn end(client: &Client, id: &str, promised: &Promised, ledger: &Mutex<Ledger>) -> Option<()> {
    change(ledger, id, |held| held.may_be_gone = true);
    let answer = client.kill(&promised.sandbox(id)).ok()?;
    assert!(matches!(answer.status, 204 | 404), "kill: {answer:?}");
    let mut ledger = locked(ledger);
    ledger.there.remove(id);
    ledger.killed.push(id.to_owned());
    Some(())
}

/// Compares everything acknowledged with what there is; brings every sandbox back to a known state.
#[track_caller]
fn compare(client: &Client, ledger: &Mutex<Ledger>, round: u64) {
    let mut ledger = locked(ledger);
    let listed: BTreeMap<String, Value> = client
        .list("/v2/sandboxes")
        .expect("a list")
        .into_iter()
        .map(|item| (text(&item, "sandboxID"), item))
        .collect();
    for id in &ledger.killed {
        assert!(!listed.contains_key(id), "round {round}: {id} was killed and is listed");
        assert_eq!(client.state(id), "404", "round {round}");
    }
    let mut gone = Vec::new();
    for (id, promised) in &mut ledger.there {
        let sandbox = promised.sandbox(id);
        if promised.may_be_gone {
            let answer = client.kill(&sandbox).expect("an answer");
            assert!(matches!(answer.status, 204 | 404), "{answer:?}");
            gone.push(id.clone());
            continue;
        }
        let Some(item) = listed.get(id) else {
            panic!("round {round}: {id} is not listed: {promised:?}")
        };
        assert_eq!(item["metadata"]["label"], json!(promised.label), "round {round}");
        let state = text(item, "state");
        if let Some(paused) = promised.paused {
            let wanted = if paused { "paused" } else { "running" };
            assert_eq!(state, wanted, "round {round}: {id}: {item}");
        }
        let answer = client.resume(&sandbox, &json!({"timeout": 600})).expect("an answer");
        assert!(
            matches!(answer.status, 200 | 201),
            "round {round}: {id} ({state}): {answer:?}"
        );
        promised.paused = Some(false);
        for (name, content) in &promised.files {
            let found = client.read(&sandbox, &format!("/home/user/{name}")).expect("an answer");
            let found_text = String::from_utf8_lossy(&found.body).into_owned();
            let begun = promised.unsure.get(name);
            // A write that was begun may have emptied the file; POST /files does not replace it in one step.
            let is_right = found.status == 200 && (found_text == *content || begun.is_some());
            assert!(is_right, "round {round}: {id} {name}: {found:?} instead of {content}");
        }
        for name in std::mem::take(&mut promised.unsure).into_keys() {
            promised.files.remove(&name);
        }
    }
    for id in gone {
        ledger.there.remove(&id);
        ledger.killed.push(id);
    }
    let unknown: Vec<&String> = listed
        .keys()
        .filter(|id| !ledger.there.contains_key(*id) && !ledger.killed.contains(id))
        .collect();
    assert!(
        unknown.len() as u64 <= ledger.unsure_makes,
        "round {round}: {unknown:?} were never asked for"
    );
    for id in unknown {
        assert_eq!(
            client.delete(&format!("/sandboxes/{id}")).status(),
            204,
            "round {round}"
        );
    }
    ledger.unsure_makes = 0;
    let snapshots: Vec<String> = client
        .list("/snapshots")
        .expect("a list")
        .iter()
        .map(|item| text(item, "snapshotID"))
        .collect();
    for snapshot in ledger.snapshots.keys() {
        assert!(
            snapshots.contains(snapshot),
            "round {round}: snapshot {snapshot} is lost"
        );
    }
    // One of them each time: a sandbox made from it has the files it had.
    if let Some((snapshot, files)) = ledger.snapshots.pop_first() {
        let sandbox = client.create(&json!({"templateID": snapshot}));
        for (name, content) in files {
            let found = client.read(&sandbox, &format!("/home/user/{name}")).expect("an answer");
            assert_eq!(
                String::from_utf8_lossy(&found.body),
                content,
                "round {round}: {snapshot} {name}"
            );
        }
        assert_eq!(client.kill(&sandbox).status(), 204);
        assert_eq!(client.delete(&format!("/templates/{snapshot}")).status(), 204);
    }
}

/// A command that was started before any crash, and must go on through all of them.
fn start_ticking(client: &Client, sandbox: &Sandbox) -> i64 {
    let mut events = client
        .start(sandbox, "while :; do n=$((n+1)); echo tick $n; sleep 0.02; done")
        .expect("a stream");
    let pid = events.pid().expect("a start");
    events.output().expect("a tick");
    pid
}

fn reconnect(client: &Client, sandbox: &Sandbox, pid: i64) -> Events {
    let message = json!({"process": {"pid": pid}});
    client
        .stream(sandbox, "/process.Process/Connect", &message)
        .expect("a stream")
}

fn tick(events: &mut Events) -> u64 {
    let out = events.output().expect("a tick");
    let last = out.trim().rsplit(' ').next().unwrap_or_default();
    last.parse().expect("a number")
}

fn crash_under_load(flags: &[&str]) {
    for user in users() {
        let begun = Instant::now();
        let mut server = Server::with(user, flags);
        let ticking = server.client().create(&json!({"metadata": {"label": "ticking"}}));
        let pid = start_ticking(&server.client(), &ticking);
        let ledger = Mutex::new(Ledger::default());
        locked(&ledger).there.insert(
            ticking.id.clone(),
            Promised {
                token: ticking.token.clone(),
                label: "ticking".to_owned(),
                paused: Some(false),
                ..Promised::default()
            },
        );
        let done = AtomicU64::new(0);
        let mut dice = Dice(std::process::id().into());
        let mut ticks = 0;
        for round in 0..rounds() {
            let stop = AtomicBool::new(false);
            let client = server.client();
            std::thread::scope(|scope| {
                for number in 0..4 {
                    let (client, stop, done, ledger) = (&client, &stop, &done, &ledger);
                    scope.spawn(move || work(client, number, round, stop, done, ledger));
                }
                std::thread::sleep(Duration::from_millis(100 + dice.below(1400)));
                server.crash();
                stop.store(true, Relaxed);
            });
            server.start();
            compare(&server.client(), &ledger, round);
            let mut events = reconnect(&server.client(), &ticking, pid);
            let now = tick(&mut events);
            assert!(now > ticks, "round {round}: it ticks on: {now} after {ticks}");
            ticks = now;
        }
        println!(
            "as {user:?}: {} crashes, {} acknowledged requests, {} sandboxes at the end, {:?}",
            rounds(),
            done.load(Relaxed),
            locked(&ledger).there.len(),
            begun.elapsed()
        );
        assert!(done.load(Relaxed) > rounds(), "there was a load");
        server.assert_sound();
        server.remove_all();
        server.set_flags(&["--pool", "0"]);
        server.crash_and_start();
        server.assert_nothing_left();
    }
}

#[test]
fn what_was_acknowledged_holds_however_often_the_server_is_killed() {
    crash_under_load(&["--pool", "0"]);
}

#[test]
fn the_same_with_a_pool() {
    crash_under_load(&["--pool", "2"]);
}

#[test]
fn timeouts_that_passed_while_no_server_ran_fire_afterwards() {
    each_user(|server| {
        let client = server.client();
        let gone = client.create(&json!({"timeout": 1}));
        let paused = client.create(&json!({"timeout": 1, "autoPause": true}));
        let files = client.create(&json!({"timeout": 1, "autoPause": true, "autoPauseMemory": false}));
        let there = client.create(&json!({"timeout": 600}));
        server.crash();
        std::thread::sleep(Duration::from_millis(1500));
        server.start();
        let client = server.client();
        eventually("its time is up", PATIENCE, || client.state(&gone.id) == "404");
        eventually("it is paused", PATIENCE, || client.state(&paused.id) == "paused full");
        eventually("its files are", PATIENCE, || {
            client.state(&files.id) == "paused filesystem"
        });
        assert_eq!(client.state(&there.id), "running");
        assert_eq!(client.shell(&there, "echo on"), "on\n");
    });
}

#[test]
fn a_paused_sandbox_stays_so_through_a_crash() {
    each_user(|server| {
        let client = server.client();
        let (full, files) = (
            client.create(&json!({"timeout": 1})),
            client.create(&json!({"timeout": 1})),
        );
        client.shell(&full, "(while :; do n=$((n+1)); echo $n > ~/count.new; mv ~/count.new ~/count; sleep 0.01; done) >/dev/null 2>&1 & echo");
        client.shell(&files, "echo kept > ~/f");
        assert_eq!(client.act(&full, "pause", &json!({})).status(), 204);
        assert_eq!(client.act(&files, "pause", &json!({"memory": false})).status(), 204);
        std::thread::sleep(Duration::from_millis(1200));
        for _ in 0..3 {
            server.crash_and_start();
            let client = server.client();
            assert_eq!(client.state(&full.id), "paused full");
            assert_eq!(client.state(&files.id), "paused filesystem");
            server.assert_still(&full.id);
        }
        let client = server.client();
        for sandbox in [&full, &files] {
            assert_eq!(client.resume(sandbox, &json!({"timeout": 600})).status(), 201);
        }
        assert_eq!(client.shell(&files, "cat ~/f"), "kept\n");
        let count = || client.shell(&full, "cat ~/count").trim().parse::<u64>().unwrap_or(0);
        let before = count();
        eventually("it counts on", PATIENCE, || count() > before);
    });
}

fn dies(server: &mut Server, field: &str) {
    let client = server.client();
    let sandbox = client.create(&json!({}));
    client.shell(&sandbox, "echo kept > ~/f; mkdir ~/d; echo deep > ~/d/f; sync");
    let mut running = client.start(&sandbox, "sleep 1000").expect("a stream");
    running.pid().expect("a start");
    let all = family(server.recorded(&sandbox.id, "init"));
    kill(server.recorded(&sandbox.id, field));
    eventually("it is paused", PATIENCE, || {
        client.state(&sandbox.id) == "paused filesystem"
    });
    for pid in all {
        eventually("nothing of it runs", PATIENCE, || {
            stat(pid).is_none_or(|stat| stat.state == 'Z')
        });
    }
    assert!(!matches!(running.next_event(), Ok(Some(_))), "its streams end");
    let refused = client.read(&sandbox, "/home/user/f").expect("an answer");
    assert_eq!(refused.status, 502);
    assert!(refused.message().contains("was not found"), "{refused:?}");
    assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
    assert_eq!(client.shell(&sandbox, "cat ~/f ~/d/f"), "kept\ndeep\n");
    let log = client
        .get(&format!("/sandboxes/{}/logs", sandbox.id))
        .json_of(200)
        .to_string();
    assert!(log.contains("ended by themselves"), "{log}");
    // The same while no server looks.
    let victim = server.recorded(&sandbox.id, field);
    server.crash();
    kill(victim);
    eventually("it is gone", PATIENCE, || {
        stat(victim).is_none_or(|stat| stat.state == 'Z')
    });
    server.start();
    let client = server.client();
    eventually("it is paused", PATIENCE, || {
        client.state(&sandbox.id) == "paused filesystem"
    });
    assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
    assert_eq!(client.shell(&sandbox, "cat ~/f ~/d/f"), "kept\ndeep\n");
}

#[test]
fn a_killed_keeper_leaves_a_sandbox_paused_with_its_files() {
    each_user(|server| dies(server, "keeper"));
}

#[test]
fn a_killed_agent_leaves_a_sandbox_paused_with_its_files() {
    each_user(|server| dies(server, "init"));
}

#[test]
fn a_sandbox_that_was_paused_is_not_ended_because_its_keeper_dies() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({"timeout": 2}));
        client.shell(&sandbox, "echo kept > ~/f; sync");
        assert_eq!(client.act(&sandbox, "pause", &json!({})).status(), 204);
        // A paused sandbox has no end: its time may be long over.
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(client.state(&sandbox.id), "paused full");
        kill(server.recorded(&sandbox.id, "keeper"));
        eventually("its processes are gone", PATIENCE, || {
            client.state(&sandbox.id) != "paused full"
        });
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(client.state(&sandbox.id), "paused filesystem");
        assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
        assert_eq!(client.shell(&sandbox, "cat ~/f"), "kept\n");
    });
}

#[test]
fn a_crash_during_a_snapshot_loses_nothing() {
    each_user(|server| {
        let sandbox = server.client().create(&json!({}));
        let mut dice = Dice(7);
        for round in 0..rounds() {
            let client = server.client();
            let answer = client.write(&sandbox, "/home/user/f", format!("{round}").as_bytes());
            assert_eq!(answer.status(), 200);
            let verb = if round % 3 == 2 { "fork" } else { "snapshots" };
            let answer = std::thread::scope(|scope| {
                let asked = scope.spawn(|| client.act(&sandbox, verb, &json!({})));
                std::thread::sleep(Duration::from_millis(dice.below(120)));
                server.crash();
                asked.join().expect("no panic")
            });
            server.start();
            let client = server.client();
            assert_eq!(client.state(&sandbox.id), "running", "round {round}");
            let found = client.read(&sandbox, "/home/user/f").expect("an answer");
            assert_eq!(
                String::from_utf8_lossy(&found.body),
                round.to_string(),
                "round {round}: {found:?}"
            );
            if let Ok(answer) = answer
                && verb == "snapshots"
            {
                let snapshot = text(&answer.json(), "snapshotID");
                let from = client.create(&json!({"templateID": snapshot}));
                assert_eq!(client.shell(&from, "cat ~/f"), round.to_string());
            }
            // What was never acknowledged may or may not be there, but what is listed works.
            for item in client.list("/snapshots").expect("a list") {
                let snapshot = text(&item, "snapshotID");
                let from = client.create(&json!({"templateID": snapshot}));
                assert_eq!(client.run(&from, "cat ~/f").expect("its end").code, 0, "round {round}");
                assert_eq!(client.kill(&from).status(), 204);
                assert_eq!(client.delete(&format!("/templates/{snapshot}")).status(), 204);
            }
        }
    });
}

#[test]
fn a_paused_sandbox_is_still_paused_after_a_crash_during_its_snapshot() {
    each_user(|server| {
        let sandbox = server.client().create(&json!({}));
        server.client().write(&sandbox, "/home/user/f", b"kept").json_of(200);
        assert_eq!(server.client().act(&sandbox, "pause", &json!({})).status(), 204);
        for round in 0..rounds() * 2 {
            let client = server.client();
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| client.act(&sandbox, "snapshots", &json!({})));
                std::thread::sleep(Duration::from_millis(round % 12));
                server.crash();
                drop(asked.join().expect("no panic"));
            });
            server.start();
            let state = server.client().state(&sandbox.id);
            assert!(state.starts_with("paused"), "round {round}: it is {state}");
            if state == "paused filesystem" {
                // With processes again, for the next round.
                let client = server.client();
                assert_eq!(client.resume(&sandbox, &json!({})).status(), 201);
                assert_eq!(client.shell(&sandbox, "cat ~/f"), "kept");
                assert_eq!(client.act(&sandbox, "pause", &json!({})).status(), 204);
            }
        }
    });
}

#[test]
fn a_crash_during_a_build_leaves_a_failed_build_and_a_good_cache() {
    each_user(|server| {
        let mut dice = Dice(11);
        let steps: Vec<Value> = (0..4)
            .map(|step| json!({"type": "RUN", "args": [format!("echo {step} > ~/step{step}; sleep 0.05")]}))
            .collect();
        let body = json!({"fromTemplate": "base", "steps": steps});
        for round in 0..rounds() {
            let client = server.client();
            let announced = client.post("/v3/templates", &json!({"name": "built"})).json_of(202);
            let (template, build) = (text(&announced, "templateID"), text(&announced, "buildID"));
            let path = format!("/v2/templates/{template}/builds/{build}");
            assert_eq!(client.post(&path, &body).status(), 202);
            std::thread::sleep(Duration::from_millis(dice.below(500)));
            server.note_processes();
            server.crash_and_start();
            let client = server.client();
            let status = client
                .get(&format!("/templates/{template}/builds/{build}/status"))
                .json_of(200);
            let state = text(&status, "status");
            assert!(matches!(state.as_str(), "error" | "ready"), "round {round}: {status}");
            if state == "error" {
                assert!(status["reason"].to_string().contains("restarted"), "{status}");
            }
            eventually("no step's sandbox is left", PATIENCE, || {
                server.names("sandboxes").is_empty() && server.left_over().is_empty()
            });
        }
        let client = server.client();
        let announced = client.post("/v3/templates", &json!({"name": "built"})).json_of(202);
        let (template, build) = (text(&announced, "templateID"), text(&announced, "buildID"));
        let path = format!("/v2/templates/{template}/builds/{build}");
        assert_eq!(client.post(&path, &body).status(), 202);
        eventually("it is built", PATIENCE, || {
            let path = format!("/templates/{template}/builds/{build}/status");
            text(&client.get(&path).json_of(200), "status") == "ready"
        });
        let sandbox = client.create(&json!({"templateID": "built"}));
        assert_eq!(client.shell(&sandbox, "cat ~/step*"), "0\n1\n2\n3\n");
    });
}

#[test]
fn a_second_server_on_the_same_state_is_refused() {
    each_user(|server| {
        let sandbox = server.client().create(&json!({}));
        let refused = server.command(free_port()).output().expect("it starts");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(125), "{said}");
        assert!(
            said.contains("another server works on") && said.contains("--state"),
            "{said}"
        );
        assert!(refused.stdout.is_empty(), "{refused:?}");
        assert_eq!(server.client().shell(&sandbox, "echo on"), "on\n");
    });
}

#[test]
fn upload_leftovers_of_a_crash_are_swept() {
    use std::io::Write as _;
    each_user(|server| {
        let client = server.client();
        let announced = client.post("/v3/templates", &json!({"name": "files"})).json_of(202);
        let template = text(&announced, "templateID");
        let place = client
            .get(&format!("/templates/{template}/files/{}", "0".repeat(64)))
            .json_of(201);
        let url = text(&place, "url");
        let path = url.splitn(4, '/').nth(3).expect("a path");
        let mut stream = client.connect().expect("a connection");
        write!(
            stream,
            "PUT /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\npart"
        )
        .expect("sent");
        eventually("it is being written", PATIENCE, || server.names("new").len() == 1);
        server.crash_and_start();
        eventually("it is swept", PATIENCE, || {
            server.names("new").is_empty() && server.names("trash").is_empty()
        });
        // A client that hangs up leaves nothing either.
        let client = server.client();
        let place = client
            .get(&format!("/templates/{template}/files/{}", percent(&"0".repeat(64))))
            .json_of(201);
        let url = text(&place, "url");
        let path = url.splitn(4, '/').nth(3).expect("a path");
        let mut stream = client.connect().expect("a connection");
        write!(
            stream,
            "PUT /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\npart"
        )
        .expect("sent");
        eventually("it is being written", PATIENCE, || server.names("new").len() == 1);
        drop(stream);
        eventually("it is removed", Duration::from_secs(10), || {
            server.names("new").is_empty()
        });
    });
}
