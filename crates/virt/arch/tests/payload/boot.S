# A guest that shows that it runs: a PVH kernel that prints K in 32-bit mode, turns long mode on, prints BOOT and a newline, and then
# prints the letters a to z for ever, each from a register and checked against a copy in memory and one in an SSE-free MSR (LSTAR).
# '!' means that the copies differ.

    .section .note.pvh, "a", @note
    .align 4
    .long 4, 8, 18                  # name, description, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad entry32

    .section .text.start, "ax"
    .code32
    .globl entry32
entry32:
    mov %ebx, start_info
    mov $0x3f8, %edx
    mov $'K', %al
    out %al, %dx
    cmpl $0x336ec578, (%ebx)        # XEN_HVM_START_MAGIC_VALUE
    jne wrong
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax                  # PAE
    mov %eax, %cr4
    mov $0xc0000080, %ecx           # EFER
    rdmsr
    or $0x101, %eax                 # LME, SCE
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax            # PG, PE
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $0x8, $entry64
wrong:
    mov $'!', %al
    out %al, %dx
1:  hlt
    jmp 1b

    .code64
    .globl entry64
entry64:
    mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov $stack_top, %rsp
    mov $0x3f8, %edx
    mov $'B', %al
    out %al, %dx
    mov $'O', %al
    out %al, %dx
    mov $'O', %al
    out %al, %dx
    mov $'T', %al
    out %al, %dx
    mov $'\n', %al
    out %al, %dx
    mov $'a', %ebx
next:
    mov %bl, letter
    xor %edx, %edx
    mov %ebx, %eax
    mov $0xc0000082, %ecx           # LSTAR
    wrmsr
    mov $0x3f8, %edx
    mov %bl, %al
    out %al, %dx
    cmp %bl, letter
    jne different
    mov $0xc0000082, %ecx
    rdmsr
    cmp %ebx, %eax
    jne different
    inc %ebx
    cmp $('z' + 1), %ebx
    jne next
    mov $'a', %ebx
    jmp next
different:
    mov $0x3f8, %edx
    mov $'!', %al
    out %al, %dx
2:  hlt
    jmp 2b

    .data
    .align 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt, 0
start_info:
    .long 0
letter:
    .byte 0
    .align 4096
pml4:
    .quad pdpt + 3
    .fill 511, 8, 0
pdpt:
    .quad pd + 3
    .fill 511, 8, 0
pd:                                 # 4 MiB from 0 by 2 MiB pages
    .quad 0x83, 0x200083, 0x400083
    .fill 509, 8, 0
    .bss
    .align 16
    .space 4096
stack_top:
