/* SPDX-License-Identifier: Apache-2.0
 *
 * bounds.c - goes through everything that a runtime bounds: actors with their streams, and lanes.
 */
#include "runtime/bounds.h"

#include "runtime/internal.h"

static void slot_bounds(const struct ptn__slot *s, ptn__bound_fn visit) {
    uint32_t max = s->msgs_max;
    const char *who = s->ops->name;
    /* Not the sum: whoever sends from elsewhere knows near messages as of the last batch. */
    visit(&(ptn__bound){who, "near messages", ptn__near_load(s) >> 40, max});
    visit(&(ptn__bound){who, "far messages", s->far_load >> 40, max});
    visit(&(ptn__bound){who, "asks", s->cold->asks.n, max});
    for (const struct ptn__resource *r = s->cold->resources; r != NULL; r = r->next)
        ptn__stream_bounds(r, who, visit);
}

void ptn__bounds_visit(ptn_runtime *rt, ptn__bound_fn visit) {
    for (unsigned i = 0; i < rt->n_workers; i++)
        for (const struct ptn__slot *s = rt->workers[i]->live; s != NULL; s = s->live_next)
            slot_bounds(s, visit);
    for (const struct ptn__foreign *f = rt->foreign; f != NULL; f = f->next)
        if (f->lane != NULL)
            ptn__lane_bounds(f->lane, visit);
}
