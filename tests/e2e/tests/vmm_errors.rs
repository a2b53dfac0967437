//! What `ringwall-vmm` says of bad configurations, kernels, images and snapshots, word for word: one table for each, driven through the real
//! binary by a configuration file or the API. `{W}` is the test's directory.
#![cfg(target_arch = "x86_64")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ringwall_e2e::vmm::{MEMORY_MIB, PATIENCE, Vmm, binary, free_socket, guest, load_body};
use serde_json::{Value, json};

/// The exit code of bad arguments and configurations.
const USAGE: i32 = 2;
/// The exit code of a VMM that failed itself.
const FAILURE: i32 = 125;

/// Files to be wrong with.
struct Bench {
    binary: PathBuf,
    work: tempfile::TempDir,
    /// Runs from a file that therefore can't be written (`ETXTBSY`), whoever tries.
    running: Child,
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.running.kill());
        drop(self.running.wait());
    }
}

impl Bench {
    fn new() -> Option<Self> {
        let binary = binary()?;
        let work = tempfile::tempdir().expect("a directory");
        let at = |name: &str| work.path().join(name);
        fs::copy("/bin/sleep", at("running")).expect("copied");
        let running = Command::new(at("running")).arg("600").spawn().expect("it runs");
        let kernel = fs::read(guest()).expect("the guest");
        let patched = |offset: usize, bytes: &[u8]| {
            let mut kernel = kernel.clone();
            kernel[offset..offset + bytes.len()].copy_from_slice(bytes);
            kernel
        };
        let mut image = vec![0; 4096];
        image[56..60].copy_from_slice(b"ARM\x64");
        let mut old = vec![0; 8192];
        old[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        old[0x202..0x208].copy_from_slice(b"HdrS\x01\x02");
        for (name, bytes) in [
            ("kernel", kernel.clone()),
            ("empty", Vec::new()),
            ("cut-16", kernel[..16].to_vec()),
            ("cut-64", kernel[..64].to_vec()),
            ("cut-200", kernel[..200].to_vec()),
            // Offsets of the ELF header: e_ident's class and byte order, e_type, e_machine, e_entry.
            ("elf-32", patched(4, &[1])),
            ("elf-big", patched(5, &[2])),
            ("elf-object", patched(16, &[1])),
            ("elf-arm", patched(18, &[183])),
            ("elf-mips", patched(18, &[8])),
            ("image-arm", image),
            ("bzimage-old", old),
            ("text", b"#!/bin/sh\necho no kernel\n".repeat(100)),
            ("gzip", [&[0x1f, 0x8b, 8][..], &[0; 1000]].concat()),
            ("zstd", [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0; 1000]].concat()),
            ("disk", vec![0; 1 << 20]),
            ("half", b"{".to_vec()),
        ] {
            fs::write(at(name), bytes).expect("written");
        }
        File::create(at("large"))
            .expect("made")
            .set_len(200 << 20)
            .expect("sized");
        fs::create_dir(at("folder")).expect("made");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).expect("made");
        drop(UnixListener::bind(at("socket")).expect("bound"));
        Some(Bench { binary, work, running })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// `{W}` replaced.
    fn here(&self, text: &str) -> String {
        text.replace("{W}", self.work.path().to_str().expect("text"))
    }

    /// How it ends with this command line, and what it says but its log.
    fn run(&self, flags: &[&str]) -> (Option<i32>, String) {
        let mut child = Command::new(&self.binary)
            .args(flags.iter().map(|flag| self.here(flag)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let begun = Instant::now();
        while child.try_wait().expect("a child").is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill().expect("killed");
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut said).expect("text");
        let said = said.split_once("Error: ").map_or(said.as_str(), |(_, error)| error);
        (child.wait().expect("a child").code(), said.trim_end().to_owned())
    }

    /// What it says of a configuration, which must end it.
    #[track_caller]
    fn refused(&self, name: &str, configuration: &str) -> String {
        fs::write(self.at("configuration"), self.here(configuration)).expect("written");
        let (code, said) = self.run(&["--config-file", "{W}/configuration", "--no-api"]);
        assert_eq!(code, Some(USAGE), "{name}: {said}");
        said
    }
}

/// A configuration that boots, with some keys replaced.
fn configuration(changes: &Value) -> String {
    let mut all = json!({
        "boot-source": {"kernel_image_path": "{W}/kernel"},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 64},
        "drives": [],
    });
    for (key, value) in changes.as_object().expect("an object") {
        all[key] = value.clone();
    }
    all.to_string()
}

fn kernel(name: &str) -> Value {
    json!({"boot-source": {"kernel_image_path": format!("{{W}}/{name}")}})
}

fn initrd(name: &str) -> Value {
    json!({"boot-source": {"kernel_image_path": "{W}/kernel", "initrd_path": format!("{{W}}/{name}")}})
}

fn machine(vcpus: u64, mib: u64) -> Value {
    json!({"machine-config": {"vcpu_count": vcpus, "mem_size_mib": mib}})
}

fn drive(id: &str, name: &str, is_root: bool) -> Value {
    json!({"drive_id": id, "path_on_host": format!("{{W}}/{name}"), "is_root_device": is_root, "is_read_only": false})
}

fn drives(all: &[Value]) -> Value {
    json!({"drives": all})
}

