/* SPDX-License-Identifier: Apache-2.0
 *
 * client_replica.c - the guest who works offline: it pushes lists of what it did (POST /sync), the
 * same list until it is answered and sometimes once more, and pulls what has changed, page by page
 * (GET /sync).
 *
 * Oracles (`sync`): when a round of pages ends, everything that anybody had seen before it began
 * has come; a conversation comes before its messages; versions grow; what was done once is done
 * once; at the end the replica is what the answers to its own edits said.
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>

enum { ASK_PUSH, ASK_PULL };
enum { ITEM_MESSAGE, ITEM_PREFERENCES, ITEM_TITLE, ITEM_READ, ITEM_KINDS };

static struct replica *R(void) {
    return &world->replica;
}

static bool is_open(const struct client *c, uint32_t what) {
    for (uint32_t i = 0; i < c->n_calls; i++)
        if (c->calls[i].ref == what)
            return true;
    return false;
}

/* ---- pushing --------------------------------------------------------------------------------- */

/* A message that somebody may mark as read; -1: none yet. */
static int some_message(struct client *c) {
    uint64_t last = world->last_seq[ROOM_FIXED];
    uint32_t at = last > 0 ? world->order[ROOM_FIXED][1 + client_below(c, (uint32_t)last)] : 0;
    return (int)at - 1;
}

static void add_item(struct client *c, unsigned kind) {
    struct replica *r = R();
    int ref = kind == ITEM_MESSAGE ? client_message_to(c, ROOM_FIXED)
              : kind == ITEM_READ  ? some_message(c)
                                   : 0;
    if (ref >= 0)
        r->items[r->n_items++] =
            (struct item){.kind = kind, .ref = (uint32_t)ref, .n = ++r->n_done};
}

static void pack_item(ptn_pack *w, const struct item *item) {
    static const char *const kinds[ITEM_KINDS] = {"message", "preferences", "conversation", "read"};
    char text[32];
    ptn_pack_map(w, item->kind == ITEM_PREFERENCES ? 3 : 4);
    ptn_pack_key(w, "kind");
    ptn_pack_cstr(w, kinds[item->kind]);
    if (item->kind == ITEM_MESSAGE) {
        client_pack_members(w, item->ref);
        return;
    }
    (void)snprintf(text, sizeof text, "done-%u", item->n);
    ptn_pack_key(w, "id");
    ptn_pack_cstr(w, text);
    if (item->kind == ITEM_PREFERENCES) {
        ptn_pack_key(w, "preferences");
        ptn_pack_map(w, 1);
        ptn_pack_key(w, "n");
        ptn_pack_uint(w, item->n);
        return;
    }
    ptn_pack_key(w, "conversationId");
    ptn_pack_cstr(w, conversation_id(ROOM_FIXED));
    (void)snprintf(text, sizeof text, "%u", item->n);
    ptn_pack_key(w, item->kind == ITEM_TITLE ? "title" : "messageId");
    ptn_pack_cstr(w, item->kind == ITEM_TITLE ? text : world->sent[item->ref].id);
}

static void push(struct client *c) {
    struct replica *r = R();
    ptn_pack w;
    if (r->n_items == 0) {
        for (unsigned n = 1 + client_below(c, ITEMS_MAX); n > 0; n--)
            add_item(c, c->settling ? ITEM_MESSAGE : client_below(c, ITEM_KINDS));
        if (r->n_items == 0)
            return;
    }
    ptn_pack_init(&w, 512);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "items");
    ptn_pack_array(&w, r->n_items);
    for (uint32_t i = 0; i < r->n_items; i++) {
        r->items[i].attempts++;
        pack_item(&w, &r->items[i]);
    }
    (void)client_call(c, CALL_REQUEST, ASK_PUSH, 0);
    http_send(c, "POST", "/api/v1/sync", sim_tokens[c->user], &w);
}

static uint64_t text_number(ptn_bytes map, const char *key) {
    ptn_str text;
    char digits[24] = {0};
    if (ptn_map_get_str(map, key, &text) && text.n < sizeof digits)
        memcpy(digits, text.p, text.n);
    return strtoull(digits, NULL, 10);
}

/* What an answer says of the record as it stands. */
static void note_record(struct replica *r, const struct item *item, ptn_bytes data) {
    if (item->kind == ITEM_PREFERENCES)
        ORACLE(ptn_map_get_uint(data, "n", &r->preferences), "wire: no preferences in a result");
    else if (item->kind == ITEM_TITLE)
        r->title = text_number(data, "title");
}

