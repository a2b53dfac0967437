//! Clients that leave, kernels that die, and the end of the interpreter.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{signal, with_python};

#[test]
fn leaving_interrupts_the_code_and_keeps_the_state() {
    let Some(interpreter) = with_python() else { return };
    let pid = interpreter
        .python("kept = 7\nimport os, time\nos.getpid()")
        .value()
        .to_owned();
    let code =
        "print('on', flush=True)\ntry:\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    stopped = True\n    raise";
    let mut stream = interpreter.begin(&json!({"code": code}));
    stream.until("stdout");
    drop(stream);
    let started = Instant::now();
    assert_eq!(
        interpreter.python("kept, stopped, os.getpid()").value(),
        format!("(7, True, {pid})")
    );
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn leaving_ends_the_commands_the_code_runs() {
    let Some(interpreter) = with_python() else { return };
    let code =
        "import subprocess\nchild = subprocess.Popen(['sleep', '300'])\nprint(child.pid, flush=True)\nchild.wait()";
    let mut stream = interpreter.begin(&json!({"code": code}));
    stream.until("stdout");
    drop(stream);
    assert_eq!(interpreter.python("child.wait(10)").value(), "-2");
}

#[test]
fn a_kernel_that_ends_itself_is_reported_and_replaced() {
    let Some(interpreter) = with_python() else { return };
    interpreter.python("lost = 1");
    // The pause is for ZeroMQ's thread in the kernel, which sends what is flushed a little later.
    let events = interpreter.python("print('last words', flush=True)\nimport os, time\ntime.sleep(0.5)\nos._exit(1)");
    assert_eq!(events.text("stdout"), "last words\n");
    assert_eq!(events.error(), "KernelDied");
    let value = events.of("error")[0]["value"].as_str().unwrap();
    assert!(value.starts_with("the kernel exited with code 1"), "{value}");
    assert_eq!(interpreter.python("'lost' in globals()").value(), "False");
}

#[test]
fn a_kernel_killed_between_executions_is_replaced() {
    let Some(interpreter) = with_python() else { return };
    let pid = interpreter.python("import os\nos.getpid()").value().parse().unwrap();
    signal("KILL", pid);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(interpreter.python("1 + 1").value(), "2");
}

#[test]
fn output_between_executions_goes_nowhere() {
    let Some(interpreter) = with_python() else { return };
    let code = "import threading, time\ndef flood():\n    for i in range(3000):\n        print('stray' * 100, flush=True)\n\
                thread = threading.Thread(target=flood)\nthread.start()";
    interpreter.python(code);
    let events = interpreter.python("thread.join()\nprint('mine')\n5");
    assert_eq!(events.value(), "5");
    assert!(events.text("stdout").ends_with("mine\n"));
}

#[test]
fn a_signal_ends_the_interpreter_and_its_kernels() {
    let Some(mut interpreter) = with_python() else { return };
    let code = "import os, subprocess\nchild = subprocess.Popen(['sleep', '300'])\nprint(os.getpid(), child.pid, flush=True)\n\
                child.wait()";
    let mut stream = interpreter.begin(&json!({"code": code}));
    let pids = stream.until("stdout")["text"].as_str().unwrap().to_owned();
    assert_eq!(interpreter.terminate(), Some(0));
    let started = Instant::now();
    for pid in pids.split_whitespace() {
        // The dead may wait to be reaped by whoever inherited them.
        while is_running(pid) {
            assert!(started.elapsed() < Duration::from_secs(5), "{pid} still runs");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}
