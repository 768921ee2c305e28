/* SPDX-License-Identifier: Apache-2.0
 *
 * sync.c - the sync actor: POST and GET /sync.
 *
 * A list is taken apart into groups of one owner each: the items of one conversation, in order, and
 * the edits of preferences.  All groups are asked at once, and the results are put together in the
 * order of the items.  When a group fails or is late, its items are rejected with the reason, and
 * the others have their results all the same: sending the list again is safe.
 *
 * It holds no state that matters: a restart loses requests in flight.
 */
#include "actors/sync.h"

#include "actors/conversation_internal.h"

#include <stdlib.h>

#define ITEMS_MAX_DEFAULT 100u
#define BYTES_MAX_DEFAULT (512u << 10)
#define BATCHES_MAX_DEFAULT 1024u
#define PREFERENCES_ITEMS_MAX 16u /* each answers with up to 16 KiB */
#define TOKEN_BYTES_MAX 256
#define PULL_MAX 500
#define PULL_DEFAULT 200
#define NO_GROUP UINT32_MAX

struct sync {
    const sync_config *config;
    uint32_t items_max, bytes_max, batches_max;
    struct batch *batches; /* in flight: freed by sync_forget() after a crash */
    uint32_t n_batches;
    bool stopping;
};

struct group { /* items of one owner */
    struct batch *batch;
    ptn_str conversation; /* n == 0: preferences */
    uint32_t n;
    int err; /* the ask's */
    uint32_t type;
    ptn_buf *reply;
    ptn_unpack at; /* in the reply: the next result */
};

struct batch { /* one request */
    struct batch *next, **pprev;
    struct sync *sync;
    ptn_reply_to to;
    ptn_buf *payload; /* keeps the views alive */
    ptn_request request;
    int64_t now_ms;
    uint32_t n_items, n_groups, waiting;
    ptn_timer preferences_timer; /* when it fires, the answer does not wait for them any longer, */
    bool preferences_late;       /* but others have to hear of them */
    struct group *groups;        /* n_items of them */
    struct owned *items;
};

struct owned {
    ptn_bytes raw;
    uint32_t group; /* NO_GROUP: not acceptable */
};

/* ---- batches ------------------------------------------------------------------------------ */

static struct batch *batch_new(struct sync *s, uint32_t n_items) {
    struct batch *b = s->n_batches < s->batches_max ? calloc(1, sizeof *b) : NULL;
    if (b == NULL)
        return NULL;
    b->groups = calloc(n_items > 0 ? n_items : 1, sizeof *b->groups);
    b->items = calloc(n_items > 0 ? n_items : 1, sizeof *b->items);
    if (b->groups == NULL || b->items == NULL) {
        free(b->groups);
        free(b->items);
        free(b);
        return NULL;
    }
    b->sync = s;
    b->n_items = n_items;
    b->next = s->batches;
    b->pprev = &s->batches;
    if (b->next != NULL)
        b->next->pprev = &b->next;
    s->batches = b;
    s->n_batches++;
    return b;
}

static void batch_free(struct batch *b) {
    *b->pprev = b->next;
    if (b->next != NULL)
        b->next->pprev = b->pprev;
    b->sync->n_batches--;
    for (uint32_t i = 0; i < b->n_groups; i++)
        ptn_buf_unref(b->groups[i].reply);
    ptn_buf_unref(b->payload);
    free(b->groups);
    free(b->items);
    free(b);
}

static void batch_end(ptn_ctx *c, struct batch *b) {
    struct sync *s = b->sync;
    batch_free(b);
    if (s->stopping && s->n_batches == 0)
        ptn_exit(c, 0);
}

/* At the actor's end, crash included. */
static void sync_forget(void *arg) {
    struct sync *s = arg;
    while (s->batches != NULL)
        batch_free(s->batches);
}

/* ---- checking ----------------------------------------------------------------------------- */

/* The same each time: item i as this actor sees it, and its conversation (empty: preferences).
 * *n_prefs counts them. */
