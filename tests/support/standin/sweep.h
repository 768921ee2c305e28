/* SPDX-License-Identifier: Apache-2.0
 *
 * sweep.h - runs a test again and again, each time with another allocation failing; see sweep.c.
 */
#ifndef POSTERN_TESTS_SUPPORT_SWEEP_H
#define POSTERN_TESTS_SUPPORT_SWEEP_H

#include <criterion/criterion.h>

#include <sys/types.h>
#include <time.h>

/* These two are criterion.c's.  The first is for a forked child, which it ends: the sanitizer's own
 * exit code takes over from ours if it has something to report.  The second: the wait status of the
 * child, or -1. */
_Noreturn void cr__run_here(const struct cr__test *t, const struct cr__options *o);
int cr__wait_for(pid_t pid);

extern time_t cr__patience_s; /* these three are unfailing.h's */
void cr__waited_in_vain(void);
char *cr__mkdtemp(char *template);

enum cr__sweep_kind {
    CR__SWEEP_TESTS, /* each test by itself: `runs` of each way; 0: every allocation */
    CR__SWEEP_WAYS,  /* each way of all tests once */
    CR__SWEEP_BRIEF, /* the same by fewer frames, and in bounded time */
};
/* test_end: see torture.h.  False: no memory. */
bool cr__sweep_open(const char *program, enum cr__sweep_kind kind, unsigned long runs,
                    const void *test_end);
/* False: a fault, which has been said. */
bool cr__sweep(const struct cr__test *t, const struct cr__options *o);
bool cr__sweep_replay(const struct cr__test *t, const struct cr__options *o, unsigned long k);
/* Of all tests together. */
void cr__sweep_say(void);

#endif
