//! The life of sandboxes as clients of `ringwall serve` see it, by raw HTTP.

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::time::Duration;

use ringwall_e2e::serve::{
    Answered, Client, PATIENCE, Sandbox, Server, eventually, family, free_port, percent, read_answer, read_head, stat,
    text,
};
use ringwall_e2e::{User, users};
use serde_json::{Value, json};

/// Runs a check once per user, each with a server of its own; then nothing may be left.
fn each_user(check: impl Fn(&Server)) {
    each_user_with(&["--pool", "0"], check);
}

fn each_user_with(flags: &[&str], check: impl Fn(&Server)) {
    for user in users() {
        let mut server = Server::with(user, flags);
        check(&server);
        server.assert_sound();
        server.remove_all();
        server.set_flags(&["--pool", "0"]);
        server.crash_and_start();
        server.assert_nothing_left();
    }
}

fn ids(list: &[Value]) -> BTreeSet<String> {
    list.iter().map(|item| text(item, "sandboxID")).collect()
}

/// Returns the one template build's log lines once it has ended, and how it ended.
fn await_build(client: &Client, template: &str, build: &str) -> (String, Vec<String>, Value) {
    let mut last = Value::Null;
    eventually("the build ends", PATIENCE, || {
        let path = format!("/templates/{template}/builds/{build}/status?logsOffset=0&limit=1000");
        last = client.get(&path).json_of(200);
        matches!(text(&last, "status").as_str(), "ready" | "error")
    });
    let lines = last["logs"].as_array().into_iter().flatten();
    let lines = lines.filter_map(|line| line.as_str().map(str::to_owned)).collect();
    (text(&last, "status"), lines, last["reason"].clone())
}

/// Announces a template and starts a build of it; returns their ids.
fn begin_build(client: &Client, name: &str, steps: &Value) -> (String, String) {
    let announced = client.post("/v3/templates", &json!({"name": name})).json_of(202);
    let (template, build) = (text(&announced, "templateID"), text(&announced, "buildID"));
    let body = json!({"fromTemplate": "base", "steps": steps, "force": false});
    let path = format!("/v2/templates/{template}/builds/{build}");
    assert_eq!(client.post(&path, &body).status(), 202);
    (template, build)
}

#[test]
fn a_sandbox_is_made_found_listed_and_killed() {
    each_user(|server| {
        let client = server.client();
        let body = json!({"metadata": {"owner": "a", "task": "b c&d=é/%25"}, "envVars": {"GREETING": "hello"}});
        let sandbox = client.create(&body);
        assert_eq!(
            client.shell(&sandbox, "echo $GREETING $E2B_SANDBOX_ID"),
            format!("hello {}\n", sandbox.id)
        );
        assert_eq!(client.shell(&sandbox, "id -un; pwd"), "user\n/home/user\n");
        let detail = client.detail(&sandbox.id);
        assert_eq!(text(&detail, "state"), "running");
        assert_eq!(detail["metadata"], body["metadata"]);
        assert_eq!(text(&detail, "envdAccessToken"), sandbox.token);
        let listed = client.list("/v2/sandboxes").expect("a list");
        assert_eq!(ids(&listed), BTreeSet::from([sandbox.id.clone()]));
        assert!(listed[0].get("envdAccessToken").is_none(), "a list shows no secrets");
        let by_v1 = client
            .post("/sandboxes", &json!({"templateID": "code-interpreter-v1"}))
            .json_of(201);
        assert_eq!(text(&by_v1, "alias"), "code-interpreter-v1");
        assert_eq!(client.list("/sandboxes").expect("a list").len(), 2);
        assert_eq!(client.kill(&sandbox).status(), 204);
        assert_eq!(client.kill(&sandbox).status(), 404);
        assert_eq!(client.state(&sandbox.id), "404");
        let gone = client.run(&sandbox, "true").expect_err("it is gone").to_string();
        assert!(gone.contains("502") && gone.contains("was not found"), "{gone}");
    });
}

#[test]
fn lists_are_filtered_and_paged() {
    each_user(|server| {
        let client = server.client();
        let labels = ["a b", "a+b", "a%20b", "ü&=x"];
        let made: Vec<Sandbox> = labels
            .iter()
            .map(|label| client.create(&json!({"metadata": {"k e y": label, "all": "yes"}})))
            .collect();
        for (label, sandbox) in labels.iter().zip(&made) {
            // Three times: each part, the form, the query.
            let form = format!("{}={}", percent(&percent("k e y")), percent(&percent(label)));
            let found = client
                .list(&format!("/v2/sandboxes?metadata={}", percent(&form)))
                .expect("a list");
            assert_eq!(ids(&found), BTreeSet::from([sandbox.id.clone()]), "{label}");
        }
        let both = percent("all=yes&k%2520e%2520y=a%252520b");
        let found = client.list(&format!("/v2/sandboxes?metadata={both}")).expect("a list");
        assert_eq!(ids(&found), BTreeSet::from([made[2].id.clone()]));
        let all: BTreeSet<String> = made.iter().map(|sandbox| sandbox.id.clone()).collect();
        for limit in [1, 2, 3, 4, 100] {
            for order in ["asc", "desc"] {
                let path = format!("/v2/sandboxes?limit={limit}&order={order}");
                let found = client.list(&path).expect("a list");
                let mut order_made: Vec<&str> = made.iter().map(|sandbox| sandbox.id.as_str()).collect();
                if order == "desc" {
                    order_made.reverse();
                }
                let order_found: Vec<String> = found.iter().map(|item| text(item, "sandboxID")).collect();
                assert_eq!(order_found, order_made, "{path}");
            }
        }
        assert_eq!(client.act(&made[0], "pause", &json!({})).status(), 204);
        let states = |wanted: &str| ids(&client.list(&format!("/v2/sandboxes?state={wanted}")).expect("a list"));
        assert_eq!(states("paused"), BTreeSet::from([made[0].id.clone()]));
        assert_eq!(states("running").len(), 3);
        assert_eq!(states("running,paused"), all);
        assert_eq!(states("running%2Cpaused"), all);
        // A page goes on where it ended, though what it ended with is gone.
        let page = client.get("/v2/sandboxes?limit=2&order=asc").expect("an answer");
        let next = page.header("x-next-token").expect("a token").to_owned();
        assert_eq!(client.kill(&made[1]).status(), 204);
        let rest = client
            .list(&format!("/v2/sandboxes?limit=2&order=asc&nextToken={next}"))
            .expect("a list");
        assert_eq!(ids(&rest), BTreeSet::from([made[2].id.clone(), made[3].id.clone()]));
        let started = text(&client.detail(&made[2].id), "startedAt");
        let later = client.list(&format!("/v2/sandboxes?startedAfter={}", percent(&started)));
        assert_eq!(ids(&later.expect("a list")), BTreeSet::from([made[3].id.clone()]));
        assert_eq!(client.list("/v2/sandboxes?template=base").expect("a list").len(), 3);
        assert_eq!(client.list("/v2/sandboxes?template=other").expect("a list").len(), 0);
    });
}

