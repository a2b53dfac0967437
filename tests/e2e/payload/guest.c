/* The user part: says that it is up, touches memory, then does what single letters on the serial port ask for.
 *
 *   s  the sum of the touched memory       w  changes one page of it          x  a read of a port and an address that nothing answers
 *   b  writes and reads disk 0             r  reads the entropy device        q p o  asks for shutdown, reports a panic, asks for a reboot
 *   a  switches off by ACPI                i  reads a port by a string instruction
 *   t  whether it was stopped; kvm-clock in nanoseconds and the counter, both in hexadecimal
 *   m  registers that nothing uses, which hold what start.S wrote
 *   k  gets a token of the metadata service n  reads /name there with it
 *   l  writes 256 KiB of numbered lines, then says ready again
 * Each is answered by one line. Virtio devices are found in their slots (virtio-mmio, VIRTIO 1.2 4.2). */
#include "traps.h"

#ifndef TOUCH_MIB
#define TOUCH_MIB 8
#endif
#define SERIAL 0x3f8
#define CONTROL 0x600
#define TOUCHED ((volatile u64 *)0x1000000)
#define WORDS ((u64)TOUCH_MIB << 17)
#define SLOT(n) ((volatile u32 *)(0xc0000000ul + (u64)(n) * 0x1000))
#define SLOTS 17
#define QUEUE_SIZE 8
#define MANY ((1ul << 18) / 17 + 1)