fn vsock(path: &str, cid: u64) -> Value {
    json!({"vsock": {"guest_cid": cid, "uds_path": path}})
}

fn interface(id: &str, device: &str) -> Value {
    json!({"iface_id": id, "host_dev_name": device})
}

/// Bytes of memory of our guest's first segment (`p_memsz`, elf(5)), which is its compiler's business.
fn segment_bytes() -> u64 {
    let guest = fs::read(guest()).expect("the guest");
    let word = |at: usize| u64::from_le_bytes(guest[at..at + 8].try_into().expect("eight bytes"));
    word(usize::try_from(word(32)).expect("small") + 40)
}

#[test]
fn bad_kernels_and_images_are_named_word_for_word() {
    let Some(bench) = Bench::new() else { return };
    let magic = "the kernel can't be loaded: not a kernel for x86_64";
    let segment = segment_bytes();
    for (changes, wanted) in [
        (kernel("none"), "can't open {W}/none: No such file or directory (os error 2)".to_owned()),
        (kernel("folder"), "{W}/folder is a directory; a file or block device is needed".to_owned()),
        (kernel("pipe"), "{W}/pipe is a named pipe; a file or block device is needed".to_owned()),
        (kernel("socket"), "{W}/socket is a socket; a file or block device is needed".to_owned()),
        (
            kernel("empty"),
            "the kernel can't be loaded: the kernel is truncated: its magic would be 4 bytes at byte 0, the file has 0".to_owned(),
        ),
        (
            kernel("cut-16"),
            "the kernel can't be loaded: the kernel is truncated: its ELF header would be 64 bytes at byte 0, the file has 16".to_owned(),
        ),
        (
            kernel("cut-64"),
            "the kernel can't be loaded: the kernel is truncated: its program headers would be 112 bytes at byte 64, the file has 64"
                .to_owned(),
        ),
        (
            kernel("elf-32"),
            "the kernel can't be loaded: the kernel's e_ident is 0x10101: not 64-bit, little-endian, version 1".to_owned(),
        ),
        (
            kernel("elf-big"),
            "the kernel can't be loaded: the kernel's e_ident is 0x10202: not 64-bit, little-endian, version 1".to_owned(),
        ),
        (
            kernel("elf-object"),
            "the kernel can't be loaded: the kernel's e_type is 0x1: not an executable".to_owned(),
        ),
        (
            kernel("elf-arm"),
            "the kernel can't be loaded: the kernel's e_machine is 0xb7: of aarch64, not x86_64".to_owned(),
        ),
        (
            kernel("elf-mips"),
            "the kernel can't be loaded: the kernel's e_machine is 0x8: not x86_64".to_owned(),
        ),
        (kernel("image-arm"), format!("{magic}: an Image of aarch64")),
        (kernel("text"), format!("{magic}: neither ELF nor bzImage")),
        (kernel("gzip"), format!("{magic}: a gzip file; unpack it first")),
        (kernel("zstd"), format!("{magic}: a zstd file; unpack it first")),
        (
            kernel("bzimage-old"),
            "the kernel can't be loaded: the kernel's version is 0x201: older than 2.12 (Linux 3.8)".to_owned(),
        ),
        (
            machine(1, 1),
            "the kernel can't be loaded: the kernel's segment of {SEGMENT} bytes at 0x200000 is not in RAM between 0x100000 and its end"
                .to_owned(),
        ),
        (initrd("none"), "can't open {W}/none: No such file or directory (os error 2)".to_owned()),
        (initrd("folder"), "{W}/folder is a directory; a file or block device is needed".to_owned()),
        (initrd("empty"), "the initrd can't be loaded: the initrd is empty".to_owned()),
        (
            initrd("large"),
            "the initrd can't be loaded: no room for an initrd of 209715200 bytes between the kernel's end at {END} and 0x4000000"
                .to_owned(),
        ),
    ] {
        let name = changes.to_string();
        let wanted = bench.here(&wanted).replace("{SEGMENT}", &format!("{segment:#x}"));
        let wanted = wanted.replace("{END}", &format!("{:#x}", 0x20_0000 + segment));
        assert_eq!(bench.refused(&name, &configuration(&changes)), wanted, "{name}");
    }
    // How long the guest's segments are is its compiler's business.
    let said = bench.refused("cut-200", &configuration(&kernel("cut-200")));
    let (before, after) = said.split_once("would be").expect("the sentence");
    assert_eq!(
        before,
        "the kernel can't be loaded: the kernel is truncated: its segment "
    );
    assert!(after.ends_with("at byte 4096, the file has 200"), "{said}");
}