#[test]
fn timeouts_fire() {
    each_user(|server| {
        let client = server.client();
        let short = client.create(&json!({"timeout": 1}));
        let prolonged = client.create(&json!({"timeout": 2}));
        let refreshed = client.create(&json!({"timeout": 2}));
        let shortened = client.create(&json!({"timeout": 600}));
        let never_shorter = client.create(&json!({"timeout": 600}));
        let paused = client.create(&json!({"timeout": 1, "autoPause": true}));
        assert_eq!(
            client.act(&prolonged, "timeout", &json!({"timeout": 300})).status(),
            204
        );
        assert_eq!(
            client.act(&refreshed, "refreshes", &json!({"duration": 300})).status(),
            204
        );
        assert_eq!(
            client
                .act(&never_shorter, "refreshes", &json!({"duration": 1}))
                .status(),
            204
        );
        assert_eq!(client.resume(&never_shorter, &json!({"timeout": 1})).status(), 200);
        assert_eq!(client.act(&shortened, "timeout", &json!({"timeout": 0})).status(), 204);
        for gone in [&short, &shortened] {
            eventually("its time is up", PATIENCE, || client.state(&gone.id) == "404");
        }
        eventually("it is paused", PATIENCE, || client.state(&paused.id) == "paused full");
        std::thread::sleep(Duration::from_millis(2500));
        for there in [&prolonged, &refreshed, &never_shorter] {
            assert_eq!(client.state(&there.id), "running");
        }
        assert_eq!(client.state(&paused.id), "paused full");
    });
}

/// Starts something that counts into a file, and waits until it does.
fn count(client: &Client, sandbox: &Sandbox) {
    let script = "(while :; do n=$((n+1)); echo $n > /tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.01; done) >/dev/null 2>&1 & echo on";
    client.shell(sandbox, script);
    eventually("it counts", PATIENCE, || counted(client, sandbox) > 2);
}

fn counted(client: &Client, sandbox: &Sandbox) -> u64 {
    let answer = client.read(sandbox, "/tmp/count").expect("an answer");
    String::from_utf8_lossy(&answer.body).trim().parse().unwrap_or(0)
}

#[test]
fn a_paused_sandbox_stands_still_and_goes_on() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        count(&client, &sandbox);
        let mut running = client
            .start(&sandbox, "sleep 0.3; echo slept; read -t 1000 < <(sleep 1000)")
            .expect("a stream");
        running.pid().expect("a start");
        for round in 0..5 {
            assert_eq!(client.act(&sandbox, "pause", &json!({})).status(), 204, "{round}");
            assert_eq!(client.state(&sandbox.id), "paused full");
            assert_eq!(client.act(&sandbox, "pause", &json!({})).status(), 409);
            let all = family(server.recorded(&sandbox.id, "init"));
            assert!(all.len() > 2, "{all:?}");
            server.assert_still(&sandbox.id);
            let refused = client.read(&sandbox, "/tmp/count").expect("an answer");
            assert_eq!(refused.status, 502, "{refused:?}");
            assert_eq!(client.resume(&sandbox, &json!({"timeout": 600})).status(), 201);
            assert_eq!(client.state(&sandbox.id), "running");
            let before = counted(&client, &sandbox);
            assert!(before > 0, "files are there");
            eventually("it goes on counting", PATIENCE, || counted(&client, &sandbox) > before);
        }
        assert_eq!(running.output().expect("the stream goes on"), "slept\n");
        assert_eq!(client.act(&sandbox, "resume", &json!({})).status(), 409);
    });
}

#[test]
fn files_outlive_a_pause_without_memory_and_a_reboot() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({"envVars": {"KEPT": "too"}}));
        count(&client, &sandbox);
        client.shell(
            &sandbox,
            "echo one > file; mkdir -p d/e; ln -s file link; chmod 751 d; rm -rf d/e",
        );
        let init = server.recorded(&sandbox.id, "init");
        assert_eq!(client.act(&sandbox, "pause", &json!({"memory": false})).status(), 204);
        assert_eq!(client.state(&sandbox.id), "paused filesystem");
        eventually("its processes end", PATIENCE, || stat(init).is_none());
        assert_eq!(client.act(&sandbox, "pause", &json!({"memory": false})).status(), 409);
        assert_eq!(client.resume(&sandbox, &json!({})).status(), 201);
        let seen = "cat link; stat -c %a d; ls d; echo $KEPT; pgrep -c sleep || true";
        assert_eq!(client.shell(&sandbox, seen), "one\n751\ntoo\n0\n");
        count(&client, &sandbox);
        // A running one, and one that is paused with its processes, begin anew when asked to.
        assert_eq!(client.resume(&sandbox, &json!({"memory": false})).status(), 201);
        assert_eq!(client.shell(&sandbox, seen), "one\n751\ntoo\n0\n");
        count(&client, &sandbox);
        assert_eq!(client.act(&sandbox, "pause", &json!({})).status(), 204);
        assert_eq!(client.resume(&sandbox, &json!({"memory": false})).status(), 201);
        assert_eq!(client.shell(&sandbox, seen), "one\n751\ntoo\n0\n");
    });
}

