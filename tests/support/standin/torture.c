/* SPDX-License-Identifier: Apache-2.0
 *
 * torture.c - the allocators as our code sees them in a test: see torture.h.
 */
#include "torture.h"

#include <errno.h>
#include <sanitizer/common_interface_defs.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char etext; /* the linker's */

static struct torture_target target;
static struct torture_run *run;
static struct torture_map *map;
static _Atomic(uint64_t) n_of_way;

void torture_arm(const struct torture_target *t, struct torture_run *r, struct torture_map *m) {
    target = *t;
    run = r;
    map = m;
    atomic_store(&n_of_way, 0);
    atomic_store(&run->count, 0);
    atomic_store(&run->failed_at, 0);
}

/* All of our code keeps frame pointers, and nobody else's is followed. */
__attribute__((no_sanitize("address", "undefined"))) static uint64_t way_from(void *const *frame) {
    const char *begin = target.test_end;
    uint64_t id = 0;
    for (unsigned i = 0; i < target.frames && i < TORTURE_FRAMES_MAX; i++) {
        const char *caller = frame[1];
        if (caller < begin || caller >= &etext)
            break;
        id = (id ^ (uint64_t)(caller - begin)) * UINT64_C(0x9e3779b97f4a7c15);
        id ^= id >> 32;
        frame = frame[0];
    }
    return id != 0 ? id : 1;
}

static void enter(uint64_t id) {
    for (size_t i = 0; i < TORTURE_WAYS_MAX; i++) {
        struct torture_way *w = &map->way[(id + i) % TORTURE_WAYS_MAX];
        uint64_t there = 0;
        if (atomic_compare_exchange_strong(&w->id, &there, id) || there == id) {
            atomic_fetch_add(&w->n, 1);
            return;
        }
    }
    atomic_fetch_add(&map->left_out, 1);
}

static bool fails(void *const *frame) {
    if (run == NULL)
        return false;
    uint64_t number = atomic_fetch_add(&run->count, 1) + 1;
    uint64_t way = target.way != 0 || map != NULL ? way_from(frame) : 0;
    if (map != NULL)
        enter(way);
    if (target.nth == 0 || way != target.way || atomic_fetch_add(&n_of_way, 1) + 1 != target.nth)
        return false;
    atomic_store(&run->failed_at, number);
    if (target.say_where) {
        fprintf(stderr, "allocation %lu fails:\n", (unsigned long)number);
        __sanitizer_print_stack_trace();
    }
    errno = ENOMEM;
    return true;
}

#define WRAP(type, name, params, args)                                                             \
    type __real_##name params;                                                                     \
    type __wrap_##name params;                                                                     \
    type __wrap_##name params {                                                                    \
        return fails(__builtin_frame_address(0)) ? NULL : __real_##name args;                      \
    }
WRAP(void *, malloc, (size_t n), (n))
WRAP(void *, calloc, (size_t n, size_t bytes), (n, bytes))
WRAP(void *, realloc, (void *p, size_t n), (p, n))
WRAP(void *, aligned_alloc, (size_t alignment, size_t n), (alignment, n))
WRAP(char *, strdup, (const char *s), (s))
WRAP(char *, strndup, (const char *s, size_t n), (s, n))

/* C++: new (std::nothrow) T, T[].  The ones that throw are not ours: nobody here catches. */
WRAP(void *, _ZnwmRKSt9nothrow_t, (size_t n, const void *nothrow), (n, nothrow))
WRAP(void *, _ZnamRKSt9nothrow_t, (size_t n, const void *nothrow), (n, nothrow))

/* An assertion of a test or its rig, of which the file is named so, is no fault of the product.
 * Weak: many a test needs nothing that asserts. */
__attribute__((weak)) _Noreturn void __real_ptn__assert_failed(const char *expr, const char *file,
                                                               int line);
_Noreturn void __wrap_ptn__assert_failed(const char *expr, const char *file, int line);
_Noreturn void __wrap_ptn__assert_failed(const char *expr, const char *file, int line) {
    const char *slash = strrchr(file, '/'), *name = slash != NULL ? slash + 1 : file;
    if (target.nth == 0 || (strstr(name, "test") == NULL && strstr(name, "rig") == NULL))
        __real_ptn__assert_failed(expr, file, line);
    fprintf(stderr, "%s:%d: %s\n", file, line, expr);
    exit(1);
}
