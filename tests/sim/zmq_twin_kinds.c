/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_twin_kinds.c - what the twin's kinds of socket do with commands, input and output.
 */
#include "zmq_twin_int.h"

#include <errno.h>
#include <stdlib.h>

/* ---- topics ---------------------------------------------------------------------------------- */

static struct twin_topic **topic_find(struct twin_topic **head, const void *p, size_t n) {
    while (*head != NULL &&
           ((*head)->bytes->n != n || (n > 0 && memcmp((*head)->bytes->data, p, n) != 0)))
        head = &(*head)->next;
    return head;
}

/* How often it is there now. */
static uint32_t topic_add(struct twin_topic **head, struct twin_blob *take_topic) {
    struct twin_topic **place = topic_find(head, take_topic->data, take_topic->n);
    if (*place == NULL) {
        *place = calloc(1, sizeof **place);
        PTN_ASSERT(*place != NULL);
        (*place)->bytes = take_topic;
    } else {
        twin_blob_unref(take_topic);
    }
    return ++(*place)->refs;
}

/* False: was not there. */
static bool topic_remove(struct twin_topic **head, const void *p, size_t n, bool whole) {
    struct twin_topic **place = topic_find(head, p, n), *t = *place;
    if (t == NULL)
        return false;
    if (--t->refs > 0 && !whole)
        return true;
    *place = t->next;
    twin_blob_unref(t->bytes);
    free(t);
    return true;
}

static bool topics_match(const struct twin_topic *t, const struct twin_blob *b) {
    for (; t != NULL; t = t->next)
        if (t->bytes->n <= b->n &&
            (t->bytes->n == 0 || memcmp(t->bytes->data, b->data, t->bytes->n) == 0))
            return true;
    return false;
}

void twin_topics_free(struct twin_topic **head) {
    for (struct twin_topic *t; (t = *head) != NULL;) {
        *head = t->next;
        twin_blob_unref(t->bytes);
        free(t);
    }
}

/* 1 or 0 and a topic, as subscriptions travel and as XPUB hands them out. */
static struct twin_message *topic_message(uint8_t on, const void *p, size_t n) {
    struct twin_blob *b = twin_blob_new(NULL, n + 1);
    uint8_t *bytes = b->data;
    bytes[0] = on;
    if (n > 0)
        memcpy(bytes + 1, p, n);
    struct twin_message *m = twin_message_new();
    twin_message_add(m, b, false);
    return m;
}

/* ---- XPUB: subscriptions ----------------------------------------------------------------------
 */

static bool anybody_has(struct twin_socket *s, const void *p, size_t n) {
    for (size_t i = 0; i < s->n_pipes; i++)
        if (*topic_find(&s->pipes[i]->topics, p, n) != NULL)
            return true;
    return false;
}

static void xpub_input(struct twin_socket *s, struct twin_pipe *p) {
    for (struct twin_message *m; (m = twin_pipe_read(p)) != NULL;) {
        struct twin_blob *b = m->first->blob;
        const uint8_t *bytes = b->data;
        if (b->n == 0 || bytes[0] > 1 || m->first->next != NULL) { /* a word of an XSUB */
            twin_queue_put(&s->told, m);
            continue;
        }
        bool before = anybody_has(s, bytes + 1, b->n - 1);
        if (bytes[0] == 1 && *topic_find(&p->topics, bytes + 1, b->n - 1) == NULL)
            (void)topic_add(&p->topics, twin_blob_new(bytes + 1, b->n - 1));
        else if (bytes[0] == 0)
            (void)topic_remove(&p->topics, bytes + 1, b->n - 1, true);
        bool after = anybody_has(s, bytes + 1, b->n - 1);
        if (before != after || (bytes[0] == 1 && s->verbose))
            twin_queue_put(&s->told, topic_message(bytes[0], bytes + 1, b->n - 1));
        twin_message_free(m);
    }
}

static void xpub_gone(struct twin_socket *s, struct twin_pipe *p) {
    while (p->topics != NULL) {
        struct twin_topic *t = p->topics;
        p->topics = t->next;
        if (!anybody_has(s, t->bytes->data, t->bytes->n))
            twin_queue_put(&s->told, topic_message(0, t->bytes->data, t->bytes->n));
        twin_blob_unref(t->bytes);
        free(t);
    }
}

