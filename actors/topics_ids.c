/* SPDX-License-Identifier: Apache-2.0
 *
 * topics_ids.c - which publications of the last while carried an id, so that sending one twice
 * gives the first result.
 *
 * A window: bounded in number (the oldest goes) and in time.  Durable topics bring their newest ids
 * back from the store, so for them it outlives a restart.
 */
#include "actors/topics_internal.h"

#include <sodium.h>
#include <stdlib.h>

#define KEY_BYTES 16

void event_id_make(const struct topics *s, ptn_str user, ptn_str topic, ptn_str key, ptn_bytes data,
                   uint8_t ret_id[EVENT_ID_BYTES]) {
    uint8_t body[crypto_generichash_BYTES_MIN];
    const ptn_str parts[] = {user, topic, key};
    crypto_generichash_state st;
    _Static_assert(KEY_BYTES == crypto_generichash_BYTES_MIN, "the hash fills the key");
    (void)crypto_generichash_init(&st, s->config.id_key, sizeof s->config.id_key, KEY_BYTES);
    for (size_t i = 0; i < PTN_ARRAY_LEN(parts); i++) {
        uint64_t n = parts[i].n;
        (void)crypto_generichash_update(&st, (const uint8_t *)&n, sizeof n);
        (void)crypto_generichash_update(&st, (const uint8_t *)parts[i].p, n);
    }
    (void)crypto_generichash_final(&st, ret_id, KEY_BYTES);
    (void)crypto_generichash(body, sizeof body, data.p, data.n, s->config.id_key,
                             sizeof s->config.id_key);
    memcpy(ret_id + KEY_BYTES, body, EVENT_ID_BYTES - KEY_BYTES);
}

static struct event_id *find(const struct topics *s, const uint8_t id[EVENT_ID_BYTES]) {
    struct event_id *e = NULL;
    HASH_FIND(hh, s->ids, id, KEY_BYTES, e);
    return e;
}

static void drop_oldest(struct topics *s) {
    struct event_id *e = s->ids_oldest;
    s->ids_oldest = e->next;
    if (e->next == NULL)
        s->ids_youngest = NULL;
    HASH_DELETE(hh, s->ids, e);
    s->n_ids--;
    free(e);
}

static struct event_id *add(ptn_ctx *c, struct topics *s, const uint8_t id[EVENT_ID_BYTES]) {
    ptn_time now = ptn_now(c);
    while (s->ids_oldest != NULL &&
           (s->n_ids >= s->config.ids_max || s->ids_oldest->at + s->config.ids_ns <= now))
        drop_oldest(s);
    struct event_id *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    memcpy(e->bytes, id, EVENT_ID_BYTES);
    e->at = now;
    HASH_ADD(hh, s->ids, bytes, KEY_BYTES, e);
    if (e->hh.tbl == NULL) { /* no memory for the table */
        free(e);
        return NULL;
    }
    *(s->ids_youngest != NULL ? &s->ids_youngest->next : &s->ids_oldest) = e;
    s->ids_youngest = e;
    s->n_ids++;
    return e;
}

enum event_id_state event_id_begin(ptn_ctx *c, struct topics *s, const uint8_t id[EVENT_ID_BYTES],
                                   struct event_id **ret_e) {
    struct event_id *e = find(s, id);
    *ret_e = e;
    if (e == NULL) {
        *ret_e = add(c, s, id);
        return *ret_e != NULL ? ID_NEW : ID_NO_MEMORY;
    }
    if (memcmp(e->bytes + KEY_BYTES, id + KEY_BYTES, EVENT_ID_BYTES - KEY_BYTES) != 0)
        return ID_MISMATCH;
    return e->offset == 0 ? ID_UNDER_WAY : ID_KNOWN;
}

void event_id_done(struct topics *s, const uint8_t id[EVENT_ID_BYTES], ptn_str epoch,
                   uint64_t offset) {
    struct event_id *e = find(s, id);
    if (e == NULL || e->offset != 0)
        return; /* pushed out by younger ones meanwhile */
    e->offset = offset;
    memcpy(e->epoch, epoch.p, epoch.n < EPOCH_BYTES ? epoch.n : EPOCH_BYTES);
}

void event_id_forget(struct topics *s, const uint8_t id[EVENT_ID_BYTES]) {
    struct event_id **at = &s->ids_oldest, *e = find(s, id), *before = NULL;
    if (e == NULL || e->offset != 0)
        return;
    for (; *at != e; at = &(*at)->next) /* a failure is rare, and mostly of a young one */
        before = *at;
    *at = e->next;
    if (s->ids_youngest == e)
        s->ids_youngest = before;
    HASH_DELETE(hh, s->ids, e);
    s->n_ids--;
    free(e);
}

void event_id_restore(ptn_ctx *c, struct topics *s, const uint8_t id[EVENT_ID_BYTES], ptn_str epoch,
                      uint64_t offset) {
    if (find(s, id) == NULL && add(c, s, id) != NULL)
        event_id_done(s, id, epoch, offset);
}

void event_ids_free(struct topics *s) {
    while (s->ids_oldest != NULL)
        drop_oldest(s);
}
