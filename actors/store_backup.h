/* SPDX-License-Identifier: Apache-2.0
 *
 * store_backup.h - the database as files: copies of it, their return, and its inspection.
 *
 * All of it blocks; for the command line and for the time before a broker runs.  *reterr_why is one
 * line for people, valid until the next call on this thread.
 */
#ifndef POSTERN_ACTORS_STORE_BACKUP_H
#define POSTERN_ACTORS_STORE_BACKUP_H

#include "actors/store_db.h"

typedef struct store_backup_opts {
    uint32_t step_pages; /* copied between two looks at the outside; 0: 1,024 */
    /* After each step.  False: give up, and leave nothing behind. */
    bool (*on_step)(void *arg, uint32_t done, uint32_t total);
    void *arg;
} store_backup_opts;

/* Copies the database at `from`, in use or not, to the new file `to` (mode 0600): one state of it,
 * however long it takes, checked, synced, and under its name only when all of that is done.  A
 * broker goes on writing meanwhile; its log grows until the copy is done.  Whoever serves from the
 * copy gives every conversation and topic a new epoch (store_db_claim()): what was written after it
 * was made is gone, and positions may come again with other contents.
 * -PTN_EEXIST: `to` is there; -PTN_EFULL, -PTN_EIO, -PTN_EPROTO (not a database of ours, or
 * damaged), -PTN_ESTOPPING (on_step). */
int store_backup(const char *from, const char *to, const store_backup_opts *opts,
                 const char **reterr_why);

/* Puts a copy of the backup `from` in the place of the database at `path`, which nobody has open.
 * What was there is kept as <path>.old-<now>.  Errors as store_backup(). */
int store_restore(const char *from, const char *path, int64_t now_s, const char **reterr_why);

/* Reads everything.  Up to 100 findings; returns how many there were, or an error. */
int store_check(const char *path, void (*finding)(void *arg, const char *text), void *arg,
                const char **reterr_why);

/* A database that is whole and synced stands at <path>.fresh: it takes the place of the one at
 * path, which is kept as <path>.<why>-<now>, with its log.  Begun again by store_swap_finish()
 * after a crash in between. */
int store_swap(const char *path, const char *why, int64_t now_s, const char **reterr_why);
/* Before the database is opened: 1 when it had been begun and is finished now, 0, or an error. */
int store_swap_finish(const char *path, const char *why, int64_t now_s, const char **reterr_why);

#endif
