/* SPDX-License-Identifier: Apache-2.0
 *
 * spin.c - when a worker that has nothing to do waits awake for a while before it sleeps.
 *
 * A sleep and a wake-up cost both threads some microseconds of CPU time, and the message tens of
 * them until it is seen.  Waiting awake costs what it lasts.  So it pays where messages from other
 * threads come soon, and only there; a bound of about the price of a sleep keeps the loss within a
 * factor of what is best (A. Karlin et al., "Empirical Studies of Competitive Spinning for a
 * Shared-Memory Multiprocessor", SOSP 1991).  What came before decides: an idle time is short when
 * such a message ended it within the bound, also when the worker slept, for then the sender says
 * when it called.  After four short ones the worker waits awake; when that was in vain, it sleeps
 * through eight times as many as the last time before it tries again, 64 at most, and through half
 * as many after each success.  So it goes on waiting only while three of four such waits pay, and a
 * worker to which nothing comes, or comes by its sockets alone, sleeps at once.
 */
#include "runtime/internal.h"

#define HOLD_FIRST 4u
#define LEVEL_MAX 6u /* so many halvings: 64 short idle times */
#define LEVEL_STEP 3u

void ptn__spin_init(struct ptn__spin *p, ptn_time limit_ns) {
    *p = (struct ptn__spin){.limit_ns = limit_ns, .hold = HOLD_FIRST};
}

void ptn__spin_busy(struct ptn__spin *p, ptn_time now) {
    p->idle_since = now;
    p->idle = p->spun = false;
}

bool ptn__spin_wants(struct ptn__spin *p, ptn_time now) {
    p->idle = true;
    if (p->hold == 0 && now - p->idle_since < p->limit_ns) {
        p->spun = true;
        return true;
    }
    if (p->spun) { /* in vain */
        p->spun = false;
        p->level = p->level + LEVEL_STEP < LEVEL_MAX ? p->level + LEVEL_STEP : LEVEL_MAX;
        p->hold = 1u << p->level;
    }
    return false;
}

void ptn__spin_message(struct ptn__spin *p, ptn_time at) {
    p->idle = false;
    if (at - p->idle_since >= p->limit_ns)
        return;
    if (p->hold > 0)
        p->hold--;
    if (p->spun && p->level > 0)
        p->level--;
}
