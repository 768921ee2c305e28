/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_answer.c - answers on their way out.
 *
 * Nothing here waits: a peer whose queue is full loses its answer, which is counted, and a peer
 * that has gone loses it silently.  ROUTER_MANDATORY reports both on the first part, so a message
 * is sent whole or not at all.  What is large stays ours until libzmq has sent it, and with it in
 * the memory budget: a queue that nobody reads is bounded in messages only.
 */
#include "protocols/zmq/zmq_int.h"

#include <errno.h>
#include <postern/metrics.h>
#include <zmq.h>

#define TEXT_KEEP_BYTES (64u << 10)
#define SPARE_BYTES (16u << 10) /* more than any apology takes as JSON */
#define EINTR_TRIES 4
/* Below it a copy is cheaper than a reference that crosses threads. */
#define SHARE_BYTES_MIN 2048u

static int send_part(void *socket, ptn_bytes part, int flags) {
    int rc = -1;
    for (int i = 0; i < EINTR_TRIES && rc < 0; i++) {
        rc = zmq_send(socket, part.p, part.n, flags | ZMQ_DONTWAIT);
        if (rc < 0 && zmq_errno() != EINTR)
            break;
    }
    return rc < 0 ? -zmq_errno() : 0;
}

static int send_message(void *socket, zmq_msg_t *m) {
    int rc = -1;
    for (int i = 0; i < EINTR_TRIES && rc < 0; i++) {
        rc = zmq_msg_send(m, socket, ZMQ_DONTWAIT);
        if (rc < 0 && zmq_errno() != EINTR)
            break;
    }
    return rc < 0 ? -zmq_errno() : 0;
}

/* libzmq's I/O thread, when the last receiver has got the bytes. */
static void body_free(void *data, void *hint) {
    (void)data;
    ptn_buf *b = hint;
    (void)ptn_buf_unref(b);
}

int zmq_gw_message(ptn_buf *take_b, zmq_msg_t *ret_msg) {
    ptn_bytes bytes = ptn_buf_bytes(take_b);
    int rc;
    if (bytes.n >= SHARE_BYTES_MIN) {
        /* libzmq only reads what it sends; its interface has no const. */
        rc = zmq_msg_init_data(ret_msg, (void *)(uintptr_t)bytes.p, bytes.n, body_free, take_b);
        if (rc == 0)
            return 0; /* body_free() has the reference */
    } else {
        rc = zmq_msg_init_size(ret_msg, bytes.n);
        if (rc == 0)
            memcpy(zmq_msg_data(ret_msg), bytes.p, bytes.n);
    }
    (void)ptn_buf_unref(take_b);
    return rc == 0 ? 0 : -PTN_ENOMEM;
}

static int message_of(ptn_bytes body, zmq_msg_t *ret_msg) {
    if (body.n < SHARE_BYTES_MIN) {
        if (zmq_msg_init_size(ret_msg, body.n) != 0)
            return -PTN_ENOMEM;
        memcpy(zmq_msg_data(ret_msg), body.p, body.n);
        return 0;
    }
    ptn_buf *b = ptn_buf_new(body.n);
    if (b == NULL)
        return -PTN_ENOMEM;
    memcpy(ptn_buf_data(b, NULL), body.p, body.n);
    ptn_buf_seal(b, body.n);
    return zmq_gw_message(b, ret_msg);
}

/* {type: "error", id?, code: "overloaded", ..}: what is said without memory, in the caller's. */
static ptn_bytes apology(uint8_t out[ZMQ_GW_APOLOGY_BYTES], ptn_bytes id) {
    static const char begin[] = "\xa4"
                                "type"
                                "\xa5"
                                "error";
    static const char key[] = "\xa2"
                              "id";
    static const char end[] = "\xa4"
                              "code"
                              "\xaa"
                              "overloaded"
                              "\xa7"
                              "message"
                              "\xb8"
                              "out of memory; try again"
                              "\xa9"
                              "retryable"
                              "\xc3\xa7"
                              "details"
                              "\x80";
    _Static_assert(1 + sizeof begin + sizeof key + ZMQ_GW_ID_BYTES_MAX + sizeof end <=
                       ZMQ_GW_APOLOGY_BYTES,
                   "an apology fits");
    uint8_t *p = out;
    *p++ = id.n > 0 ? 0x86 : 0x85;
    memcpy(p, begin, sizeof begin - 1);
    p += sizeof begin - 1;
    if (id.n > 0) {
        memcpy(p, key, sizeof key - 1);
        memcpy(p + sizeof key - 1, id.p, id.n);
        p += sizeof key - 1 + id.n;
    }
    memcpy(p, end, sizeof end - 1);
    return (ptn_bytes){out, (size_t)(p - out) + sizeof end - 1};
}

bool zmq_gw_answer_init(zmq_gw_state *st) {
    return ptn_out_reserve(&st->spare, SPARE_BYTES) != NULL;
}

/* n == 0: no memory. */
static ptn_bytes json_of(ptn_out *text, ptn_bytes frame) {
    ptn_out_clear(text);
    if (ptn_msgpack_to_json(frame, text) != 0 || text->err != 0)
        return (ptn_bytes){NULL, 0};
    return (ptn_bytes){text->p, text->len};
}

void zmq_gw_answer(zmq_gw_state *st, const ptn_bytes *envelope, size_t n_envelope, bool msgpack,
                   ptn_bytes frame, ptn_bytes id) {
    uint8_t small[ZMQ_GW_APOLOGY_BYTES];
    ptn_bytes has;
    ptn_buf *named = NULL;
    if (id.n > 0 && !ptn_map_get(frame, "id", &has)) {
        named = zmq_gw_frame_with_id(frame, id);
        frame = ptn_buf_bytes(named);
    }
    ptn_bytes body = msgpack || frame.n == 0 ? frame : json_of(&st->text, frame);
    zmq_msg_t message; /* before anything is sent: a message goes whole or not at all */
    int err = body.n > 0 ? message_of(body, &message) : -PTN_ENOMEM;
    if (err < 0) {
        body = apology(small, id);
        err = message_of(msgpack ? body : json_of(&st->spare, body), &message);
    }
    if (err == 0) {
        for (size_t i = 0; i < n_envelope && err == 0; i++)
            err = send_part(st->gw->router, envelope[i], ZMQ_SNDMORE);
        if (err == 0)
            err = send_message(st->gw->router, &message);
        if (err != 0)
            (void)zmq_msg_close(&message);
    }
    if (err == -EAGAIN || err == -PTN_ENOMEM)
        ptn_count(PTN_C_DROPPED_ZMQ_PEER, 1);
    (void)ptn_buf_unref(named);
    /* One huge answer must not pin its size for ever; an error is sticky, so it goes as well. */
    if (st->text.cap > TEXT_KEEP_BYTES || st->text.err != 0) {
        ptn_out_done(&st->text);
        st->text = (ptn_out){0};
    }
}
