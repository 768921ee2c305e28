/* SPDX-License-Identifier: Apache-2.0
 *
 * store_salvage.h - a damaged database is set aside, and what can be read of it becomes a new one.
 *
 * Before the database is opened, by whoever has the lock of its directory; it blocks.
 */
#ifndef POSTERN_ACTORS_STORE_SALVAGE_H
#define POSTERN_ACTORS_STORE_SALVAGE_H

#include <postern/base.h>

typedef struct store_salvage {
    uint64_t rows;    /* that were kept */
    uint64_t holes;   /* ranges of keys that cannot be read, and rows that make no sense */
    char found[160];  /* what was wrong */
    char kept_as[32]; /* suffix of the damaged file and its log: ".bad-<now>" */
} store_salvage;

/* Looks whether the database at path can be used: at its schema and the ends of every table, and at
 * all of it when it was not closed in order and has at most check_bytes.  If it is damaged,
 * everything that can be read is copied, users first, into a new one, which takes its place; the
 * damaged file stays beside it.  The new one gives every conversation and topic a new epoch
 * (store_db_claim()). 0: sound, or not there, or something that store_db_open() has to say; 1:
 * salvaged; or an error
 * (-PTN_EFULL, -PTN_EIO, -PTN_EACCESS), and then nothing has changed.  *reterr_why as in
 * store_db.h. */
int store_salvage_if_damaged(const char *path, int64_t now_s, uint64_t check_bytes,
                             store_salvage *ret_s, const char **reterr_why);

/* What people should know of the database at path, which was salvaged at that time (0: never);
 * NULL: nothing. */
const char *store_salvage_note(const char *path, int64_t salvaged_s);

/* Leaves a note for the next start that the database is damaged. */
void store_salvage_request(const char *path, const char *found);

#endif
