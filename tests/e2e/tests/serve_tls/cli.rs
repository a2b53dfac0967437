//! The command line against a server that speaks TLS: from elsewhere by its URL, and on its own machine without any.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use ringwall_e2e::serve::{PATIENCE, eventually, free_port};
use ringwall_e2e::{Outcome, World};

use crate::pki::{Authority, place};
use crate::{Ground, each_user};

/// Commands of a user elsewhere: another state directory, and what the environment says.
struct Elsewhere {
    world: World,
    env: Vec<(&'static str, String)>,
}

impl Elsewhere {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(args);
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        Outcome::from(self.command(args).output().expect("ringwall starts"))
    }

    fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.env.retain(|(had, _)| *had != name);
        self.env.push((name, value.into()));
    }
}

/// A path that a command gets.
fn text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

fn elsewhere(ground: &Ground) -> Elsewhere {
    let world = World::new(ground.server.user());
    let ca = place(&world, "ca.pem", &ground.authority.pem());
    Elsewhere {
        env: vec![
            ("RINGWALL_URL", ground.url()),
            ("RINGWALL_API_KEY", ground.server.client().key().to_owned()),
            ("RINGWALL_CA_FILE", text(&ca)),
        ],
        world,
    }
}

#[test]
fn commands_work_by_an_https_url() {
    each_user(|ground| {
        let cli = elsewhere(&ground);
        walk(|args| cli.command(args), &cli.world);
        assert!(!cli.world.path("state/.serve").exists(), "nothing is done here");
        let id = cli.run(&["create"]).expect(0).trim().to_owned();
        let url = cli.run(&["port", &id, "8080"]).expect(0);
        assert_eq!(
            url.trim(),
            format!("https://8080-{id}.sandbox.localhost:{}", ground.port),
            "the domain is the certificate's"
        );
        forwards(&cli, &id);
        cli.run(&["kill", "--all"]).expect(0);
        ground.server.assert_sound();
    });
}

