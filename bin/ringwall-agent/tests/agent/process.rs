//! Commands and terminals.

use std::time::{Duration, Instant};

use ringwall_agent_proto::envelope;
use serde_json::json;

use crate::sandbox::{Sandbox, encoded, is_alive, shell, until};

#[tokio::test]
async fn a_command_tells_all_it_has_to() {
    let sandbox = Sandbox::start();
    let init = json!({"envVars": {"A": "init", "B": "init"}});
    sandbox.call("POST", "/init", &[], init.to_string()).await;
    let mut request = shell("echo out; echo err >&2; echo $A $B $HOME $USER; pwd; exit 3");
    request["process"]["envs"] = json!({"B": "request"});
    let mut events = sandbox.open("process.Process/Start", &[], request).await;
    assert!(events.pid().await > 1);
    let told = events.rest().await;
    let home = sandbox.home();
    let wanted = format!("out\ninit request {0} user\n{0}\n", home.display());
    assert_eq!(String::from_utf8_lossy(&told.stdout), wanted);
    assert_eq!(told.stderr, b"err\n");
    let wanted = json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"});
    assert_eq!((told.end, told.error), (Some(wanted), None));
    assert!(sandbox.running().await.is_empty());
}

#[tokio::test]
async fn children_get_no_descriptor_of_ours_and_die_first() {
    let sandbox = Sandbox::start();
    let told = sandbox
        .shell("ls /proc/self/fd; cat /proc/self/oom_score_adj; ulimit -c >/dev/null; cat /proc/$PPID/oom_score_adj")
        .await
        .rest()
        .await;
    let text = String::from_utf8(told.stdout).unwrap();
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let own: i32 = own.trim().parse().unwrap();
    // 3 is the directory that ls itself has open.
    assert_eq!(text, format!("0\n1\n2\n3\n{}\n{own}\n", own.max(500)));
}

#[tokio::test]
async fn what_cannot_start_says_so_in_the_stream() {
    let sandbox = Sandbox::start();
    let failed = async |request| {
        let told = sandbox.open("process.Process/Start", &[], request).await.rest().await;
        let error = told.error.expect("no error");
        (
            error["code"].as_str().unwrap().to_owned(),
            error["message"].as_str().unwrap().to_owned(),
        )
    };
    let (code, message) = failed(json!({"process": {"cmd": "no-such-program"}})).await;
    assert_eq!(code, "invalid_argument");
    assert!(message.contains("no-such-program"), "{message}");
    let (code, message) = failed(json!({"process": {"cmd": "/bin/true", "cwd": "/no/such"}})).await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("invalid_argument", "cwd '/no/such' does not exist")
    );
    assert_eq!(failed(json!({})).await.0, "invalid_argument");
    assert_eq!(
        failed(json!({"process": {"cmd": "true", "envs": {"A=B": "x"}}}))
            .await
            .0,
        "invalid_argument"
    );
}

#[tokio::test]
async fn input_arrives_in_order_and_ends() {
    let sandbox = Sandbox::start();
    let mut request = shell("cat; echo over");
    request["stdin"] = json!(true);
    request["tag"] = json!("the-cat");
    let mut events = sandbox.open("process.Process/Start", &[], request).await;
    let pid = events.pid().await;
    let listed = sandbox.running().await;
    assert_eq!(
        (listed[0]["pid"].as_u64(), listed[0]["tag"].as_str()),
        (Some(pid), Some("the-cat"))
    );
    assert_eq!(listed[0]["config"]["cmd"], "/bin/bash");
    let send = async |selector, bytes: &str| {
        let message = json!({"process": selector, "input": {"stdin": encoded(bytes)}});
        sandbox.unary("process.Process/SendInput", message).await
    };
    assert_eq!(send(json!({"pid": pid}), "one\n").await.status, 200);
    assert_eq!(send(json!({"tag": "the-cat"}), "two\n").await.status, 200);
    assert_eq!(send(json!({"pid": 1_999_999}), "x").await.json()["code"], "not_found");
    let pty = json!({"process": {"pid": pid}, "input": {"pty": encoded("x")}});
    assert_eq!(
        sandbox.unary("process.Process/SendInput", pty).await.json()["code"],
        "failed_precondition"
    );

    let mut stream = envelope::message(&json!({"start": {"process": {"pid": pid}}})).to_vec();
    for word in ["three\n", "four\n"] {
        stream.extend(envelope::message(&json!({"data": {"input": {"stdin": encoded(word)}}})));
        stream.extend(envelope::message(&json!({"keepalive": {}})));
    }
    let mut answer = sandbox
        .open_raw("process.Process/StreamInput", &[], stream.into())
        .await;
    assert_eq!(answer.next().await, Some((0, json!({}))));
    assert_eq!(answer.next().await, Some((2, json!({}))));

    let close = json!({"process": {"pid": pid}});
    assert_eq!(sandbox.unary("process.Process/CloseStdin", close).await.status, 200);
    let told = events.rest().await;
    assert_eq!(told.stdout, b"one\ntwo\nthree\nfour\nover\n");
}

