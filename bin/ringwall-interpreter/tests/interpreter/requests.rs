//! Requests that are wrong, and the little ones that are right.

use std::ffi::OsString;

use serde_json::json;

use crate::harness::{Interpreter, with_python};

fn without_kernels() -> Interpreter {
    Interpreter::start(&OsString::from("/nonexistent"))
}

#[test]
fn health_is_ok() {
    assert_eq!(without_kernels().send("GET", "/health", "").status, 200);
}

#[test]
fn wrong_requests_are_refused_with_a_text() {
    let interpreter = without_kernels();
    for (method, path, body, status, text) in [
        ("POST", "/execute", "{", 400, "can't be read"),
        ("POST", "/execute", "{}", 422, "code"),
        ("POST", "/execute", r#"{"code": 1}"#, 422, "expected a string"),
        (
            "POST",
            "/execute",
            r#"{"code":"1","context_id":"x","language":"python"}"#,
            400,
            "Only one of",
        ),
        (
            "POST",
            "/execute",
            r#"{"code":"1","context_id":"x"}"#,
            404,
            "Context x not found",
        ),
        ("POST", "/contexts", "[", 400, "can't be read"),
        ("GET", "/execute", "", 405, "not allowed"),
        ("GET", "/", "", 404, "nothing"),
        ("POST", "/contexts/a/b/c", "", 404, "nothing"),
    ] {
        let answer = interpreter.send(method, path, body);
        assert_eq!(answer.status, status, "{method} {path} {body}");
        assert!(answer.text.contains(text), "{method} {path}: {}", answer.text);
    }
}

#[test]
fn a_body_too_long_is_refused() {
    let body = json!({"code": "x".repeat(17 << 20)}).to_string();
    assert_eq!(without_kernels().send("POST", "/execute", &body).status, 413);
}

#[test]
fn a_missing_directory_is_refused() {
    let Some(interpreter) = with_python() else { return };
    let refused = interpreter.send("POST", "/contexts", &json!({"cwd": "/nonexistent"}).to_string());
    assert_eq!(refused.status, 400);
    assert_eq!(refused.text, "the working directory \"/nonexistent\" doesn't exist");
}

#[test]
fn a_long_program_arrives_whole() {
    let Some(interpreter) = with_python() else { return };
    let code = format!("len('{}')", "x".repeat(8 << 20));
    assert_eq!(interpreter.python(&code).value(), (8 << 20).to_string());
}
