/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.c - an allocator that fails: for code of the broker, at places that the seed chooses.
 *
 * The linker puts these functions between the broker's code and the C library (--wrap).  Libraries
 * keep the real ones (SQLite's answer to a failed allocation is SQLite's business), and so does
 * what stands for the rest of the world: the files of tests/sim are compiled to call __real_malloc
 * and so on, and the environment says when it is at work itself.  Single allocations fail, or all
 * of them for a while.
 */
#include "memory.h"

#include <stdlib.h>
#include <string.h>

/* Names that the linker gives (ld --wrap). */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);

#define DROUGHT_NS_MAX (20 * PTN_MS)
#define DROUGHT_PAUSE_NS PTN_SEC
#define START_NS (100 * PTN_MS) /* a broker that cannot even begin gives up, and may */

static struct {
    ptn_env *env; /* NULL: every allocation succeeds */
    ptn_sim_rng rng;
    uint32_t fail_ppm, drought_ppm;
    ptn_time drought_until, no_drought_before;
} M;

void memory_fail(ptn_env *env, uint64_t seed, uint32_t fail_ppm, uint32_t drought_ppm) {
    ptn_sim_rng_seed(&M.rng, seed ^ UINT64_C(0x3e3032));
    M.fail_ppm = fail_ppm;
    M.drought_ppm = drought_ppm;
    M.no_drought_before = ptn_sim_now(env) + START_NS;
    M.env = env;
}

void memory_recover(void) {
    M.env = NULL;
}

static bool fails(void) {
    if (M.env == NULL || !ptn_sim_in_broker(M.env))
        return false;
    ptn_time now = ptn_sim_now(M.env);
    bool fail = now < M.drought_until || ptn_sim_rng_chance(&M.rng, M.fail_ppm);
    if (now >= M.no_drought_before && ptn_sim_rng_chance(&M.rng, M.drought_ppm)) {
        M.drought_until = now + ptn_sim_rng_below(&M.rng, DROUGHT_NS_MAX);
        M.no_drought_before = now + DROUGHT_PAUSE_NS;
    }
    world->tally.allocations_failed += fail;
    return fail;
}

void *__wrap_malloc(size_t n) {
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t bytes) {
    return fails() ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *p, size_t n) {
    return fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n) {
    return fails() ? NULL : __real_aligned_alloc(align, n);
}

char *__wrap_strdup(const char *s) {
    return fails() ? NULL : __real_strdup(s);
}