static void check_item(const struct batch *b, uint32_t i, uint32_t *n_prefs,
                       struct sync_item *ret_item, ptn_fields *ret_wrong,
                       ptn_str *ret_conversation) {
    ptn_bytes raw = b->items[i].raw, value;
    *ret_conversation = (ptn_str){"", 0};
    sync_item_read(raw, b->now_ms, ret_item, ret_wrong);
    if (ret_wrong->n > 0)
        return;
    if (ret_item->kind == PTN_EDIT_PREFERENCES) {
        if (!ptn_map_get(raw, "preferences", &value) || ptn_kind_of(value) != PTN_KIND_MAP)
            ptn_fields_add(ret_wrong, "preferences", "an object with the members to change");
        else if (++*n_prefs > PREFERENCES_ITEMS_MAX)
            ptn_fields_add(ret_wrong, "kind",
                           "at most 16 edits of preferences in one list; send it in the next");
        return;
    }
    *ret_conversation = b->request.principal.user;
    if (!ptn_map_get(raw, "conversationId", &value) || ptn_kind_of(value) == PTN_KIND_NIL)
        return;
    if (!ptn_map_get_str(raw, "conversationId", ret_conversation) || ret_conversation->n == 0 ||
        ret_conversation->n > CONVERSATION_ID_BYTES_MAX)
        ptn_fields_add(ret_wrong, "conversationId", "the id of a conversation, or `current`");
    else if (ptn_str_eqz(*ret_conversation, "current"))
        *ret_conversation = b->request.principal.user;
}

/* Each acceptable item gets its group. */
static void sort_items(struct batch *b) {
    struct sync_item item;
    ptn_fields wrong;
    ptn_str conversation;
    uint32_t n_prefs = 0;
    for (uint32_t i = 0; i < b->n_items; i++) {
        check_item(b, i, &n_prefs, &item, &wrong, &conversation);
        b->items[i].group = NO_GROUP;
        if (wrong.n > 0)
            continue;
        uint32_t g = 0;
        while (g < b->n_groups && !ptn_str_eq(b->groups[g].conversation, conversation))
            g++;
        if (g == b->n_groups)
            b->groups[b->n_groups++] = (struct group){.batch = b, .conversation = conversation};
        b->groups[g].n++;
        b->items[i].group = g;
    }
}

/* ---- the answer --------------------------------------------------------------------------- */

/* True: the group as a whole has no results; *ret_p says why. */
static bool group_failed(const struct group *g, ptn_problem *ret_p) {
    const char *message;
    *ret_p = (ptn_problem){.code = PTN_CODE_INTERNAL};
    if (g->err != 0) {
        ret_p->code = ptn_code_of_err(g->err, &message);
        ret_p->message = ptn_str_of(message);
        return true;
    }
    if (g->type != PTN_MSG_PROBLEM)
        return false;
    (void)ptn_problem_unpack(ptn_buf_bytes(g->reply), ret_p);
    return true;
}

static void pack_preferences(ptn_ctx *c, ptn_pack *w, struct group *g,
                             const struct sync_item *item) {
    struct sync_outcome o;
    PTN_REQUIRE(c, sync_outcome_read(&g->at, &o));
    if (o.outcome == PTN_OUTCOME_REJECTED) {
        sync_pack_problem(w, item->id, o.value);
        return;
    }
    sync_pack_result(w, item->id, &o);
    ptn_pack_raw(w, o.value);
}

static void pack_results(ptn_ctx *c, struct batch *b, ptn_pack *w) {
    struct sync_item item;
    ptn_fields wrong;
    ptn_str conversation;
    ptn_problem p;
    uint32_t n_prefs = 0;
    for (uint32_t i = 0; i < b->n_items; i++) {
        check_item(b, i, &n_prefs, &item, &wrong, &conversation);
        if (wrong.n > 0) {
            sync_pack_invalid(w, item.id, &wrong);
            continue;
        }
        struct group *g = &b->groups[b->items[i].group];
        ptn_bytes raw;
        if (group_failed(g, &p)) {
            sync_pack_rejected(w, item.id, p.code, p.message, p.details);
        } else if (g->conversation.n == 0) {
            pack_preferences(c, w, g, &item);
        } else {
            PTN_REQUIRE(c, ptn_unpack_any(&g->at, &raw));
            ptn_pack_raw(w, raw);
        }
    }
}

/* The user's other clients hear of the newest version that a STORE_EDITED has made. */
static void tell_preferences(ptn_ctx *c, const struct batch *b, ptn_bytes edited) {
    struct sync_outcome o;
    ptn_bytes record;
    ptn_unpack u;
    uint32_t n;
    uint64_t version = 0;
    PTN_REQUIRE(c, sync_edited_read(edited, &record, &u, &n));
    for (; n > 0 && sync_outcome_read(&u, &o); n--)
        if (o.outcome == PTN_OUTCOME_APPLIED)
            version = o.version;
    if (version > 0)
        sync_tell_preferences(c, b->sync->config->directory, b->request.principal.user, version);
}

