//! Snapshots that somebody made up: the hash fits, what is under it does not. Each is loaded or refused; the VMM neither panics nor hangs, and a
//! refusal leaves it ready for a good one.
#![cfg(target_arch = "x86_64")]

use std::fs;
use std::path::Path;

use ringwall_e2e::vmm::{Vmm, binary, free_socket, load_body};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Changes tried. Each is a VM of its own where it is accepted.
const ROUNDS: u64 = 150;

/// A generator that is the same on every run (the multiplier and increment of Knuth's MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound.max(1)
    }
}

/// All places of a document, as pointers (RFC 6901).
fn places(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(field, &format!("{at}/{name}"), into);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), into);
            }
        }
        _ => {}
    }
    if !at.is_empty() {
        into.push(at.to_owned());
    }
}

/// Something else than what is there.
fn instead(old: &Value, numbers: &mut Numbers) -> Value {
    let choice = numbers.below(8);
    match (old, choice) {
        (_, 0) => Value::Null,
        (Value::Array(items), 1 | 2) => {
            let mut items = items.clone();
            items.extend(items.clone());
            Value::Array(items)
        }
        (Value::Array(items), 3 | 4) => Value::Array(items[..items.len() / 2].to_vec()),
        (Value::String(text), 1..=5) if !text.is_empty() => {
            let at = numbers.below(text.len());
            let with = char::from(b"0f9aZ"[choice - 1]);
            Value::String(
                text.char_indices()
                    .map(|(index, letter)| if index == at { with } else { letter })
                    .collect(),
            )
        }
        (Value::Bool(old), 1..=6) => Value::Bool(!old),
        (_, 1) => json!(u64::MAX),
        (_, 2) => json!(0),
        (_, 3) => json!(-1),
        (_, 4) => json!(1_u64 << numbers.below(64)),
        (_, 5) => json!(u64::try_from(numbers.below(70_000)).expect("small")),
        (_, 6) => json!([]),
        _ => json!("?"),
    }
}

fn write(version: &str, document: &Value, to: &Path) {
    let body = document.to_string();
    let hash: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = format!("ringwall-vm-snapshot {version} {} {hash}\n{body}", body.len());
    fs::write(to.join("state"), file).expect("written");
}

#[test]
fn a_made_up_snapshot_is_loaded_or_refused_and_nothing_else() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let first = work.path().join("first");
    let mut vmm = Vmm::boot(&binary, &first, &json!({"vcpu_count": 1}));
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let sum = vmm.tell(b's');
    let kept = work.path().join("kept");
    vmm.pause();
    vmm.snapshot("Full", &kept);
    drop(vmm);
    let state = fs::read_to_string(kept.join("state")).expect("text");
    let (head, document) = state.split_once('\n').expect("a head");
    let version = head.split(' ').nth(1).expect("a version");
    let document: Value = serde_json::from_str(document).expect("JSON");
    let mut known = Vec::new();
    places(&document, "", &mut known);

    let mut numbers = Numbers(4);
    let (mut loaded, mut refused) = (0, 0);
    let mut vmm: Option<Vmm> = None;
    for round in 0..ROUNDS {
        let mut changed = document.clone();
        let mut what = String::new();
        for _ in 0..=numbers.below(2) {
            let place = &known[numbers.below(known.len())];
            // An earlier change may have taken it away.
            let Some(value) = changed.pointer_mut(place) else {
                continue;
            };
            let new = instead(value, &mut numbers);
            what.push_str(&format!("{place}: {value} -> {new}\n"));
            *value = new;
        }
        write(version, &changed, &kept);
        let mut this = vmm
            .take()
            .unwrap_or_else(|| Vmm::start(&binary, &work.path().join(format!("vm{round}")), &[]));
        let (status, body) = this.ask("PUT", "/snapshot/load", Some(&load_body(&kept, true)));
        free_socket(&first);
        assert!(!this.log().contains("panicked"), "round {round}: {what}{}", this.log());
        if status == 204 {
            loaded += 1;
            // The guest may do anything now, also end; the VMM ends by itself or still answers.
            if this.child.try_wait().expect("a child").is_none() {
                this.key(b's');
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            if let Some(status) = this.child.try_wait().expect("a child") {
                assert!(
                    matches!(status.code(), Some(0 | 3 | 4 | 125)),
                    "round {round}: {status}: {what}{}",
                    this.log()
                );
            } else {
                assert_eq!(this.ask("GET", "/", None).0, 200, "round {round}: {what}");
            }
            continue;
        }
        refused += 1;
        assert_eq!(status, 400, "round {round}: {body} after {what}");
        assert!(
            body.contains("fault_message") && body.len() > 30,
            "round {round}: {body}"
        );
        assert!(
            this.child.try_wait().expect("a child").is_none(),
            "round {round}: it has ended after {what}{}",
            this.log()
        );
        vmm = Some(this);
    }
    assert!(loaded > 5 && refused > 20, "{loaded} loaded, {refused} refused");
    // After all that, a good one.
    write(version, &document, &kept);
    let mut last = vmm
        .take()
        .unwrap_or_else(|| Vmm::start(&binary, &work.path().join("last"), &[]));
    last.put("/snapshot/load", &load_body(&kept, true));
    assert_eq!(last.tell(b's'), sum);
}