#[test]
fn traffic_resumes_what_wants_it() {
    each_user(|server| {
        let client = server.client();
        let wanting = json!({"timeout": 1, "autoPause": true, "autoResume": {"enabled": true}});
        let sandbox = client.create(&wanting);
        client.write(&sandbox, "/home/user/f", b"kept").json_of(200);
        let files_only = client.create(&json!({"timeout": 1, "autoPause": true, "autoPauseMemory": false}));
        eventually("it is paused", PATIENCE, || client.state(&sandbox.id) == "paused full");
        eventually("its files are", PATIENCE, || {
            client.state(&files_only.id) == "paused filesystem"
        });
        assert_eq!(client.read(&files_only, "/etc/passwd").status(), 502);
        // Many at once: one resumes it, all get their answer.
        let answers: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| client.read(&sandbox, "/home/user/f").expect("an answer").body))
                .collect();
            readers
                .into_iter()
                .map(|reader| reader.join().expect("no panic"))
                .collect()
        });
        assert_eq!(answers, vec![b"kept".to_vec(); 8]);
        assert_eq!(client.state(&sandbox.id), "running");
    });
}

#[test]
fn snapshots_and_forks_deleted_in_any_order_lose_and_leak_nothing() {
    each_user(|server| {
        let client = server.client();
        for order in 0..4_usize {
            let first = client.create(&json!({"metadata": {"m": "1"}}));
            client.shell(&first, "echo one > one; echo 1 > both");
            let snapshot = text(
                &client.act(&first, "snapshots", &json!({"name": "first"})).json_of(201),
                "snapshotID",
            );
            client.shell(&first, "echo two > two; echo 2 > both; rm one");
            let forks: Vec<Sandbox> = client
                .act(&first, "fork", &json!({"count": 3, "timeout": 600}))
                .json_of(201)
                .as_array()
                .expect("a list")
                .iter()
                .map(|fork| Sandbox::from_json(&fork["sandbox"]))
                .collect();
            assert_eq!(forks.len(), 3);
            assert_eq!(client.detail(&forks[0].id)["metadata"], json!({"m": "1"}));
            for (number, fork) in forks.iter().enumerate() {
                client.shell(fork, &format!("echo fork {number} > own; sync"));
            }
            let later = text(
                &client.act(&forks[1], "snapshots", &json!({})).json_of(201),
                "snapshotID",
            );
            let from_snapshot = client.create(&json!({"templateID": snapshot}));
            let from_name = client.create(&json!({"templateID": "first"}));
            let from_later = client.create(&json!({"templateID": later}));
            let look = "cat one two both own 2>/dev/null | tr '\\n' ' '";
            let expected = [
                (first.clone(), "two 2 "),
                (forks[0].clone(), "two 2 fork 0 "),
                (forks[1].clone(), "two 2 fork 1 "),
                (forks[2].clone(), "two 2 fork 2 "),
                (from_snapshot, "one 1 "),
                (from_name, "one 1 "),
                (from_later, "two 2 fork 1 "),
            ];
            let listed = client.list("/snapshots").expect("a list");
            assert_eq!(listed.len(), 2);
            assert_eq!(
                client
                    .list(&format!("/snapshots?sandboxID={}", first.id))
                    .expect("a list")
                    .len(),
                1
            );
            assert_eq!(client.list("/snapshots?limit=1").expect("a list").len(), 2);
            // Everything goes, in another order each time, and what is left is right after each step.
            let mut left: Vec<(String, Option<(Sandbox, &str)>)> = expected
                .into_iter()
                .map(|(sandbox, seen)| (format!("/sandboxes/{}", sandbox.id), Some((sandbox, seen))))
                .collect();
            left.insert(order % 3, (format!("/templates/{snapshot}"), None));
            left.insert(2 * order, (format!("/templates/{later}"), None));
            if order % 2 == 1 {
                left.reverse();
            }
            while let Some((path, _)) = left.pop() {
                assert_eq!(client.delete(&path).status(), 204, "{path}");
                assert_eq!(client.delete(&path).status(), 404, "{path}");
                for (_, sandbox) in &left {
                    if let Some((sandbox, seen)) = sandbox {
                        assert_eq!(client.shell(sandbox, look), *seen, "order {order}, after {path}");
                    }
                }
            }
            eventually("only the default template's layer is left", PATIENCE, || {
                server.names("layers").iter().all(|name| name.starts_with("base-"))
                    && server.names("sandboxes").is_empty()
                    && server.names("trash").is_empty()
            });
        }
    });
}

#[test]
fn a_paused_sandbox_can_be_snapshotted_and_forked_and_stays_paused() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        client.shell(&sandbox, "echo 1 > f");
        assert_eq!(client.act(&sandbox, "pause", &json!({})).status(), 204);
        let snapshot = text(
            &client.act(&sandbox, "snapshots", &json!({})).json_of(201),
            "snapshotID",
        );
        assert!(client.state(&sandbox.id).starts_with("paused"));
        let forks = client.act(&sandbox, "fork", &json!({"count": 1})).json_of(201);
        let fork = Sandbox::from_json(&forks[0]["sandbox"]);
        assert!(client.state(&sandbox.id).starts_with("paused"));
        let other = client.create(&json!({"templateID": snapshot}));
        for one in [&fork, &other] {
            assert_eq!(client.shell(one, "cat f"), "1\n");
        }
        assert_eq!(client.resume(&sandbox, &json!({})).status(), 201);
        assert_eq!(client.shell(&sandbox, "cat f"), "1\n");
    });
}

#[test]
fn a_fork_killed_while_it_comes_up_stays_dead() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let killed = std::thread::scope(|scope| {
            let forking = scope.spawn(|| client.act(&sandbox, "fork", &json!({"count": 6})));
            let mut killed = BTreeSet::new();
            while !forking.is_finished() {
                for id in ids(&client.list("/v2/sandboxes").expect("a list")) {
                    if id != sandbox.id && client.delete(&format!("/sandboxes/{id}")).status() == 204 {
                        killed.insert(id);
                    }
                }
            }
            forking.join().expect("no panic").json_of(201);
            killed
        });
        std::thread::sleep(Duration::from_millis(500));
        for id in &killed {
            assert_eq!(client.state(id), "404");
        }
        let known = ids(&client.list("/v2/sandboxes").expect("a list"));
        let there: BTreeSet<String> = server.names("sandboxes").into_iter().collect();
        assert_eq!(there, known, "{killed:?} were killed");
        assert_eq!(server.keepers().len(), known.len());
    });
}

