//! What `--tls-cert` and `--tls-key` may name, and what is said of it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use ringwall_e2e::{Outcome, User, World, users};

use crate::pki::{Authority, place};

/// An encrypted key of RFC 5958's form, as openssl names it; what it holds does not matter.
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIBAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
/// The older form.
const ENCRYPTED_OLD: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMIIBAA==\n-----END RSA PRIVATE KEY-----\n";

fn serve(world: &World, flags: &[&str]) -> Outcome {
    let mut command = world.command(&["serve", "--listen", "127.0.0.1:0", "--pool", "0"]);
    Outcome::from(command.args(flags).output().expect("ringwall starts"))
}

#[test]
fn bad_files_are_refused_by_name() {
    for user in users() {
        let world = World::new(user);
        let authority = Authority::new("files");
        let (one, other) = (authority.certify(&["a.test"]), authority.certify(&["a.test"]));
        let cut = one.certificate.replace("-----END CERTIFICATE-----", "");
        let garbled = one.certificate.replacen("MII", "M!!", 1);
        for (name, content) in [
            ("cert", one.certificate.as_str()),
            ("key", &one.key),
            ("other", &other.key),
            ("both", &format!("{}{}", one.key, one.certificate)),
            ("empty", ""),
            ("words", "not a certificate\n"),
            ("cut", &cut),
            ("garbled", &garbled),
            ("der", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            (
                "badkey",
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            ),
            ("encrypted", ENCRYPTED),
            ("encrypted-old", ENCRYPTED_OLD),
        ] {
            place(&world, name, content);
        }
        let path = |name: &str| {
            if name.starts_with('/') {
                name.to_owned()
            } else {
                world.path("home").join(name).to_string_lossy().into_owned()
            }
        };
        for (certificate, key, wanted) in [
            ("missing", "key", "can't read"),
            ("cert", "missing", "No such file"),
            ("/tmp", "key", "Is a directory"),
            ("/dev/zero", "key", "longer than 1048576 bytes"),
            ("cert", "/dev/zero", "longer than 1048576 bytes"),
            ("empty", "key", "holds no certificate"),
            ("cert", "empty", "holds no private key"),
            ("words", "key", "holds no certificate"),
            ("key", "key", "holds no certificate"),
            ("cert", "cert", "holds no private key"),
            ("cut", "key", "not well-formed PEM: a section has no end"),
            ("garbled", "key", "not well-formed PEM: a section is no base64"),
            ("der", "key", "can't be used"),
            ("cert", "badkey", "can't be used"),
            ("cert", "encrypted", "is encrypted"),
            ("cert", "encrypted-old", "is encrypted"),
            ("cert", "other", "does not belong to the first certificate"),
        ] {
            let outcome = serve(&world, &["--tls-cert", &path(certificate), "--tls-key", &path(key)]);
            assert_eq!(outcome.code, 2, "{certificate} {key}: {outcome:?}");
            assert!(
                outcome.err.starts_with("Error: "),
                "{certificate} {key}: {}",
                outcome.err
            );
            assert!(
                outcome.err.contains(wanted) && outcome.err.contains("Hint: "),
                "{certificate} {key}: {}",
                outcome.err
            );
            // Nothing of a key in a message.
            assert!(!outcome.err.contains("MII"), "{}", outcome.err);
        }
        for flags in [
            &["--tls-cert", &path("cert")][..],
            &["--tls-key", &path("key")],
            &["--tls-cert"],
            &["--tls-cert", &path("cert"), "--tls-key"],
        ] {
            assert_eq!(serve(&world, flags).code, 2, "{flags:?}");
        }
        assert!(!world.path("state/.serve").exists(), "nothing was started");
    }
}

/// Starts a server, and returns what it has said on both streams by the time it is ready.
fn said(world: &World, listen: &str, flags: &[&str]) -> String {
    let mut command = world.command(&["serve", "--listen", listen, "--pool", "0"]);
    let mut child = command
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ringwall starts");
    let mut text = String::new();
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        text.push_str(&line);
        text.push('\n');
        if line.starts_with("export E2B_API_KEY=") {
            break;
        }
    }
    drop(child.kill());
    let outcome = Outcome::from(child.wait_with_output().expect("its end"));
    text + &outcome.err
}

#[test]
fn the_url_is_one_that_the_certificate_is_for() {
    let world = World::new(User::Ordinary);
    let authority = Authority::new("names");
    for (names, flags, url, domain, notes) in [
        (
            &["127.0.0.1"][..],
            &[][..],
            "https://127.0.0.1:PORT",
            "sandbox.localhost:PORT",
            &["not for *.sandbox.localhost"][..],
        ),
        (
            &["box.test", "*.box.test"],
            &[],
            "https://box.test:PORT",
            "box.test:PORT",
            &[],
        ),
        (&["*.box.test"], &[], "https://api.box.test:PORT", "box.test:PORT", &[]),
        (
            &["www.test"],
            &["--domain", "box.test"],
            "https://www.test:PORT",
            "box.test",
            &["not for *.box.test"],
        ),
        (
            &["*.box.test", "127.0.0.1"],
            &["--domain", "x.box.test:99"],
            "https://127.0.0.1:PORT",
            "x.box.test:99",
            &["not for *.x.box.test"],
        ),
        (
            &[],
            &[],
            "https://127.0.0.1:PORT",
            "sandbox.localhost:PORT",
            &["not for 127.0.0.1", "not for *.sandbox.localhost"],
        ),
    ] {
        let pair = authority.certify(names);
        let files = [
            place(&world, "cert", &pair.certificate),
            place(&world, "key", &pair.key),
        ]
        .map(|path| path.to_string_lossy().into_owned());
        let port = ringwall_e2e::serve::free_port();
        let flags = [flags, &["--tls-cert", &files[0], "--tls-key", &files[1]]].concat();
        let text = said(&world, &format!("127.0.0.1:{port}"), &flags).replace(&port.to_string(), "PORT");
        let alone = text.contains(&format!("# or, in place of both: export E2B_DOMAIN={domain}\n"));
        assert_eq!(
            alone,
            names.contains(&"*.box.test") && domain == "box.test:PORT",
            "{text}"
        );
        assert!(
            text.contains(&format!("export E2B_API_URL={url}\nexport E2B_SANDBOX_URL={url}\n")),
            "{names:?}: {text}"
        );
        assert!(text.contains(&format!("PORT-ID.{domain})")), "{names:?}: {text}");
        for note in notes {
            assert!(text.contains(note), "{names:?}: {text}");
        }
        assert_eq!(
            text.matches("the certificate is not for").count(),
            notes.len(),
            "{text}"
        );
        assert!(!text.contains("every user of this machine"), "{text}");
    }
    // A key that everybody may read is spoken of.
    let key = world.path("home/key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).expect("permissions");
    let files = [world.path("home/cert"), key].map(|path| path.to_string_lossy().into_owned());
    let text = said(
        &world,
        "127.0.0.1:0",
        &["--tls-cert", &files[0], "--tls-key", &files[1]],
    );
    assert!(
        text.contains("every user of this machine may read the private key"),
        "{text}"
    );
}
