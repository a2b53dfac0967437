//! The payload for aarch64: an Image, plain and compressed.

use core::arch::global_asm;
use std::io::Write;

global_asm!(
    r#"
    .section .rodata.payload, "a"
    .balign 4096
    .globl ringwall_payload_start
    .globl ringwall_payload_end
ringwall_payload_start:
    b 1f                                        // the header (Documentation/arch/arm64/booting.rst)
    nop
    .quad 0                                     // text_offset
    .quad ringwall_payload_end - ringwall_payload_start
    .quad 0xa                                   // little-endian, 4 KiB pages, anywhere
    .quad 0, 0, 0
    .ascii "ARM\x64"
    .long 0
1:  mov x20, #0x09000000                        // the serial port
    ldr w1, [x0]                                // the device tree begins with 0xd00dfeed, big-endian
    rev w1, w1
    movz w2, #0xfeed
    movk w2, #0xd00d, lsl #16
    cmp w1, w2
    b.ne 4f
    mov w1, #'B'
    strb w1, [x20]
    mov w1, #'O'
    strb w1, [x20]
    mov w1, #'O'
    strb w1, [x20]
    mov w1, #'T'
    strb w1, [x20]
    mov w1, #10
    strb w1, [x20]
    adr x21, 6f
2:  mov x19, #'a'
3:  strb w19, [x21]
    msr tpidr_el1, x19
    strb w19, [x20]
    ldrb w1, [x21]
    cmp w1, w19
    b.ne 4f
    mrs x1, tpidr_el1
    cmp x1, x19
    b.ne 4f
    add x19, x19, #1
    cmp x19, #('z' + 1)
    b.ne 3b
    b 2b
4:  mov w1, #'!'
    strb w1, [x20]
5:  wfi
    b 5b
    .balign 8
6:  .quad 0
ringwall_payload_end:
    .text
    "#
);

unsafe extern "C" {
    static ringwall_payload_start: u8;
    static ringwall_payload_end: u8;
}

fn code() -> Vec<u8> {
    let (start, end) = (&raw const ringwall_payload_start, &raw const ringwall_payload_end);
    let bytes = end as usize - start as usize;
    // SAFETY: the assembly above has these labels around one run of read-only bytes.
    unsafe { std::slice::from_raw_parts(start, bytes) }.to_vec()
}

/// The payload in each format: its name, the file, and what is printed before BOOT.
pub(crate) fn kernels() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&code()).unwrap();
    vec![("Image", code(), ""), ("Image.gz", gzip.finish().unwrap(), "")]
}