#[test]
fn an_idempotency_key_makes_one_sandbox() {
    each_user(|server| {
        let client = server.client();
        let headers = [("X-API-Key", client.key()), ("Idempotency-Key", "the-key-1")];
        let ask = |body: &Value| client.request("POST", "/v2/sandboxes", &headers, body.to_string().as_bytes());
        let body = json!({"templateID": "base", "metadata": {"a": "1"}});
        let made: BTreeSet<String> = std::thread::scope(|scope| {
            let askers: Vec<_> = (0..10)
                .map(|_| scope.spawn(|| text(&ask(&body).json_of(201), "sandboxID")))
                .collect();
            askers
                .into_iter()
                .map(|asker| asker.join().expect("no panic"))
                .collect()
        });
        assert_eq!(made.len(), 1, "{made:?}");
        assert_eq!(client.list("/v2/sandboxes").expect("a list").len(), 1);
        assert_eq!(
            ask(&json!({"templateID": "base", "metadata": {"a": "2"}})).status(),
            409
        );
        assert_eq!(BTreeSet::from([text(&ask(&body).json_of(201), "sandboxID")]), made);
        let long = "x".repeat(256);
        for key in ["", "a b", "ä", long.as_str()] {
            let headers = [("X-API-Key", client.key()), ("Idempotency-Key", key)];
            let answer = client.request("POST", "/v2/sandboxes", &headers, body.to_string().as_bytes());
            assert_eq!(answer.status(), 400, "{key:?}");
        }
    });
}

#[test]
fn keys_do_not_see_each_others_things() {
    each_user(|server| {
        let (one, two) = (server.client(), {
            let key = server.key(&["create", "other"]).expect(0);
            server.client_with(key.trim())
        });
        eventually("the new key works", Duration::from_secs(2), || one_status(&two) == 200);
        let sandbox = one.create(&json!({}));
        let snapshot = text(
            &one.act(&sandbox, "snapshots", &json!({"name": "mine"})).json_of(201),
            "snapshotID",
        );
        let (template, build) = begin_build(&one, "private", &json!([]));
        assert_eq!(await_build(&one, &template, &build).0, "ready");
        assert_eq!(two.list("/v2/sandboxes").expect("a list").len(), 0);
        assert_eq!(two.list("/snapshots").expect("a list").len(), 0);
        assert_eq!(two.list("/templates").expect("a list").len(), 1, "the default one only");
        for (method, path, body) in [
            ("GET", format!("/sandboxes/{}", sandbox.id), json!(null)),
            ("DELETE", format!("/sandboxes/{}", sandbox.id), json!(null)),
            ("POST", format!("/sandboxes/{}/pause", sandbox.id), json!({})),
            ("POST", format!("/v2/sandboxes/{}/connect", sandbox.id), json!({})),
            (
                "POST",
                format!("/sandboxes/{}/timeout", sandbox.id),
                json!({"timeout": 1}),
            ),
            ("POST", format!("/sandboxes/{}/refreshes", sandbox.id), json!({})),
            ("POST", format!("/sandboxes/{}/snapshots", sandbox.id), json!({})),
            ("POST", format!("/sandboxes/{}/fork", sandbox.id), json!({})),
            ("PUT", format!("/sandboxes/{}/network", sandbox.id), json!({})),
            ("GET", format!("/sandboxes/{}/logs", sandbox.id), json!(null)),
            ("GET", format!("/v2/sandboxes/{}/logs", sandbox.id), json!(null)),
            ("GET", format!("/sandboxes/{}/metrics", sandbox.id), json!(null)),
            ("DELETE", format!("/templates/{snapshot}"), json!(null)),
            ("DELETE", "/templates/mine".to_owned(), json!(null)),
            ("DELETE", format!("/templates/{template}"), json!(null)),
            ("GET", format!("/templates/{template}"), json!(null)),
            ("GET", "/templates/aliases/private".to_owned(), json!(null)),
            (
                "POST",
                "/templates/tags".to_owned(),
                json!({"target": template, "tags": ["x"]}),
            ),
            ("POST", "/v2/sandboxes".to_owned(), json!({"templateID": snapshot})),
            ("POST", "/v2/sandboxes".to_owned(), json!({"templateID": "mine"})),
            ("POST", "/v2/sandboxes".to_owned(), json!({"templateID": template})),
            ("POST", "/v2/sandboxes".to_owned(), json!({"templateID": "private"})),
            (
                "GET",
                format!("/templates/{template}/builds/{build}/status"),
                json!(null),
            ),
            (
                "GET",
                format!("/templates/{template}/files/{}", "0".repeat(64)),
                json!(null),
            ),
        ] {
            assert_eq!(two.call(method, &path, &body).status(), 404, "{method} {path} {body}");
        }
        let many = two
            .get(&format!("/sandboxes/metrics?sandbox_ids={}", sandbox.id))
            .json_of(200);
        assert_eq!(many, json!({"sandboxes": {}}));
        assert_eq!(two.delete("/templates/base").status(), 403);
        assert_eq!(one.state(&sandbox.id), "running");
        assert_eq!(server.key(&["rm", "other"]).code, 0);
        eventually("the removed key is refused", Duration::from_secs(2), || {
            one_status(&two) == 401
        });
        assert_eq!(one_status(&one), 200);
    });
}

fn one_status(client: &Client) -> u16 {
    client.get("/v2/sandboxes").status()
}

/// Makes a tar.gz as the clients do, with the system's tar.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect("write");
    }
    let made = std::process::Command::new("tar")
        .args(["-czf", "-", "-C"])
        .arg(directory.path())
        .arg(".")
        .output()
        .expect("tar runs");
    assert!(made.status.success(), "{made:?}");
    made.stdout
}

