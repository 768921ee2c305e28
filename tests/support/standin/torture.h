/* SPDX-License-Identifier: Apache-2.0
 *
 * torture.h - lets one allocation of our code fail, chosen by its number or by the way to it.
 *
 * The linker sends every call of an allocator in our objects here (--wrap); what shared libraries
 * allocate for themselves is not touched, nor what the tests allocate (unfailing.h).  A way is the
 * innermost frames of the product that lead to an allocation, so it means the same in every test
 * of a program and in every process that was forked from one.  A test process counts from
 * torture_arm() on, all threads together.
 */
#ifndef POSTERN_TESTS_SUPPORT_TORTURE_H
#define POSTERN_TESTS_SUPPORT_TORTURE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define TORTURE_WAYS_MAX 16384u
#define TORTURE_FRAMES_MAX 12u

/* Shared with the process that starts the run. */
struct torture_run {
    _Atomic(uint64_t) count;     /* allocations so far */
    _Atomic(uint64_t) failed_at; /* the number of the one that failed; 0: none has */
};

/* The ways of one run, shared likewise. */
struct torture_map {
    _Atomic(uint64_t) left_out; /* allocations whose way did not fit */
    struct torture_way {
        _Atomic(uint64_t) id; /* 0: free */
        _Atomic(uint32_t) n;  /* allocations that were made this way */
    } way[TORTURE_WAYS_MAX];
};

struct torture_target {
    uint64_t nth;         /* which fails, of this way; 1 is the next; 0: none */
    uint64_t way;         /* 0: any */
    unsigned frames;      /* by which ways differ, up to TORTURE_FRAMES_MAX */
    const char *test_end; /* code from the beginning of the program up to here is the test's */
    bool say_where;       /* prints the stack of the one that fails to standard error */
};

/* Before any thread of the test exists.  map: NULL, or where each way is entered. */
void torture_arm(const struct torture_target *target, struct torture_run *run,
                 struct torture_map *map);

#endif
