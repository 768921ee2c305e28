/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_twin.h - a twin of libzmq for tests: the functions of zmq.h that the gateway and its clients
 * use, in one thread, on virtual time, with every delay and fault drawn from a seed.
 *
 * A program that links the twin does not link libzmq.  What the twin models is the documented
 * contract (zmq_socket(3), zmq_getsockopt(3), zmq_setsockopt(3)), where it matters to the last
 * command: a socket has a mailbox of commands from the outside ("a pipe has input", "a pipe has
 * room", "a peer came", "a peer went"), ZMQ_FD is readable while that mailbox holds something, and
 * every use of the socket may empty it.  tests/zmq/scenario.txt holds both to the same contract.
 *
 * Modelled: ROUTER, XPUB, DEALER, REQ, SUB; bind and connect with reconnection; SNDHWM and RCVHWM
 * with the slack of the transport between them; LINGER; MAXMSGSIZE; routing identities, MANDATORY
 * and HANDOVER; subscriptions, VERBOSE and NODROP.  Not modelled: waiting (every call returns at
 * once, EAGAIN), CURVE, proxies, other kinds of socket; an option that is not known is EINVAL.
 *
 * One thread.  Nothing here may be called while zmq_twin_run() runs, except from its hooks, which
 * may only take notes.
 */
#ifndef POSTERN_TESTS_SIM_ZMQ_TWIN_H
#define POSTERN_TESTS_SIM_ZMQ_TWIN_H

#include <postern/base.h>

typedef struct zmq_twin_faults {
    ptn_time delay_min_ns, delay_mean_ns; /* of a message, a handshake, a goodbye */
    uint32_t tail_ppm;                    /* ...that takes tail_ns longer */
    ptn_time tail_ns;
    uint32_t window_bytes; /* what the transport holds between two queues, each direction */
    uint32_t break_ppm;    /* a message that arrives finds its connection broken */
    uint32_t lazy_ppm;     /* a send does not look at its mailbox: libzmq spares itself that */
} zmq_twin_faults;

typedef struct zmq_twin_host { /* none of the functions may be NULL */
    ptn_time (*now)(void *arg);
    /* Something happens at `due`, before everything that was announced: call zmq_twin_run() then.
     */
    void (*at)(void *arg, ptn_time due);
    void (*ready)(void *arg, int fd); /* has become readable */
    void *arg;
} zmq_twin_host;

/* Once, before the first context; ends with zmq_twin_stop(), which asserts that no socket is open.
 */
void zmq_twin_start(uint64_t seed, const zmq_twin_faults *faults, const zmq_twin_host *host);
void zmq_twin_stop(void);
void zmq_twin_faults_set(const zmq_twin_faults *faults);

/* Does everything that is due; returns when the next thing is, PTN_NEVER: nothing is under way. */
ptn_time zmq_twin_run(void);

bool zmq_twin_readable(int fd);

/* Closes a socket as when its host has lost power: no goodbye, and the other side notices by its
 * heartbeats or never. */
void zmq_twin_vanish(void *socket);

/* A publisher had something for this SUB and no room in its queue. */
bool zmq_twin_missed(const void *socket);

#endif
