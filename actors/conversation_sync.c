/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_sync.c - edits of a conversation: its title, and what a client did while it was
 * offline.
 *
 * The items of one POST /sync that belong to one conversation come together and go to the store
 * together: one transaction, in their order.  So an item is never overtaken by a later one, and all
 * of them cost one commit.  The caller is answered before the events go out, as for a message that
 * is sent by itself.
 */
#include "actors/conversation_internal.h"
#include "actors/sync.h"

#include <postern/codec.h>

/* ---- the title alone ------------------------------------------------------------------------ */

/* Nobody knows whether it was done. */
static void unsure(ptn_ctx *c, struct conversation *v, int err) {
    if (err == 0 || err == -PTN_EOVERLOAD)
        return;
    v->members_unsure = true;
    catch_up(c, v);
}

static void adopt(ptn_ctx *c, struct conversation *v, ptn_bytes record) {
    ptn_buf *b = ptn_buf_copy(record.p, record.n);
    if (b == NULL || members_adopt(c, v, b) < 0)
        unsure(c, v, -PTN_ENOMEM); /* the store's record comes with the next look */
    ptn_buf_unref(b);
}

static void title_edited(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    struct conversation *v = op->conv;
    ptn_bytes record;
    ptn_unpack u;
    uint32_t n;
    struct sync_outcome o;
    ptn_pack w;
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_EDITED) {
        unsure(c, v, err);
        op_pass(c, op, err, reply);
        return;
    }
    PTN_REQUIRE(c, sync_edited_read(ptn_msg_bytes(reply), &record, &u, &n) && n == 1 &&
                       sync_outcome_read(&u, &o));
    if (ptn_kind_of(record) == PTN_KIND_ARRAY)
        adopt(c, v, record);
    ptn_pack_init(&w, 256 + reply->len);
    if (o.outcome == PTN_OUTCOME_REJECTED) {
        ptn_pack_raw(&w, o.value);
        ptn_problem_send_packed(c, op->to, &w);
    } else if (o.outcome == PTN_OUTCOME_CONFLICT) {
        ptn_problem_begin_conflict(&w, "the conversation has changed since; details.current is how "
                                       "it stands");
        conv_pack(&w, v);
        ptn_problem_send_packed(c, op->to, &w);
    } else {
        ptn_response_begin_version(&w, 200, v->version, v->last_seq);
        conv_pack(&w, v);
        ptn_response_send(c, op->to, &w);
        conv_tell_title(c, v);
    }
    op_end(c, op);
}

void on_patch(ptn_ctx *c, struct op *op) {
    ptn_bytes body = op->request.body, value;
    ptn_str title = {0};
    const char *why;
    if (!conv_is_member(op->conv, op->user)) {
        op_not_found(c, op);
        return;
    }
    if (ptn_kind_of(body) != PTN_KIND_MAP || !ptn_map_get(body, "title", &value)) {
        op_fail_field(c, op, "the change is not valid", "title", "a text or null is required");
        return;
    }
    if ((why = read_title(body, &title)) != NULL) {
        op_fail_field(c, op, "the change is not valid", "title", why);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 192 + title.n);
    ptn_edit_begin(&w, op->user, conv_id(op->conv), ptn_wall_ms(c), PTN_EDIT_TITLE,
                   op->request.headers);
    ptn_pack_str_or_nil(&w, title);
    (void)op_ask(c, op, PTN_MSG_STORE_EDIT, &w, title_edited);
}

/* ---- SYNC_APPLY --------------------------------------------------------------------------- */

/* The items of op, one after the other. */
struct walk {
    ptn_unpack u;
    uint32_t left;
    bool admin;
};

static bool walk_begin(const struct op *op, struct walk *ret_k) {
    uint32_t n;
    uint64_t roles;
    struct walk k = {.u = ptn_unpack_of(ptn_buf_bytes(op->payload))};
    if (!ptn_unpack_array(&k.u, &n) || n != 4 || !ptn_unpack_any(&k.u, NULL) ||
        !ptn_unpack_uint(&k.u, &roles) || !ptn_unpack_any(&k.u, NULL) ||
        !ptn_unpack_array(&k.u, &k.left))
        return false;
    k.admin = (roles & PTN_ROLE_ADMIN) != 0;
    *ret_k = k;
    return true;
}

