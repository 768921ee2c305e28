/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_cache.c - conversations in memory: lookup, pins, the LRU list, and the record's
 * fields.
 */
#include "actors/conversation_internal.h"

#include <postern/buggify.h>
#include <postern/memory.h>
#include <postern/metrics.h>

#include <stdlib.h>

#define SHRINK_BY 8u /* conversations let go per unpinning while memory is short */

static void gauge_sync(struct shard *s) {
    int64_t n = HASH_COUNT(s->by_id);
    ptn_gauge_add(PTN_G_CONVERSATIONS_CACHED, n - s->gauge);
    s->gauge = n;
}

static void lru_remove(struct conversation *v) {
    if (v->lru_pprev == NULL)
        return;
    *v->lru_pprev = v->lru_next;
    if (v->lru_next != NULL)
        v->lru_next->lru_pprev = v->lru_pprev;
    else
        v->shard->lru_last = v->lru_pprev;
    v->lru_next = NULL;
    v->lru_pprev = NULL;
    v->shard->n_unpinned--;
}

static void lru_append(struct conversation *v) {
    struct shard *s = v->shard;
    v->lru_next = NULL;
    v->lru_pprev = s->lru_last;
    *s->lru_last = v;
    s->lru_last = &v->lru_next;
    s->n_unpinned++;
}

/* Without the record, which is a message. */
static int64_t bytes_of(const struct conversation *v) {
    return (int64_t)(sizeof *v + v->n_members * sizeof *v->members);
}

/* Its timer is not running: either it is unpinned, or the actor is ending. */
static void conv_free(struct conversation *v) {
    struct shard *s = v->shard;
    lru_remove(v);
    HASH_DELETE(hh, s->by_id, v);
    ptn_buf_unref(v->record);
    ptn_memory_charge(PTN_POOL_CACHES, -bytes_of(v));
    free(v->members);
    free(v->lag);
    free(v);
}

struct conversation *conv_find(struct shard *s, ptn_str id) {
    struct conversation *v = NULL;
    if (id.n > 0 && id.n <= CONVERSATION_ID_BYTES_MAX)
        HASH_FIND(hh, s->by_id, id.p, id.n, v);
    return v;
}

struct conversation *conv_new(struct shard *s, ptn_str id) {
    if (HASH_COUNT(s->by_id) >= s->attached_max && s->lru_first != NULL)
        conv_free(s->lru_first);
    if (HASH_COUNT(s->by_id) >= s->attached_max)
        return NULL;
    struct conversation *v = calloc(1, sizeof *v);
    if (v == NULL)
        return NULL;
    v->shard = s;
    v->pins = 1;
    v->id_bytes = (uint32_t)id.n;
    memcpy(v->id, id.p, id.n);
    HASH_ADD(hh, s->by_id, id, v->id_bytes, v);
    if (v->hh.tbl == NULL) {
        free(v);
        return NULL;
    }
    ptn_memory_charge(PTN_POOL_CACHES, bytes_of(v));
    gauge_sync(s);
    return v;
}

void conv_pin(struct conversation *v) {
    v->pins++;
    lru_remove(v);
}

void conv_unpin(struct conversation *v) {
    struct shard *s = v->shard;
    PTN_ASSERT(v->pins > 0);
    if (--v->pins > 0)
        return;
    if (v->record == NULL) { /* it does not exist, or could not be loaded */
        conv_free(v);
    } else {
        lru_append(v);
        bool over = s->n_unpinned > s->cache_max || PTN_BUGGIFY("conversation.evict");
        unsigned n = ptn_memory_pressure() ? SHRINK_BY : over ? 1 : 0;
        while (n-- > 0 && s->lru_first != NULL)
            conv_free(s->lru_first);
    }
    gauge_sync(s);
}

void conv_free_all(struct shard *s) {
    struct conversation *v, *next;
    HASH_ITER(hh, s->by_id, v, next) {
        conv_free(v);
    }
    gauge_sync(s);
}

/* ---- the record --------------------------------------------------------------------------- */

struct record {
    ptn_str id, title, creator, epoch;
    int64_t created_ms;
    uint64_t last_seq;
    uint64_t version, base;
    uint32_t n_members;
    ptn_unpack members; /* at the first of them */
};

