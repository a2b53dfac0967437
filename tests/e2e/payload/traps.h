/* What user mode asks the kernel part for (start.S, `request`). */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

static inline void out8(u16 port, u8 value) {
    __asm__ volatile("ud2" ::"D"(0), "d"(port), "a"(value) : "memory");
}
static inline u8 in8(u16 port) {
    u64 value = 0;
    __asm__ volatile("ud2" : "+a"(value) : "D"(1), "d"(port) : "memory");
    return (u8)value;
}
static inline void out32(u16 port, u32 value) {
    __asm__ volatile("ud2" ::"D"(2), "d"(port), "a"(value) : "memory");
}
/* One string instruction. */
static inline void ins8(u16 port, u8 *to, u64 count) {
    u64 request = 3;
    __asm__ volatile("ud2" : "+D"(request), "+c"(count) : "d"(port), "S"(to) : "memory");
}
static inline u64 msr(u32 number) {
    u64 value = 0;
    __asm__ volatile("ud2" : "+a"(value), "+d"(number) : "D"(4) : "memory", "rcx");
    return value;
}
static inline void out_bytes(u16 port, const void *bytes, u64 count) {
    __asm__ volatile("ud2" : "+S"(bytes), "+c"(count) : "D"(5), "d"(port) : "memory");
}
static inline u64 ticks(void) {
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return low | (u64)high << 32;
}