struct checked { /* an item as this shard sees it */
    struct sync_item item;
    struct draft draft;     /* message */
    ptn_str message, title; /* read, conversation */
    ptn_fields wrong;
};

/* The next item, the same each time.  False: none is left. */
static bool walk_next(const struct op *op, struct walk *k, struct checked *ret_x) {
    ptn_bytes raw, value;
    const char *why = NULL;
    if (k->left == 0 || !ptn_unpack_any(&k->u, &raw))
        return false;
    k->left--;
    *ret_x = (struct checked){.title = {0}};
    sync_item_read(raw, op->now_ms, &ret_x->item, &ret_x->wrong);
    if (ret_x->wrong.n > 0)
        return true;
    if (ret_x->item.kind == PTN_EDIT_MESSAGE) {
        struct faults f;
        draft_read(raw, k->admin, op->now_ms, &ret_x->draft, &f);
        for (uint32_t i = 0; i < f.n; i++)
            ptn_fields_add(&ret_x->wrong, f.at[i].field, f.at[i].reason);
    } else if (ret_x->item.kind == PTN_EDIT_READ) {
        if (!ptn_map_get_str(raw, "messageId", &ret_x->message) || !ptn_id_is_valid(ret_x->message))
            ptn_fields_add(&ret_x->wrong, "messageId", "the id of a message");
    } else {
        why = ptn_map_get(raw, "title", &value) ? read_title(raw, &ret_x->title)
                                                : "a text or null is required";
        if (why != NULL)
            ptn_fields_add(&ret_x->wrong, "title", why);
    }
    return true;
}

static void pack_edit(ptn_pack *w, const struct op *op, const struct checked *x) {
    sync_pack_edit(w, &x->item);
    if (x->item.kind == PTN_EDIT_MESSAGE)
        pack_append(w, op, &x->draft);
    else if (x->item.kind == PTN_EDIT_READ)
        pack_read(w, op, x->message, op->now_ms);
    else
        ptn_pack_str_or_nil(w, x->title);
}

static void sync_reply(ptn_ctx *c, struct op *op, ptn_pack *w) {
    ptn_buf *b = ptn_pack_finish(w);
    if (b == NULL)
        (void)ptn_reply_err(c, op->to, -PTN_ENOMEM);
    else if (ptn_reply(c, op->to, PTN_MSG_SYNC_APPLIED, b) < 0)
        ptn_buf_unref(b);
}

/* The part of a STORE_MSG that a client has not got already. */
static void pack_message_data(ptn_pack *w, const struct checked *x, ptn_bytes stored) {
    ptn_unpack u = ptn_unpack_of(stored);
    uint32_t n;
    uint64_t seq = 0;
    ptn_bytes message = {0};
    ptn_str conversation = {0};
    (void)(ptn_unpack_array(&u, &n) && ptn_unpack_uint(&u, &seq) && ptn_unpack_any(&u, NULL) &&
           ptn_unpack_any(&u, &message));
    if (x->item.kind == PTN_EDIT_MESSAGE) {
        ptn_pack_raw(w, message);
        return;
    }
    (void)ptn_map_get_str(message, "conversationId", &conversation);
    ptn_pack_map(w, 3);
    ptn_pack_key(w, "messageId");
    ptn_pack_str(w, x->message);
    ptn_pack_key(w, "conversationId");
    ptn_pack_str(w, conversation);
    ptn_pack_key(w, "seq");
    ptn_pack_uint(w, seq);
}

