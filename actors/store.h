/* SPDX-License-Identifier: Apache-2.0
 *
 * store.h - the store actor: STORE_* messages in, group-committed answers out.
 */
#ifndef POSTERN_ACTORS_STORE_H
#define POSTERN_ACTORS_STORE_H

#include "actors/store_db.h"

typedef struct store store;

typedef struct store_config {
    const char *path; /* of the database file; its directory exists */
    ptn_runtime *rt;
    store_db_opts db;
    const ptn_directory *directory; /* whom to tell what retention removed; NULL: nobody */
    uint32_t batch_max;             /* messages in one transaction; 0: 512 */
    uint32_t syncer_rows;           /* of a batch that is left to the syncer; 0: 16 */
    uint32_t jobs_max;              /* waiting, past it requests are refused; 0: 16,384 */
    size_t bytes_max;               /* of them; 0: runtime.h's default */
    ptn_time queue_delay_ns;        /* of the lane: runtime.h; 0: never */
    uint64_t scrub_rate; /* bytes a second that are searched for damage when the last end was not
                            clean; 0: none */
} store_config;

/* Opens the database and its lane.  Before ptn_runtime_run(), main thread.  *reterr_why as in
 * store_db.h. */
int store_open(const store_config *config, store **ret_store, const char **reterr_why);
/* After ptn_runtime_run() returned, before ptn_runtime_free(): finishes what waits, closes the
 * database. */
void store_close(store *s); /* accepts NULL */

extern const ptn_actor_ops store_actor; /* arg: the store */

#endif
