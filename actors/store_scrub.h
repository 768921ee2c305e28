/* SPDX-License-Identifier: Apache-2.0
 *
 * store_scrub.h - reads a database that is in use from end to end, a slice at a time, and says
 * whether it is damaged.
 *
 * What SQLite's own integrity_check finds, it finds in one piece: nothing else happens on the
 * thread, and the log grows, for as long as the whole takes.  A slice reads some rows behind the
 * last one, in one short read transaction of its own.
 */
#ifndef POSTERN_ACTORS_STORE_SCRUB_H
#define POSTERN_ACTORS_STORE_SCRUB_H

#include <postern/base.h>

/* Where a check goes on: the tree, by its root page, and what is known of the key: two integers, or
 * the first 16 bytes of a text.  Rows at that place may be read again.  All 0: the beginning. */
typedef struct store_scrub_place {
    int64_t tree, key[2];
} store_scrub_place;

typedef struct store_scrub store_scrub;

/* Opens the database with a handle of its own, which belongs to one thread at a time and cannot
 * write.  The file has to be there.  0 or an error (-PTN_ENOMEM, -PTN_EIO, -PTN_EACCESS).
 * vfs: as in store_db.h. */
int store_scrub_open(const char *path, const char *vfs, const store_scrub_place *from,
                     store_scrub **ret_check);
void store_scrub_close(store_scrub *k); /* accepts NULL */

/* Reads on: at most max_pages pages and a few more, or some hundred rows.  1: there is more; 0:
 * that was the end; -PTN_EPROTO: it is damaged, and found (160 bytes) says how; another error: not
 * now. *ret_pages: what it has read from the disk, also then. */
int store_scrub_slice(store_scrub *k, uint32_t max_pages, uint32_t *ret_pages, char found[160]);

/* Between slices: where the next one begins. */
store_scrub_place store_scrub_at(const store_scrub *k);

#endif