static void pack_result(ptn_pack *w, const struct op *op, const struct checked *x,
                        const struct sync_outcome *o) {
    if (o->outcome == PTN_OUTCOME_REJECTED) {
        sync_pack_problem(w, x->item.id, o->value);
        return;
    }
    sync_pack_result(w, x->item.id, o);
    if (x->item.kind != PTN_EDIT_TITLE) {
        pack_message_data(w, x, o->value);
        return;
    }
    ptn_pack_map(w, 2);
    ptn_pack_key(w, "id");
    ptn_pack_str(w, conv_id(op->conv));
    ptn_pack_key(w, "title");
    ptn_pack_raw(w, o->value);
}

/* What others hear of the outcomes at u. */
static void tell_outcomes(ptn_ctx *c, struct op *op, ptn_unpack u) {
    struct conversation *v = op->conv;
    struct walk k = {.left = 0};
    struct checked x;
    struct sync_outcome o;
    bool title = false;
    (void)walk_begin(op, &k);
    while (walk_next(op, &k, &x)) {
        uint32_t n;
        uint64_t seq;
        ptn_bytes message;
        if (x.wrong.n > 0 || !sync_outcome_read(&u, &o) || o.outcome != PTN_OUTCOME_APPLIED)
            continue;
        title = title || x.item.kind == PTN_EDIT_TITLE;
        ptn_unpack stored = ptn_unpack_of(o.value);
        if (x.item.kind == PTN_EDIT_TITLE || !ptn_unpack_array(&stored, &n) ||
            !ptn_unpack_uint(&stored, &seq) || !ptn_unpack_any(&stored, NULL) ||
            !ptn_unpack_any(&stored, &message))
            continue;
        if (x.item.kind == PTN_EDIT_MESSAGE)
            conv_publish(c, v, seq, message);
        else
            mark_read(c, op->shard, message, op->user, seq);
    }
    if (title)
        conv_tell_title(c, v);
}

static void items_edited(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    struct op *op = arg;
    struct walk k = {.left = 0};
    struct checked x;
    struct sync_outcome o;
    ptn_bytes record;
    ptn_unpack u;
    uint32_t n;
    ptn_pack w;
    (void)state;
    if (err != 0 || reply->type != PTN_MSG_STORE_EDITED) {
        unsure(c, op->conv, err);
        op_pass(c, op, err, reply);
        return;
    }
    PTN_REQUIRE(c, sync_edited_read(ptn_msg_bytes(reply), &record, &u, &n) && walk_begin(op, &k));
    ptn_unpack outcomes = u;
    ptn_pack_init(&w, 512 + 2 * reply->len);
    ptn_pack_array(&w, k.left);
    while (walk_next(op, &k, &x)) {
        if (x.wrong.n > 0) {
            sync_pack_invalid(&w, x.item.id, &x.wrong);
            continue;
        }
        PTN_REQUIRE(c, sync_outcome_read(&u, &o));
        pack_result(&w, op, &x, &o);
    }
    sync_reply(c, op, &w);
    if (ptn_kind_of(record) == PTN_KIND_ARRAY)
        adopt(c, op->conv, record);
    tell_outcomes(c, op, outcomes);
    op_end(c, op);
}

void on_sync_apply(ptn_ctx *c, struct op *op) {
    struct walk k = {.left = 0};
    struct checked x;
    uint32_t good = 0;
    if (!conv_is_member(op->conv, op->user)) {
        op_not_found(c, op);
        return;
    }
    op->now_ms = ptn_wall_ms(c);
    PTN_REQUIRE(c, walk_begin(op, &k));
    struct walk again = k;
    while (walk_next(op, &k, &x))
        good += x.wrong.n == 0;
    ptn_pack w;
    ptn_pack_init(&w, 256 + 2 * ptn_buf_bytes(op->payload).n);
    ptn_pack_array(&w, 4);
    ptn_pack_str(&w, op->user);
    ptn_pack_str(&w, conv_id(op->conv));
    ptn_pack_int(&w, op->now_ms);
    ptn_pack_array(&w, good);
    while (walk_next(op, &again, &x))
        if (x.wrong.n == 0)
            pack_edit(&w, op, &x);
    (void)op_ask(c, op, PTN_MSG_STORE_EDIT, &w, items_edited);
}
