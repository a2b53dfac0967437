/* The floor of `cargo xtask bench vmm`: KVM's calls and nothing else, so what they cost on this host is known in the same run.
 *
 *   floor boot GUEST             makes a VM of 128 MiB and one vCPU, and boots GUEST (an ELF file with a 32-bit entry)
 *   floor save GUEST MEM STATE   boots it until it waits for input after READY, and writes memory and registers
 *   floor load MEM STATE         maps the memory privately, sets the registers and types a key
 *
 * Boot and load go on until they are killed. The guest's serial port goes to standard output. With FLOOR_TIMES set, the microseconds of each step go to standard error. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MEMORY (128ul << 20)
#define SERIAL 0x3f8
/* Line status (16550): the transmitter is empty, a byte is there. */
#define IDLE 0x60
#define HAS_INPUT 0x61

struct saved { struct kvm_sregs sregs; struct kvm_regs regs; };

static int shows_times;
static double before;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void step(const char *what) {
    if (!shows_times) return;
    double after = now();
    fprintf(stderr, "%s %.0f\n", what, after - before);
    before = now();
}

static void need(int holds, const char *what) {
    if (holds) return;
    perror(what);
    exit(1);
}

static int kvm, vm, vcpu;
static struct kvm_run *run;
static unsigned char *memory;

static void make(int memory_file) {
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    need(kvm >= 0, "/dev/kvm");
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    need(vm >= 0, "KVM_CREATE_VM");
    step("create-vm");
    need(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul) == 0, "KVM_SET_TSS_ADDR");
    step("tss");
    need(ioctl(vm, KVM_CREATE_IRQCHIP, 0) == 0, "KVM_CREATE_IRQCHIP");
    step("irqchip");
    int flags = MAP_PRIVATE | MAP_NORESERVE | (memory_file < 0 ? MAP_ANONYMOUS : 0);
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, flags, memory_file, 0);
    need(memory != MAP_FAILED, "mmap");
    struct kvm_userspace_memory_region slot = {.memory_size = MEMORY, .userspace_addr = (unsigned long)memory};
    need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0, "KVM_SET_USER_MEMORY_REGION");
    step("slot");
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    need(vcpu >= 0, "KVM_CREATE_VCPU");
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    need(run != MAP_FAILED, "mmap of the vCPU");
    step("vcpu");
    static struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[256]; } cpuid = {.head.nent = 256};
    need(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) == 0, "KVM_GET_SUPPORTED_CPUID");
    need(ioctl(vcpu, KVM_SET_CPUID2, &cpuid) == 0, "KVM_SET_CPUID2");
    step("cpuid");
}

static void load_guest(const char *path) {
    int file = open(path, O_RDONLY);
    struct stat status;
    need(file >= 0 && fstat(file, &status) == 0, path);
    unsigned char *image = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    need(image != MAP_FAILED, path);
    Elf64_Ehdr *head = (Elf64_Ehdr *)image;
    Elf64_Phdr *parts = (Elf64_Phdr *)(image + head->e_phoff);
    for (int i = 0; i < head->e_phnum; i++)
        if (parts[i].p_type == PT_LOAD) memcpy(memory + parts[i].p_paddr, image + parts[i].p_offset, parts[i].p_filesz);
    struct kvm_sregs sregs;
    need(ioctl(vcpu, KVM_GET_SREGS, &sregs) == 0, "KVM_GET_SREGS");
    struct kvm_segment data = {.limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    struct kvm_segment code = data;
    code.selector = 8;
    code.type = 11;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 = 0x11; /* protected mode, extension type */
    need(ioctl(vcpu, KVM_SET_SREGS, &sregs) == 0, "KVM_SET_SREGS");
    struct kvm_regs regs = {.rip = head->e_entry, .rflags = 2};
    need(ioctl(vcpu, KVM_SET_REGS, &regs) == 0, "KVM_SET_REGS");
    step("load");
}

static void save(const char *memory_path, const char *state_path) {
    /* Ends the access that the vCPU stopped at (Documentation/virt/kvm/api.rst, KVM_RUN). */
    run->immediate_exit = 1;
    ioctl(vcpu, KVM_RUN, 0);
    struct saved saved;
    need(ioctl(vcpu, KVM_GET_SREGS, &saved.sregs) == 0, "KVM_GET_SREGS");
    need(ioctl(vcpu, KVM_GET_REGS, &saved.regs) == 0, "KVM_GET_REGS");
    int state = open(state_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    need(state >= 0 && write(state, &saved, sizeof saved) == (ssize_t)sizeof saved, state_path);
    int file = open(memory_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    need(file >= 0 && ftruncate(file, (off_t)MEMORY) == 0, memory_path);
    static const unsigned char zeroes[4096];
    for (unsigned long at = 0; at < MEMORY; at += 4096)
        if (memcmp(memory + at, zeroes, 4096) != 0)
            need(pwrite(file, memory + at, 4096, (off_t)at) == 4096, memory_path);
}

static void load(const char *state_path) {
    struct saved saved;
    int state = open(state_path, O_RDONLY);
    need(state >= 0 && read(state, &saved, sizeof saved) == (ssize_t)sizeof saved, state_path);
    need(ioctl(vcpu, KVM_SET_SREGS, &saved.sregs) == 0, "KVM_SET_SREGS");
    need(ioctl(vcpu, KVM_SET_REGS, &saved.regs) == 0, "KVM_SET_REGS");
    step("state");
}

int main(int count, char **words) {
    need(count >= 3, "usage");
    shows_times = getenv("FLOOR_TIMES") != NULL;
    before = now();
    int is_save = strcmp(words[1], "save") == 0, is_load = strcmp(words[1], "load") == 0;
    need(count == 3 + is_load + 2 * is_save, "usage");
    int memory_file = -1;
    if (is_load) {
        memory_file = open(words[2], O_RDONLY);
        need(memory_file >= 0, words[2]);
    }
    make(memory_file);
    if (is_load)
        load(words[3]);
    else
        load_guest(words[2]);
    int lines = 0, keys = is_load;
    for (;;) {
        need(ioctl(vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
        need(run->exit_reason == KVM_EXIT_IO, "another exit than port I/O");
        unsigned char *byte = (unsigned char *)run + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_IN) {
            memset(byte, 0xff, run->io.size);
            if (run->io.port == SERIAL + 5) {
                if (is_save && lines == 2) {
                    *byte = IDLE;
                    save(words[3], words[4]);
                    return 0;
                }
                *byte = keys > 0 ? HAS_INPUT : IDLE;
            } else if (run->io.port == SERIAL) {
                *byte = '?';
                keys--;
            }
        } else if (run->io.port == SERIAL) {
            step("run");
            need(write(1, byte, 1) == 1, "standard output");
            lines += *byte == '\n';
        }
    }
}