static bool is_one_of(ptn_str text, const char *a, const char *b) {
    return ptn_str_eqz(text, a) || ptn_str_eqz(text, b);
}

/* False: it has to be sent again. */
static bool on_result(struct client *c, struct item *item, ptn_bytes result) {
    ptn_str outcome;
    ptn_bytes data;
    bool retryable = false, edit = item->kind == ITEM_PREFERENCES || item->kind == ITEM_TITLE;
    ORACLE(ptn_map_get_str(result, "outcome", &outcome), "wire: a result without outcome");
    if (ptn_str_eqz(outcome, "rejected")) {
        (void)ptn_map_get_bool(result, "retryable", &retryable);
        ORACLE(retryable || may_fail(), "sync: good item %u is rejected for good", item->n);
        world->tally.refusals++;
        (void)snprintf(c->refusal, sizeof c->refusal, "a rejected item");
        return false;
    }
    /* The clock that decides between edits is set now and then, and by a new life. */
    bool late = edit && ptn_str_eqz(outcome, "superseded") &&
                (world->life > 0 || world->plan.faults.wall_step_ppm > 0);
    ORACLE(late || is_one_of(outcome, item->known ? "duplicate" : "applied", "duplicate"),
           "sync: item %u is %.*s at attempt %u", item->n, (int)outcome.n, outcome.p,
           item->attempts);
    ORACLE(item->attempts > 1 || item->kind == ITEM_READ || !ptn_str_eqz(outcome, "duplicate"),
           "sync: new item %u is a duplicate", item->n);
    ORACLE(ptn_map_get(result, "data", &data), "wire: a result without data");
    item->known = true;
    if (item->kind == ITEM_MESSAGE)
        saw_ack(ROOM_FIXED, data, item->ref, 0);
    note_record(R(), item, data);
    world->tally.synced++;
    return true;
}

static void on_pushed(struct client *c, ptn_bytes data) {
    struct replica *r = R();
    ptn_bytes results = {0}, one;
    uint32_t n = 0;
    bool all = true;
    (void)ptn_map_get(data, "results", &results);
    ptn_unpack u = ptn_unpack_of(results);
    ORACLE(ptn_unpack_array(&u, &n) && n == r->n_items, "wire: %u results for %u items", n,
           r->n_items);
    for (uint32_t i = 0; i < n; i++) {
        ORACLE(ptn_unpack_any(&u, &one), "wire: a bad list of results");
        all = on_result(c, &r->items[i], one) && all;
    }
    if (all && (c->settling || client_below(c, 3) != 0))
        r->n_items = 0; /* otherwise the same again: the answer might have been lost */
}

/* ---- pulling --------------------------------------------------------------------------------- */

static void forget(struct replica *r) {
    memset(r->got, 0, sizeof r->got);
    r->since[0] = '\0';
    r->knows_room = r->in_round = false;
    r->preferences_version = 0;
}

static void pull(struct client *c) {
    struct replica *r = R();
    char path[400];
    if (!r->in_round) {
        r->in_round = true;
        r->round_owes = world->last_seq[ROOM_FIXED];
    }
    (void)client_call(c, CALL_REQUEST, ASK_PULL, 0);
    (void)snprintf(path, sizeof path, "/api/v1/sync?limit=%u%s%s", 1 + client_below(c, 30),
                   r->since[0] != '\0' ? "&since=" : "", r->since);
    http_send(c, "GET", path, sim_tokens[c->user], NULL);
}

static ptn_unpack part(ptn_bytes data, const char *key, uint32_t *ret_n) {
    ptn_bytes value = {0};
    (void)ptn_map_get(data, key, &value);
    ptn_unpack u = ptn_unpack_of(value);
    ORACLE(ptn_unpack_array(&u, ret_n), "wire: a page without %s", key);
    return u;
}

static void take_conversations(struct replica *r, ptn_bytes data) {
    uint32_t n;
    ptn_unpack u = part(data, "conversations", &n);
    for (; n > 0; n--) {
        ptn_bytes one;
        ptn_str id;
        ORACLE(ptn_unpack_any(&u, &one) && ptn_map_get_str(one, "id", &id) &&
                   ptn_str_eqz(id, conversation_id(ROOM_FIXED)),
               "sync: the page of one who is no member has a conversation");
        r->knows_room = true;
        r->title_pulled = text_number(one, "title");
    }
}

