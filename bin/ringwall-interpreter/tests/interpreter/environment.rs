//! Environment variables: the interpreter's own, and those of one execution.

use serde_json::json;

use crate::harness::with_python;

const SHOW: &str = "import os\nprint([os.environ.get(name) for name in ('GLOBAL', 'CALL')])";

#[test]
fn variables_of_an_execution_last_as_long_as_it_does() {
    let Some(interpreter) = with_python() else { return };
    assert_eq!(interpreter.python(SHOW).text("stdout"), "['from-outside', None]\n");
    let value = "it's \"quoted\"\n\\ $HOME \u{20ac}";
    let body = json!({"code": SHOW, "env_vars": {"GLOBAL": "changed", "CALL": value}});
    assert_eq!(
        interpreter.execute(&body).text("stdout"),
        "['changed', 'it\\'s \"quoted\"\\n\\\\ $HOME \u{20ac}']\n"
    );
    assert_eq!(interpreter.python(SHOW).text("stdout"), "['from-outside', None]\n");
}

#[test]
fn the_code_s_own_changes_are_what_is_put_back() {
    let Some(interpreter) = with_python() else { return };
    interpreter.python("import os\nos.environ['CALL'] = 'mine'");
    interpreter.execute(&json!({"code": "1", "env_vars": {"CALL": "theirs"}}));
    assert_eq!(interpreter.python(SHOW).text("stdout"), "['from-outside', 'mine']\n");
}

#[test]
fn variables_are_put_back_after_an_error_and_leave_no_trace() {
    let Some(interpreter) = with_python() else { return };
    let events = interpreter.execute(&json!({"code": "1 / 0", "env_vars": {"CALL": "x"}}));
    assert_eq!(events.error(), "ZeroDivisionError");
    assert_eq!(events.of("error").len(), 1);
    let after = interpreter.python(&format!("{SHOW}\nlen(In), 'json' in globals()"));
    assert_eq!(after.text("stdout"), "['from-outside', None]\n");
    assert_eq!(after.of("number_of_executions")[0]["execution_count"], 2);
    assert_eq!(
        after.value(),
        "(3, False)",
        "our own cells are in no history and no namespace"
    );
}

#[test]
fn variables_are_put_back_after_the_client_has_left() {
    let Some(interpreter) = with_python() else { return };
    let code = "print('on', flush=True)\nimport time\ntime.sleep(300)";
    let mut stream = interpreter.begin(&json!({"code": code, "env_vars": {"CALL": "x"}}));
    stream.until("stdout");
    drop(stream);
    assert_eq!(interpreter.python(SHOW).text("stdout"), "['from-outside', None]\n");
}

#[test]
fn variables_that_cannot_be_set_are_an_error_of_the_execution() {
    let Some(interpreter) = with_python() else { return };
    interpreter.python("import os\nos.environ = None");
    let events = interpreter.execute(&json!({"code": "print('not run')", "env_vars": {"CALL": "x"}}));
    assert_eq!(events.error(), "AttributeError");
    assert_eq!(events.text("stdout"), "");
}

#[test]
fn variables_nothing_can_hold_are_refused() {
    let Some(interpreter) = with_python() else { return };
    let body = json!({"code": "1", "env_vars": {"A=B": "x"}}).to_string();
    let refused = interpreter.send("POST", "/execute", &body);
    assert_eq!(
        (refused.status, refused.text.as_str()),
        (400, "\"A=B\" is no name for an environment variable")
    );
    let body = json!({"code": "1", "language": "java", "env_vars": {"A": "x"}}).to_string();
    let refused = interpreter.send("POST", "/execute", &body);
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("not supported for java"), "{}", refused.text);
}
