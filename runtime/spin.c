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
 *
 * Two workers that answer each other would never get out of their sleep that way: what the one
 * waits for is late by the other's wake-up, which alone is longer than the bound.  So the sender
 * also says how late its own sleep made it, and an idle time is short when it would have been
 * without that.  The wait is then longer by as much, or they would miss each other still: the first
 * to wait has to be awake when the other comes.  If that happens a few times in a row and the other
 * still sleeps, it was in vain, too.
 */
#include "runtime/internal.h"

#define HOLD_FIRST 4u
#define LEVEL_MAX 6u /* so many halvings: 64 short idle times */
#define LEVEL_STEP 3u
#define LATE_MAX (200 * UINT64_C(1000)) /* what a wake-up takes, with much to spare */
#define TRIES_MAX 4u                    /* waits for one who sleeps */

void ptn__spin_init(struct ptn__spin *p, ptn_time limit_ns) {
    *p = (struct ptn__spin){.limit_ns = limit_ns, .hold = HOLD_FIRST};
}

void ptn__spin_busy(struct ptn__spin *p, ptn_time now) {
    p->idle_since = now;
    p->idle = p->spun = false;
}

static void in_vain(struct ptn__spin *p) {
    p->spun = false;
    p->late = 0;
    p->tries = 0;
    p->level = p->level + LEVEL_STEP < LEVEL_MAX ? p->level + LEVEL_STEP : LEVEL_MAX;
    p->hold = 1u << p->level;
}

bool ptn__spin_wants(struct ptn__spin *p, ptn_time now) {
    p->idle = true;
    if (p->hold == 0 && now - p->idle_since < p->limit_ns + p->late) {
        p->spun = true;
        return true;
    }
    if (p->spun)
        in_vain(p);
    return false;
}

void ptn__spin_message(struct ptn__spin *p, ptn_time at, ptn_time late) {
    ptn_time gap = at - p->idle_since;
    p->idle = false;
    if (late > LATE_MAX)
        late = LATE_MAX;
    if (gap < p->limit_ns) {
        p->tries = 0;
    } else if (p->spun) { /* it came, but out of a sleep */
        if (++p->tries == TRIES_MAX)
            in_vain(p);
        return;
    } else if (gap >= p->limit_ns + late) {
        return;
    }
    p->late = late;
    if (p->hold > 0)
        p->hold--;
    if (p->spun && p->level > 0)
        p->level--;
}
