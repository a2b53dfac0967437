//! The payload for x86_64, as ELF with and without a PVH note and as bzImage. By PVH it prints P first, by the 64-bit protocol L.

use core::arch::global_asm;

/// Where it is loaded; the assembly below has it too.
const BASE: u64 = 0x20_0000;

global_asm!(
    r#"
    .section .rodata.payload, "a"
    .balign 4096
    .globl ringwall_payload_start
    .globl ringwall_payload_end
ringwall_payload_start:
    .code32                                     # PVH: EBX is hvm_start_info, paging is off
    movl $0x3f8, %edx
    cmpl $0x336ec578, (%ebx)                    # its magic
    jne 10f
    movl 32(%ebx), %esi                         # the RSDP begins with "RSD "
    cmpl $0x20445352, (%esi)
    jne 10f
    movb $'P', %al
    outb %al, %dx
    movl $(20f - ringwall_payload_start + 0x200000), %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x20, %eax                             # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx                      # EFER
    rdmsr
    orl $0x101, %eax                            # LME, SCE
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax                       # PG, PE
    movl %eax, %cr0
    lgdt (31f - ringwall_payload_start + 0x200000)
    ljmp $0x10, $(12f - ringwall_payload_start + 0x200000)
10: movb $'!', %al
    outb %al, %dx
11: hlt
    jmp 11b

    .balign 512
    .code64                                     # 64-bit protocol, entered 0x200 past the beginning: RSI is boot_params
    movl $0x3f8, %edx
    cmpl $0x53726448, 0x202(%rsi)               # "HdrS"
    jne 16f
    movq 0x70(%rsi), %rax                       # the RSDP begins with "RSD "
    cmpl $0x20445352, (%rax)
    jne 16f
    movb $'L', %al
    outb %al, %dx
12: movl $0x18, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl $0x3f8, %edx
    movb $'B', %al
    outb %al, %dx
    movb $'O', %al
    outb %al, %dx
    movb $'O', %al
    outb %al, %dx
    movb $'T', %al
    outb %al, %dx
    movb $10, %al
    outb %al, %dx
13: movl $'a', %ebx
14: movb %bl, 30f(%rip)
    movl %ebx, %eax
    xorl %edx, %edx
    movl $0xc0000082, %ecx                      # LSTAR
    wrmsr
    movl $0x3f8, %edx
    movb %bl, %al
    outb %al, %dx
    cmpb %bl, 30f(%rip)
    jne 16f
    rdmsr
    cmpl %ebx, %eax
    jne 16f
    incl %ebx
    cmpl $('z' + 1), %ebx
    jne 14b
    jmp 13b
16: movl $0x3f8, %edx
    movb $'!', %al
    outb %al, %dx
17: hlt
    jmp 17b

    .balign 8
30: .quad 0
32: .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
31: .word 31b - 32b - 1
    .long 32b - ringwall_payload_start + 0x200000
    .balign 4096
20: .quad 21f - ringwall_payload_start + 0x200003
    .fill 511, 8, 0
21: .quad 22f - ringwall_payload_start + 0x200003
    .fill 511, 8, 0
22: .quad 0x83, 0x200083, 0x400083              # 6 MiB by large pages
    .fill 509, 8, 0
ringwall_payload_end:
    .text
    "#,
    options(att_syntax)
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

/// Puts fields one after the other.
fn fields(fields: &[(u64, usize)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(value, bytes)| value.to_le_bytes().into_iter().take(*bytes))
        .collect()
}

/// An ELF file with one loaded segment, and a note that names the entry if it is to be entered by PVH.
fn elf(pvh: bool) -> Vec<u8> {
    let code = code();
    let (headers, note_bytes) = (if pvh { 2 } else { 1 }, 24);
    let note_at = 64 + headers * 56;
    let code_at = note_at + note_bytes;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let entry = BASE + 0x200;
    file.extend(fields(&[
        (2, 2),
        (62, 2),
        (1, 4),
        (entry, 8),
        (64, 8),
        (0, 8),
        (0, 4),
        (64, 2),
        (56, 2),
        (headers, 2),
        (0, 6),
    ]));
    let code_bytes = code.len() as u64;
    file.extend(fields(&[
        (1, 4),
        (7, 4),
        (code_at, 8),
        (BASE, 8),
        (BASE, 8),
        (code_bytes, 8),
        (code_bytes, 8),
        (4096, 8),
    ]));
    if pvh {
        file.extend(fields(&[
            (4, 4),
            (4, 4),
            (note_at, 8),
            (0, 8),
            (0, 8),
            (note_bytes, 8),
            (note_bytes, 8),
            (4, 8),
        ]));
    }
    file.extend(fields(&[(4, 4), (8, 4), (18, 4)]));
    file.extend(b"Xen\0");
    file.extend(BASE.to_le_bytes());
    file.extend(code);
    file
}

/// A bzImage whose setup part has one sector beside the boot sector.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]); // the jump over the header
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x211, &[1]); // LOADED_HIGH
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    put(0x236, &[1, 0]); // XLF_KERNEL_64
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(0x258, &BASE.to_le_bytes()); // pref_address
    put(0x260, &0x10_0000_u32.to_le_bytes()); // init_size
    file.extend(code());
    file
}

/// The payload by each protocol: its name, the file, and what is printed before BOOT.
pub(crate) fn kernels() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    vec![
        ("PVH", elf(true), "P"),
        ("64-bit ELF", elf(false), "L"),
        ("bzImage", bzimage(), "L"),
    ]
}
