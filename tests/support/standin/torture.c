/* SPDX-License-Identifier: Apache-2.0
 *
 * torture.c - the allocators as our code sees them in a test: see torture.h.
 */
#include "torture.h"

#include <errno.h>
#include <sanitizer/common_interface_defs.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Atomic(unsigned long) count;
static unsigned long failing;
static bool saying;

void torture_arm(unsigned long fail_at, bool say_where) {
    failing = fail_at;
    saying = say_where;
    atomic_store(&count, 0);
}

unsigned long torture_count(void) {
    return atomic_load(&count);
}

static bool fails(void) {
    unsigned long n = atomic_fetch_add(&count, 1) + 1;
    if (n != failing)
        return false;
    if (saying) {
        fprintf(stderr, "allocation %lu fails:\n", n);
        __sanitizer_print_stack_trace();
    }
    errno = ENOMEM;
    return true;
}

#define WRAP(type, name, params, args)                                                             \
    type __real_##name params;                                                                     \
    type __wrap_##name params;                                                                     \
    type __wrap_##name params {                                                                    \
        return fails() ? NULL : __real_##name args;                                                \
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
    if (failing == 0 || (strstr(name, "test") == NULL && strstr(name, "rig") == NULL))
        __real_ptn__assert_failed(expr, file, line);
    fprintf(stderr, "%s:%d: %s\n", file, line, expr);
    exit(1);
}
