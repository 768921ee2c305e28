/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_answer.c - answers on their way out.
 *
 * Nothing here waits: a peer whose queue is full loses its answer, which is counted, and a peer
 * that has gone loses it silently.  ROUTER_MANDATORY reports both on the first part, so a message
 * is sent whole or not at all.
 */
#include "protocols/zmq/zmq_int.h"

#include <errno.h>
#include <postern/metrics.h>
#include <zmq.h>

#define TEXT_KEEP_BYTES (64u << 10)
#define EINTR_TRIES 4

static int send_part(void *socket, ptn_bytes part, int flags) {
    int rc = -1;
    for (int i = 0; i < EINTR_TRIES && rc < 0; i++) {
        rc = zmq_send(socket, part.p, part.n, flags | ZMQ_DONTWAIT);
        if (rc < 0 && zmq_errno() != EINTR)
            break;
    }
    return rc < 0 ? -zmq_errno() : 0;
}

void zmq_gw_answer(zmq_gw_state *st, const ptn_bytes *envelope, size_t n_envelope, bool msgpack,
                   ptn_bytes frame) {
    static const char no_memory[] =
        "{\"type\":\"error\",\"code\":\"overloaded\",\"message\":\"out of memory: retry later\","
        "\"retryable\":true}";
    ptn_bytes body = frame;
    if (!msgpack) {
        ptn_out_clear(&st->text);
        if (ptn_msgpack_to_json(frame, &st->text) == 0 && st->text.err == 0)
            body = (ptn_bytes){st->text.p, st->text.len};
        else
            body = (ptn_bytes){(const uint8_t *)no_memory, sizeof(no_memory) - 1};
    }
    int err = 0;
    for (size_t i = 0; i < n_envelope && err == 0; i++)
        err = send_part(st->gw->router, envelope[i], ZMQ_SNDMORE);
    if (err == 0)
        err = send_part(st->gw->router, body, 0);
    if (err == -EAGAIN)
        ptn_count(PTN_C_DROPPED_ZMQ_PEER, 1);
    /* One huge answer must not pin its size for ever; an error is sticky, so it goes as well. */
    if (st->text.cap > TEXT_KEEP_BYTES || st->text.err != 0) {
        ptn_out_done(&st->text);
        st->text = (ptn_out){0};
    }
}
