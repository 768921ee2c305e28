/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.c - the sums of the memory budget, and when they are too high.
 *
 * Pressure must not get stuck, neither way, when two threads pass the marks at once.  Whoever
 * changes the flag looks at the sums again afterwards, and whoever changes a sum looks at the flag
 * afterwards; all of that is sequentially consistent, so one of two crossing threads sees the
 * other.  It happens once per step of 64 KiB and may cost what it costs.
 */
#include <postern/memory.h>
#include <postern/metrics.h>

#include "runtime/memory_internal.h"

_Atomic bool ptn__memory_pressure;

static _Atomic(uint64_t) limit;
static _Atomic(int64_t) sums[PTN_POOL_COUNT];
static _Thread_local int64_t deltas[PTN_POOL_COUNT];

static uint64_t total(void) {
    int64_t n = 0;
    for (unsigned i = 0; i < PTN_POOL_COUNT; i++)
        n += atomic_load(&sums[i]);
    return n > 0 ? (uint64_t)n : 0;
}

static void pressure_update(void) {
    for (;;) {
        uint64_t max = atomic_load(&limit), used = total();
        bool on = atomic_load(&ptn__memory_pressure);
        bool want = max > 0 && used >= (on ? max - max / 4 : max);
        if (want == on)
            return;
        if (atomic_compare_exchange_strong(&ptn__memory_pressure, &on, want) && want) {
            ptn_count(PTN_C_MEMORY_PRESSURE, 1);
            ptn__buf_trim();
        }
    }
}

void ptn_memory_charge(enum ptn_pool pool, int64_t bytes) {
    int64_t d = deltas[pool] + bytes;
    if (PTN_LIKELY(d < PTN_MEMORY_STEP_BYTES && d > -PTN_MEMORY_STEP_BYTES)) {
        deltas[pool] = d;
        return;
    }
    deltas[pool] = 0;
    atomic_fetch_add(&sums[pool], d);
    pressure_update();
}

void ptn_memory_limit(uint64_t bytes) {
    atomic_store(&limit, bytes);
    pressure_update();
}

void ptn_memory_read(ptn_memory_stats *ret_stats) {
    *ret_stats = (ptn_memory_stats){.limit_bytes = atomic_load(&limit), .bytes = total()};
    for (unsigned i = 0; i < PTN_POOL_COUNT; i++) {
        int64_t n = atomic_load(&sums[i]);
        ret_stats->pool_bytes[i] = n > 0 ? (uint64_t)n : 0;
    }
}

int64_t ptn__memory_charged(enum ptn_pool pool) {
    return atomic_load(&sums[pool]) + deltas[pool];
}

const char *ptn_pool_name(enum ptn_pool pool) {
    static const char *const names[] = {
#define XX(id, label) label,
        PTN_POOL_MAP(XX)
#undef XX
    };
    return names[pool];
}