#[test]
fn templates_are_built_cached_and_fail_with_a_reason() {
    each_user(|server| {
        let client = server.client();
        let announced = client
            .post("/v3/templates", &json!({"name": "built", "tags": ["v1"]}))
            .json_of(202);
        let (template, build) = (text(&announced, "templateID"), text(&announced, "buildID"));
        let hash = "ab".repeat(32);
        let path = format!("/templates/{template}/files/{hash}");
        let place = client.get(&path).json_of(201);
        assert_eq!(place["present"], json!(false));
        let url = text(&place, "url");
        let uploaded = url
            .split_once("//")
            .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]))
            .expect("a path");
        let body = archive(&[("src/a.txt", "alpha"), ("src/sub/b.txt", "beta"), ("c.txt", "gamma")]);
        let wrong = uploaded.replace("token=", "token=x");
        assert_eq!(client.request("PUT", &wrong, &[], &body).status(), 401);
        assert_eq!(client.request("PUT", uploaded, &[], &body).status(), 201);
        assert_eq!(client.get(&path).json_of(201)["present"], json!(true));
        let steps = json!([
            {"type": "ENV", "args": ["COLOUR", "blue"]},
            {"type": "WORKDIR", "args": ["/home/user/app"]},
            {"type": "COPY", "args": ["src", "/home/user/app/src", "user", "0755"], "filesHash": hash},
            {"type": "COPY", "args": ["c.txt", "/home/user/app/"], "filesHash": hash},
            {"type": "RUN", "args": ["echo out; echo err >&2; cat src/a.txt c.txt > all; echo $COLOUR >> all; id -un >> all", "user"]},
        ]);
        let body = json!({"fromTemplate": "base", "steps": steps, "startCmd": "sleep 1000", "readyCmd": "true"});
        let start = |template: &str, build: &str, body: &Value| {
            client
                .post(&format!("/v2/templates/{template}/builds/{build}"), body)
                .status()
        };
        assert_eq!(start(&template, &build, &body), 202);
        assert_eq!(start(&template, &build, &body), 409);
        let (status, lines, reason) = await_build(&client, &template, &build);
        assert_eq!(status, "ready", "as {:?}: {lines:?} {reason}", server.user());
        assert!(
            lines.iter().any(|line| line == "out") && lines.iter().any(|line| line == "err"),
            "{lines:?}"
        );
        assert!(!lines.iter().any(|line| line.contains("cached")), "{lines:?}");
        for name in ["built", "built:v1", "built:default", template.as_str()] {
            let sandbox = client.create(&json!({"templateID": name}));
            let seen = client.shell(
                &sandbox,
                "pwd; cat all; cat src/sub/b.txt; echo; echo $COLOUR; pgrep -c sleep; ls -a / | grep -c ringwall || true",
            );
            assert_eq!(
                seen, "/home/user/app\nalphagammablue\nuser\nbeta\nblue\n1\n0\n",
                "{name}"
            );
            assert_eq!(client.kill(&sandbox).status(), 204);
        }
        // Again: every step that made a layer comes from the cache.
        let announced = client.post("/v3/templates", &json!({"name": "built"})).json_of(202);
        assert_eq!(text(&announced, "templateID"), template);
        let second = text(&announced, "buildID");
        assert_eq!(start(&template, &second, &body), 202);
        let (status, lines, _) = await_build(&client, &template, &second);
        assert_eq!(status, "ready", "{lines:?}");
        assert_eq!(
            lines.iter().filter(|line| line.ends_with("(cached)")).count(),
            5,
            "{lines:?}"
        );
        // The log is read from an offset on, and ends.
        let status_path = format!("/templates/{template}/builds/{second}/status");
        let all = client.get(&status_path).json_of(200)["logEntries"]
            .as_array()
            .map_or(0, Vec::len);
        let rest = client.get(&format!("{status_path}?logsOffset={all}")).json_of(200);
        assert_eq!(rest["logEntries"], json!([]));
        // A step that fails says which and why; what came before is cached.
        let steps = json!([{"type": "RUN", "args": ["echo fine > /made"]}, {"type": "RUN", "args": ["echo broken >&2; exit 3"]}]);
        let (broken, build) = begin_build(&client, "broken", &steps);
        let (status, lines, reason) = await_build(&client, &broken, &build);
        assert_eq!(status, "error", "{lines:?}");
        let said = text(&reason, "message");
        assert!(said.contains('3') || said.contains("exited"), "{said}");
        // The user can't write to /, unless it is the only one there is.
        let step = if server.user() == User::Root { "1" } else { "2" };
        assert_eq!(text(&reason, "step"), step, "{reason}");
        assert_eq!(client.try_create(&json!({"templateID": "broken"})).status(), 409);
        assert_eq!(client.delete("/templates/base").status(), 403);
        assert_eq!(
            client.get("/templates/aliases/built").json_of(200)["templateID"],
            json!(template)
        );
        let tagged = client
            .post("/templates/tags", &json!({"target": "built:v1", "tags": ["stable"]}))
            .json_of(201);
        assert!(!text(&tagged, "buildID").is_empty());
        assert_eq!(
            client.create(&json!({"templateID": "built:stable"})).id.len(),
            sandbox_id_length()
        );
        assert_eq!(
            client
                .call(
                    "DELETE",
                    "/templates/tags",
                    &json!({"name": "built", "tags": ["stable"]})
                )
                .status(),
            204
        );
        assert_eq!(client.try_create(&json!({"templateID": "built:stable"})).status(), 404);
    });
}

fn sandbox_id_length() -> usize {
    20
}

#[test]
fn a_template_removed_during_its_build_leaves_nothing() {
    each_user(|server| {
        let client = server.client();
        let steps = json!([{"type": "RUN", "args": ["echo 1 > ~/one"]}, {"type": "RUN", "args": ["sleep 1; echo 2 > ~/two"]},
            {"type": "RUN", "args": ["echo 3 > ~/three"]}]);
        let (template, _) = begin_build(&client, "short-lived", &steps);
        eventually("a step is done", PATIENCE, || server.names("layers").len() > 1);
        assert_eq!(client.delete(&format!("/templates/{template}")).status(), 204);
        std::thread::sleep(Duration::from_secs(3));
        eventually("no sandbox of a step is left", PATIENCE, || {
            server.names("sandboxes").is_empty()
        });
        let layers = server.names("layers");
        assert!(layers.iter().all(|name| name.starts_with("base-")), "{layers:?}");
    });
}