static void batch_answer(ptn_ctx *c, struct batch *b) {
    size_t bytes = 512 + 256 * (size_t)b->n_items;
    for (uint32_t i = 0; i < b->n_groups; i++)
        bytes += ptn_buf_bytes(b->groups[i].reply).n;
    ptn_pack w;
    ptn_pack_init(&w, bytes);
    ptn_response_begin(&w, 200);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "results");
    ptn_pack_array(&w, b->n_items);
    pack_results(c, b, &w);
    ptn_response_send(c, b->to, &w);
    for (uint32_t i = 0; i < b->n_groups; i++)
        if (b->groups[i].type == PTN_MSG_STORE_EDITED)
            tell_preferences(c, b, ptn_buf_bytes(b->groups[i].reply));
    if (!b->preferences_late)
        batch_end(c, b);
}

/* ---- asking the owners -------------------------------------------------------------------- */

static void group_answered(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct group *g = arg;
    struct batch *b = g->batch;
    uint32_t n;
    (void)state;
    g->err = err;
    if (err == 0) {
        ptn_bytes record;
        g->type = reply->type;
        g->reply = ptn_buf_ref(reply->buf);
        g->at = ptn_unpack_of(ptn_msg_bytes(reply));
        if (g->type == PTN_MSG_STORE_EDITED)
            PTN_REQUIRE(c,
                        sync_edited_read(ptn_msg_bytes(reply), &record, &g->at, &n) && n == g->n);
        else if (g->type == PTN_MSG_SYNC_APPLIED)
            PTN_REQUIRE(c, ptn_unpack_array(&g->at, &n) && n == g->n);
    }
    if (--b->waiting == 0)
        batch_answer(c, b);
}

/* Of the preferences, whoever still waits for the results. */
static void preferences_answered(ptn_ctx *c, void *state, int err, const ptn_msg *reply,
                                 void *arg) {
    struct group *g = arg;
    struct batch *b = g->batch;
    if (!b->preferences_late) {
        ptn_timer_stop(c, &b->preferences_timer);
        group_answered(c, state, err, reply, arg);
        return;
    }
    b->preferences_late = false;
    if (err == 0 && reply->type == PTN_MSG_STORE_EDITED)
        tell_preferences(c, b, ptn_msg_bytes(reply));
    if (b->waiting == 0)
        batch_end(c, b);
}

static void preferences_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct group *g = arg;
    (void)t;
    g->batch->preferences_late = true;
    group_answered(c, state, -PTN_EDEADLINE, NULL, arg);
}

static void pack_items(const struct batch *b, uint32_t group, ptn_pack *w) {
    for (uint32_t i = 0; i < b->n_items; i++)
        if (b->items[i].group == group)
            ptn_pack_raw(w, b->items[i].raw);
}

static void pack_patches(const struct batch *b, uint32_t group, ptn_pack *w) {
    struct sync_item item;
    ptn_fields wrong;
    ptn_bytes patch = {0};
    for (uint32_t i = 0; i < b->n_items; i++) {
        if (b->items[i].group != group)
            continue;
        sync_item_read(b->items[i].raw, b->now_ms, &item, &wrong);
        (void)ptn_map_get(item.raw, "preferences", &patch);
        sync_pack_edit(w, &item);
        ptn_pack_raw(w, patch);
    }
}

/* Results have to be put together before the asker's own deadline. */
static ptn_time inner_deadline(ptn_ctx *c, const struct batch *b) {
    ptn_time now = ptn_now(c);
    if (b->to.deadline == PTN_NEVER || b->to.deadline <= now)
        return b->to.deadline;
    return b->to.deadline - (b->to.deadline - now) / 8;
}