#[tokio::test]
async fn stdin_false_is_an_empty_input() {
    let sandbox = Sandbox::start();
    assert_eq!(sandbox.shell("cat; echo end").await.rest().await.stdout, b"end\n");
}

#[tokio::test]
async fn a_terminal_has_a_size_and_input() {
    let sandbox = Sandbox::start();
    let request = json!({
        "process": {"cmd": "/bin/bash", "args": ["-c", "tty; stty size; read line; stty size; echo got $line"], "envs": {"TERM": "dumb"}},
        "pty": {"size": {"cols": 101, "rows": 31}},
    });
    let mut events = sandbox.open("process.Process/Start", &[], request).await;
    let pid = events.pid().await;
    let mut seen = String::new();
    while !seen.contains("31 101") {
        let (_, message) = events.next().await.unwrap();
        let text = message["event"]["data"]["pty"].as_str().unwrap();
        seen.push_str(
            &String::from_utf8(base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap())
                .unwrap(),
        );
    }
    assert!(seen.starts_with("/dev/pts/"), "{seen}");
    let resize = json!({"process": {"pid": pid}, "pty": {"size": {"cols": 90, "rows": 20}}});
    assert_eq!(sandbox.unary("process.Process/Update", resize).await.status, 200);
    let close = json!({"process": {"pid": pid}});
    assert_eq!(
        sandbox.unary("process.Process/CloseStdin", close).await.json()["code"],
        "failed_precondition"
    );
    // Last, because with it the process ends.
    let input = json!({"process": {"pid": pid}, "input": {"pty": encoded("hello\n")}});
    assert_eq!(sandbox.unary("process.Process/SendInput", input).await.status, 200);
    let told = events.rest().await;
    let text = String::from_utf8_lossy(&told.pty);
    assert!(text.contains("20 90") && text.contains("got hello"), "{text}");
    assert_eq!(told.end.unwrap()["exitCode"], 0);
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let sandbox = Sandbox::start();
    let mut events = sandbox.shell("sleep 1000 & echo $!; sleep 1000").await;
    let pid = events.pid().await;
    let (_, message) = events.next().await.unwrap();
    let bytes = message["event"]["data"]["stdout"].as_str().unwrap();
    let child = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, bytes).unwrap();
    let child: u64 = String::from_utf8(child).unwrap().trim().parse().unwrap();
    assert!(is_alive(child));
    let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
    assert_eq!(
        sandbox.unary("process.Process/SendSignal", kill.clone()).await.status,
        200
    );
    let end = events.rest().await.end.unwrap();
    assert_eq!(
        (end["exitCode"].as_i64(), end["status"].as_str()),
        (Some(-1), Some("signal: killed"))
    );
    until("the grandchild is gone", async || !is_alive(child)).await;
    let again = sandbox.unary("process.Process/SendSignal", kill).await;
    assert_eq!(
        (again.status.as_u16(), again.json()["code"].clone()),
        (404, json!("not_found"))
    );

    let mut events = sandbox
        .shell("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
        .await;
    let pid = events.pid().await;
    events.next().await.unwrap();
    let term = json!({"process": {"pid": pid}, "signal": 15});
    assert_eq!(sandbox.unary("process.Process/SendSignal", term).await.status, 200);
    let told = events.rest().await;
    assert_eq!(told.end.unwrap()["exitCode"], 7);
    assert_eq!(told.stdout, b"bye\n");
}

