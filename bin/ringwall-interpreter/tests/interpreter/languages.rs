//! Kernels other than Python's, and missing ones.

use std::ffi::OsString;
use std::path::Path;

use serde_json::json;

use crate::harness::{Interpreter, python_directory, with_python};

#[test]
fn bash_keeps_its_state_and_takes_variables() {
    let Some(directory) = python_directory() else { return };
    if !directory.join("../share/jupyter/kernels/bash").exists() {
        eprintln!("SKIPPED: the tests' python has no bash_kernel");
        return;
    }
    let Some(interpreter) = with_python() else { return };
    let run = |code: &str| interpreter.execute(&json!({"code": code, "language": "bash"}));
    assert_eq!(run("state=1; cd /tmp; echo $((1 + 2))").text("stdout"), "3\n");
    assert_eq!(run("echo $state $PWD").text("stdout"), "1 /tmp\n");
    let value = "it's \\ \"two\"\nlines";
    let body = json!({"code": "echo \"$CALL\" $GLOBAL", "language": "sh", "env_vars": {"CALL": value, "GLOBAL": "g"}});
    assert_eq!(interpreter.execute(&body).text("stdout"), "it's \\ \"two\"\nlines g\n");
    assert_eq!(run("echo ${CALL-unset} $GLOBAL").text("stdout"), "unset from-outside\n");
    let long = format!("{} !! !x", "y".repeat(10_000));
    let body = json!({"code": "echo \"$CALL\"", "language": "bash", "env_vars": {"CALL": long}});
    assert_eq!(interpreter.execute(&body).text("stdout"), format!("{long}\n"));
    let failed = run("ls /nonexistent");
    assert_eq!(failed.of("error").len(), 1, "{failed:?}");
    assert_eq!(failed.of("error")[0]["value"], "2");
}

#[test]
fn javascript_keeps_its_state_takes_variables_and_survives_an_interrupt() {
    let Some(directory) = python_directory() else { return };
    let Some(interpreter) = with_python() else { return };
    let install = std::process::Command::new(directory.join("deno"))
        .args(["jupyter", "--install"])
        .env("HOME", interpreter.home.path())
        .output();
    if !install.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no deno beside the tests' python");
        return;
    }
    let run = |code: &str| interpreter.execute(&json!({"code": code, "language": "js"}));
    let first = run("let x: number = 1; console.log('out'); console.error('err'); x + 1");
    assert_eq!(
        (first.text("stdout"), first.text("stderr")),
        ("out\n".to_owned(), "err\n".to_owned())
    );
    assert_eq!(first.value(), "2");
    assert_eq!(run("throw new TypeError('wrong')").of("error")[0]["value"], "wrong");
    let show = "console.log(Deno.env.get('CALL'), Deno.env.get('GLOBAL'))";
    let body = json!({"code": show, "language": "ts", "env_vars": {"CALL": "it's \"q\"", "GLOBAL": "g"}});
    assert_eq!(interpreter.execute(&body).text("stdout"), "it's \"q\" g\n");
    assert_eq!(run(show).text("stdout"), "undefined from-outside\n");
    let mut endless = interpreter.begin(&json!({"code": "console.log('on'); for (;;) {}", "language": "js"}));
    endless.until("number_of_executions");
    std::thread::sleep(std::time::Duration::from_millis(500));
    drop(endless);
    assert_eq!(run("x + 2").value(), "3");
}

#[test]
fn a_missing_kernel_is_refused_with_advice() {
    let interpreter = Interpreter::start(&OsString::from("/nonexistent"));
    for (language, advice) in [
        ("python", "pip install ipykernel"),
        ("bash", "bash_kernel"),
        ("js", "deno jupyter --install"),
        ("r", "IRkernel"),
    ] {
        if Path::new("/usr/share/jupyter/kernels").exists() || Path::new("/usr/local/share/jupyter/kernels").exists() {
            eprintln!("SKIPPED: this machine has kernels of its own");
            return;
        }
        for path in ["/execute", "/contexts"] {
            let body = json!({"code": "1", "language": language}).to_string();
            let refused = interpreter.send("POST", path, &body);
            assert_eq!(refused.status, 400);
            assert!(refused.text.starts_with("no Jupyter kernel for "), "{}", refused.text);
            assert!(refused.text.contains(advice), "{}", refused.text);
        }
    }
    assert_eq!(
        interpreter.send("GET", "/contexts", "").text,
        "[]",
        "what doesn't start isn't listed"
    );
}

#[test]
fn a_kernel_that_cannot_start_says_why() {
    let interpreter = Interpreter::start(&OsString::from("/nonexistent"));
    for (name, argv) in [
        ("gone", "[\"/nonexistent/kernel\"]"),
        ("broken", "[\"/bin/sh\",\"-c\",\"echo because >&2; exit 3\"]"),
    ] {
        let directory = interpreter.home.path().join(".local/share/jupyter/kernels").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let spec = format!("{{\"argv\":{argv},\"display_name\":\"x\",\"language\":\"{name}\"}}");
        std::fs::write(directory.join("kernel.json"), spec).unwrap();
    }
    let start = |language: &str| {
        interpreter.send(
            "POST",
            "/execute",
            &json!({"code": "1", "language": language}).to_string(),
        )
    };
    let gone = start("gone");
    assert_eq!(gone.status, 500);
    assert!(
        gone.text
            .starts_with("can't start `/nonexistent/kernel`, the kernel for gone: "),
        "{}",
        gone.text
    );
    let broken = start("broken");
    assert_eq!(broken.status, 500);
    assert_eq!(
        broken.text,
        "the kernel for broken didn't start: the kernel exited with code 3\nbecause"
    );
}

#[test]
fn a_python_without_a_kernelspec_serves_if_it_has_ipykernel() {
    let Some(directory) = python_directory() else { return };
    // A directory with nothing but a python: no share/jupyter beside it.
    let bin = tempfile::tempdir().unwrap();
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", directory.join("python3").display());
    let python = bin.path().join("python3");
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let interpreter = Interpreter::start(&bin.path().as_os_str().to_owned());
    assert_eq!(interpreter.python("6 * 7").value(), "42");
}