#[test]
fn bad_configurations_are_named_word_for_word() {
    let Some(bench) = Bench::new() else { return };
    let file = "the configuration file's";
    let long = format!("{{W}}/{}", "v".repeat(120));
    let long_bytes = bench.here(&long).len();
    let fields = "`drive_id`, `is_root_device`, `partuuid`, `cache_type`, `is_read_only`, `path_on_host`, `rate_limiter`, `io_engine`, `socket`";
    let mut extra = drive("d", "disk", false);
    extra["colour"] = json!("red");
    let mut remote = drive("d", "disk", false);
    remote["socket"] = json!("/x");
    let columns =
        |changes: &Value, end: &str| bench.here(&configuration(changes)).find(end).expect("it is there") + end.len();
    let extra = drives(&[extra]);
    let huge_pages = json!({"machine-config": {"vcpu_count": 1, "mem_size_mib": 63, "huge_pages": "2M"}});
    let template = json!({"machine-config": {"vcpu_count": 1, "mem_size_mib": 64, "cpu_template": "T2"}});
    let threads = json!({"machine-config": {"vcpu_count": 3, "mem_size_mib": 64, "smt": true}});
    let many: Vec<Value> = (0..18)
        .map(|number| drive(&format!("d{number}"), "disk", false))
        .collect();
    for (changes, wanted) in [
        (machine(0, 64), format!("{file} machine-config: vcpu_count is 0; it is 1 to 32")),
        (machine(33, 64), format!("{file} machine-config: vcpu_count is 33; it is 1 to 32")),
        (threads, format!("{file} machine-config: vcpu_count is 3; with smt it is 1 or even")),
        (machine(1, 0), format!("{file} machine-config: mem_size_mib is 0; it is 1 to 16777216")),
        (machine(1, 1 << 40), format!("{file} machine-config: mem_size_mib is 1099511627776; it is 1 to 16777216")),
        (huge_pages, format!("{file} machine-config: mem_size_mib is 63; with huge_pages 2M it is even")),
        (template, format!("{file} machine-config: cpu_template T2 is not supported; leave it out, or say None")),
        (
            json!({"boot-source": {"kernel_image_path": "{W}/kernel", "boot_args": "a".repeat(3000)}}),
            format!("{file} boot-source: boot_args has 3000 bytes; at most 2047 fit"),
        ),
        (
            json!({"boot-source": {"kernel_image_path": "{W}/kernel", "boot_args": "a\nb"}}),
            format!("{file} boot-source: boot_args has a byte 0x0a at 1; it is printable ASCII without line breaks"),
        ),
        (drives(&[drive("d", "none", false)]), "can't open {W}/none: No such file or directory (os error 2)".to_owned()),
        (drives(&[drive("d", "folder", false)]), "{W}/folder is a directory; a file or block device is needed".to_owned()),
        (drives(&[drive("d", "pipe", false)]), "{W}/pipe is a named pipe; a file or block device is needed".to_owned()),
        // Who is not root sees the same sentence with "Permission denied" for a file without the right to write.
        (drives(&[drive("d", "running", false)]), "can't open {W}/running: Text file busy (os error 26)".to_owned()),
        (drives(&[drive("d", "disk", true), drive("e", "disk", true)]), "drive d is the root device already".to_owned()),
        (drives(&[drive("d", "disk", true), drive("d", "disk", true)]), format!("{file} drives: two have the drive_id d")),
        (drives(&[drive("a/b", "disk", true)]), format!("{file} drives: drive_id: an id is 1 to 64 ASCII letters, digits and underscores")),
        (drives(&[remote]), format!("{file} drives: socket: drives by vhost-user are not supported")),
        (drives(&many), "no place for device d17: the board has 17 places".to_owned()),
        (
            extra.clone(),
            format!(
                "the configuration file isn't what it should be: unknown field `colour`, expected one of {fields} at line 1 column {}",
                columns(&extra, "\"colour\"")
            ),
        ),
        (vsock("{W}/disk", 3), "can't listen on {W}/disk for vsock: Address already in use (os error 98)".to_owned()),
        (vsock("{W}/none/v", 3), "can't listen on {W}/none/v for vsock: No such file or directory (os error 2)".to_owned()),
        (vsock(&long, 3), format!("{file} vsock: uds_path has {long_bytes} bytes; a path here has at most 96")),
        (vsock("{W}/v", 2), format!("{file} vsock: guest_cid is 2; it is 3 to 4294967294")),
        (
            json!({"network-interfaces": [interface("eth0", "lo")]}),
            "no tap device for the network interface eth0: the tap device \"lo\" can't be had (a network device of another kind has that name): \
             Invalid argument (os error 22)"
                .to_owned(),
        ),
        (
            json!({"network-interfaces": [interface("eth0", "a-name-too-long-")]}),
            format!("{file} network-interfaces: host_dev_name is 1 to 15 characters, without '/' and white space"),
        ),
        (
            json!({"network-interfaces": [interface("eth0", "t0"), interface("eth0", "t1")]}),
            format!("{file} network-interfaces: two have the iface_id eth0"),
        ),
        (
            json!({"network-interfaces": [interface("eth0", "t0"), interface("eth1", "t0")]}),
            "interface eth0 uses the host_dev_name t0 already".to_owned(),
        ),
        (
            json!({"balloon": {"amount_mib": 65, "deflate_on_oom": true}}),
            "a balloon of 65 MiB is larger than the memory of 64 MiB".to_owned(),
        ),
        (json!({"serial": {"serial_out_path": "{W}/folder"}}), "can't open the serial output {W}/folder: Is a directory (os error 21)".to_owned()),
        (json!({"metrics": {"metrics_path": "{W}/folder"}}), "can't open the metrics file {W}/folder: Is a directory (os error 21)".to_owned()),
        (json!({"logger": {"log_path": "{W}/folder"}}), "can't open the log {W}/folder: Is a directory (os error 21)".to_owned()),
        (json!({"cpu-config": "{W}/pipe"}), "the CPU template {W}/pipe is a named pipe; it must be a file".to_owned()),
    ] {
        let name = changes.to_string();
        assert_eq!(bench.refused(&name, &configuration(&changes)), bench.here(&wanted), "{name}");
    }
    // As text, since it is no JSON, or of the wrong form.
    let form = "the configuration file isn't what it should be";
    for (text, wanted) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("[]", "invalid length 0, expected an object at line 1 column 2"),
        ("{}", "missing field `boot-source` at line 1 column 2"),
        (
            r#"{"boot-source": {}}"#,
            "missing field `kernel_image_path` at line 1 column 18",
        ),
        (
            r#"{"machine-config": {"vcpu_count": -1}}"#,
            "invalid value: integer `-1`, expected u8 at line 1 column 36",
        ),
        (
            r#"{"machine-config": {"mem_size_mib": 1.5}}"#,
            "invalid type: floating point `1.5`, expected u64 at line 1 column 39",
        ),
        (
            r#"{"vsock": null, "vsock": null}"#,
            "duplicate field `vsock` at line 1 column 23",
        ),
    ] {
        assert_eq!(bench.refused(text, text), format!("{form}: {wanted}"), "{text}");
    }
}