/* ---- SUB: subscriptions -----------------------------------------------------------------------
 */

static void sub_tell(struct twin_pipe *p, uint8_t on, const void *data, size_t n) {
    if (twin_pipe_has_room(p))
        twin_pipe_write(p, topic_message(on, data, n));
}

static void sub_tell_all(struct twin_socket *s, struct twin_pipe *p) {
    for (const struct twin_topic *t = s->topics; t != NULL; t = t->next)
        sub_tell(p, 1, t->bytes->data, t->bytes->n);
}

void twin_subscribe(struct twin_socket *s, struct twin_blob *take_topic) {
    twin_process(s);
    for (size_t i = 0; i < s->n_pipes; i++)
        sub_tell(s->pipes[i], 1, take_topic->data, take_topic->n);
    (void)topic_add(&s->topics, take_topic);
}

bool twin_unsubscribe(struct twin_socket *s, const void *p, size_t n) {
    twin_process(s);
    if (!topic_remove(&s->topics, p, n, false))
        return false;
    for (size_t i = 0; i < s->n_pipes && *topic_find(&s->topics, p, n) == NULL; i++)
        sub_tell(s->pipes[i], 0, p, n);
    return true;
}

/* ---- ROUTER: identities -----------------------------------------------------------------------
 */

static struct twin_pipe *router_find(struct twin_socket *s, const struct twin_blob *identity) {
    for (size_t i = 0; i < s->n_pipes; i++) {
        struct twin_pipe *p = s->pipes[i];
        if (p->identified && p->identity->n == identity->n &&
            memcmp(p->identity->data, identity->data, identity->n) == 0)
            return p;
    }
    return NULL;
}

static struct twin_blob *identity_make(struct twin_socket *s) {
    uint32_t n = s->next_identity++;
    const uint8_t bytes[] = {0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8),
                             (uint8_t)n};
    return twin_blob_new(bytes, sizeof bytes);
}

/* A peer whose identity is taken stays connected, and nobody ever reads from it again. */
static void router_identify(struct twin_socket *s, struct twin_pipe *p) {
    struct twin_message *m = twin_pipe_read(p);
    if (m == NULL)
        return;
    struct twin_blob *identity = m->first->blob;
    struct twin_pipe *older = identity->n > 0 ? router_find(s, identity) : NULL;
    if (older != NULL && s->handover) {
        twin_blob_unref(older->identity);
        older->identity = identity_make(s);
        twin_pipe_give_up(older);
        older = NULL;
    }
    if (older == NULL) {
        p->identity = identity->n > 0 ? twin_blob_ref(identity) : identity_make(s);
        p->identified = true;
        p->in_active = true;
    }
    twin_message_free(m);
}

/* ---- the mailbox ------------------------------------------------------------------------------
 */

void twin_attach(struct twin_socket *s, struct twin_pipe *p) {
    if (s->n_pipes == s->pipes_cap) {
        s->pipes_cap = s->pipes_cap == 0 ? 8 : 2 * s->pipes_cap;
        s->pipes = realloc(s->pipes, s->pipes_cap * sizeof(struct twin_pipe *));
        PTN_ASSERT(s->pipes != NULL);
    }
    s->pipes[s->n_pipes++] = p;
    if (s->type == ZMQ_ROUTER)
        router_identify(s, p);
    else if (s->type == ZMQ_XPUB)
        xpub_input(s, p);
    else
        p->in_active = true;
    if (s->type == ZMQ_SUB)
        sub_tell_all(s, p);
}

static void detach(struct twin_socket *s, struct twin_pipe *p) {
    p->state = TWIN_GONE;
    for (size_t i = 0; i < s->n_pipes; i++) {
        if (s->pipes[i] != p)
            continue;
        memmove(&s->pipes[i], &s->pipes[i + 1], (--s->n_pipes - i) * sizeof(struct twin_pipe *));
        break;
    }
    if (s->to == p)
        s->to = NULL;
    if (s->asked == p)
        s->asked = NULL;
    if (s->type == ZMQ_XPUB)
        xpub_gone(s, p);
}

