/* SPDX-License-Identifier: Apache-2.0
 *
 * client_sse.c - a simulated HTTP client that listens to one topic (server-sent events), and comes
 * back with the id of the last event as an EventSource does.
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>

void sse_begin(struct client *c) {
    char head[1024], last[EPOCH_MAX + 48] = "";
    unsigned subject = client_below(c, SUBJECTS);
    if (subject < CONVERSATIONS && !is_member(subject, c->user))
        subject = 0;
    c->stream = subject;
    struct subscription *s = &c->subs[subject];
    *s = (struct subscription){.state = SUB_ASKED, .since = world->remembered[c->index][subject]};
    if (s->since.epoch[0] != '\0')
        (void)snprintf(last, sizeof last, "Last-Event-ID: %s:%llu\r\n", s->since.epoch,
                       (unsigned long long)s->since.offset);
    int n = snprintf(head, sizeof head,
                     "GET /api/v1/topics/%s/events HTTP/1.1\r\nHost: sim\r\n"
                     "Authorization: Bearer %s\r\nAccept: text/event-stream\r\n%s\r\n",
                     subject_name(subject), sim_tokens[c->user], last);
    client_send(c, head, (size_t)n);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

struct block { /* lines of one event; empty: absent */
    ptn_str event, id, data;
};

static void read_block(ptn_str text, struct block *ret_b) {
    *ret_b = (struct block){0};
    while (text.n > 0) {
        const char *end = memchr(text.p, '\n', text.n);
        size_t n = end != NULL ? (size_t)(end - text.p) : text.n;
        ptn_str line = {text.p, n};
        if (ptn_str_starts(line, PTN_STR("event: ")))
            ret_b->event = (ptn_str){line.p + 7, n - 7};
        else if (ptn_str_starts(line, PTN_STR("data: ")))
            ret_b->data = (ptn_str){line.p + 6, n - 6};
        else if (ptn_str_starts(line, PTN_STR("id: ")))
            ret_b->id = (ptn_str){line.p + 4, n - 4};
        else
            ORACLE(line.p[0] == ':' || ptn_str_starts(line, PTN_STR("retry: ")),
                   "wire: a line of a stream: %.*s", (int)(n < 60 ? n : 60), line.p);
        n += end != NULL;
        text = (ptn_str){text.p + n, text.n - n};
    }
}

/* What a reconnection sends. */
static void remember(struct client *c, ptn_str id) {
    struct position *p = &world->remembered[c->index][c->stream];
    const char *colon = id.n > 0 ? memrchr(id.p, ':', id.n) : NULL;
    ORACLE(colon != NULL && (size_t)(colon - id.p) < EPOCH_MAX, "wire: an id without position");
    (void)snprintf(p->epoch, sizeof p->epoch, "%.*s", (int)(colon - id.p), id.p);
    p->offset = strtoull(colon + 1, NULL, 10);
}

static void on_subscribed(struct client *c, ptn_bytes data, ptn_str id) {
    struct subscription *s = &c->subs[c->stream];
    ptn_str epoch;
    uint64_t offset;
    bool recovered;
    ORACLE(s->state == SUB_ASKED, "one answer: a stream begins twice");
    ORACLE(ptn_map_get_str(data, "epoch", &epoch) && epoch.n < EPOCH_MAX &&
               ptn_map_get_uint(data, "offset", &offset) &&
               ptn_map_get_bool(data, "recovered", &recovered),
           "wire: subscribed without epoch, offset or recovered");
    s->state = SUB_ON;
    (void)snprintf(s->epoch, sizeof s->epoch, "%.*s", (int)epoch.n, epoch.p);
    s->at = recovered ? s->since.offset : offset;
    ORACLE(!recovered || (strcmp(s->since.epoch, s->epoch) == 0 && offset >= s->since.offset),
           "recovery: stream of client %u, %s: recovered from %s %llu to %s %llu", c->index,
           subject_name(c->stream), s->since.epoch, (unsigned long long)s->since.offset, s->epoch,
           (unsigned long long)offset);
    world->tally.resumed += recovered;
    world->tally.not_recovered += !recovered && s->since.epoch[0] != '\0';
    if (!recovered)
        remember(c, id);
}

static void on_event(struct client *c, ptn_bytes event, ptn_str id) {
    struct subscription *s = &c->subs[c->stream];
    ptn_str topic, epoch;
    uint64_t offset;
    ptn_bytes data;
    ORACLE(s->state == SUB_ON && ptn_map_get_str(event, "topic", &topic) &&
               subject_of(topic) == c->stream && ptn_map_get_str(event, "epoch", &epoch) &&
               ptn_map_get_uint(event, "offset", &offset) && ptn_map_get(event, "data", &data),
           "wire: an event of a stream without topic, epoch, offset or data");
    world->tally.streamed++;
    ORACLE(ptn_str_eqz(epoch, s->epoch) && offset == s->at + 1,
           "contiguous: stream of client %u, %s: from %s %llu to %.*s %llu", c->index,
           subject_name(c->stream), s->epoch, (unsigned long long)s->at, (int)epoch.n, epoch.p,
           (unsigned long long)offset);
    s->at = offset;
    remember(c, id);
    const struct position *p = &world->remembered[c->index][c->stream];
    ORACLE(p->offset == offset && strcmp(p->epoch, s->epoch) == 0,
           "wire: an event at %llu with the id %.*s", (unsigned long long)offset, (int)id.n, id.p);
    if (c->stream < CONVERSATIONS)
        (void)saw_message(c->stream, offset, data);
    else
        client_saw_published(c, c->stream - CONVERSATIONS, s->epoch, offset, data);
}

static void on_block(struct client *c, const struct block *b) {
    ptn_pack w;
    ptn_codec_error why = {0};
    if (b->data.n == 0)
        return; /* a comment */
    ptn_pack_init(&w, b->data.n + 64);
    ORACLE(ptn_json_to_msgpack(c->json, b->data, NULL, &w, &why) == 0, "wire: bad JSON: %s",
           why.what);
    ptn_buf *m = ptn_pack_finish(&w);
    PTN_ASSERT(m != NULL);
    if (b->event.n == 0)
        on_event(c, ptn_buf_bytes(m), b->id);
    else if (ptn_str_eqz(b->event, "subscribed"))
        on_subscribed(c, ptn_buf_bytes(m), b->id);
    else
        ORACLE(ptn_str_eqz(b->event, "drain") || ptn_str_eqz(b->event, "reset"),
               "wire: client %u did nothing wrong and its stream says %.*s", c->index,
               (int)b->event.n, b->event.p);
    ptn_buf_unref(m);
}

bool sse_take(struct client *c) {
    const uint8_t *end = memmem(c->in, c->in_len, "\n\n", 2);
    struct block b;
    if (end == NULL)
        return false;
    size_t n = (size_t)(end - c->in);
    read_block((ptn_str){(const char *)c->in, n}, &b);
    on_block(c, &b);
    c->in_len -= n + 2;
    memmove(c->in, c->in + n + 2, c->in_len);
    return true;
}