#[test]
fn huge_pages_that_the_host_has_not_are_an_error_and_not_a_signal() {
    let Some(bench) = Bench::new() else { return };
    // Far more than a host sets aside.
    let wanted = json!({"machine-config": {"vcpu_count": 1, "mem_size_mib": 1 << 20, "huge_pages": "2M"}});
    let said = bench.refused("huge pages", &configuration(&wanted));
    let start = "no memory for the guest: there are not enough free pages of 2 MiB for ";
    assert!(said.starts_with(start), "{said}");
    assert!(
        said.contains("set more aside (/proc/sys/vm/nr_hugepages), or leave out huge_pages"),
        "{said}"
    );
}

#[test]
fn a_drive_of_no_whole_sectors_is_shown_as_far_as_it_goes_and_that_is_said() {
    let Some(bench) = Bench::new() else { return };
    let folder = bench.at("vmm");
    let mut vmm = Vmm::start(&bench.binary, &folder, &[]);
    vmm.configure(&json!({}));
    fs::write(folder.join("disk"), vec![0; 4096 + 100]).expect("written");
    vmm.put("/actions", &json!({"action_type": "InstanceStart"}));
    vmm.until("READY\n");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let said = "drive data has 4196 bytes: the last 100 are no whole sector, and the guest does not see them";
    assert!(vmm.log().contains(said), "{}", vmm.log());
}

#[test]
fn bad_command_lines_are_named_word_for_word() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.at("good"), bench.here(&configuration(&json!({})))).expect("written");
    let start = ["--config-file", "{W}/good", "--no-api"];
    let with = |more: &[&'static str]| [&start[..], more].concat();
    for (flags, wanted) in [
        (
            vec!["--config-file", "{W}/none", "--no-api"],
            "can't open the configuration {W}/none\nCaused by: No such file or directory (os error 2)",
        ),
        (
            vec!["--config-file", "{W}/folder", "--no-api"],
            "can't open the configuration {W}/folder\nCaused by: Is a directory (os error 21)",
        ),
        (
            with(&["--metadata", "{W}/none"]),
            "can't open the metadata {W}/none\nCaused by: No such file or directory (os error 2)",
        ),
        (
            with(&["--metadata", "{W}/half"]),
            "the metadata {W}/half is no JSON\nCaused by: EOF while parsing an object at line 1 column 1",
        ),
        (
            with(&["--log-path", "{W}/folder"]),
            "can't open the log {W}/folder\nCaused by: Is a directory (os error 21)",
        ),
        (
            with(&["--metrics-path", "{W}/folder"]),
            "can't open the metrics file {W}/folder\nCaused by: Is a directory (os error 21)",
        ),
        (
            vec!["--api-sock", "{W}/disk"],
            "{W}/disk exists already; is another VMM using it? Remove it if not",
        ),
        (
            vec!["--api-sock", "{W}/none/api"],
            "can't listen on {W}/none/api\nCaused by: No such file or directory (os error 2)",
        ),
        (vec!["--api-fd", "77"], "there is no descriptor 77"),
        (
            vec!["--describe-snapshot", "{W}/none"],
            "can't open the state file {W}/none\nCaused by: No such file or directory (os error 2)",
        ),
        (
            vec!["--describe-snapshot", "{W}/pipe"],
            "the state file {W}/pipe is a named pipe; it must be a file",
        ),
        (
            vec!["--describe-snapshot", "{W}/kernel"],
            "this is no state file of a snapshot",
        ),
        (
            vec!["--merge-memory", "{W}/disk", "{W}/folder"],
            "the difference {W}/folder is a directory; it must be a file",
        ),
        (
            vec!["--merge-memory", "{W}/none", "{W}/disk"],
            "can't open the memory file {W}/none\nCaused by: No such file or directory (os error 2)",
        ),
    ] {
        let name = flags.join(" ");
        assert_eq!(bench.run(&flags), (Some(USAGE), bench.here(wanted)), "{name}");
    }
}

