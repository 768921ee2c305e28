/* SPDX-License-Identifier: Apache-2.0
 *
 * bounds.h - how far everything that a runtime bounds is from its bound: for the oracles of the
 * simulator, which runs all workers in one thread and looks between two steps.
 *
 * Nothing of it is asked in a program.  For it no worker, port or lane may be at work meanwhile.
 */
#ifndef POSTERN_RUNTIME_BOUNDS_H
#define POSTERN_RUNTIME_BOUNDS_H

#include <postern/runtime.h>

typedef struct ptn__bound {
    const char *who; /* kind of actor, or a lane */
    const char *what;
    uint64_t now, max;
} ptn__bound;
typedef void (*ptn__bound_fn)(const ptn__bound *b);

/* Of each actor messages and asks, of each of its streams bytes and frames in the out-queue, of
 * each lane jobs and bytes. */
void ptn__bounds_visit(ptn_runtime *rt, ptn__bound_fn visit);

/* Where the numbers are; stream.c ignores resources that are no streams. */
struct ptn__resource;
struct ptn_lane;
void ptn__stream_bounds(const struct ptn__resource *r, const char *who, ptn__bound_fn visit);
void ptn__lane_bounds(const struct ptn_lane *l, ptn__bound_fn visit);

#endif