#[test]
fn removing_a_template_removes_the_template_and_not_a_snapshot_of_its_name() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let snapshot = text(
            &client
                .act(&sandbox, "snapshots", &json!({"name": "twice"}))
                .json_of(201),
            "snapshotID",
        );
        let (template, build) = begin_build(&client, "twice", &json!([]));
        assert_eq!(await_build(&client, &template, &build).0, "ready");
        // The name stands for the template when a sandbox is made, so it must when it is removed.
        assert_eq!(
            text(
                &client
                    .post("/v2/sandboxes", &json!({"templateID": "twice"}))
                    .json_of(201),
                "templateID"
            ),
            template
        );
        assert_eq!(client.delete("/templates/twice").status(), 204);
        assert_eq!(client.get(&format!("/templates/{template}")).status(), 404);
        assert_eq!(
            text(&client.list("/snapshots").expect("a list")[0], "snapshotID"),
            snapshot
        );
    });
}

#[test]
fn logs_and_metrics_are_told() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        assert_eq!(client.act(&sandbox, "pause", &json!({})).status(), 204);
        assert_eq!(client.resume(&sandbox, &json!({})).status(), 201);
        let old = client.get(&format!("/sandboxes/{}/logs", sandbox.id)).json_of(200);
        let lines: Vec<String> = old["logs"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|line| text(line, "line"))
            .collect();
        assert_eq!(lines, ["sandbox started", "sandbox paused", "sandbox resumed"]);
        let path = format!("/v2/sandboxes/{}/logs", sandbox.id);
        let new = client.get(&format!("{path}?direction=backward&limit=1")).json_of(200);
        assert_eq!(text(&new["logs"][0], "message"), "sandbox resumed");
        let found = client.get(&format!("{path}?search=paused&level=info")).json_of(200);
        assert_eq!(found["logs"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            client.get(&format!("{path}?level=error")).json_of(200)["logs"],
            json!([])
        );
        assert_eq!(client.get(&format!("{path}?level=loud")).status(), 400);
        assert_eq!(client.get(&format!("{path}?direction=up")).status(), 400);
        let metrics = client.get(&format!("/sandboxes/{}/metrics", sandbox.id)).json_of(200);
        for field in ["cpuCount", "memUsed", "memTotal", "diskTotal", "timestampUnix"] {
            assert!(
                metrics[0][field].as_u64().is_some_and(|value| value > 0),
                "{field}: {metrics}"
            );
        }
        let many = client
            .get(&format!("/sandboxes/metrics?sandbox_ids={},inone", sandbox.id))
            .json_of(200);
        assert_eq!(many["sandboxes"].as_object().map(serde_json::Map::len), Some(1));
        let page = client.request("GET", "/metrics", &[], b"").expect("an answer");
        assert!(
            String::from_utf8_lossy(&page.body).contains("sandboxes_running 1"),
            "{page:?}"
        );
    });
}

#[test]
fn network_rules_that_can_not_hold_are_refused() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let put = |body: &Value| {
            client
                .call("PUT", &format!("/sandboxes/{}/network", sandbox.id), body)
                .status()
        };
        for rule in [
            json!({"allowOut": ["1.1.1.1"]}),
            json!({"dnsServers": ["1.1.1.1"]}),
            json!({"httpsPorts": [443]}),
            json!({"egressProxy": {"address": "x:1"}}),
            json!({"rules": {"a.b": [{"transform": {"headers": {"a": "b"}}}]}}),
        ] {
            assert_eq!(client.try_create(&json!({"network": rule})).status(), 400, "{rule}");
            assert_eq!(put(&rule), 400, "{rule}");
        }
        for rule in [
            json!({}),
            json!({"denyOut": ["0.0.0.0/0"]}),
            json!({"allowOut": [], "rules": {}, "allow_internet_access": true}),
        ] {
            assert_eq!(put(&rule), 204, "{rule}");
            let made = client.try_create(&json!({"network": rule}));
            assert_eq!(made.status(), 201, "{rule}");
        }
        for body in [
            json!({"mcp": {"a": {}}}),
            json!({"volumeMounts": [{"name": "a", "path": "/a"}]}),
            json!({"iam": {"tokens": {"a": {}}}}),
        ] {
            assert_eq!(client.try_create(&body).status(), 400, "{body}");
        }
    });
}

#[test]
fn what_is_not_supported_says_so() {
    each_user(|server| {
        let client = server.client();
        for (method, path) in [
            ("GET", "/volumes"),
            ("POST", "/volumes"),
            ("DELETE", "/volumes/x"),
            ("GET", "/secrets"),
            ("POST", "/secrets"),
            ("DELETE", "/secrets/x"),
            ("GET", "/teams"),
            ("GET", "/teams/x/metrics"),
        ] {
            let answer = client.call(method, path, &json!({})).expect("an answer");
            assert_eq!(answer.status, 501, "{method} {path}");
            assert!(answer.message().contains("not supported"), "{answer:?}");
        }
        assert_eq!(client.get("/sandboxes/x/y/z").status(), 404);
        assert_eq!(client.call("PATCH", "/v2/sandboxes", &json!({})).status(), 405);
    });
}

#[test]
fn a_sandbox_can_be_killed_from_every_state() {
    each_user(|server| {
        let client = server.client();
        let ways: [(&str, &[(&str, Value)]); 5] = [
            ("running", &[]),
            ("paused", &[("pause", json!({}))]),
            ("paused, files only", &[("pause", json!({"memory": false}))]),
            ("resumed", &[("pause", json!({})), ("resume", json!({}))]),
            ("snapshotted", &[("snapshots", json!({}))]),
        ];
        for (way, acts) in ways {
            let sandbox = client.create(&json!({}));
            let mut streamed = client.start(&sandbox, "sleep 1000").expect("a stream");
            streamed.pid().expect("a start");
            let inits = family(server.recorded(&sandbox.id, "init"));
            for (verb, body) in acts {
                let status = client.act(&sandbox, verb, body).status();
                assert!((200..300).contains(&status), "{way}: {verb}: {status}");
            }
            assert_eq!(client.kill(&sandbox).status(), 204, "{way}");
            assert_eq!(client.state(&sandbox.id), "404", "{way}");
            for pid in inits {
                assert!(stat(pid).is_none_or(|stat| stat.state == 'Z'), "{way}: {pid} runs");
            }
            assert!(!server.names("sandboxes").contains(&sandbox.id), "{way}");
            assert!(!matches!(streamed.next_event(), Ok(Some(_))), "{way}: its streams end");
        }
        // And while something else is being done to it.
        for verb in ["pause", "snapshots", "fork"] {
            for delay in [0, 5, 20, 60] {
                let sandbox = client.create(&json!({}));
                std::thread::scope(|scope| {
                    scope.spawn(|| client.act(&sandbox, verb, &json!({})));
                    std::thread::sleep(Duration::from_millis(delay));
                    assert_eq!(client.kill(&sandbox).status(), 204, "{verb}");
                });
                assert_eq!(client.state(&sandbox.id), "404", "{verb}");
            }
        }
    });
}