static void command(struct twin_socket *s, const struct twin_command *c) {
    struct twin_pipe *p = c->pipe;
    switch (c->kind) {
    case TWIN_ATTACH:
        twin_attach(s, p);
        break;
    case TWIN_READ:
        if (s->type == ZMQ_XPUB)
            xpub_input(s, p);
        else if (s->type == ZMQ_ROUTER && !p->identified)
            router_identify(s, p);
        else
            p->in_active = true;
        break;
    case TWIN_WRITE:
        p->out_told = c->n;
        if (p->state == TWIN_ACTIVE)
            p->out_active = true;
        break;
    case TWIN_TERM:
        if (p->state != TWIN_ACTIVE)
            break;
        p->state = TWIN_ENDING;
        twin_pipe_drop_output(p);
        if (p->end_read)
            twin_pipe_finish(p);
        break;
    case TWIN_TERMED:
        detach(s, p);
        break;
    case TWIN_HICCUP:
        p->out_told = p->out_put;
        p->out_active = p->state == TWIN_ACTIVE;
        sub_tell_all(s, p);
        break;
    }
}

void twin_process(struct twin_socket *s) {
    for (struct twin_command *c; (c = s->first) != NULL;) {
        s->first = c->next;
        command(s, c);
        free(c);
    }
}

/* ---- input ------------------------------------------------------------------------------------
 */

/* Fair: the next pipe that has something, behind the last one that had. */
static struct twin_message *fair_read(struct twin_socket *s, struct twin_pipe **ret_p) {
    for (size_t i = 0; i < s->n_pipes; i++) {
        size_t k = (s->read_turn + i) % s->n_pipes;
        struct twin_pipe *p = s->pipes[k];
        if (!p->in_active)
            continue;
        struct twin_message *m = twin_pipe_read(p);
        if (m != NULL) {
            s->read_turn = k + 1;
            *ret_p = p;
            return m;
        }
        p->in_active = false;
    }
    return NULL;
}

static struct twin_message *sub_read(struct twin_socket *s) {
    struct twin_pipe *p;
    struct twin_message *m;
    while ((m = fair_read(s, &p)) != NULL && !topics_match(s->topics, m->first->blob))
        twin_message_free(m); /* unsubscribed since */
    return m;
}

/* The answer, without its delimiter; whatever else comes is dropped. */
static struct twin_message *req_read(struct twin_socket *s) {
    struct twin_pipe *p;
    struct twin_message *m;
    while ((m = fair_read(s, &p)) != NULL) {
        struct twin_part *delimiter = m->first;
        if ((s->asked == NULL || s->asked == p) && delimiter->blob->n == 0 &&
            delimiter->next != NULL) {
            m->first = delimiter->next;
            twin_blob_unref(delimiter->blob);
            free(delimiter);
            return m;
        }
        twin_message_free(m);
    }
    return NULL;
}

int twin_next(struct twin_socket *s) {
    struct twin_pipe *p = NULL;
    if (s->incoming != NULL)
        return 0;
    switch (s->type) {
    case ZMQ_ROUTER:
        s->incoming = fair_read(s, &p);
        if (s->incoming != NULL)
            twin_message_add(s->incoming, twin_blob_ref(p->identity), true);
        break;
    case ZMQ_XPUB:
        s->incoming = twin_queue_take(&s->told);
        break;
    case ZMQ_SUB:
        s->incoming = sub_read(s);
        break;
    case ZMQ_REQ:
        if (!s->awaiting)
            return EFSM;
        s->incoming = req_read(s);
        break;
    default:
        s->incoming = fair_read(s, &p);
        break;
    }
    return s->incoming != NULL ? 0 : EAGAIN;
}

bool twin_has_in(struct twin_socket *s) {
    if (s->incoming != NULL)
        return true;
    if (s->type == ZMQ_XPUB)
        return s->told.first != NULL;
    if (s->type != ZMQ_DEALER)
        return twin_next(s) == 0; /* prefetched, as libzmq does */
    for (size_t i = 0; i < s->n_pipes; i++) {
        if (s->pipes[i]->in_active && twin_pipe_has_input(s->pipes[i]))
            return true;
        s->pipes[i]->in_active = false;
    }
    return false;
}

/* ---- output -----------------------------------------------------------------------------------
 */

