/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_internal.h - what the files of the conversation actor share.
 *
 * Order.  The store assigns sequence numbers and its lane answers in order, so the answers to
 * appends arrive here in the order of seq; each is answered to its sender and then published.
 * `published` is the last event that went out, and only the next one may follow.  A hole (an answer
 * that came after its ask's deadline) is filled from the store: catch-up.  A change of members
 * whose answer did not come is looked up there likewise.  Catch-up also serves a hub whose mailbox
 * refused an event: it gets nothing more of this conversation until it has got what it missed.
 *
 * A change of members is answered when every hub has been told: a hub that refuses to hear who is
 * gone would go on giving it what is stored, and it reads that from the store by itself.
 *
 * Lifetime.  A conversation is pinned by every request that uses it, by every hub attached to it,
 * and by its catch-up.  Unpinned ones form an LRU list.  All of it is malloc'ed and freed by one
 * defer, so a crash of the shard leaks nothing; the next incarnation starts from the store.
 */
#ifndef POSTERN_ACTORS_CONVERSATION_INTERNAL_H
#define POSTERN_ACTORS_CONVERSATION_INTERNAL_H

#include "actors/conversation.h"

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define CONVERSATION_ID_BYTES_MAX 64
#define CONVERSATION_MEMBERS_MAX 1000u
#define CONVERSATION_EPOCH_BYTES 16
#define CONVERSATION_TITLE_CHARS_MAX 200u
#define MESSAGE_CONTENT_BYTES_MAX (64u << 10)
#define MESSAGE_METADATA_BYTES_MAX (16u << 10)

struct shard;
struct mark;
struct conversation;

struct op {                   /* one request in flight; op_end() is its only end */
    struct op *next, **pprev; /* of the shard */
    struct op *wait_next;     /* while the conversation is being loaded, or the answer held */
    struct shard *shard;
    struct conversation *conv; /* pinned; NULL: none */
    uint32_t type;
    ptn_addr from;
    ptn_reply_to to;
    ptn_buf *payload;    /* keeps the views below alive */
    ptn_request request; /* routes only */
    ptn_str user;        /* who asks */
    uint32_t limit;      /* of a list */
    int64_t now_ms;      /* when the items of a SYNC_APPLY were checked */
};

struct lag { /* hubs that refused an event: the last one that each has got */
    uint64_t hubs;
    uint64_t sent[PTN_WORKERS_MAX];
};

struct conversation {
    UT_hash_handle hh;
    struct conversation *lru_next, **lru_pprev; /* in the LRU list while unpinned */
    struct shard *shard;
    ptn_buf *record; /* CONV; the views below point into it.  NULL: being loaded */
    ptn_str title, creator, epoch;
    ptn_str *members; /* sorted by bytes */
    uint32_t n_members;
    int64_t created_ms;
    uint64_t version;
    uint64_t base;      /* newest that retention has removed */
    uint64_t last_seq;  /* newest that this shard has heard of */
    uint64_t published; /* newest that went to the hubs */
    uint64_t hubs;      /* attached, one bit per worker */
    struct lag *lag;    /* NULL: no hub lags */
    struct op *waiting_first, *waiting_last;
    ptn_timer timer; /* loading again, catch-up */
    uint32_t catch_up_failures;
    bool catching_up, catch_up_again;
    bool members_unsure; /* a change has an unknown outcome: catch-up reads the record again */
    uint32_t pins;
    uint32_t id_bytes;
    char id[CONVERSATION_ID_BYTES_MAX];
};

struct shard {
    const conversation_config *config;
    const ptn_directory *directory;
    uint32_t cache_max, attached_max, requests_max;
    struct conversation *by_id;
    struct conversation *lru_first, **lru_last; /* oldest first */
    uint32_t n_unpinned;
    struct op *ops, *op_pool;
    uint32_t n_ops;
    size_t op_bytes;   /* of their payloads */
    uint64_t watching; /* hubs that want every event */
    uint64_t resync;   /* hubs that must still hear OWNER_RESTARTED */
    ptn_timer resync_timer;
    struct op *held;    /* changes of members, not answered before that */
    struct mark *marks; /* that the members have not heard of */
    uint32_t n_marks;
    ptn_timer marks_timer;
    int64_t gauge;
    bool stopping;
};

static inline ptn_str conv_id(const struct conversation *v) {
    return (ptn_str){v->id, v->id_bytes};
}

/* ---- conversation.c ----------------------------------------------------------------------- */

/* Ends the request after it was answered: releases its payload and its conversation. */
void op_end(ptn_ctx *c, struct op *op);
/* Answers with a problem, and ends. */
void op_fail(ptn_ctx *c, struct op *op, int code, const char *message);
void op_fail_field(ptn_ctx *c, struct op *op, const char *message, const char *field,
                   const char *reason);
/* The outcome of an inner ask that did not bring what was wanted. */
void op_pass(ptn_ctx *c, struct op *op, int err, const ptn_msg *reply);
void op_not_found(ptn_ctx *c, struct op *op);
/* Consumes w: asks the store on behalf of op; when that fails, op is answered and ended, and false.
 */
bool op_ask(ptn_ctx *c, struct op *op, uint32_t type, ptn_pack *w, ptn_reply_cb cb);
/* The same for a change that others hear of when the answer is here, however late: nothing else
 * would tell them.  Appends and changes of members have the catch-up, which does not wait. */
bool op_ask_through(ptn_ctx *c, struct op *op, uint32_t type, ptn_pack *w, ptn_reply_cb cb);
/* Consumes w: answers, and ends. */
void op_respond(ptn_ctx *c, struct op *op, ptn_pack *w);
/* Tells a hub to make its subscribers start over, now or as soon as it listens again. */
void shard_resync(ptn_ctx *c, struct shard *s, unsigned worker);
/* Packs and casts; a refusal is returned. */
int cast_packed(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_pack *w);

/* ---- conversation_cache.c ----------------------------------------------------------------- */

struct conversation *conv_find(struct shard *s, ptn_str id);
/* A new entry, being loaded, with one pin.  NULL: no memory or too many. */
struct conversation *conv_new(struct shard *s, ptn_str id);
void conv_pin(struct conversation *v);
void conv_unpin(struct conversation *v);
/* Takes over a CONV payload.  0, -PTN_EPROTO (malformed) or -PTN_ENOMEM. */
int conv_adopt(struct conversation *v, ptn_buf *record);
bool conv_is_member(const struct conversation *v, ptn_str user);
void conv_free_all(struct shard *s);
/* The Conversation that clients see. */
void conv_pack(ptn_pack *w, const struct conversation *v);
/* The same from a CONV array; advances u, *ret_id (may be NULL) is a view.  False: malformed. */
bool conv_pack_record(ptn_pack *w, ptn_unpack *u, ptn_str *ret_id);

/* ---- conversation_events.c ---------------------------------------------------------------- */

void on_attach(ptn_ctx *c, struct op *op);
void on_detach(ptn_ctx *c, struct op *op);
/* TOPIC_TRIMMED */
int on_trimmed(struct shard *s, const ptn_msg *m);
void on_watch_all(ptn_ctx *c, struct shard *s, const ptn_msg *m);
/* message: the MESSAGE map of number seq, which is stored. */
void conv_publish(ptn_ctx *c, struct conversation *v, uint64_t seq, ptn_bytes message);
/* Publishes from the store what has not been published; reads the members again when unsure. */
void catch_up(ptn_ctx *c, struct conversation *v);
/* The hubs drop this user's subscriptions. */
void conv_evict_user(ptn_ctx *c, struct conversation *v, ptn_str user);
/* An event on the user's own topic: {type, conversationId}.  Best effort: clients reload their
 * list. */
void tell_user(ptn_ctx *c, struct shard *s, ptn_str user, const char *type, ptn_str conversation);
/* conversation.updated to every member: their clients may show the title. */
void conv_tell_title(ptn_ctx *c, struct conversation *v);

/* tell_user() in pieces: n members in all, `type` and `conversationId` are written by begin. */
void user_event_begin(ptn_pack *w, ptn_str user, uint32_t n, const char *type,
                      ptn_str conversation);
void user_event_send(ptn_ctx *c, struct shard *s, ptn_str user, ptn_pack *w);
/* The feeds of these users get the conversation, from after seq. */
void conv_tell_joined(ptn_ctx *c, struct shard *s, ptn_str id, const ptn_str *users, uint32_t n,
                      uint64_t seq);

/* ---- conversation_marks.c ------------------------------------------------------------------ */

void on_mark(ptn_ctx *c, struct op *op);
/* The user has read this MESSAGE: its conversation's shard hears of it. */
void mark_read(ptn_ctx *c, struct shard *s, ptn_bytes message, ptn_str user, uint64_t seq);
void marks_free_all(struct shard *s);

/* ---- conversation_messages.c -------------------------------------------------------------- */

struct fault {
    const char *field, *reason;
};
struct faults {
    uint32_t n;
    struct fault at[8];
};
struct draft {                 /* a message to send, checked */
    ptn_str id, content, type; /* id.n == 0: none given */
    ptn_bytes metadata;        /* n == 0: none */
    int64_t timestamp_ms;
};
/* Reads the body of a message to send.  ret_f->n > 0: it is not acceptable. */
void draft_read(ptn_bytes body, bool admin, int64_t now_ms, struct draft *ret_d,
                struct faults *ret_f);

/* Payloads of STORE_MSG_APPEND (d->id is set) and STORE_MSG_READ. */
void pack_append(ptn_pack *w, const struct op *op, const struct draft *d);
void pack_read(ptn_pack *w, const struct op *op, ptn_str message_id, int64_t now_ms);

void on_send(ptn_ctx *c, struct op *op);
void on_list_messages(ptn_ctx *c, struct op *op);
void on_read(ptn_ctx *c, struct op *op);

/* ---- conversation_members.c --------------------------------------------------------------- */

void on_create(ptn_ctx *c, struct op *op);
void on_list(ptn_ctx *c, struct op *op);
void on_get(ptn_ctx *c, struct op *op);
void on_members_add(ptn_ctx *c, struct op *op);
void on_members_remove(ptn_ctx *c, struct op *op);
/* Answers a change of members, as soon as no hub must still hear OWNER_RESTARTED. */
void members_answer(ptn_ctx *c, struct op *op);
/* The store's record is the truth; whoever is new or gone hears of it.  <0: nothing has changed. */
int members_adopt(ptn_ctx *c, struct conversation *v, ptn_buf *record);
/* The title of a body.  NULL: fine, *ret_title is it or empty; otherwise what is wrong with it. */
const char *read_title(ptn_bytes body, ptn_str *ret_title);
/* Writes a new epoch. */
void make_epoch(ptn_ctx *c, char out[CONVERSATION_EPOCH_BYTES + 1]);

/* ---- conversation_sync.c ------------------------------------------------------------------ */

void on_patch(ptn_ctx *c, struct op *op);
void on_sync_apply(ptn_ctx *c, struct op *op);

#endif
