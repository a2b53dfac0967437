//! State, working directories, order and parallelism.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Interpreter, with_python};

fn create(interpreter: &Interpreter, body: &Value) -> Value {
    let answer = interpreter.send("POST", "/contexts", &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.text).expect("JSON")
}

#[test]
fn state_is_kept_from_one_execution_to_the_next() {
    let Some(interpreter) = with_python() else { return };
    let first = interpreter.python("x = 41");
    assert_eq!(first.0, [json!({"type": "number_of_executions", "execution_count": 1})]);
    let second = interpreter.python("x + 1");
    assert_eq!(
        second.0,
        [
            json!({"type": "number_of_executions", "execution_count": 2}),
            json!({"type": "result", "is_main_result": true, "text": "42"}),
        ]
    );
}

#[test]
fn a_context_has_its_directory_and_state_and_can_be_removed() {
    let Some(interpreter) = with_python() else { return };
    assert_eq!(interpreter.send("GET", "/contexts", "").text, "[]");
    let directory = interpreter.home.path().join("work");
    std::fs::create_dir(&directory).unwrap();
    let context = create(&interpreter, &json!({"cwd": directory}));
    assert_eq!(context["language"], "python");
    assert_eq!(context["cwd"], json!(directory));
    let id = context["id"].as_str().unwrap();
    let run = |code: &str| interpreter.execute(&json!({"code": code, "context_id": id}));
    assert_eq!(
        run("y = 1\nimport os\nos.getcwd()").value(),
        directory.to_str().unwrap()
    );
    let elsewhere = interpreter.python("import os\n('y' in globals(), os.getcwd())");
    assert_eq!(
        elsewhere.value(),
        format!("(False, '{}')", interpreter.home.path().display())
    );
    let list: Value = serde_json::from_str(&interpreter.send("GET", "/contexts", "").text).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[0], context);

    assert_eq!(interpreter.send("DELETE", &format!("/contexts/{id}"), "").status, 200);
    let gone = interpreter.send("POST", "/execute", &json!({"code": "1", "context_id": id}).to_string());
    assert_eq!((gone.status, gone.text), (404, format!("Context {id} not found")));
    assert_eq!(interpreter.send("DELETE", &format!("/contexts/{id}"), "").status, 404);
    assert_eq!(
        interpreter.send("POST", &format!("/contexts/{id}/restart"), "").status,
        404
    );
}

#[test]
fn a_restart_keeps_the_identifier_and_loses_the_state() {
    let Some(interpreter) = with_python() else { return };
    let context = create(&interpreter, &json!({}));
    let id = context["id"].as_str().unwrap();
    let run = |code: &str| interpreter.execute(&json!({"code": code, "context_id": id}));
    let before = run("z = 1\nimport os\nos.getpid()").value().to_owned();
    assert_eq!(
        interpreter.send("POST", &format!("/contexts/{id}/restart"), "").status,
        200
    );
    assert!(
        !std::path::Path::new(&format!("/proc/{before}")).exists(),
        "the old kernel is gone"
    );
    let after = run("import os\n('z' in globals(), os.getpid())");
    assert!(after.value().starts_with("(False, "), "{after:?}");
    assert_eq!(after.of("number_of_executions")[0]["execution_count"], 1);
}

#[test]
fn a_restart_ends_what_runs_and_waits() {
    let Some(interpreter) = with_python() else { return };
    let context = create(&interpreter, &json!({}));
    let id = context["id"].as_str().unwrap();
    let body = json!({"code": "print('on', flush=True)\nimport time\ntime.sleep(300)", "context_id": id});
    let mut running = interpreter.begin(&body);
    running.until("stdout");
    let waiting = interpreter.begin(&body);
    let started = Instant::now();
    assert_eq!(
        interpreter.send("POST", &format!("/contexts/{id}/restart"), "").status,
        200
    );
    assert_eq!(running.events().error(), "ContextRestarted");
    assert_eq!(waiting.events().error(), "ContextRestarted");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(
        interpreter.execute(&json!({"code": "1 + 1", "context_id": id})).value(),
        "2"
    );
}

#[test]
fn one_context_runs_one_execution_at_a_time_in_order() {
    let Some(interpreter) = with_python() else { return };
    interpreter.python("order = []\nimport time");
    let cells: Vec<_> = (0..4)
        .map(|index| {
            let code = format!("order.append('b{index}')\ntime.sleep(0.2)\norder.append('e{index}')");
            let stream = interpreter.begin(&json!({"code": code}));
            // The head has arrived, so its place in the queue is taken.
            stream
        })
        .collect();
    for cell in cells {
        assert_eq!(cell.events().of("error").len(), 0);
    }
    assert_eq!(interpreter.python("' '.join(order)").value(), "b0 e0 b1 e1 b2 e2 b3 e3");
}

#[test]
fn two_contexts_run_at_the_same_time() {
    let Some(interpreter) = with_python() else { return };
    let [first, second] = [(); 2].map(|()| create(&interpreter, &json!({}))["id"].clone());
    let meet = |mine: &str, other: &str| {
        let home = interpreter.home.path().display();
        format!(
            "import time, os\nopen('{home}/{mine}', 'w').close()\nend = time.time() + 30\n\
             while not os.path.exists('{home}/{other}') and time.time() < end: time.sleep(0.01)\n\
             os.path.exists('{home}/{other}')"
        )
    };
    let one = interpreter.begin(&json!({"code": meet("a", "b"), "context_id": first}));
    let two = interpreter.begin(&json!({"code": meet("b", "a"), "context_id": second}));
    assert_eq!(one.events().value(), "True");
    assert_eq!(two.events().value(), "True");
}

#[test]
fn too_many_waiting_executions_are_refused() {
    let Some(interpreter) = with_python() else { return };
    let body = json!({"code": "import time\ntime.sleep(300)"});
    let held: Vec<_> = (0..65).map(|_| interpreter.begin(&body)).collect();
    let refused = interpreter.send("POST", "/execute", &body.to_string());
    assert_eq!(
        (refused.status, refused.text.as_str()),
        (429, "too many executions wait for this context")
    );
    // Those that wait leave the queue when their clients hang up, which the server notices a little later.
    drop(held);
    let body = json!({"code": "1 + 1"}).to_string();
    let started = Instant::now();
    let served = loop {
        let stream = interpreter.open("POST", "/execute", &body);
        if stream.status == 200 || started.elapsed() > Duration::from_secs(10) {
            break stream;
        }
    };
    assert_eq!(served.events().value(), "2");
}