/* Advances u behind the record. */
static bool record_read(ptn_unpack *u, struct record *r) {
    uint32_t n;
    ptn_str user;
    if (!ptn_unpack_array(u, &n) || n != 9 || !ptn_unpack_str(u, &r->id) ||
        !ptn_unpack_str_or_nil(u, &r->title) || !ptn_unpack_str(u, &r->creator) ||
        !ptn_unpack_int(u, &r->created_ms) || !ptn_unpack_str(u, &r->epoch) ||
        !ptn_unpack_uint(u, &r->last_seq) || !ptn_unpack_array(u, &r->n_members))
        return false;
    r->members = *u;
    for (uint32_t i = 0; i < r->n_members; i++)
        if (!ptn_unpack_str(u, &user))
            return false;
    return ptn_unpack_uint(u, &r->version) && ptn_unpack_uint(u, &r->base);
}

static int compare_str(const void *a, const void *b) {
    const ptn_str *x = a, *y = b;
    size_t n = x->n < y->n ? x->n : y->n;
    int r = n > 0 ? memcmp(x->p, y->p, n) : 0;
    return r != 0 ? r : (x->n > y->n) - (x->n < y->n);
}

int conv_adopt(struct conversation *v, ptn_buf *record) {
    struct record r = {0};
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(record));
    if (!record_read(&u, &r))
        return -PTN_EPROTO;
    ptn_str *members = calloc(r.n_members > 0 ? r.n_members : 1, sizeof *members);
    if (members == NULL)
        return -PTN_ENOMEM;
    for (uint32_t i = 0; i < r.n_members; i++)
        (void)ptn_unpack_str(&r.members, &members[i]);
    qsort(members, r.n_members, sizeof *members, compare_str);
    if (v->record == NULL)
        v->published = r.last_seq;
    if (r.last_seq > v->last_seq)
        v->last_seq = r.last_seq;
    if (r.base > v->base)
        v->base = r.base;
    ptn_buf_unref(v->record);
    free(v->members);
    ptn_memory_charge(PTN_POOL_CACHES,
                      ((int64_t)r.n_members - v->n_members) * (int64_t)sizeof *members);
    v->record = ptn_buf_ref(record);
    v->members = members;
    v->n_members = r.n_members;
    v->title = r.title;
    v->creator = r.creator;
    v->epoch = r.epoch;
    v->created_ms = r.created_ms;
    v->version = r.version;
    return 0;
}

bool conv_is_member(const struct conversation *v, ptn_str user) {
    return v->n_members > 0 &&
           bsearch(&user, v->members, v->n_members, sizeof *v->members, compare_str) != NULL;
}

static void pack_head(ptn_pack *w, const struct record *r) {
    ptn_pack_map(w, 8);
    ptn_pack_key(w, "id");
    ptn_pack_str(w, r->id);
    ptn_pack_key(w, "title");
    ptn_pack_str_or_nil(w, r->title);
    ptn_pack_key(w, "creatorId");
    ptn_pack_str(w, r->creator);
    ptn_pack_key(w, "createdAt");
    ptn_pack_timestamp(w, r->created_ms);
    ptn_pack_key(w, "lastSeq");
    ptn_pack_uint(w, r->last_seq);
    ptn_pack_key(w, "epoch");
    ptn_pack_str(w, r->epoch);
    ptn_pack_key(w, "version");
    ptn_pack_uint(w, r->version);
    ptn_pack_key(w, "members");
    ptn_pack_array(w, r->n_members);
}

void conv_pack(ptn_pack *w, const struct conversation *v) {
    struct record r = {.id = conv_id(v),
                       .title = v->title,
                       .creator = v->creator,
                       .epoch = v->epoch,
                       .created_ms = v->created_ms,
                       .last_seq = v->last_seq,
                       .version = v->version,
                       .n_members = v->n_members};
    pack_head(w, &r);
    for (uint32_t i = 0; i < v->n_members; i++)
        ptn_pack_str(w, v->members[i]);
}

bool conv_pack_record(ptn_pack *w, ptn_unpack *u, ptn_str *ret_id) {
    struct record r = {0};
    ptn_str user;
    if (!record_read(u, &r))
        return false;
    pack_head(w, &r);
    for (uint32_t i = 0; i < r.n_members && ptn_unpack_str(&r.members, &user); i++)
        ptn_pack_str(w, user);
    if (ret_id != NULL)
        *ret_id = r.id;
    return true;
}
