//! The tree is read back by a parser of our own (Devicetree Specification 0.4, §5).

use std::collections::BTreeMap;
use std::io::Cursor;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::aarch64::boot_tables::write_boot_tables;
use crate::aarch64::kernel::LoadedKernel;
use crate::aarch64::layout::{ram_regions, virtio_mmio};
use crate::anonymous_ram;

fn gic(version: GicVersion) -> GicDescription {
    let its = (version == GicVersion::V3).then_some(0x0808_0000..0x080a_0000);
    GicDescription {
        version,
        distributor: 0x0800_0000..0x0801_0000,
        processors: 0x080a_0000..0x080e_0000,
        its,
    }
}

fn board<'a>(version: GicVersion, virtio: &'a [MmioSlot]) -> Board<'a> {
    Board {
        vcpus: 3,
        ram_bytes: 64 << 20,
        command_line: "console=ttyS0 quiet",
        initrd: Some(0x8100_0000..0x8100_1234),
        virtio,
        gic: Some(gic(version)),
        serial: true,
        keyboard: false,
        vmgenid: true,
        performance_monitor: true,
        rng_seed: &[9; 40],
    }
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Every property by its path.
fn parse(tree: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(be_u32(tree, 0), 0xd00d_feed);
    assert_eq!(be_u32(tree, 4) as usize, tree.len());
    let (mut at, strings) = (be_u32(tree, 8) as usize, be_u32(tree, 12) as usize);
    let string = |at: usize| String::from_utf8(tree[at..].split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap();
    let (mut path, mut properties) = (Vec::new(), BTreeMap::new());
    loop {
        let token = be_u32(tree, at);
        at += 4;
        match token {
            1 => {
                let name = string(at);
                at += (name.len() + 1).next_multiple_of(4);
                path.push(name);
            }
            2 => drop(path.pop()),
            3 => {
                let bytes = be_u32(tree, at) as usize;
                let name = string(strings + be_u32(tree, at + 4) as usize);
                let value = tree[at + 8..at + 8 + bytes].to_vec();
                assert!(
                    properties.insert(format!("{}/{name}", path.join("/")), value).is_none(),
                    "{path:?} {name}"
                );
                at += 8 + bytes.next_multiple_of(4);
            }
            9 => return properties,
            token => assert_eq!(token, 4),
        }
    }
}

fn cells(bytes: &[u8]) -> Vec<u32> {
    (0..bytes.len() / 4).map(|index| be_u32(bytes, index * 4)).collect()
}

#[test]
fn everything_on_the_board_is_in_the_tree() {
    let virtio: Vec<_> = (0..32).filter_map(virtio_mmio).collect();
    let tree = parse(&device_tree(&board(GicVersion::V3, &virtio)).unwrap());
    let text = |path: &str| String::from_utf8(tree[path].clone()).unwrap();
    let numbers = |path: &str| cells(&tree[path]);

    assert_eq!(text("/chosen/bootargs"), "console=ttyS0 quiet\0");
    assert_eq!(text("/chosen/stdout-path"), "/serial@9000000\0");
    assert_eq!(numbers("/chosen/linux,initrd-start"), [0, 0x8100_0000]);
    assert_eq!(numbers("/chosen/linux,initrd-end"), [0, 0x8100_1234]);
    assert_eq!(
        (tree["/chosen/kaslr-seed"].len(), tree["/chosen/rng-seed"].len()),
        (8, 32)
    );
    assert_eq!(numbers("/memory@80200000/reg"), [0, 0x8020_0000, 0, (62 << 20)]);
    assert_eq!(numbers("/cpus/cpu@2/reg"), [0, 2]);
    assert_eq!(text("/cpus/cpu@0/enable-method"), "psci\0");
    assert!(!tree.contains_key("/cpus/cpu@3/reg"));
    assert_eq!(text("/interrupt-controller@8000000/compatible"), "arm,gic-v3\0");
    assert_eq!(
        numbers("/interrupt-controller@8000000/reg"),
        [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0x4_0000]
    );
    assert_eq!(
        numbers("/interrupt-controller@8000000/msi-controller@8080000/reg"),
        [0, 0x0808_0000, 0, 0x2_0000]
    );
    assert_eq!(numbers("/timer/interrupts"), [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
    assert_eq!(numbers("/pmu/interrupts"), [1, 7, 4]);
    assert_eq!(text("/psci/compatible"), "arm,psci-1.0\0arm,psci-0.2\0");
    assert_eq!(numbers("/serial@9000000/interrupts"), [0, 0, 1]);
    assert_eq!(text("/rtc@9010000/compatible"), "arm,pl031\0arm,primecell\0");
    assert_eq!(numbers("/rtc@9010000/clocks"), numbers("/apb-pclk/phandle"));
    assert_eq!(numbers("/vmgenid@80000000/reg"), [0, 0x8000_0000, 0, 0x1000]);
    for slot in &virtio {
        let node = format!("/virtio_mmio@{:x}", slot.base);
        assert_eq!(
            numbers(&format!("{node}/reg")),
            [0, u32::try_from(slot.base).unwrap(), 0, 0x1000]
        );
        assert_eq!(numbers(&format!("{node}/interrupts")), [0, slot.gsi, 1]);
        assert!(tree[&format!("{node}/dma-coherent")].is_empty());
    }
}

#[test]
fn a_gicv2_board_says_which_cpus_a_line_goes_to() {
    let tree = parse(&device_tree(&board(GicVersion::V2, &[])).unwrap());
    assert_eq!(
        tree["/interrupt-controller@8000000/compatible"],
        b"arm,cortex-a15-gic\0"
    );
    assert_eq!(cells(&tree["/pmu/interrupts"]), [1, 7, 0x704]);
    assert!(!tree.keys().any(|path| path.contains("msi-controller")));
}

#[test]
fn what_is_not_there_is_not_told() {
    let bare = Board {
        initrd: None,
        serial: false,
        vmgenid: false,
        performance_monitor: false,
        rng_seed: &[],
        ..board(GicVersion::V2, &[])
    };
    let tree = parse(&device_tree(&bare).unwrap());
    for absent in ["serial", "vmgenid", "pmu", "initrd", "seed", "stdout", "virtio"] {
        assert!(!tree.keys().any(|path| path.contains(absent)), "{absent}");
    }
}

#[test]
fn the_tree_is_in_memory_where_the_boot_registers_say() {
    let ram = anonymous_ram(&ram_regions(64 << 20)).unwrap();
    let kernel = LoadedKernel {
        entry: 0x8020_0000,
        start: 0x8020_0000,
        end: 0x8080_0000,
    };
    let boot = write_boot_tables(&ram, &board(GicVersion::V3, &[]), &kernel).unwrap();
    let [_, (_, entry), (_, address)] = boot.registers();
    assert_eq!((entry, address), (0x8020_0000, 0x83e0_0000));
    assert_eq!(
        ram.read_obj::<[u8; 4]>(GuestAddress(address)).unwrap(),
        [0xd0, 0x0d, 0xfe, 0xed]
    );
}

#[test]
fn what_is_wrong_with_a_board_is_said() {
    let ram = anonymous_ram(&ram_regions(64 << 20)).unwrap();
    let kernel = LoadedKernel {
        entry: 0x8020_0000,
        start: 0x8020_0000,
        end: 0x8080_0000,
    };
    let good = || board(GicVersion::V3, &[]);
    let long = "x".repeat(2048);
    let table: Vec<(Board<'_>, &str)> = vec![
        (Board { vcpus: 0, ..good() }, "0 vCPUs are not between 1 and 32"),
        (Board { vcpus: 33, ..good() }, "33 vCPUs are not between 1 and 32"),
        (
            Board {
                command_line: &long,
                ..good()
            },
            "the kernel's command line has 2048 bytes, more than 2047",
        ),
        (
            Board {
                command_line: "a\0b",
                ..good()
            },
            "the kernel's command line has a zero byte",
        ),
        (Board { gic: None, ..good() }, "the board has no interrupt controller"),
        (
            Board {
                initrd: Some(0x8000_0000..0x8000_1000),
                ..good()
            },
            "the initrd at 0x80000000..0x80001000 is not above the kernel, which ends at 0x80800000, and within RAM",
        ),
        (
            Board {
                initrd: Some(0x83df_f000..0x83e0_0001),
                ..good()
            },
            "the initrd at 0x83dff000..0x83e00001 is not above the kernel, which ends at 0x80800000, and within RAM",
        ),
        (
            Board {
                ram_bytes: 8 << 20,
                initrd: None,
                ..good()
            },
            "no room for the device tree in RAM of 8388608 bytes beside the kernel, which ends at 0x80800000",
        ),
    ];
    for (board, message) in table {
        assert_eq!(
            write_boot_tables(&ram, &board, &kernel).unwrap_err().to_string(),
            message
        );
    }
    let mut empty = Cursor::new([]);
    assert!(crate::aarch64::load_kernel(&ram, &mut empty, 0).is_err());
}
