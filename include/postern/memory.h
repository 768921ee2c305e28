/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.h - the memory budget of the process.
 *
 * Whoever takes memory from the allocator in amounts that clients decide charges it here: payloads,
 * output, scratch and input that waits, caches.  Free lists stay charged, since they are memory;
 * taking from one and giving back costs nothing.  A thread adds to its own deltas and passes them
 * on in steps of PTN_MEMORY_STEP_BYTES, so the sums are off by at most one step per thread and
 * pool, and no contended word is touched on the steady path.
 *
 * At the limit the process is under pressure until a quarter of the limit is free again.  The
 * budget refuses nobody by itself: those who begin work ask ptn_memory_pressure() and answer
 * -PTN_EOVERLOAD, and caches shrink.  What is in flight goes on, so the limit is no hard ceiling;
 * docs/operations.md says how much the process needs besides.
 *
 * Any thread, all of it.  Pools belong to the process, not to a runtime.
 */
#ifndef POSTERN_MEMORY_H
#define POSTERN_MEMORY_H

#include <postern/base.h>
#include <stdatomic.h>

#define PTN_MEMORY_STEP_BYTES (64 << 10)

/* clang-format off */
/* id, label of the metric: what it holds */
#define PTN_POOL_MAP(XX)                                                    \
    XX(MESSAGES, "messages") /* payloads of messages, free ones included */ \
    XX(OUTPUT, "output")     /* frames on their way to connections */       \
    XX(SCRATCH, "scratch")   /* requests that are not complete, encoders */ \
    XX(CACHES, "caches")     /* what could be read again */
/* clang-format on */

enum ptn_pool {
#define XX(id, label) PTN_POOL_##id,
    PTN_POOL_MAP(XX)
#undef XX
        PTN_POOL_COUNT
};

/* bytes came from the allocator (positive) or went back to it (negative). */
void ptn_memory_charge(enum ptn_pool pool, int64_t bytes);

/* True from the limit until a quarter of it is free again.  A relaxed load: a hint, never a
 * publication. */
extern _Atomic bool ptn__memory_pressure;
static inline bool ptn_memory_pressure(void) {
    return atomic_load_explicit(&ptn__memory_pressure, memory_order_relaxed);
}

/* 0: none, which is also the state at the start. */
void ptn_memory_limit(uint64_t bytes);

typedef struct ptn_memory_stats {
    uint64_t limit_bytes; /* 0: none */
    uint64_t pool_bytes[PTN_POOL_COUNT];
    uint64_t bytes; /* all pools */
} ptn_memory_stats;
void ptn_memory_read(ptn_memory_stats *ret_stats);
const char *ptn_pool_name(enum ptn_pool pool);

#endif