#[test]
fn what_is_this_hosts_fault_is_told_from_what_is_the_users() {
    let Some(bench) = Bench::new() else { return };
    // Descriptors for all but the vCPUs.
    let many = bench.here(&configuration(&machine(32, 64)));
    fs::write(bench.at("many"), many).expect("written");
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 20 && exec \"$0\" --no-api --config-file \"$1\""])
        .args([&bench.binary, &bench.at("many")])
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8(output.stderr).expect("text");
    let said = said.split_once("Error: ").expect("an error").1.trim_end();
    let wanted = "KVM makes no vCPU: Too many open files (os error 24)";
    assert_eq!((output.status.code(), said), (Some(FAILURE), wanted));
    if !rustix::process::geteuid().is_root() {
        skipped("hiding /dev/kvm needs root");
        return;
    }
    fs::write(bench.at("good"), bench.here(&configuration(&json!({})))).expect("written");
    // A mount namespace of its own, where the device is another, or gone.
    let without = |how: &str| {
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg(format!(
                "{how} && exec \"$0\" --config-file {} --no-api",
                bench.at("good").display()
            ))
            .arg(&bench.binary)
            .stdin(Stdio::null())
            .output()
            .expect("unshare runs");
        let said = String::from_utf8(output.stderr).expect("text");
        let said = said.split_once("Error: ").expect("an error").1.trim_end().to_owned();
        (output.status.code(), said)
    };
    let (code, said) = without("mount -t tmpfs none /dev");
    assert_eq!(code, Some(FAILURE), "{said}");
    let none = "can't open /dev/kvm: this machine has none; virtualization may be off in its firmware, or the module kvm is not loaded";
    assert_eq!(said.lines().next(), Some(none));
}

#[test]
fn bad_requests_are_named_word_for_word_and_the_vmm_lives_on() {
    let Some(bench) = Bench::new() else { return };
    let folder = bench.at("vmm");
    let mut vmm = Vmm::start(&bench.binary, &folder, &[]);
    let body = "the body isn't what this request takes";
    let mut extra = drive("d", "disk", false);
    extra["colour"] = json!("red");
    let fields = "`drive_id`, `is_root_device`, `partuuid`, `cache_type`, `is_read_only`, `path_on_host`, `rate_limiter`, `io_engine`, `socket`";
    let column = bench.here(&extra.to_string()).find("\"colour\"").expect("it is there") + "\"colour\"".len();
    let start = json!({"action_type": "InstanceStart"});
    let refused = |vmm: &Vmm, method: &str, path: &str, request: &Value, wanted: &str| {
        let request: Value = serde_json::from_str(&bench.here(&request.to_string())).expect("JSON");
        let (status, answer) = vmm.ask(method, path, Some(&request));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let wanted = json!({"fault_message": bench.here(wanted)});
        assert_eq!((status, answer), (400, wanted), "{method} {path} {request}");
    };
    let boot = |name: &str| json!({"kernel_image_path": format!("{{W}}/{name}")});
    for (path, request, wanted) in [
        (
            "/machine-config",
            json!({"vcpu_count": 0, "mem_size_mib": 64}),
            "vcpu_count is 0; it is 1 to 32".to_owned(),
        ),
        (
            "/machine-config",
            json!({"vcpu_count": 33, "mem_size_mib": 64}),
            "vcpu_count is 33; it is 1 to 32".to_owned(),
        ),
        (
            "/machine-config",
            json!({"vcpu_count": 1, "mem_size_mib": 0}),
            "mem_size_mib is 0; it is 1 to 16777216".to_owned(),
        ),
        (
            "/machine-config",
            json!({"vcpu_count": 1}),
            format!("{body}: missing field `mem_size_mib` at line 1 column 16"),
        ),
        ("/machine-config", json!([]), "the body isn't a JSON object".to_owned()),
        (
            "/boot-source",
            boot("none"),
            "can't open {W}/none: No such file or directory (os error 2)".to_owned(),
        ),
        (
            "/boot-source",
            boot("folder"),
            "{W}/folder is a directory; a file or block device is needed".to_owned(),
        ),
        (
            "/boot-source",
            boot("pipe"),
            "{W}/pipe is a named pipe; a file or block device is needed".to_owned(),
        ),
        (
            "/boot-source",
            json!({"kernel_image_path": "{W}/kernel", "initrd_path": "{W}/socket"}),
            "{W}/socket is a socket; a file or block device is needed".to_owned(),
        ),
        (
            "/drives/d",
            drive("e", "disk", false),
            "the path is about \"d\", but the body about \"e\"".to_owned(),
        ),
        (
            "/drives/d",
            drive("d", "none", false),
            "can't open {W}/none: No such file or directory (os error 2)".to_owned(),
        ),
        (
            "/drives/d",
            drive("d", "running", false),
            "can't open {W}/running: Text file busy (os error 26)".to_owned(),
        ),
        (
            "/drives/d",
            extra,
            format!("{body}: unknown field `colour`, expected one of {fields} at line 1 column {column}"),
        ),
        (
            "/vsock",
            json!({"guest_cid": 1, "uds_path": "v"}),
            "guest_cid is 1; it is 3 to 4294967294".to_owned(),
        ),
        (
            "/balloon",
            json!({"amount_mib": 1000, "deflate_on_oom": true}),
            "a balloon of 1000 MiB is larger than the memory of 128 MiB".to_owned(),
        ),
        (
            "/actions",
            start.clone(),
            "there is no boot-source, so there is nothing to start".to_owned(),
        ),
        ("/nothing", json!({}), "there is no PUT /nothing".to_owned()),
        (
            "/snapshot/create",
            json!({"snapshot_path": "s", "mem_file_path": "s"}),
            "snapshot_path and mem_file_path are the same file".to_owned(),
        ),
        (
            "/snapshot/load",
            json!({"snapshot_path": "s", "mem_file_path": "m", "mem_backend": {"backend_type": "File", "backend_path": "m"}}),
            "exactly one of mem_backend and mem_file_path says where the memory is".to_owned(),
        ),
    ] {
        refused(&vmm, "PUT", path, &request, &wanted);
    }
    // What is only seen at the start is mended, and started again.
    vmm.configure(&json!({"vcpu_count": 1}));
    let mend = |path: &str, request: &Value| {
        let request: Value = serde_json::from_str(&bench.here(&request.to_string())).expect("JSON");
        vmm.put(path, &request);
    };
    mend("/boot-source", &boot("text"));
    let wanted = "the kernel can't be loaded: not a kernel for x86_64: neither ELF nor bzImage";
    refused(&vmm, "PUT", "/actions", &start, wanted);
    // Nothing of the attempt is left.
    assert!(!folder.join("v.sock").exists());
    mend("/boot-source", &boot("kernel"));
    mend(
        "/drives/data",
        &json!({"drive_id": "data", "path_on_host": "{W}/large", "is_root_device": false, "is_read_only": false}),
    );
    fs::remove_file(bench.at("large")).expect("removed");
    let wanted = "can't open the drive {W}/large: No such file or directory (os error 2)";
    refused(&vmm, "PUT", "/actions", &start, wanted);
    mend(
        "/drives/data",
        &json!({"drive_id": "data", "path_on_host": "{W}/disk", "is_root_device": false, "is_read_only": false}),
    );
    vmm.put("/actions", &start);
    vmm.until("READY\n");
    assert_eq!(vmm.tell(b'b'), "block: ok");
    let wanted = "the drive {W}/pipe is a named pipe; it must be a file or a block device";
    let unmet = "{W}/pipe is a named pipe; a file or block device is needed";
    let update = json!({"drive_id": "data", "path_on_host": "{W}/pipe"});
    let update: Value = serde_json::from_str(&bench.here(&update.to_string())).expect("JSON");
    let (status, said) = vmm.ask("PATCH", "/drives/data", Some(&update));
    assert_eq!(status, 400, "{said}");
    assert!(
        said.contains(&bench.here(wanted)) || said.contains(&bench.here(unmet)),
        "{said}"
    );
    assert_eq!(vmm.tell(b'b'), "block: ok");
}

