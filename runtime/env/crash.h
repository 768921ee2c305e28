/* SPDX-License-Identifier: Apache-2.0
 *
 * crash.h - what a process that cannot go on still says, and the signals by which a thread is
 * watched.  Implements `guard`, `unguard` and `poke` of env.h for real threads.
 *
 * Everything but ptn__guard_enter() and ptn__guard_leave() is async-signal-safe.
 */
#ifndef POSTERN_RUNTIME_ENV_CRASH_H
#define POSTERN_RUNTIME_ENV_CRASH_H

#include "runtime/env/env.h"

/* Text built without the C library; what does not fit is cut off. */
struct ptn__text {
    char *p;
    size_t n, max;
};
void ptn__text_z(struct ptn__text *t, const char *z);
void ptn__text_u64(struct ptn__text *t, uint64_t v);
void ptn__text_hex(struct ptn__text *t, uint64_t v);
void ptn__text_msg(struct ptn__text *t, uint32_t type); /* the kind of a message, by name */
/* The stack of the interrupted code, innermost first: module+offset, for addr2line. */
void ptn__text_stack(struct ptn__text *t, const char *between);

/* The calling thread: a signal stack of its own, a place in the record, and ticks. */
int ptn__guard_enter(const ptn_env_guard *g);
void ptn__guard_leave(void);
/* Any thread: the guard with this arg, if there is one, has its poked() called on its thread. */
void ptn__guard_poke(const void *arg);

/* Remembers what happened, for the record: the last PTN__CRASH_EVENTS. what and actor are static.
 */
#define PTN__CRASH_EVENTS 32u
void ptn__crash_note(const char *what, const char *actor, uint64_t addr, uint32_t type, int reason);

/* Why abort() comes next; static strings. */
void ptn__crash_why(const char *what, const char *file, int line);
/* In a tick: writes the record and ends the process with SIGABRT. */
void ptn__crash_abort(const char *what, uint64_t ms);

#endif
