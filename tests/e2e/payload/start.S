# A guest of a few hundred instructions: PVH entry (32 bits), long mode with 4 GiB mapped one to one, then everything else in user mode, where a
# host whose KVM emulates kernel code (PVM) is fast too. User mode asks for port I/O by `ud2` with the request in %edi: see traps.h.

        .section .note.pvh, "a", @note
        .balign 4
        .long   4, 4, 18                # XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h)
        .asciz  "Xen"
        .long   entry

        .section .text.entry, "ax"
        .code32
        .globl  entry
entry:
        cli
        movl    $stack_top, %esp
        lgdt    gdt_register
        movl    %cr4, %eax
        orl     $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $root, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        orl     $0x900, %eax            # LME, NX
        wrmsr
        movl    %cr0, %eax
        andl    $0x9fffffff, %eax       # caches on
        orl     $0x80010001, %eax       # paging, write protection, protected mode
        movl    %eax, %cr0
        ljmp    $0x08, $long_mode

        .code64
long_mode:
        movl    $0x10, %eax
        movl    %eax, %ss
        movl    %eax, %ds
        movl    %eax, %es
        movq    $stack_top, %rsp
        # A task state segment, for the stack of traps.
        movq    $task, %rax
        movq    %rsp, 4(%rax)
        movq    $task_descriptor, %rbx
        movw    $103, (%rbx)
        movw    %ax, 2(%rbx)
        shrl    $16, %eax
        movb    %al, 4(%rbx)
        movb    $0x89, 5(%rbx)
        movb    %ah, 7(%rbx)
        movl    $0x28, %eax
        ltr     %ax
        # Vectors: the one of ud2, and all others fatal.
        movq    $vectors, %rdi
        movl    $32, %ecx
3:      movl    $fatal, %eax
        movw    %ax, (%rdi)
        movw    $0x08, 2(%rdi)
        movw    $0x8e00, 4(%rdi)
        shrl    $16, %eax
        movw    %ax, 6(%rdi)
        addq    $16, %rdi
        decl    %ecx
        jnz     3b
        movl    $request, %eax
        movw    %ax, vectors + 6 * 16
        shrl    $16, %eax
        movw    %ax, vectors + 6 * 16 + 6
        lidt    vector_register
        # kvm-clock: its page is this vCPU's (MSR_KVM_SYSTEM_TIME_NEW, Documentation/virt/kvm/x86/msr.rst).
        movl    $0x4b564d01, %ecx
        movl    $clock_page + 1, %eax
        xorl    %edx, %edx
        wrmsr
        # A register that nothing here uses holds a value: it must be the same after a restore.
        movl    $0xc0000102, %ecx       # KERNEL_GS_BASE
        movl    $0x5eed0102, %eax
        movl    $0x00001234, %edx
        wrmsr
        movl    $0x176, %ecx            # SYSENTER_EIP
        movl    $0x5eed0176, %eax
        xorl    %edx, %edx
        wrmsr
        # The PICs are silent.
        movb    $0xff, %al
        outb    %al, $0x21
        outb    %al, $0xa1
        pushq   $0x23                   # user data
        pushq   $user_stack_top
        pushq   $0x2
        pushq   $0x1b                   # user code
        pushq   $user_main
        iretq

request:
        addq    $2, (%rsp)              # past the ud2
        cmpl    $1, %edi
        je      4f
        cmpl    $2, %edi
        je      5f
        cmpl    $3, %edi
        je      7f
        cmpl    $4, %edi
        je      8f
        cmpl    $5, %edi
        je      9f
        outb    %al, %dx
        iretq
4:      inb     %dx, %al
        iretq
5:      outl    %eax, %dx
        iretq
7:      movq    %rsi, %rdi
        rep     insb
        iretq
8:      movl    %edx, %ecx              # a model-specific register
        rdmsr
        shlq    $32, %rdx
        orq     %rdx, %rax
        iretq
9:      rep outsb
        iretq

fatal:
        movl    $0x3f8, %edx
        movb    $'!', %al
        outb    %al, %dx
6:      hlt
        jmp     6b

        .data
        .balign 16
gdt:    .quad   0
        .quad   0x00af9b000000ffff      # kernel code
        .quad   0x00cf93000000ffff      # kernel data
        .quad   0x00affb000000ffff      # user code
        .quad   0x00cff3000000ffff      # user data
task_descriptor:
        .quad   0, 0
gdt_register:
        .word   . - gdt - 1
        .long   gdt
        .long   0
vector_register:
        .word   32 * 16 - 1
        .quad   vectors

        # Page tables, ready-made: 2,048 pages of 2 MiB, present, writable, user, large; the devices' gigabyte is not cached (bit 4).
        .balign 4096
root:           .quad pointers + 7
                .space 4096 - 8
pointers:       .quad directories + 7, directories + 0x1007, directories + 0x2007, directories + 0x3007
                .space 4096 - 32
directories:
        .set    page, 0
        .rept   3 * 512
        .quad   0x87 + page * 0x200000
        .set    page, page + 1
        .endr
        .rept   512
        .quad   0x97 + page * 0x200000
        .set    page, page + 1
        .endr

        .bss
        .balign 16
vectors:        .space 512
task:           .space 112
        .balign 16
                .space 4096
stack_top:
                .space 16384
user_stack_top:
        .balign 4096
        .globl  clock_page
clock_page:     .space 4096
