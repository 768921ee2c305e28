/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_gw.h - the ZeroMQ gateway: requests on a ROUTER socket, events on XPUB sockets (wire.md
 * section 3).
 *
 * zmq_gw_new() binds in the main thread, before the runtime runs, so that real addresses are known
 * at once and a bad one is an error of the start.  The sockets are then used by one worker only:
 * starting the worker's thread is the full fence that libzmq asks for when a socket migrates.  The
 * object survives restarts of the actor.
 */
#ifndef POSTERN_PROTOCOLS_ZMQ_GW_H
#define POSTERN_PROTOCOLS_ZMQ_GW_H

#include <postern/hub.h>
#include <postern/messages.h>

#define ZMQ_GW_ADDRESSES_MAX 8u /* of each kind */

typedef struct zmq_gw zmq_gw;

typedef struct zmq_gw_limits {  /* 0: the default in the comment */
    uint32_t message_bytes_max; /* body of one request: 1 MiB */
    uint32_t depth_max;         /* of JSON and msgpack: 32 */
    uint32_t requests_max;      /* in flight, all peers: 4096; past it error `overloaded` */
    uint32_t peer_requests_max; /* in flight, one peer: half of requests_max */
    uint32_t prefixes_max;   /* remembered per event socket: 4096; past it libzmq alone filters */
    uint32_t hwm_msgs;       /* queue of one peer, each direction: 2048 */
    ptn_time request_ns;     /* default deadline of a request: 10 s */
    ptn_time request_ns_max; /* longest that timeoutMs may ask for: 60 s */
} zmq_gw_limits;

typedef struct zmq_gw_config { /* copied, except directory and hub, which outlive the gateway */
    const ptn_directory *directory;
    ptn_hub *hub;                /* of the gateway's worker; may be NULL when n_events is 0 */
    unsigned worker;             /* that the actor will be spawned on */
    const char *const *requests; /* addresses: ipc://path, or tcp:// on a loopback address */
    size_t n_requests;
    const char *const *events;
    size_t n_events;
    zmq_gw_limits limits;
} zmq_gw_config;

/* Main thread, before ptn_runtime_run().  -PTN_EINVAL (an address or a limit), -PTN_EADDRINUSE,
 * -PTN_EIO or -PTN_ENOMEM; *reterr_why then says which address and what to do, valid until the next
 * call on this thread.
 */
int zmq_gw_new(const zmq_gw_config *config, zmq_gw **ret_gw, const char **reterr_why);

/* Real addresses ("tcp://127.0.0.1:40123"), in the order of the configuration.  NULL: no such
 * index. */
const char *zmq_gw_request_address(const zmq_gw *gw, size_t i);
const char *zmq_gw_event_address(const zmq_gw *gw, size_t i);

/* Closes the sockets without lingering and ends libzmq's threads.  Main thread, after
 * ptn_runtime_run() has returned.  Accepts NULL. */
void zmq_gw_free(zmq_gw *gw);

extern const ptn_actor_ops zmq_gw_actor; /* arg: the zmq_gw; spawn it on config.worker */

#endif
