/* SPDX-License-Identifier: Apache-2.0
 *
 * store_internal.h - what the store's actor (store.c) and its lanes (store_lanes.c) share.
 */
#ifndef POSTERN_ACTORS_STORE_INTERNAL_H
#define POSTERN_ACTORS_STORE_INTERNAL_H

#include "actors/store.h"

enum { STORE_AFLOAT_MAX = 64 }; /* commits that wait for their sync */

struct store {
    const ptn_directory *directory;
    bool retains;       /* there are rules that let something go */
    ptn_time ttl_ns;    /* of what waits for devices; 0: none */
    _Atomic(bool) full; /* the writer says so to the actor */

    /* the writer's */
    store_db *db;
    ptn_lane *writer;
    struct outcome *outcomes; /* of one batch */
    size_t batch_max;
    uint32_t syncer_rows;
    int64_t log_bytes; /* as the gauge has it */

    /* What the writer leaves to the syncer with the jobs of a commit, and its answer. */
    ptn_lane *syncer;
    bool left;                        /* the writer's: it has not waited for the end of that */
    uint32_t pages[STORE_AFLOAT_MAX]; /* the writer's: of the log before a commit, by its number */
    _Atomic(uint64_t) begun;     /* commits that were left to the syncer; grows before the commit */
    _Atomic(uint64_t) committed; /* ...and after it */
    _Atomic(uint64_t) synced;    /* ...and when they are on disk, or the writer knows they failed */
    _Atomic(int) sync_err;       /* the syncer's: what is not synced is lost */

    /* A sync has failed, and the log has not been put right: what it says may not be on disk. */
    _Atomic(bool) lost;
    _Atomic(uint32_t) losses; /* how often */

    /* the reader's */
    store_db *reader_db;
    ptn_lane *reader;
    store_scrub *scrub;      /* NULL: not open */
    store_scrub_place place; /* where the next one that is opened begins */

    char *path;
    const char *vfs;
    uint64_t scrub_rate;
    store_scrub_plan plan; /* as it was at the start */
    store_scrub_view view;
};

/* True: nothing waits in a lane, or is under way. */
bool store_lanes_are_idle(const struct store *s);

#endif