/// When clients hang up, milliseconds after they have asked.
const HANG_UPS: [u64; 12] = [0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 70, 100];

/// Asks for something and hangs up after a while.
fn hang_up(client: &Client, method: &str, path: &str, body: &Value, after: u64) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let headers = [("X-API-Key", client.key())];
    let stream = client.send(method, path, &headers, body.as_bytes()).expect("sent");
    std::thread::sleep(Duration::from_millis(after));
    drop(stream);
}

#[test]
fn a_sandbox_whose_maker_hung_up_ends_at_its_time() {
    each_user(|server| {
        let client = server.client();
        for after in HANG_UPS {
            hang_up(
                &client,
                "POST",
                "/v2/sandboxes",
                &json!({"templateID": "base", "timeout": 3}),
                after,
            );
        }
        eventually("sandboxes whose maker hung up end", Duration::from_secs(15), || {
            server.names("sandboxes").is_empty() && server.keepers().is_empty()
        });
        assert_eq!(client.list("/v2/sandboxes").expect("a list").len(), 0);
    });
}

/// Whatever the client did not wait for, the sandbox can be brought back with its files.
fn survives_a_hang_up(verb: &str, body: &Value) {
    each_user(|server| {
        let client = server.client();
        for after in HANG_UPS {
            let what = format!("{verb} {body}, hung up after {after} ms");
            let sandbox = client.create(&json!({}));
            client.write(&sandbox, "/home/user/f", b"kept").json_of(200);
            hang_up(
                &client,
                "POST",
                &format!("/sandboxes/{}/{verb}", sandbox.id),
                body,
                after,
            );
            // What was asked for may begin a little after the one who asked has gone, but not after it was undone here.
            std::thread::sleep(Duration::from_millis(300));
            let mut last = String::new();
            let back = std::time::Instant::now();
            loop {
                let answer = client.resume(&sandbox, &json!({})).expect("an answer");
                if matches!(answer.status, 200 | 201) {
                    break;
                }
                last = format!("{answer:?}");
                assert!(
                    back.elapsed() < Duration::from_secs(10),
                    "{what}: it can't be resumed: {last}"
                );
                std::thread::sleep(Duration::from_millis(100));
            }
            let found = client.read(&sandbox, "/home/user/f").expect("an answer");
            assert_eq!(found.body, b"kept", "{what}: {last}");
            assert_eq!(client.kill(&sandbox).status(), 204, "{what}");
        }
    });
}

#[test]
fn a_pause_nobody_waits_for_is_done_or_not() {
    survives_a_hang_up("pause", &json!({}));
}

#[test]
fn a_pause_without_memory_nobody_waits_for_is_done_or_not() {
    survives_a_hang_up("pause", &json!({"memory": false}));
}

#[test]
fn a_reboot_nobody_waits_for_is_done_or_not() {
    survives_a_hang_up("connect", &json!({"memory": false}));
}

#[test]
fn a_snapshot_nobody_waits_for_is_done_or_not() {
    survives_a_hang_up("snapshots", &json!({}));
}

#[test]
fn a_fork_nobody_waits_for_is_done_or_not() {
    survives_a_hang_up("fork", &json!({}));
}

#[test]
fn a_kill_nobody_waits_for_is_done_or_not() {
    each_user(|server| {
        let client = server.client();
        for after in HANG_UPS {
            let sandbox = client.create(&json!({}));
            hang_up(
                &client,
                "DELETE",
                &format!("/sandboxes/{}", sandbox.id),
                &json!(null),
                after,
            );
            let listed = ids(&client.list("/v2/sandboxes").expect("a list"));
            if listed.contains(&sandbox.id) && client.run(&sandbox, "true").is_ok() {
                continue;
            }
            eventually("a kill that was begun is ended", Duration::from_secs(10), || {
                client.state(&sandbox.id) == "404" && !server.names("sandboxes").contains(&sandbox.id)
            });
        }
    });
}

/// A server inside that answers every connection with what it was sent, after an upgrade.
const ECHO: &str = r#"
import socket, threading
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", 8000)); s.listen(50)
def serve(c):
    head = b""
    while b"\r\n\r\n" not in head:
        more = c.recv(4096)
        if not more: return
        head += more
    if b"upgrade: echo" in head.lower():
        c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        while True:
            more = c.recv(4096)
            if not more: break
            c.sendall(more.upper())
    elif b"/unasked" in head:
        c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    else:
        c.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(head) + head)
    c.close()
while True:
    c, _ = s.accept(); threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

fn serve_echo(client: &Client, sandbox: &Sandbox) {
    client.write(sandbox, "/tmp/echo.py", ECHO.as_bytes()).json_of(200);
    client.shell(sandbox, "nohup python3 /tmp/echo.py >/tmp/echo.log 2>&1 & echo");
    let port = [("E2b-Sandbox-Id", sandbox.id.as_str()), ("E2b-Sandbox-Port", "8000")];
    eventually("it listens", PATIENCE, || {
        client.request("GET", "/", &port, b"").expect("an answer").status == 200
    });
}