#[tokio::test]
async fn the_timeout_kills_the_process() {
    let sandbox = Sandbox::start();
    let begun = Instant::now();
    // The background one holds the pipe open in another session: it must not hold up the end.
    let headers = [("connect-timeout-ms", "400")];
    let script = shell("setsid sleep 20 & sleep 1000 & echo started; sleep 1000");
    let mut events = sandbox.open("process.Process/Start", &headers, script).await;
    let pid = events.pid().await;
    let told = events.rest().await;
    assert_eq!(told.stdout, b"started\n");
    assert_eq!(told.error.unwrap()["code"], "deadline_exceeded");
    assert_eq!(told.end, None);
    assert!(begun.elapsed() >= Duration::from_millis(400) && begun.elapsed() < Duration::from_secs(15));
    until("the process is gone", async || {
        !is_alive(pid) && sandbox.running().await.is_empty()
    })
    .await;

    let told = sandbox
        .open(
            "process.Process/Start",
            &[("connect-timeout-ms", "0")],
            shell("echo fine"),
        )
        .await
        .rest()
        .await;
    assert_eq!(told.end.unwrap()["exitCode"], 0);
}

#[tokio::test]
async fn silence_is_filled_with_keepalives() {
    let sandbox = Sandbox::start();
    let headers = [("keepalive-ping-interval", "1")];
    let told = sandbox
        .open("process.Process/Start", &headers, shell("sleep 2.5"))
        .await
        .rest()
        .await;
    assert_eq!(told.keepalives, 2);
}

#[tokio::test]
async fn a_client_may_leave_and_another_join() {
    let sandbox = Sandbox::start();
    let mut request = shell("while read line; do echo got $line; done");
    request["stdin"] = json!(true);
    let mut first = sandbox.open("process.Process/Start", &[], request).await;
    let pid = first.pid().await;
    drop(first);
    let which = json!({"process": {"pid": pid}});
    let mut second = sandbox.open("process.Process/Connect", &[], which.clone()).await;
    let mut third = sandbox
        .open(
            "process.Process/Connect",
            &[("connect-timeout-ms", "300")],
            which.clone(),
        )
        .await;
    assert_eq!((second.pid().await, third.pid().await), (pid, pid));
    let late = third.rest().await;
    assert_eq!(
        late.error.unwrap()["code"],
        "deadline_exceeded",
        "a timeout of Connect ends the stream"
    );
    assert!(is_alive(pid), "and only that");
    let input = json!({"process": {"pid": pid}, "input": {"stdin": encoded("it\n")}});
    sandbox.unary("process.Process/SendInput", input).await;
    sandbox.unary("process.Process/CloseStdin", which.clone()).await;
    let told = second.rest().await;
    assert_eq!(
        (told.stdout, told.end.unwrap()["exitCode"].as_i64()),
        (b"got it\n".to_vec(), Some(0))
    );
    let gone = sandbox.open("process.Process/Connect", &[], which).await.rest().await;
    assert_eq!(gone.error.unwrap()["code"], "not_found");
}

#[tokio::test]
async fn a_slow_reader_holds_back_its_own_process_only() {
    let sandbox = Sandbox::start();
    let mut slow = sandbox.shell("head -c 300000000 /dev/zero").await;
    let pid = slow.pid().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let quick = sandbox.shell("head -c 3000000 /dev/zero").await.rest().await;
    assert_eq!(quick.stdout.len(), 3_000_000);
    assert!(is_alive(pid), "it waits in its write");
    let memory = sandbox.memory_kib("RssAnon");
    assert!(memory < 8 * 1024, "{memory} KiB");
    // When its only reader leaves it runs on, its output dropped.
    drop(slow);
    until("it has ended", async || sandbox.running().await.is_empty()).await;
}

#[tokio::test]
async fn a_hundred_commands_at_once() {
    let sandbox = std::rc::Rc::new(Sandbox::start());
    let local = tokio::task::LocalSet::new();
    let run = |number: usize| {
        let sandbox = sandbox.clone();
        async move {
            let told = sandbox
                .shell(&format!("sleep 0.2; echo {number}; exit {}", number % 7))
                .await
                .rest()
                .await;
            assert_eq!(told.stdout, format!("{number}\n").into_bytes());
            assert_eq!(told.end.unwrap()["exitCode"], number % 7);
        }
    };
    let all = (0..100)
        .map(|number| local.spawn_local(run(number)))
        .collect::<Vec<_>>();
    local
        .run_until(async {
            for one in all {
                one.await.unwrap();
            }
        })
        .await;
    assert!(sandbox.running().await.is_empty());
}