#[test]
fn a_tap_that_this_user_may_not_have_is_named_word_for_word() {
    let Some(bench) = Bench::new() else { return };
    let changes = json!({"network-interfaces": [interface("eth0", "rw-no-such-tap")]});
    fs::write(bench.at("configuration"), bench.here(&configuration(&changes))).expect("written");
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--inh-caps=-net_admin", "--bounding-set=-net_admin"])
            .arg(&bench.binary);
        command
    } else {
        Command::new(&bench.binary)
    };
    let output = command
        .args(["--no-api", "--config-file"])
        .arg(bench.at("configuration"))
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8(output.stderr).expect("text");
    if said.contains("/dev/net/tun can't be opened") {
        return skipped("there is no /dev/net/tun for this user");
    }
    let wanted = "no tap device for the network interface eth0: the tap device \"rw-no-such-tap\" can't be had (it belongs to another user; or \
                  there is none, and this user may not make one): Operation not permitted (os error 1)";
    assert_eq!(said.split_once("Error: ").expect("an error").1.trim_end(), wanted);
    assert_eq!(output.status.code(), Some(USAGE));
}

/// A state file with another document, as who writes one would.
fn encoded(document: &Value) -> Vec<u8> {
    let body = document.to_string();
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum is needed");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(body.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("it ends");
    let hash = String::from_utf8(output.stdout).expect("text");
    let hash = hash.split(' ').next().expect("a hash");
    format!("ringwall-vm-snapshot 1 {} {hash}\n{body}", body.len()).into_bytes()
}

/// Asks a VMM to load a snapshot, and says why it does not; it lives on.
#[track_caller]
fn load_refused(vmm: &mut Vmm, from: &Path, name: &str) -> String {
    let (status, body) = vmm.ask("PUT", "/snapshot/load", Some(&load_body(from, true)));
    assert_eq!(status, 400, "{name}: {body}");
    assert!(vmm.child.try_wait().expect("a child").is_none(), "{name}: it has ended");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    body["fault_message"].as_str().expect("a message").to_owned()
}

/// A snapshot of a booted guest in `work/kept`, and its document. The guest's disk and socket are in `work/first`.
fn snapshot(binary: &Path, work: &Path) -> (Vec<u8>, Value) {
    let first = work.join("first");
    let vmm = Vmm::boot(binary, &first, &json!({"vcpu_count": 1}));
    vmm.pause();
    vmm.snapshot("Full", &work.join("kept"));
    drop(vmm);
    free_socket(&first);
    let state = fs::read(work.join("kept/state")).expect("there");
    let line = state.iter().position(|&byte| byte == b'\n').expect("a line");
    let document = serde_json::from_slice(&state[line + 1..]).expect("JSON");
    (state, document)
}