#[test]
fn ports_are_reached_by_host_and_by_header_and_upgraded() {
    each_user(|server| {
        let client = server.client();
        let sandbox = client.create(&json!({}));
        let host = format!("8000-{}.sandbox.localhost", sandbox.id);
        let closed = client.request("GET", "/", &[("Host", &host)], b"").expect("an answer");
        assert_eq!(closed.status, 502);
        assert!(closed.message().contains("port is not open"), "{closed:?}");
        assert_eq!(closed.json()["code"], json!(502));
        assert_eq!(text(&closed.json(), "sandboxId"), sandbox.id);
        serve_echo(&client, &sandbox);
        let answer = client
            .request(
                "GET",
                "/a/b?c=d",
                &[("Host", &host), ("X-API-Key", client.key()), ("X-Other", "1")],
                b"",
            )
            .expect("an answer");
        assert_eq!(answer.status, 200);
        let head = String::from_utf8_lossy(&answer.body).to_lowercase();
        assert!(
            head.starts_with("get /a/b?c=d http/1.1\r\n") && head.contains("x-other: 1"),
            "{head}"
        );
        assert!(!head.contains(client.key()), "the key stays outside: {head}");
        // So does the agent's token where a header names the port; what a port's own host name is sent is its own business.
        let headers = [
            sandbox.headers()[0],
            ("E2b-Sandbox-Port", "8000"),
            ("X-Access-Token", sandbox.token.as_str()),
        ];
        let answer = client.request("GET", "/", &headers, b"").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            !String::from_utf8_lossy(&answer.body).contains(&sandbox.token),
            "{answer:?}"
        );
        let unasked = client
            .request("GET", "/unasked", &[("Host", &host)], b"")
            .expect("an answer");
        assert_eq!(unasked.status, 502, "{unasked:?}");
        // Also where the path is one of ours.
        let ours = client
            .request("GET", "/sandboxes", &[("Host", &host)], b"")
            .expect("an answer");
        assert!(ours.body.starts_with(b"GET /sandboxes "), "{ours:?}");
        let unknown = client
            .request("GET", "/", &[("Host", "8000-inone.sandbox.localhost")], b"")
            .expect("an answer");
        assert_eq!(unknown.status, 502);
        assert!(unknown.message().contains("was not found"), "{unknown:?}");
        // An upgraded connection passes bytes both ways until either side ends.
        let mut stream = client.connect().expect("a connection");
        write!(
            stream,
            "GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        .expect("sent");
        let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
        let head = read_head(&mut reader).expect("an answer");
        assert_eq!(head.status, 101, "{head:?}");
        assert_eq!(head.header("upgrade"), Some("echo"));
        for round in 0..100 {
            let message = format!("message {round} {}\n", "x".repeat(round * 50));
            stream.write_all(message.as_bytes()).expect("sent");
            let mut back = vec![0; message.len()];
            reader.read_exact(&mut back).expect("an echo");
            assert_eq!(back, message.to_uppercase().as_bytes());
        }
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("its end");
        assert!(rest.is_empty());
        // One whose sandbox is killed ends.
        let mut stream = client.connect().expect("a connection");
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        .expect("sent");
        let mut reader = BufReader::new(stream);
        assert_eq!(read_head(&mut reader).expect("an answer").status, 101);
        assert_eq!(client.kill(&sandbox).status(), 204);
        let mut rest = Vec::new();
        drop(reader.read_to_end(&mut rest));
        assert!(rest.is_empty());
    });
}

#[test]
fn private_ports_want_their_token() {
    each_user(|server| {
        let client = server.client();
        let made = client
            .try_create(&json!({"network": {"allowPublicTraffic": false}}))
            .json_of(201);
        let (sandbox, token) = (Sandbox::from_json(&made), text(&made, "trafficAccessToken"));
        assert!(token.len() > 30, "{made}");
        let host = format!("8000-{}.sandbox.localhost", sandbox.id);
        let ask = |token: &[(&str, &str)]| {
            let headers = [&[("Host", host.as_str())], token].concat();
            client.request("GET", "/", &headers, b"").expect("an answer")
        };
        assert_eq!(ask(&[]).status, 403);
        assert_eq!(ask(&[("E2B-Traffic-Access-Token", "wrong")]).status, 403);
        assert_eq!(
            ask(&[("E2B-Traffic-Access-Token", &token)]).status,
            502,
            "nothing listens"
        );
        client.write(&sandbox, "/tmp/echo.py", ECHO.as_bytes()).json_of(200);
        client.shell(&sandbox, "nohup python3 /tmp/echo.py >/dev/null 2>&1 & echo");
        eventually("it listens", PATIENCE, || {
            ask(&[("E2B-Traffic-Access-Token", &token)]).status == 200
        });
        let seen = ask(&[("E2B-Traffic-Access-Token", &token)]).body;
        assert!(
            !String::from_utf8_lossy(&seen).contains(&token),
            "the token stays outside"
        );
        assert_eq!(ask(&[]).status, 403);
        // The agent has its own token.
        assert_eq!(client.shell(&sandbox, "echo in"), "in\n");
    });
}

#[test]
fn a_pool_gives_and_is_filled_again() {
    each_user_with(&["--pool", "2"], |server| {
        let client = server.client();
        let ready = || {
            let page = client.request("GET", "/metrics", &[], b"").expect("an answer");
            String::from_utf8_lossy(&page.body).contains("sandboxes_ready_in_pool 2")
        };
        for _ in 0..3 {
            eventually("the pool is full", PATIENCE, ready);
            let sandbox = client.create(&json!({"envVars": {"A": "b"}}));
            assert_eq!(client.shell(&sandbox, "echo $A; pwd"), "b\n/home/user\n");
            assert_eq!(client.kill(&sandbox).status(), 204);
        }
        assert_eq!(client.list("/v2/sandboxes").expect("a list").len(), 0);
        let before = server.names("sandboxes").len();
        assert!(before <= 2, "{before} wait");
    });
}

#[test]
fn a_second_listener_on_the_same_port_is_refused() {
    each_user(|server| {
        let busy = free_port();
        let _held = std::net::TcpListener::bind(("127.0.0.1", busy)).expect("a listener");
        let refused = server.command(busy).output().expect("it starts");
        assert_eq!(refused.status.code(), Some(125));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("can't listen on"), "{said}");
        let stream = server.client().send("GET", "/health", &[], b"").expect("sent");
        assert_eq!(read_answer(stream).status(), 200);
    });
}

#[test]
fn the_first_key_is_good_as_soon_as_it_is_said() {
    for user in users() {
        let mut server = Server::new(user);
        for _ in 0..3 {
            server.crash();
            std::fs::remove_dir_all(server.state()).expect("removed");
            server.start();
            assert_eq!(server.client().get("/v2/sandboxes").status(), 200);
        }
    }
}