static void ask_group(ptn_ctx *c, struct batch *b, uint32_t i) {
    const ptn_directory *d = b->sync->config->directory;
    struct group *g = &b->groups[i];
    bool preferences = g->conversation.n == 0;
    ptn_pack w;
    ptn_pack_init(&w, 256 + b->request.body.n);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, b->request.principal.user);
    if (preferences) {
        ptn_pack_nil(&w);
        ptn_pack_int(&w, b->now_ms);
    } else {
        ptn_pack_uint(&w, b->request.principal.roles);
        ptn_pack_str(&w, g->conversation);
    }
    ptn_pack_array(&w, g->n);
    if (preferences)
        pack_patches(b, i, &w);
    else
        pack_items(b, i, &w);
    ptn_buf *payload = ptn_pack_finish(&w);
    ptn_time deadline = inner_deadline(c, b);
    if (payload == NULL)
        g->err = -PTN_ENOMEM;
    else if (preferences)
        g->err = ptn_ask_through(c, d->store, PTN_MSG_STORE_EDIT, payload, deadline,
                                 preferences_answered, g, NULL);
    else
        g->err = ptn_ask(c, d->conversation[ptn_shard(g->conversation, d->workers)],
                         PTN_MSG_SYNC_APPLY, payload, deadline, group_answered, g, NULL);
    if (g->err < 0) {
        ptn_buf_unref(payload);
        return;
    }
    b->waiting++;
    ptn_time now = ptn_now(c);
    if (preferences && deadline != PTN_NEVER)
        ptn_timer_start(c, &b->preferences_timer, deadline > now ? deadline - now : 0,
                        preferences_due, g);
}

/* ---- POST /sync --------------------------------------------------------------------------- */

static void refuse(ptn_ctx *c, ptn_reply_to to, const char *field, const char *reason) {
    ptn_problem_send_field(c, to, PTN_CODE_VALIDATION_FAILED, "the list is not valid", field,
                           reason);
}

static void on_push(ptn_ctx *c, struct sync *s, const ptn_msg *m, const ptn_request *r) {
    ptn_reply_to to = ptn_reply_token(c, m);
    ptn_bytes list;
    uint32_t n;
    if (r->body.n > s->bytes_max) {
        ptn_problem_send(c, to, PTN_CODE_PAYLOAD_TOO_LARGE,
                         "the list exceeds sync.bytes_max; send it in parts");
        return;
    }
    if (ptn_kind_of(r->body) != PTN_KIND_MAP || !ptn_map_get(r->body, "items", &list) ||
        ptn_kind_of(list) != PTN_KIND_ARRAY) {
        refuse(c, to, "items", "an array is required");
        return;
    }
    ptn_unpack u = ptn_unpack_of(list);
    (void)ptn_unpack_array(&u, &n);
    if (n > s->items_max) {
        refuse(c, to, "items", "more than sync.items_max; send them in parts");
        return;
    }
    struct batch *b = batch_new(s, n);
    if (b == NULL) {
        ptn_problem_pass(c, to, -PTN_EOVERLOAD, NULL);
        return;
    }
    b->to = to;
    b->payload = ptn_buf_ref(m->buf);
    b->request = *r;
    b->now_ms = ptn_wall_ms(c);
    for (uint32_t i = 0; i < n; i++)
        (void)ptn_unpack_any(&u, &b->items[i].raw);
    sort_items(b);
    b->waiting = 1; /* nobody answers for all before everybody was asked */
    for (uint32_t i = 0; i < b->n_groups; i++)
        ask_group(c, b, i);
    if (--b->waiting == 0)
        batch_answer(c, b);
}

/* ---- GET /sync ---------------------------------------------------------------------------- */

/* Passes the n values of the next array at u on. */
static bool pass_part(ptn_pack *w, ptn_unpack *u, const char *key) {
    ptn_bytes part;
    if (!ptn_unpack_any(u, &part))
        return false;
    ptn_pack_key(w, key);
    ptn_pack_raw(w, part);
    return true;
}

/* STORE_SYNC_PAGE as clients see it. */
static bool pack_page(ptn_pack *w, ptn_bytes page) {
    ptn_unpack u = ptn_unpack_of(page), prefs;
    uint32_t n;
    bool reset, more;
    ptn_str token;
    ptn_bytes preferences, one;
    if (!ptn_unpack_array(&u, &n) || n != 9 || !ptn_unpack_bool(&u, &reset) ||
        !ptn_unpack_bool(&u, &more) || !ptn_unpack_str(&u, &token) ||
        !ptn_unpack_any(&u, &preferences) || !ptn_unpack_array(&u, &n))
        return false;
    ptn_pack_map(w, 9);
    ptn_pack_key(w, "conversations");
    ptn_pack_array(w, n);
    for (; n > 0; n--)
        if (!conv_pack_record(w, &u, NULL))
            return false;
    if (!pass_part(w, &u, "messages") || !pass_part(w, &u, "reads") ||
        !pass_part(w, &u, "deliveries") || !pass_part(w, &u, "removed"))
        return false;
    prefs = ptn_unpack_of(preferences);
    ptn_pack_key(w, "preferences");
    if (ptn_unpack_array(&prefs, &n) && n == 1 && ptn_unpack_any(&prefs, &one))
        ptn_pack_raw(w, one);
    else
        ptn_pack_nil(w);
    ptn_pack_key(w, "reset");
    ptn_pack_bool(w, reset);
    ptn_pack_key(w, "more");
    ptn_pack_bool(w, more);
    ptn_pack_key(w, "next");
    ptn_pack_str(w, token);
    return true;
}

