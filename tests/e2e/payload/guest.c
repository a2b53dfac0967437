/* The user part: says that it is up, touches memory, then does what single letters on the serial port ask for.
 *
 *   s  the sum of the touched memory       w  changes one page of it          x  a read of a port and an address that nothing answers
 *   b  writes and reads disk 0             r  reads the entropy device        q p o  asks for shutdown, reports a panic, asks for a reboot
 *   a  switches off by ACPI                m  writes 256 KiB of numbered lines, then says ready again
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

static volatile struct ring rings[2];
static u8 data[4096] __attribute__((aligned(4096)));
static struct { u32 type, reserved; u64 sector; } header;
static volatile u8 status;

static volatile u32 *find(u32 id) {
    for (int slot = 0; slot < SLOTS; slot++)
        if (SLOT(slot)[0] == 0x74726976 && SLOT(slot)[2] == id) return SLOT(slot);
    return 0;
}

/* Brings a device up with one queue, or leaves one that is up as it is. */
static int start(volatile u32 *device, volatile struct ring *ring) {
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
    device[0x30 / 4] = 0;
    device[0x38 / 4] = QUEUE_SIZE;
    device[0x80 / 4] = (u32)(u64)ring->table;
    device[0x84 / 4] = 0;
    device[0x90 / 4] = (u32)(u64)&ring->available;
    device[0x94 / 4] = 0;
    device[0xa0 / 4] = (u32)(u64)&ring->used;
    device[0xa4 / 4] = 0;
    device[0x44 / 4] = 1;
    device[0x70 / 4] = 15;
    return device[0x70 / 4] == 15;
}

/* Gives the device the chain at descriptor 0 and waits until it is used; the bytes written, or -1. */
static long request(volatile u32 *device, volatile struct ring *ring) {
    u16 seen = ring->used.index;
    ring->available.ring[ring->available.index % QUEUE_SIZE] = 0;
    __asm__ volatile("" ::: "memory");
    ring->available.index++;
    device[0x50 / 4] = 0;
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
    if (!device || !start(device, &rings[0])) return 0;
    header.type = type;
    header.sector = sector;
    status = 0xff;
    describe(&rings[0], 0, &header, 16, 1);
    describe(&rings[0], 1, data, 512, flags | 1);
    describe(&rings[0], 2, &status, 1, 2);
    return request(device, &rings[0]) >= 0 && status == 0;
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
    if (!device || !start(device, &rings[1])) return text("rng: none\n");
    u64 *words = (u64 *)data;
    words[0] = words[7] = 0;
    describe(&rings[1], 0, data, 64, 2);
    long got = request(device, &rings[1]);
    text(got == 64 && words[0] && words[7] ? "rng: ok\n" : "rng: bad\n");
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
        case 'b': block(); break;
        case 'r': entropy(); break;
        case 'q': out32(CONTROL + 12, 0); out32(CONTROL + 8, 2); break;
        case 'p': out32(CONTROL + 12, 7); out32(CONTROL + 8, 4); break;
        case 'o': out32(CONTROL + 8, 3); break;
        case 'a': out8(CONTROL + 16, 5 << 2 | 0x20); break;
        case 'm': many(); break;
        case '\n': break;
        default: text("what?\n");
        }
    }
}
