//! Every test once more as a user without any right, if this runs as root.

use std::process::Command;

#[test]
fn everything_holds_for_an_unprivileged_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let own = std::env::current_exe().unwrap();
    let run = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(own)
        .arg("--nocapture")
        .current_dir("/")
        .output();
    match run {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            for line in text.lines().filter(|line| line.contains("SKIPPED")) {
                println!("{line}");
            }
            assert!(output.status.success(), "{text}");
        }
        Err(error) => println!("SKIPPED: setpriv: {error}"),
    }
}