#[test]
fn a_state_file_that_is_cut_or_has_a_flipped_bit_is_refused_wherever_that_is() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (good, _) = snapshot(&binary, work.path());
    let (bad, kept) = (work.path().join("bad"), work.path().join("kept"));
    fs::create_dir(&bad).expect("made");
    fs::hard_link(kept.join("memory"), bad.join("memory")).expect("linked");
    let mut vmm = Vmm::start(&binary, &work.path().join("vmm"), &[]);
    let body = good.iter().position(|&byte| byte == b'\n').expect("a line") + 1;
    let whole = good.len() - body;
    for length in [
        0,
        1,
        19,
        20,
        22,
        body - 2,
        body - 1,
        body,
        body + 1,
        body + whole / 2,
        good.len() - 1,
    ] {
        fs::write(bad.join("state"), &good[..length]).expect("written");
        let wanted = match length.checked_sub(body) {
            None => "this is no state file of a snapshot".to_owned(),
            Some(found) => format!("the state file is cut off: {found} of {whole} bytes"),
        };
        let name = format!("{length} bytes");
        assert_eq!(load_refused(&mut vmm, &bad, &name), wanted, "{name}");
    }
    let words: Vec<usize> = (0..body).filter(|&at| good[at] == b' ').collect();
    let [magic, version, bytes] = words[..] else {
        panic!("{words:?}")
    };
    let in_body = (0..24).map(|part| body + whole * part / 24);
    for at in (0..body)
        .step_by(3)
        .chain([magic + 1, version + 1, body - 1, good.len() - 1])
        .chain(in_body)
    {
        let bit = at % 8;
        let mut flipped = good.clone();
        flipped[at] ^= 1 << bit;
        fs::write(bad.join("state"), &flipped).expect("written");
        let name = format!("bit {bit} of byte {at}");
        let said = load_refused(&mut vmm, &bad, &name);
        let mut allowed = vec!["this is no state file of a snapshot"];
        if at >= body || at > bytes {
            // Of the hash or of the document; a flipped line end moves the hash.
            allowed.push("the state file is damaged: its hash does not fit");
        }
        let is_number = |text: &str, before: &str, after: &str| text.starts_with(before) && text.ends_with(after);
        let is_told = allowed.contains(&said.as_str())
            || (magic..=version).contains(&at)
                && is_number(&said, "the state file has version ", ", this program reads 1")
            || (version..=bytes).contains(&at)
                && (said == "the state file is damaged: its hash does not fit"
                    || is_number(&said, "the state file is cut off: ", " bytes")
                    || is_number(&said, "the state file says it has ", " bytes, more than any has"));
        assert!(is_told, "{name}: {said}");
        if at >= body {
            assert_eq!(said, "the state file is damaged: its hash does not fit", "{name}");
        }
    }
    // And the one that was not touched is taken, by the same VMM.
    vmm.put("/snapshot/load", &load_body(&kept, true));
}

