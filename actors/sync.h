/* SPDX-License-Identifier: Apache-2.0
 *
 * sync.h - synchronisation of clients that were offline: the sync actor (routes /sync), and what it
 * shares with the owners of what is synchronised.
 *
 * POST /sync is a list of items, each with an outcome of its own.  The sync actor sorts them by
 * owner: those of one conversation go to its shard together, in order, and from there to the store
 * as one STORE_EDIT; preferences go to the store directly.  GET /sync is read by the store.
 */
#ifndef POSTERN_ACTORS_SYNC_H
#define POSTERN_ACTORS_SYNC_H

#include <postern/messages.h>

typedef struct sync_config { /* arg of the actor; outlives it */
    const ptn_directory *directory;
    uint32_t items_max;   /* of one POST /sync; 0: 100 */
    uint32_t bytes_max;   /* of its body, in msgpack; 0: 512 KiB */
    uint32_t batches_max; /* in flight; 0: 1,024 */
} sync_config;

extern const ptn_actor_ops sync_actor; /* one per worker */

/* ---- items, for the owners ------------------------------------------------------------------ */

#define SYNC_ID_BYTES_MAX 128

struct sync_item { /* a view of one item: what all kinds have in common */
    ptn_bytes raw; /* the map */
    ptn_str id;
    enum ptn_edit_kind kind;
    int64_t stamp_ms; /* the client's time, at most ours */
    uint64_t base;    /* version that the client has seen */
    bool based;       /* it said one */
    bool reject;      /* policy */
};

/* ret_wrong->n > 0: it is not acceptable; the id is there when it could be read. */
void sync_item_read(ptn_bytes raw, int64_t now_ms, struct sync_item *ret_item,
                    ptn_fields *ret_wrong);
/* Writes an EDIT but its body, which is the caller's to pack. */
void sync_pack_edit(ptn_pack *w, const struct sync_item *item);

struct sync_outcome { /* of one EDIT: a view */
    enum ptn_outcome outcome;
    uint64_t version; /* 0: none */
    ptn_bytes value;
};
/* STORE_EDITED: *ret_record is USER, CONV or nil; *ret_u stands at the first of *ret_n outcomes. */
bool sync_edited_read(ptn_bytes edited, ptn_bytes *ret_record, ptn_unpack *ret_u, uint32_t *ret_n);
bool sync_outcome_read(ptn_unpack *u, struct sync_outcome *ret_o);

/* Results as clients see them.  Of one that is not rejected: the caller packs `data` behind it. */
void sync_pack_result(ptn_pack *w, ptn_str id, const struct sync_outcome *o);
void sync_pack_rejected(ptn_pack *w, ptn_str id, int code, ptn_str message, ptn_bytes details);
void sync_pack_problem(ptn_pack *w, ptn_str id, ptn_bytes problem);
void sync_pack_invalid(ptn_pack *w, ptn_str id, const ptn_fields *wrong);

/* Tells the user's other devices: an event on the user's own topic.  Best effort. */
void sync_tell_preferences(ptn_ctx *c, const ptn_directory *d, ptn_str user, uint64_t version);

#endif