static struct twin_pipe *balance(struct twin_socket *s) {
    for (size_t i = 0; i < s->n_pipes; i++) {
        size_t k = (s->write_turn + i) % s->n_pipes;
        if (twin_pipe_has_room(s->pipes[k])) {
            s->write_turn = k + 1;
            return s->pipes[k];
        }
    }
    return NULL;
}

bool twin_has_out(struct twin_socket *s) {
    if (s->type == ZMQ_SUB || (s->type == ZMQ_REQ && s->awaiting))
        return false;
    if (s->type == ZMQ_XPUB || (s->type == ZMQ_ROUTER && !s->mandatory))
        return true;
    for (size_t i = 0; i < s->n_pipes; i++)
        if (twin_pipe_has_room(s->pipes[i]) && (s->type != ZMQ_ROUTER || s->pipes[i]->identified))
            return true;
    return false;
}

/* The first part says to whom, and is not sent. */
static int router_begin(struct twin_socket *s, const struct twin_blob *identity, bool more) {
    if (!more)
        return 0; /* a message without content: dropped */
    struct twin_pipe *p = router_find(s, identity);
    if (p == NULL && s->mandatory)
        return EHOSTUNREACH;
    if (p != NULL && !twin_pipe_has_room(p)) {
        int why = p->state == TWIN_ACTIVE ? EAGAIN : EHOSTUNREACH;
        p = NULL;
        if (s->mandatory)
            return why;
    }
    s->to = p;
    s->outgoing = twin_message_new();
    return 0;
}

static int xpub_begin(struct twin_socket *s, const struct twin_blob *topic) {
    bool all_have_room = true;
    for (size_t i = 0; i < s->n_pipes; i++) {
        struct twin_pipe *p = s->pipes[i];
        bool wanted = topics_match(p->topics, topic), room = twin_pipe_has_room(p);
        p->matched = wanted && room;
        if (wanted && !room)
            twin_pipe_peer_misses(p);
        all_have_room = all_have_room && (room || !wanted || p->state != TWIN_ACTIVE);
    }
    if (s->nodrop && !all_have_room)
        return EAGAIN;
    s->outgoing = twin_message_new();
    return 0;
}

static int begin(struct twin_socket *s, const struct twin_blob *part, bool more) {
    switch (s->type) {
    case ZMQ_ROUTER:
        return router_begin(s, part, more);
    case ZMQ_XPUB:
        return xpub_begin(s, part);
    case ZMQ_SUB:
        return ENOTSUP;
    default:
        if (s->type == ZMQ_REQ && s->awaiting)
            return EFSM;
        s->to = balance(s);
        if (s->to == NULL)
            return EAGAIN;
        s->outgoing = twin_message_new();
        if (s->type == ZMQ_REQ)
            twin_message_add(s->outgoing, twin_blob_new(NULL, 0), false);
        return 0;
    }
}

static void finish(struct twin_socket *s) {
    struct twin_message *m = s->outgoing;
    s->outgoing = NULL;
    for (size_t i = 0; s->type == ZMQ_XPUB && i < s->n_pipes; i++) {
        struct twin_pipe *p = s->pipes[i];
        if (p->matched && p->state == TWIN_ACTIVE)
            twin_pipe_write(p, twin_message_share(m));
        p->matched = false;
    }
    if (s->type == ZMQ_REQ) {
        s->awaiting = true;
        s->asked = s->to;
    }
    if (s->type != ZMQ_XPUB && s->to != NULL && s->to->state == TWIN_ACTIVE)
        twin_pipe_write(s->to, m);
    else
        twin_message_free(m);
    s->to = NULL;
}

int twin_send(struct twin_socket *s, struct twin_blob *take_part, bool more) {
    bool first = s->outgoing == NULL;
    if (!twin_chance_lazy())
        twin_process(s);
    if (first) {
        int err = begin(s, take_part, more);
        if (err != 0)
            return err;
    }
    if (s->outgoing == NULL || (first && s->type == ZMQ_ROUTER))
        twin_blob_unref(take_part);
    else
        twin_message_add(s->outgoing, take_part, false);
    if (s->outgoing != NULL && !more)
        finish(s);
    return 0;
}