#[test]
fn snapshots_of_other_hosts_and_machines_are_refused_word_for_word() {
    let Some(binary) = binary() else { return };
    let work = tempfile::tempdir().expect("a directory");
    let (good, document) = snapshot(&binary, work.path());
    let (bad, kept, first) = (
        work.path().join("bad"),
        work.path().join("kept"),
        work.path().join("first"),
    );
    fs::create_dir(&bad).expect("made");
    let here = "the snapshot can't be restored here";
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut other = document.clone();
        change(&mut other);
        encoded(&other)
    };
    let fact = |wanted: &str| {
        let facts = document["fingerprint"]["facts"].as_array().expect("facts");
        let (at, fact) = facts
            .iter()
            .enumerate()
            .find(|(_, fact)| fact["rule"] == wanted && fact["value"] != 0)
            .expect("a fact");
        let (name, value) = (
            fact["name"].as_str().expect("a name"),
            fact["value"].as_u64().expect("a value"),
        );
        (at, name.to_owned(), value)
    };
    let (same, same_name, same_value) = fact("Same");
    let (bits, bits_name, bits_value) = fact("Bits");
    let (least, least_name, least_value) = fact("AtLeast");
    let missing_bit = 1_u64 << (!bits_value).trailing_zeros();
    let memory = MEMORY_MIB << 20;
    let newer = String::from_utf8_lossy(&good).replacen("snapshot 2 ", "snapshot 3 ", 1);
    // Registers as another architecture has them, which this one can't read.
    let arm = changed(&|other| {
        other["fingerprint"] = json!({"architecture": "aarch64", "facts": [], "gic": "V3", "its": true});
        other["vcpus"] = json!([{"registers": []}]);
        other["platform"] = json!({"gic": {}});
    });
    let table = [
        (
            "newer",
            newer.into_bytes(),
            "the state file has version 3, this program reads 1 to 2".to_owned(),
        ),
        (
            "swapped",
            b"\0".repeat(4096),
            "this is no state file of a snapshot".to_owned(),
        ),
        (
            "arm",
            arm.clone(),
            format!("{here}: the snapshot is of aarch64, this host is x86_64"),
        ),
        (
            "gic",
            changed(&|other| other["fingerprint"]["gic"] = json!("V2")),
            format!("{here}: the snapshot's interrupt controller is GICv2, this host's none"),
        ),
        (
            "another value",
            changed(&|other| other["fingerprint"]["facts"][same]["value"] = json!(same_value ^ 1)),
            format!(
                "{here}: {same_name} is {:#x} in the snapshot and {same_value:#x} on this host",
                same_value ^ 1
            ),
        ),
        (
            "a feature that is not here",
            changed(&|other| other["fingerprint"]["facts"][bits]["value"] = json!(bits_value | missing_bit)),
            format!("{here}: this host lacks bits {missing_bit:#x} of {bits_name}"),
        ),
        (
            "more than is here",
            changed(&|other| other["fingerprint"]["facts"][least]["value"] = json!(least_value + 1)),
            format!(
                "{here}: {least_name} is {} in the snapshot, more than the {least_value} of this host",
                least_value + 1
            ),
        ),
        (
            "an unknown feature",
            changed(&|other| other["fingerprint"]["facts"][bits]["name"] = json!("x\n")),
            format!("{here}: this host lacks x\\n ({bits_value:#x} in the snapshot)"),
        ),
        (
            "another machine",
            changed(&|other| other["options"]["vcpus"] = json!(2)),
            "the snapshot's configuration is of another machine than its state".to_owned(),
        ),
        (
            "no vCPU",
            changed(&|other| other["vcpus"] = json!([])),
            format!(
                "the snapshot is of a VM with 0 of 1 vCPUs, this one was prepared with 1 vCPUs and {memory} bytes of memory"
            ),
        ),
        (
            "a device less",
            changed(&|other| drop(other["devices"].as_array_mut().expect("a list").pop())),
            "the snapshot has the device None where Some(\"balloon\") was expected".to_owned(),
        ),
    ];
    let mut vmm = Vmm::start(&binary, &work.path().join("vmm"), &[]);
    fs::hard_link(kept.join("memory"), bad.join("memory")).expect("linked");
    for (name, state, wanted) in table {
        fs::write(bad.join("state"), state).expect("written");
        assert_eq!(load_refused(&mut vmm, &bad, name), wanted, "{name}");
        assert!(!first.join("v.sock").exists(), "{name}: the vsock socket is left");
    }
    // What it is can be told all the same.
    fs::write(bad.join("state"), arm).expect("written");
    let described = Command::new(&binary)
        .arg("--describe-snapshot")
        .arg(bad.join("state"))
        .output();
    assert_eq!(
        String::from_utf8_lossy(&described.expect("it runs").stdout),
        "v2: of aarch64\n"
    );

    let place = |name: &str| bad.join(name).display().to_string();
    fs::write(bad.join("state"), &good).expect("written");
    for (length, wanted) in [
        (
            None,
            format!(
                "can't open the memory file {}: No such file or directory (os error 2)",
                place("memory")
            ),
        ),
        (
            Some(0),
            format!("the memory can't be restored: the memory file has 0 bytes, the VM {memory}"),
        ),
        (
            Some(memory - 4096),
            format!(
                "the memory can't be restored: the memory file has {} bytes, the VM {memory}",
                memory - 4096
            ),
        ),
        (
            Some(memory + 4096),
            format!(
                "the memory can't be restored: the memory file has {} bytes, the VM {memory}",
                memory + 4096
            ),
        ),
    ] {
        fs::remove_file(bad.join("memory")).ok();
        if let Some(length) = length {
            File::create(bad.join("memory"))
                .expect("made")
                .set_len(length)
                .expect("sized");
        }
        assert_eq!(load_refused(&mut vmm, &bad, "memory"), wanted);
    }
    fs::remove_file(bad.join("memory")).expect("removed");
    fs::create_dir(bad.join("memory")).expect("made");
    let wanted = format!("the memory file {} is a directory; it must be a file", place("memory"));
    assert_eq!(load_refused(&mut vmm, &bad, "a directory"), wanted);
    fs::remove_file(bad.join("state")).expect("removed");
    rustix::fs::mkfifoat(rustix::fs::CWD, bad.join("state"), rustix::fs::Mode::RWXU).expect("made");
    let wanted = format!("the state file {} is a named pipe; it must be a file", place("state"));
    assert_eq!(load_refused(&mut vmm, &bad, "a pipe"), wanted);
    // The snapshot's own drive is gone, or something else; and its socket is taken.
    let disk = first.join("disk");
    fs::remove_file(&disk).expect("removed");
    let wanted = format!(
        "can't open the drive {}: No such file or directory (os error 2)",
        disk.display()
    );
    assert_eq!(load_refused(&mut vmm, &kept, "no drive"), wanted);
    fs::create_dir(&disk).expect("made");
    let wanted = format!(
        "the drive {} is a directory; it must be a file or a block device",
        disk.display()
    );
    assert_eq!(load_refused(&mut vmm, &kept, "no drive"), wanted);
    fs::remove_dir(&disk).expect("removed");
    File::create(&disk).expect("made").set_len(16 << 20).expect("sized");
    let socket = first.join("v.sock");
    File::create(&socket).expect("made");
    let wanted = format!(
        "can't listen on {} for vsock: Address already in use (os error 98)",
        socket.display()
    );
    assert_eq!(load_refused(&mut vmm, &kept, "a taken socket"), wanted);
    assert!(socket.exists(), "what others have there was removed");
    // After all of that it is the VMM that it was.
    free_socket(&first);
    vmm.put("/snapshot/load", &load_body(&kept, true));
    assert!(vmm.tell(b's').starts_with("sum: "));
}

#[expect(
    clippy::print_stdout,
    reason = "a skipped test must be seen, and stdout is where tests report"
)]
fn skipped(why: &str) {
    println!("SKIPPED: {why}");
}