/// What commands do to sandboxes, files, and templates.
fn walk(command: impl Fn(&[&str]) -> Command, world: &World) {
    let run = |args: &[&str]| Outcome::from(command(args).output().expect("ringwall starts"));
    let id = run(&["create", "--env", "A=1"]).expect(0).trim().to_owned();
    assert_eq!(
        run(&["exec", &id, "--", "sh", "-c", "echo $A; exit 7"]).expect(7),
        "1\n"
    );
    let mut child = command(&["exec", "-i", &id, "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ringwall starts");
    child.stdin.take().expect("a pipe").write_all(b"typed").expect("sent");
    assert_eq!(
        Outcome::from(child.wait_with_output().expect("its end")).expect(0),
        "typed"
    );
    world.write("big", vec![b'x'; 2_000_000]);
    run(&["cp", "big", &format!("{id}:/tmp/big")]).expect(0);
    assert_eq!(
        run(&["exec", &id, "--", "wc", "-c", "/tmp/big"]).expect(0),
        "2000000 /tmp/big\n"
    );
    run(&["cp", &format!("{id}:/tmp/big"), "back"]).expect(0);
    assert_eq!(world.read("back").map(|text| text.len()), Some(2_000_000));
    // Uploads go to an address that the server makes up.
    world.write("hello.txt", "hello\n");
    run(&[
        "template",
        "build",
        "--name",
        "copied",
        "--copy",
        "hello.txt:/tmp/hello.txt",
    ])
    .expect(0);
    let other = run(&["create", "--template", "copied"]).expect(0).trim().to_owned();
    assert_eq!(run(&["exec", &other, "cat", "/tmp/hello.txt"]).expect(0), "hello\n");
    run(&["kill", &id, &other]).expect(0);
    run(&["template", "rm", "copied"]).expect(0);
}

fn forwards(cli: &Elsewhere, id: &str) {
    let mut serving = cli
        .command(&[
            "exec",
            id,
            "--",
            "python3",
            "-m",
            "http.server",
            "8080",
            "--bind",
            "127.0.0.1",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("ringwall starts");
    let mut child = cli
        .command(&["port", id, "8080", "--forward", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("ringwall starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line");
    eventually("a listing", PATIENCE, || {
        let mut stream = TcpStream::connect(line.trim()).expect("it listens");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .expect("sent");
        let mut text = String::new();
        drop(stream.read_to_string(&mut text));
        text.starts_with("HTTP/1.1 200")
    });
    for child in [&mut child, &mut serving] {
        drop(child.kill());
        child.wait().expect("its end");
    }
}

#[test]
fn commands_on_the_servers_machine_need_no_certificate() {
    for user in ringwall_e2e::users() {
        let world = World::new(user);
        // For a name that this machine does not have, by an authority that nobody trusts.
        let pair = Authority::new("nobody").certify(&["*.example.test"]);
        let files = [
            place(&world, "cert", &pair.certificate),
            place(&world, "key", &pair.key),
        ]
        .map(|path| text(&path));
        let listen = format!("127.0.0.1:{}", free_port());
        let flags = [
            "serve",
            "--listen",
            &listen,
            "--pool",
            "0",
            "--tls-cert",
            &files[0],
            "--tls-key",
            &files[1],
        ];
        let mut server = world
            .command(&flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ringwall starts");
        let directory = world.path("state/.serve");
        eventually("the server", PATIENCE, || {
            directory.join("address").exists() && directory.join("api.sock").exists()
        });
        walk(|args| world.command(args), &world);
        let id = world.ringwall(&["create"]).expect(0).trim().to_owned();
        let url = world.ringwall(&["port", &id, "80"]).expect(0);
        assert!(url.starts_with(&format!("https://80-{id}.example.test:")), "{url}");
        world.ringwall(&["kill", "--all"]).expect(0);
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        assert!(server.wait().expect("its end").success());
        assert!(!directory.join("api.sock").exists() && !directory.join("address").exists());
    }
}

#[test]
fn what_fails_says_what_to_do() {
    each_user(|ground| {
        let mut cli = elsewhere(&ground);
        let ca = text(&ground.ca);
        let check = |cli: &Elsewhere, code: i32, wanted: &[&str]| {
            let outcome = cli.run(&["create"]);
            assert_eq!(outcome.code, code, "{:?}: {outcome:?}", cli.env);
            for part in wanted {
                assert!(outcome.err.contains(part), "{part}: {}", outcome.err);
            }
            assert!(outcome.err.matches("Hint: ").count() == 1, "{}", outcome.err);
        };
        let url = ground.url();
        // The authority is nobody's whom the system trusts.
        cli.set("RINGWALL_CA_FILE", "");
        check(
            &cli,
            125,
            &["can't reach https://", "not signed by an authority", "RINGWALL_CA_FILE"],
        );
        // OpenSSL's own variable does, too.
        cli.set("SSL_CERT_FILE", ca.clone());
        cli.run(&["ps"]).expect(0);
        cli.set("SSL_CERT_FILE", "");
        // Another authority.
        let other = place(&cli.world, "other.pem", &Authority::new("Ringwall tests").pem());
        cli.set("RINGWALL_CA_FILE", text(&other));
        check(&cli, 125, &["not signed by an authority"]);
        cli.set("RINGWALL_CA_FILE", ca.clone());
        cli.run(&["ps"]).expect(0);
        // The right server by a name that its certificate has not.
        cli.set("RINGWALL_URL", format!("https://[::ffff:127.0.0.1]:{}", ground.port));
        check(
            &cli,
            125,
            &["its certificate is not for this name, but for", "sandbox.localhost"],
        );
        // HTTP where TLS is spoken, and the other way round.
        cli.set("RINGWALL_URL", url.replace("https://", "http://"));
        check(&cli, 2, &["this port speaks TLS", "https://"]);
        let plain = ringwall_e2e::serve::Server::new(ground.server.user());
        let client = plain.client();
        cli.set("RINGWALL_URL", client.url().replace("http://", "https://"));
        check(&cli, 125, &["does not speak TLS", "http://"]);
        drop(plain);
        // Files of authorities that are none.
        cli.set("RINGWALL_URL", url);
        for (file, wanted) in [
            ("/no/such", "No such file"),
            ("/dev/null", "holds no certificate"),
            (text(&cli.world.path("project")).as_str(), "Is a directory"),
        ] {
            cli.set("RINGWALL_CA_FILE", file);
            check(&cli, 2, &["RINGWALL_CA_FILE: can't use", wanted]);
        }
        ground.server.assert_sound();
    });
}