static void put(char c) { out8(SERIAL, (u8)c); }
static void text(const char *s) {
    while (*s) put(*s++);
}
static void hex(u64 value) {
    for (int shift = 60; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
}

struct descriptor { u64 address; u32 bytes; u16 flags, next; };
struct ring {
    struct descriptor table[QUEUE_SIZE];
    struct { u16 flags, index, ring[QUEUE_SIZE], event; } available;
    u16 pad[3];
    struct { u16 flags, index; struct { u32 id, bytes; } ring[QUEUE_SIZE]; u16 event; } used __attribute__((aligned(8)));
} __attribute__((aligned(4096)));

static volatile struct ring rings[4];
static u8 data[4096] __attribute__((aligned(4096)));
static struct { u32 type, reserved; u64 sector; } header;
static volatile u8 status;

static volatile u32 *find(u32 id) {
    for (int slot = 0; slot < SLOTS; slot++)
        if (SLOT(slot)[0] == 0x74726976 && SLOT(slot)[2] == id) return SLOT(slot);
    return 0;
}

/* Brings a device up with so many queues, or leaves one that is up as it is. */
static int start(volatile u32 *device, volatile struct ring *ring, u32 queues) {
    if (device[0x70 / 4] == 15) return 1;
    device[0x70 / 4] = 0;
    device[0x70 / 4] = 1;
    device[0x70 / 4] = 3;
    device[0x24 / 4] = 0;
    device[0x20 / 4] = 0;
    device[0x24 / 4] = 1;
    device[0x20 / 4] = 1; /* VIRTIO_F_VERSION_1 */
    device[0x70 / 4] = 11;
    if (!(device[0x70 / 4] & 8)) return 0;
    for (u32 queue = 0; queue < queues; queue++, ring++) {
        device[0x30 / 4] = queue;
        device[0x38 / 4] = QUEUE_SIZE;
        device[0x80 / 4] = (u32)(u64)ring->table;
        device[0x84 / 4] = 0;
        device[0x90 / 4] = (u32)(u64)&ring->available;
        device[0x94 / 4] = 0;
        device[0xa0 / 4] = (u32)(u64)&ring->used;
        device[0xa4 / 4] = 0;
        device[0x44 / 4] = 1;
    }
    device[0x70 / 4] = 15;
    return device[0x70 / 4] == 15;
}

/* Gives the device the chain at descriptor 0. */
static void give(volatile u32 *device, volatile struct ring *ring, u32 queue) {
    ring->available.ring[ring->available.index % QUEUE_SIZE] = 0;
    __asm__ volatile("" ::: "memory");
    ring->available.index++;
    device[0x50 / 4] = queue;
}

/* Gives it that, and waits until it is used; the bytes written, or -1. */
static long request(volatile u32 *device, volatile struct ring *ring, u32 queue) {
    u16 seen = ring->used.index;
    give(device, ring, queue);
    for (u64 begun = ticks(); ring->used.index == seen;)
        if (ticks() - begun > 20000000000ul) return -1;
    return ring->used.ring[seen % QUEUE_SIZE].bytes;
}

static void describe(volatile struct ring *ring, int index, volatile void *at, u32 bytes, u16 flags) {
    ring->table[index].address = (u64)at;
    ring->table[index].bytes = bytes;
    ring->table[index].flags = flags;
    ring->table[index].next = (u16)(index + 1);
}

static int disk(u32 type, u64 sector, u16 flags) {
    volatile u32 *device = find(2);
    if (!device || !start(device, &rings[0], 1)) return 0;
    header.type = type;
    header.sector = sector;
    status = 0xff;
    describe(&rings[0], 0, &header, 16, 1);
    describe(&rings[0], 1, data, 512, flags | 1);
    describe(&rings[0], 2, &status, 1, 2);
    return request(device, &rings[0], 0) >= 0 && status == 0;
}

static void block(void) {
    for (int i = 0; i < 512; i++) data[i] = (u8)(i * 7);
    if (!disk(1, 3, 0)) return text("block: no write\n");
    for (int i = 0; i < 512; i++) data[i] = 0;
    if (!disk(0, 3, 2)) return text("block: no read\n");
    for (int i = 0; i < 512; i++)
        if (data[i] != (u8)(i * 7)) return text("block: other bytes\n");
    if (disk(0, 1ul << 60, 2) || status != 1) return text("block: read past the end\n");
    text("block: ok\n");
}

static void entropy(void) {
    volatile u32 *device = find(4);
    if (!device || !start(device, &rings[1], 1)) return text("rng: none\n");
    u64 *words = (u64 *)data;
    words[0] = words[7] = 0;
    describe(&rings[1], 0, data, 64, 2);
    long got = request(device, &rings[1], 0);
    text(got == 64 && words[0] && words[7] ? "rng: ok\n" : "rng: bad\n");
}

/* One connection to the metadata service, by hand (RFC 791, RFC 9293): 12 bytes of the card's header, 14 of Ethernet, 20 of IPv4, 20 of TCP.
 * Checksums are left out; the service looks at none. */
#define FRAME 26
#define TCP (FRAME + 20)
#define DATA (TCP + 20)
static volatile u8 sent[2048], got[2048];
static char answer[2048], token[128];
static u32 answered, ours, theirs;
static u16 port = 1000, frames;

static void big(volatile u8 *at, u32 bytes, u32 value) {
    while (bytes--) at[bytes] = (u8)value, value >>= 8;
}
static u32 small(volatile u8 *at, u32 bytes) {
    u32 value = 0;
    while (bytes--) value = value << 8 | *at++;
    return value;
}

static void segment(volatile u32 *device, u8 flags, const char *data) {
    static const u8 from[] = {2, 0, 0, 0, 0, 9, 8, 0}, addresses[] = {10, 0, 0, 2, 169, 254, 169, 254};
    u32 bytes = 0;
    for (int i = 0; i < DATA; i++) sent[i] = 0;
    for (; data && data[bytes]; bytes++) sent[DATA + bytes] = (u8)data[bytes];
    for (int i = 0; i < 8; i++) sent[18 + i] = from[i], sent[FRAME + 12 + i] = addresses[i];
    big(sent + FRAME, 1, 0x45);
    big(sent + FRAME + 2, 2, 40 + bytes);
    big(sent + FRAME + 8, 2, 64 << 8 | 6);
    big(sent + TCP, 2, port);
    big(sent + TCP + 2, 2, 80);
    big(sent + TCP + 4, 4, ours);
    big(sent + TCP + 8, 4, theirs);
    big(sent + TCP + 12, 2, 0x5000 | flags);
    big(sent + TCP + 14, 2, 1000);
    describe(&rings[3], 0, sent, DATA + bytes, 0);
    request(device, &rings[3], 1);
    ours += bytes + (flags & 3 ? 1 : 0);
}

/* Waits for the next segment of this connection, keeps what is in it, and returns its flags; 0 if none comes. */
static u8 receive(volatile u32 *device) {
    for (u64 begun = ticks(); ticks() - begun < 20000000000ul;) {
        if (rings[2].used.index == frames) continue;
        frames++;
        u8 flags = got[TCP + 13];
        u32 bytes = small(got + FRAME + 2, 2) - 20 - (u32)(got[TCP + 12] >> 4) * 4;
        int is_ours = small(got + 24, 2) == 0x0800 && got[FRAME + 9] == 6 && small(got + TCP + 2, 2) == port;
        if (is_ours && (flags & 2)) theirs = small(got + TCP + 4, 4);
        if (is_ours && small(got + TCP + 4, 4) == theirs) {
            for (u32 i = 0; i < bytes && answered < sizeof answer - 1; i++) answer[answered++] = (char)got[TCP + (got[TCP + 12] >> 4) * 4 + i];
            theirs += bytes + (flags & 3 ? 1 : 0);
        }
        give(device, &rings[2], 0);
        if (is_ours) return flags;
    }
    return 0;
}

static char *add(char *at, const char *data) {
    while (*data) *at++ = *data++;
    *at = 0;
    return at;
}

/* Asks, says what is answered, and returns the answer's body. */
static char *ask(const char *words) {
    volatile u32 *device = find(1);
    if (!device) return text("mmds: no card\n"), (char *)0;
    if (device[0x70 / 4] != 15) {
        if (!start(device, &rings[2], 2)) return text("mmds: no start\n"), (char *)0;
        describe(&rings[2], 0, got, sizeof got, 2);
        give(device, &rings[2], 0);
    }
    port++;
    ours = (u32)port << 16;
    answered = theirs = 0;
    segment(device, 2, 0);
    if ((receive(device) & 0x17) != 0x12) return text("mmds: no connection\n"), (char *)0;
    segment(device, 0x18, words);
    u8 flags;
    do {
        flags = receive(device);
        segment(device, flags & 1 ? 0x11 : 0x10, 0);
    } while (flags && !(flags & 5));
    answer[answered] = 0;
    char *body = answer;
    while (*body && small((volatile u8 *)body, 4) != 0x0d0a0d0a) body++;
    if (!*body || !(flags & 1)) return text("mmds: no answer\n"), (char *)0;
    answer[12] = 0;
    text("mmds: ");
    text(answer + 9);
    return body + 4;
}

static void get_token(void) {
    char *body = ask("PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 600\r\nConnection: close\r\n\r\n");
    if (!body) return;
    if (body + sizeof token - 1 < answer + sizeof answer) body[sizeof token - 1] = 0;
    add(token, body);
    put('\n');
}

static void metadata(void) {
    static char words[512];
    add(add(add(words, "GET /name HTTP/1.1\r\nConnection: close\r\nX-metadata-token: "), token), "\r\n\r\n");
    char *body = ask(words);
    if (!body) return;
    put(' ');
    text(body);
    put('\n');
}

static void sum(void) {
    u64 total = 0;
    for (u64 i = 0; i < WORDS; i += 512) total = total * 31 + TOUCHED[i];
    text("sum: ");
    hex(total);
    put('\n');
}

static void many(void) {
    for (u64 line = 0; line < MANY;) {
        u64 bytes = 0;
        for (; bytes + 17 <= sizeof data && line < MANY; line++) {
            for (int shift = 60; shift >= 0; shift -= 4) data[bytes++] = (u8)"0123456789abcdef"[line >> shift & 15];
            data[bytes++] = '\n';
        }
        out_bytes(SERIAL, data, bytes);
    }
    out32(CONTROL + 8, 1);
}

static void nothing(void) {
    u8 port = in8(0x1234);
    u32 memory = *(volatile u32 *)0xd0000000ul;
    *(volatile u32 *)0xd0000000ul = 1;
    text(port == 0xff && memory == 0xffffffff ? "nothing: ok\n" : "nothing: answered\n");
}

/* The line status, many times by one instruction: ready to send, each time. */
static void string(void) {
    for (int i = 0; i < 100; i++) data[i] = 0;
    ins8(SERIAL + 5, data, 100);
    for (int i = 0; i < 100; i++)
        if ((data[i] & 0xfe) != 0x60) return text("string: bad\n");
    text("string: ok\n");
}

/* struct pvclock_vcpu_time_info (Documentation/virt/kvm/x86/msr.rst); its kernel's memory is the user's here. */
extern volatile struct {
    u32 version, pad;
    u64 counter, time;
    u32 multiplier;
    signed char shift;
    u8 flags, more[2];
} clock_page;

static void clock(void) {
    u64 now, time;
    u32 version;
    do {
        version = clock_page.version;
        __asm__ volatile("" ::: "memory");
        now = ticks();
        u64 passed = now - clock_page.counter;
        passed = clock_page.shift < 0 ? passed >> -clock_page.shift : passed << clock_page.shift;
        time = clock_page.time + (u64)((unsigned __int128)passed * clock_page.multiplier >> 32);
        __asm__ volatile("" ::: "memory");
    } while (version & 1 || version != clock_page.version);
    /* PVCLOCK_GUEST_STOPPED: the host sets it, the guest clears it. */
    text(clock_page.flags & 2 ? "stopped, " : "ran on, ");
    clock_page.flags &= (u8)~2;
    text("time: ");
    hex(version ? time : 0);
    put(' ');
    hex(now);
    put('\n');
}

static void registers(void) {
    text("registers: ");
    hex(msr(0xc0000102)); /* KERNEL_GS_BASE */
    put(' ');
    hex(msr(0x176)); /* SYSENTER_EIP */
    put(' ');
    hex(msr(0x4b564d01) & 1); /* MSR_KVM_SYSTEM_TIME_NEW: is on */
    put('\n');
}

void user_main(void) {
    text("BOOT\n");
    for (u64 i = 0; i < WORDS; i += 512) TOUCHED[i] = i * 0x9e3779b97f4a7c15ul + 1;
    text("READY\n");
    out32(CONTROL + 8, 1);
    for (;;) {
        if (!(in8(SERIAL + 5) & 1)) {
            for (u64 begun = ticks(); ticks() - begun < 1000000;) __asm__ volatile("pause");
            continue;
        }
        switch (in8(SERIAL)) {
        case 's': sum(); break;
        case 'w': TOUCHED[0]++; text("wrote\n"); break;
        case 'x': nothing(); break;
        case 'i': string(); break;
        case 'b': block(); break;
        case 'r': entropy(); break;
        case 't': clock(); break;
        case 'm': registers(); break;
        case 'k': get_token(); break;
        case 'n': metadata(); break;
        case 'q': out32(CONTROL + 12, 0); out32(CONTROL + 8, 2); break;
        case 'p': out32(CONTROL + 12, 7); out32(CONTROL + 8, 4); break;
        case 'o': out32(CONTROL + 8, 3); break;
        case 'a': out8(CONTROL + 16, 5 << 2 | 0x20); break;
        case 'l': many(); break;
        case '\n': break;
        default: text("what?\n");
        }
    }
}