static void page_loaded(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct batch *b = arg;
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_SYNC_PAGE) {
        ptn_problem_pass(c, b->to, err, reply);
        batch_end(c, b);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 512 + 2 * reply->len);
    ptn_response_begin(&w, 200);
    PTN_REQUIRE(c, pack_page(&w, ptn_msg_bytes(reply)));
    ptn_response_send(c, b->to, &w);
    batch_end(c, b);
}

static void on_pull(ptn_ctx *c, struct sync *s, const ptn_msg *m, const ptn_request *r) {
    ptn_reply_to to = ptn_reply_token(c, m);
    int64_t limit = PULL_DEFAULT;
    char buf[TOKEN_BYTES_MAX];
    ptn_str since = {0};
    if (ptn_query_int(r->query, "limit", 1, PULL_MAX, &limit) < 0) {
        ptn_problem_send_field(c, to, PTN_CODE_VALIDATION_FAILED, "the query is not valid", "limit",
                               "an integer from 1 to 500");
        return;
    }
    bool given = ptn_query_has(r->query, "since");
    if (given && !ptn_query_get(r->query, "since", buf, sizeof buf, &since))
        since = PTN_STR("?"); /* no token, and not the beginning either */
    ptn_pack w;
    ptn_pack_init(&w, 128 + since.n);
    ptn_pack_array(&w, 3);
    ptn_pack_str(&w, r->principal.user);
    ptn_pack_str_or_nil(&w, given ? since : (ptn_str){0});
    ptn_pack_int(&w, limit);
    struct batch *b = batch_new(s, 0);
    ptn_buf *payload = ptn_pack_finish(&w);
    int err = b == NULL || payload == NULL
                  ? -PTN_EOVERLOAD
                  : ptn_ask(c, s->config->directory->store, PTN_MSG_STORE_SYNC, payload,
                            to.deadline, page_loaded, b, NULL);
    if (b != NULL)
        b->to = to;
    if (err == 0)
        return;
    ptn_buf_unref(payload);
    ptn_problem_pass(c, to, err, NULL);
    if (b != NULL)
        batch_end(c, b);
}

/* ---- the actor ---------------------------------------------------------------------------- */

static int sync_init(ptn_ctx *c, void *state, void *arg) {
    struct sync *s = state;
    const sync_config *cfg = arg;
    s->config = cfg;
    s->items_max = cfg->items_max != 0 ? cfg->items_max : ITEMS_MAX_DEFAULT;
    s->bytes_max = cfg->bytes_max != 0 ? cfg->bytes_max : BYTES_MAX_DEFAULT;
    s->batches_max = cfg->batches_max != 0 ? cfg->batches_max : BATCHES_MAX_DEFAULT;
    return ptn_defer(c, sync_forget, s);
}

static int sync_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct sync *s = state;
    ptn_request r;
    switch (m->type) {
    case PTN_MSG_ROUTE_SYNC_PUSH:
    case PTN_MSG_ROUTE_SYNC_PULL:
        if (!ptn_request_unpack(ptn_msg_bytes(m), &r))
            ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_INVALID_REQUEST,
                             "the request cannot be read");
        else if (r.principal.user.n > CONVERSATION_ID_BYTES_MAX)
            ptn_problem_send(c, ptn_reply_token(c, m), PTN_CODE_UNAUTHENTICATED,
                             "this needs a user; log in first");
        else if (m->type == PTN_MSG_ROUTE_SYNC_PUSH)
            on_push(c, s, m, &r);
        else
            on_pull(c, s, m, &r);
        return 0;
    case PTN_MSG_STOPPING:
        s->stopping = true;
        if (s->n_batches == 0)
            ptn_exit(c, 0);
        return 0;
    default:
        return 0;
    }
}

const ptn_actor_ops sync_actor = {
    .name = "sync", .state_size = sizeof(struct sync), .init = sync_init, .handle = sync_handle};
