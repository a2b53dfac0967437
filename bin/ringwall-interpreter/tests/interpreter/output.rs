//! What executions print and show.

use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::json;

use crate::harness::with_python;

#[test]
fn text_arrives_while_the_code_runs_and_in_its_order() {
    let Some(interpreter) = with_python() else { return };
    interpreter.python("import sys, time");
    let code =
        "print('a', flush=True)\ntime.sleep(1)\nprint('b', file=sys.stderr, flush=True)\ntime.sleep(1)\nprint('c')";
    let mut stream = interpreter.begin(&json!({"code": code}));
    let mut seen = Vec::new();
    let mut stamps = Vec::new();
    let started = Instant::now();
    while let Some(event) = stream.next() {
        if let (Some(text), Some(stamp)) = (event["text"].as_str(), event["timestamp"].as_u64()) {
            seen.push(format!("{}:{}", event["type"].as_str().unwrap(), text.trim()));
            stamps.push(stamp);
            if seen.len() == 1 {
                assert!(
                    started.elapsed() < Duration::from_millis(900),
                    "the first line comes before the code ends"
                );
            }
        }
    }
    assert_eq!(seen, ["stdout:a", "stderr:b", "stdout:c"]);
    assert!(
        stamps[1] - stamps[0] > 500_000_000 && stamps[2] - stamps[1] > 500_000_000,
        "{stamps:?}"
    );
}

#[test]
fn rich_results_have_their_fields() {
    let Some(interpreter) = with_python() else { return };
    let code = r#"
class Everything:
    def _repr_html_(self): return '<b>h</b>'
    def _repr_markdown_(self): return '*m*'
    def _repr_svg_(self): return '<svg/>'
    def _repr_png_(self): return b'\x89PNG'
    def _repr_jpeg_(self): return b'\xff\xd8'
    def _repr_latex_(self): return '$x$'
    def _repr_json_(self): return {'a': [1, None]}
    def _repr_javascript_(self): return 'f()'
    def _repr_pdf_(self): return b'%PDF'
    def __repr__(self): return "'quoted'"
from IPython.display import display
display({'text/plain': 'shown', 'application/vnd.e2b.chart.v1+json': {'type': 'line'},
         'application/vnd.e2b.data.v1+json': {'c': [1]}, 'application/vnd.own+json': [2]}, raw=True)
Everything()
"#;
    let events = interpreter.python(code);
    let results = events.of("result");
    assert_eq!(
        results[0],
        &json!({"type": "result", "is_main_result": false, "text": "shown", "chart": {"type": "line"},
            "data": {"c": [1]}, "extra": {"application/vnd.own+json": [2]}})
    );
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let mut main = results[1].clone();
    for (field, bytes) in [("png", b"\x89PNG".as_slice()), ("jpeg", b"\xff\xd8"), ("pdf", b"%PDF")] {
        assert_eq!(main[field].take().as_str().unwrap().trim(), encode(bytes), "{field}");
    }
    assert_eq!(
        main,
        json!({"type": "result", "is_main_result": true, "text": "quoted", "html": "<b>h</b>", "markdown": "*m*",
            "svg": "<svg/>", "png": null, "jpeg": null, "pdf": null, "latex": "$x$", "json": {"a": [1, null]},
            "javascript": "f()"})
    );
    assert_eq!(results.len(), 2);
}

#[test]
fn an_error_has_its_name_value_and_traceback() {
    let Some(interpreter) = with_python() else { return };
    let events = interpreter.python("def f():\n    raise ValueError('wrong')\nf()");
    let error = events.of("error")[0];
    assert_eq!(
        (&error["name"], &error["value"]),
        (&json!("ValueError"), &json!("wrong"))
    );
    let traceback = error["traceback"].as_str().unwrap();
    assert!(
        traceback.contains("ValueError") && traceback.contains('\n'),
        "{traceback}"
    );
    assert_eq!(interpreter.python("1 + 1").value(), "2", "the context goes on");
}

#[test]
fn nobody_can_be_asked_for_input() {
    let Some(interpreter) = with_python() else { return };
    assert_eq!(interpreter.python("input()").error(), "StdinNotImplementedError");
}

#[test]
fn twenty_megabytes_arrive_whole() {
    let Some(interpreter) = with_python() else { return };
    let at_once = interpreter.python("print('x' * 20_000_000)").text("stdout");
    assert_eq!(at_once.len(), 20_000_001);
    let by_line = interpreter
        .python("for i in range(200_000): print(f'{i:099}')")
        .text("stdout");
    assert_eq!(by_line.len(), 20_000_000);
    assert!(by_line.ends_with("199999\n"));
}

#[test]
fn an_output_too_long_is_dropped_with_a_remark() {
    let Some(interpreter) = with_python() else { return };
    let code = "from IPython.display import display\n\
                display({'text/plain': 'x' * 70_000_000}, raw=True)\nprint('after')";
    let events = interpreter.python(code);
    assert!(
        events.text("stderr").contains("bytes was dropped: it is too long"),
        "{:?}",
        events.text("stderr")
    );
    assert_eq!(events.text("stdout"), "after\n");
    assert!(
        interpreter.peak_memory_bytes() < 50_000_000,
        "{}",
        interpreter.peak_memory_bytes()
    );
}

#[test]
fn a_client_that_does_not_read_takes_no_memory() {
    let Some(interpreter) = with_python() else { return };
    let code = "import time\nfor i in range(300):\n    print('x' * 1_000_000, flush=True)\nprint('written')\n\
                open('done', 'w').close()";
    let stream = interpreter.begin(&json!({"code": code}));
    let done = interpreter.home.path().join("done");
    let started = Instant::now();
    while !done.exists() && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(done.exists(), "the kernel isn't held up");
    let peak = interpreter.peak_memory_bytes();
    assert!(peak < 100_000_000, "{peak} bytes for 300 MB of unread output");
    // Read at last, the answer still has all of it: it waited in the kernel.
    assert_eq!(stream.events().text("stdout").len(), 300 * 1_000_001 + 8);
}

#[test]
fn silence_is_filled_with_keepalives() {
    let Some(interpreter) = with_python() else { return };
    let events = interpreter.python("import time\ntime.sleep(11)\nprint('done')");
    assert_eq!(events.of("keepalive"), [&json!({"type": "keepalive"}); 2]);
    assert_eq!(events.text("stdout"), "done\n");
}