static void take_messages(struct replica *r, ptn_bytes data) {
    uint32_t n;
    ptn_unpack u = part(data, "messages", &n);
    for (; n > 0; n--) {
        ptn_bytes one;
        uint64_t seq;
        ORACLE(ptn_unpack_any(&u, &one) && ptn_map_get_uint(one, "seq", &seq),
               "wire: a bad message in a page");
        ORACLE(r->knows_room, "sync: messages come before their conversation");
        (void)saw_message(ROOM_FIXED, seq, one);
        r->got[seq] = true;
        world->tally.pulled++;
    }
}

static void take_preferences(struct replica *r, ptn_bytes data) {
    ptn_bytes preferences, value;
    uint64_t version;
    if (!ptn_map_get(data, "preferences", &preferences) || ptn_kind_of(preferences) == PTN_KIND_NIL)
        return;
    ORACLE(ptn_map_get_uint(preferences, "version", &version) &&
               ptn_map_get(preferences, "value", &value),
           "wire: preferences without version or value");
    ORACLE(version >= r->preferences_version, "sync: preferences go from version %llu to %llu",
           (unsigned long long)r->preferences_version, (unsigned long long)version);
    r->preferences_version = version;
    r->preferences_pulled = 0;
    (void)ptn_map_get_uint(value, "n", &r->preferences_pulled);
}

static uint64_t first_missing(const struct replica *r, uint64_t last) {
    for (uint64_t seq = 1; seq <= last; seq++)
        if (!r->got[seq])
            return seq;
    return 0;
}

static void on_pulled(ptn_bytes data) {
    struct replica *r = R();
    ptn_str next;
    bool more, reset;
    ORACLE(ptn_map_get_str(data, "next", &next) && next.n > 0 && next.n < sizeof r->since &&
               ptn_map_get_bool(data, "more", &more) && ptn_map_get_bool(data, "reset", &reset),
           "wire: a page without next, more or reset");
    ORACLE(!reset || world->tally.power_losses > 0, "sync: the replica is to forget everything");
    if (reset) {
        forget(r);
        r->in_round = true;
    }
    take_conversations(r, data);
    take_messages(r, data);
    take_preferences(r, data);
    memcpy(r->since, next.p, next.n);
    r->since[next.n] = '\0';
    if (more)
        return;
    ORACLE(first_missing(r, r->round_owes) == 0,
           "sync: a round is over, and seq %llu of %llu that were there has not come",
           (unsigned long long)first_missing(r, r->round_owes), (unsigned long long)r->round_owes);
    r->in_round = false;
    world->tally.rounds++;
}

/* ---- what it does ---------------------------------------------------------------------------- */

/* What is not here yet; NULL: nothing. */
static const char *waits_for(const struct client *c) {
    const struct replica *r = R();
    (void)c;
    if (r->n_items > 0)
        return "results";
    if (r->in_round || first_missing(r, world->last_seq[ROOM_FIXED]) != 0)
        return "changes";
    if (r->preferences != r->preferences_pulled || r->title != r->title_pulled)
        return "the records that it has edited";
    return NULL;
}

static void act(struct client *c) {
    struct replica *r = R();
    bool may_push = !is_open(c, ASK_PUSH), may_pull = !is_open(c, ASK_PULL);
    if (c->settling) {
        if (may_push && (c->last_words > 0 || r->n_items > 0)) {
            c->last_words -= c->last_words > 0;
            push(c);
        } else if (may_pull && waits_for(c) != NULL) {
            pull(c);
        }
        return;
    }
    switch (client_below(c, 8)) {
    case 0:
    case 1:
        if (may_push)
            push(c);
        break;
    case 2:
        if (may_pull && client_below(c, 20) == 0)
            forget(r);
        break;
    case 3:
    case 4:
        if (may_pull)
            pull(c);
        break;
    default:
        if (may_pull && r->in_round)
            pull(c);
        break;
    }
}

static void answered(struct client *c, const struct call *call, unsigned long status,
                     ptn_bytes envelope) {
    ptn_bytes data;
    if (status != 200) {
        http_refused(c, status, envelope);
        return;
    }
    ORACLE(ptn_map_get(envelope, "data", &data), "wire: success without data");
    if (call->ref == ASK_PUSH)
        on_pushed(c, data);
    else
        on_pulled(data);
}

static void opened(struct client *c) {
    c->state = CLIENT_LIVE;
}

const struct client_kind replica_kind = {
    .http = true, .opened = opened, .act = act, .answered = answered, .waits_for = waits_for};
