/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_marks.c - the life of messages: the other members hear that somebody has got or read
 * what they were sent.
 *
 * A mark says "everything up to seq", so a newer one of the same member replaces an older one that
 * nobody has heard of yet.  Events about marks are best effort, as all events on a user's topic:
 * history has the truth.
 */
#include "actors/conversation_internal.h"

#include <postern/metrics.h>

#include <stdlib.h>

#define MARKS_MAX 1024u /* waiting; past it they go out at once */
#define MARKS_NS (20 * PTN_MS)

struct mark {
    struct mark *next;
    struct conversation *conv; /* pinned */
    bool read;
    uint64_t seq;
    int64_t at_ms;
    uint8_t user_bytes, message_bytes;
    char user[CONVERSATION_ID_BYTES_MAX];
    char
        message[CONVERSATION_ID_BYTES_MAX]; /* the one that was marked; empty: none in particular */
};

static void tell_member(ptn_ctx *c, struct shard *s, ptn_str member, const struct mark *m) {
    ptn_pack w;
    user_event_begin(&w, member, m->message_bytes > 0 ? 6 : 5,
                     m->read ? "message.read" : "message.delivered", conv_id(m->conv));
    ptn_pack_key(&w, "seq");
    ptn_pack_uint(&w, m->seq);
    if (m->message_bytes > 0) {
        ptn_pack_key(&w, "messageId");
        ptn_pack_str(&w, (ptn_str){m->message, m->message_bytes});
    }
    ptn_pack_key(&w, "userId");
    ptn_pack_str(&w, (ptn_str){m->user, m->user_bytes});
    ptn_pack_key(&w, "at");
    ptn_pack_timestamp(&w, m->at_ms);
    user_event_send(c, s, member, &w);
}

static void marks_due(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct shard *s = state;
    (void)t, (void)arg;
    while (s->marks != NULL) {
        struct mark *m = s->marks;
        struct conversation *v = m->conv;
        s->marks = m->next;
        for (uint32_t i = 0; i < v->n_members; i++)
            if (!ptn_str_eq(v->members[i], (ptn_str){m->user, m->user_bytes}))
                tell_member(c, s, v->members[i], m);
        free(m);
        conv_unpin(v);
    }
    s->n_marks = 0;
}

static struct mark *mark_of(struct shard *s, struct conversation *v, ptn_str user, bool read) {
    struct mark *m = s->marks;
    while (m != NULL && (m->conv != v || m->read != read ||
                         !ptn_str_eq(user, (ptn_str){m->user, m->user_bytes})))
        m = m->next;
    if (m != NULL)
        return m;
    m = calloc(1, sizeof *m);
    if (m == NULL)
        return NULL;
    conv_pin(v);
    m->conv = v;
    m->read = read;
    memcpy(m->user, user.p, user.n);
    m->user_bytes = (uint8_t)user.n;
    m->next = s->marks;
    s->marks = m;
    s->n_marks++;
    return m;
}

void on_mark(ptn_ctx *c, struct op *op) {
    struct shard *s = op->shard;
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(op->payload));
    uint32_t n;
    bool read;
    uint64_t seq;
    int64_t at_ms;
    ptn_str id, user, message;
    PTN_REQUIRE(c, ptn_unpack_array(&u, &n) && n == 6 && ptn_unpack_str(&u, &id) &&
                       ptn_unpack_str(&u, &user) && user.n <= CONVERSATION_ID_BYTES_MAX &&
                       ptn_unpack_bool(&u, &read) && ptn_unpack_uint(&u, &seq) &&
                       ptn_unpack_str_or_nil(&u, &message) &&
                       message.n <= CONVERSATION_ID_BYTES_MAX && ptn_unpack_int(&u, &at_ms));
    struct mark *m = mark_of(s, op->conv, user, read);
    if (m != NULL && seq > m->seq) {
        m->seq = seq;
        m->at_ms = at_ms;
        m->message_bytes = (uint8_t)message.n;
        if (message.n > 0)
            memcpy(m->message, message.p, message.n);
    }
    if (s->n_marks >= MARKS_MAX)
        marks_due(c, s, &s->marks_timer, NULL);
    else if (m != NULL && !ptn_timer_is_armed(&s->marks_timer))
        ptn_timer_start(c, &s->marks_timer, MARKS_NS, marks_due, NULL);
    op_end(c, op);
}

void marks_free_all(struct shard *s) {
    while (s->marks != NULL) {
        struct mark *m = s->marks;
        s->marks = m->next;
        free(m);
    }
}

void mark_read(ptn_ctx *c, struct shard *s, ptn_bytes message, ptn_str user, uint64_t seq) {
    const ptn_directory *d = s->directory;
    ptn_str conversation, id = {0};
    if (!ptn_map_get_str(message, "conversationId", &conversation))
        return;
    (void)ptn_map_get_str(message, "id", &id);
    ptn_pack w;
    ptn_pack_init(&w, 224);
    ptn_pack_array(&w, 6);
    ptn_pack_str(&w, conversation);
    ptn_pack_str(&w, user);
    ptn_pack_bool(&w, /* read= */ true);
    ptn_pack_uint(&w, seq);
    ptn_pack_str_or_nil(&w, id);
    ptn_pack_int(&w, ptn_wall_ms(c));
    if (cast_packed(c, d->conversation[ptn_shard(conversation, d->workers)], PTN_MSG_CONV_MARK,
                    &w) < 0)
        ptn_count(PTN_C_DROPPED_HUB_OVERLOAD, 1);
}
