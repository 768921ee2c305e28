/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_bind.c - makes and ends the gateway object: libzmq's context, its sockets and their options.
 *
 * Main thread only, before and after the runtime runs.  One ROUTER serves all request addresses;
 * event addresses share one XPUB per side, because a subscriber of a tcp address may see less than
 * one of ipc.
 */
#include "protocols/zmq/zmq_int.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#define HANDSHAKE_MS 10000
#define IPC_PREFIX_BYTES 6u /* ipc:// */
#define LISTEN_BACKLOG 128
/* XPUB input is subscriptions only, and a topic has 255 bytes; the handshake carries an identity of
 * as many.  libzmq keeps each prefix byte by byte, some 30 bytes of memory for one of it. */
#define SUBSCRIPTION_BYTES_MAX 512

static _Thread_local char why_text[ZMQ_GW_ADDRESS_BYTES + 160];

static int explain(int err, const char *where, const char *text, const char **reterr_why) {
    (void)snprintf(why_text, sizeof(why_text), "%s: %s", where, text);
    *reterr_why = why_text;
    return err;
}

static void limits_defaults(zmq_gw_limits *l) {
    if (l->message_bytes_max == 0)
        l->message_bytes_max = 1u << 20;
    if (l->depth_max == 0)
        l->depth_max = 32;
    if (l->requests_max == 0)
        l->requests_max = 4096;
    if (l->peer_requests_max == 0)
        l->peer_requests_max = l->requests_max > 1 ? l->requests_max / 2 : 1;
    if (l->prefixes_max == 0)
        l->prefixes_max = 4096;
    if (l->hwm_msgs == 0)
        l->hwm_msgs = 2048;
    if (l->request_ns == 0)
        l->request_ns = 10 * PTN_SEC;
    if (l->request_ns_max == 0)
        l->request_ns_max = 60 * PTN_SEC;
}

static bool set_int(void *socket, int option, int value) {
    return zmq_setsockopt(socket, option, &value, sizeof(value)) == 0;
}

/* Options that both kinds of socket share.  No heartbeats: libzmq 4.3.4 aborts (!_io_error) when
 * one is due on the connection of a peer that has gone while its queue was full, and of the end of
 * a local peer the kernel tells anyway. */
static bool set_common(void *socket, const zmq_gw_limits *l) {
    return set_int(socket, ZMQ_LINGER, 0) && set_int(socket, ZMQ_SNDTIMEO, 0) &&
           set_int(socket, ZMQ_RCVTIMEO, 0) && set_int(socket, ZMQ_SNDHWM, (int)l->hwm_msgs) &&
           set_int(socket, ZMQ_RCVHWM, (int)l->hwm_msgs) && set_int(socket, ZMQ_IMMEDIATE, 1) &&
           set_int(socket, ZMQ_BACKLOG, LISTEN_BACKLOG) && set_int(socket, ZMQ_TCP_KEEPALIVE, 1) &&
           set_int(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
}

static bool set_max_message(void *socket, int64_t bytes) {
    return zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes, sizeof(bytes)) == 0;
}

/* libzmq cuts a peer off without a word at its limit; at twice ours there is room to say what is
 * wrong. */
static void *router_new(void *context, const zmq_gw_limits *l) {
    void *s = zmq_socket(context, ZMQ_ROUTER);
    if (s == NULL)
        return NULL;
    if (set_common(s, l) && set_max_message(s, 2 * (int64_t)l->message_bytes_max) &&
        set_int(s, ZMQ_ROUTER_MANDATORY, 1))
        return s;
    (void)zmq_close(s);
    return NULL;
}

/* XPUB_NODROP stays off: with it, one subscriber that does not read would stop all the others. */
static void *xpub_new(void *context, const zmq_gw_limits *l) {
    void *s = zmq_socket(context, ZMQ_XPUB);
    if (s == NULL)
        return NULL;
    if (set_common(s, l) && set_max_message(s, SUBSCRIPTION_BYTES_MAX) &&
        set_int(s, ZMQ_XPUB_VERBOSE, 0) && set_int(s, ZMQ_XPUB_NODROP, 0))
        return s;
    (void)zmq_close(s);
    return NULL;
}

/* Binds one checked address.  The socket file of an ipc address is born with mode 0600: no moment
 * at which others could connect. */
static int bind_one(void *socket, const zmq_gw_address *a, zmq_gw_listener *ret_listener,
                    const char **reterr_why) {
    if (!set_int(socket, ZMQ_IPV6, a->ipv6 ? 1 : 0))
        return explain(-PTN_EIO, a->text, "this libzmq has no IPv6", reterr_why);
    mode_t mask = umask(S_IXUSR | S_IRWXG | S_IRWXO);
    int rc = zmq_bind(socket, a->text);
    int err = errno;
    (void)umask(mask);
    if (rc != 0)
        return explain(err == EADDRINUSE ? -PTN_EADDRINUSE : -PTN_EIO, a->text, zmq_strerror(err),
                       reterr_why);
    size_t len = ZMQ_GW_ADDRESS_BYTES;
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, ret_listener->address, &len) != 0)
        return explain(-PTN_EIO, a->text, "the bound address cannot be read", reterr_why);
    struct stat file;
    if (a->side == ZMQ_GW_IPC && stat(a->text + IPC_PREFIX_BYTES, &file) == 0) {
        ret_listener->device = (uint64_t)file.st_dev;
        ret_listener->inode = (uint64_t)file.st_ino;
    }
    return 0;
}

/* A peer that comes back under its identity while what it sent before is still unread finds the
 * identity taken.  Without handover libzmq keeps such a connection and never reads from it: the
 * peer would wait for ever.  With it whoever claims an identity gets the answers, so only peers
 * that one file mode has let in may do so. */
static int allow_handover(const zmq_gw *gw, bool ipc_only, const char **reterr_why) {
    if (!set_int(gw->router, ZMQ_ROUTER_HANDOVER, ipc_only ? 1 : 0))
        return explain(-PTN_EIO, "requests", zmq_strerror(zmq_errno()), reterr_why);
    return 0;
}

static int bind_requests(zmq_gw *gw, const zmq_gw_config *config, const char **reterr_why) {
    bool ipc_only = true;
    if (config->n_requests == 0)
        return 0;
    gw->router = router_new(gw->context, &gw->limits);
    if (gw->router == NULL)
        return explain(-PTN_EIO, "requests", zmq_strerror(zmq_errno()), reterr_why);
    for (size_t i = 0; i < config->n_requests; i++) {
        zmq_gw_address a;
        const char *why = "";
        if (zmq_gw_address_check(config->requests[i], &a, &why) < 0)
            return explain(-PTN_EINVAL, config->requests[i], why, reterr_why);
        int err = bind_one(gw->router, &a, &gw->request_listeners[i], reterr_why);
        if (err < 0)
            return err;
        gw->n_requests++;
        ipc_only = ipc_only && a.side == ZMQ_GW_IPC;
    }
    /* Identities are looked at by the thread that uses the socket, so later than this. */
    return allow_handover(gw, ipc_only, reterr_why);
}

static int bind_events(zmq_gw *gw, const zmq_gw_config *config, const char **reterr_why) {
    for (size_t i = 0; i < config->n_events; i++) {
        zmq_gw_address a;
        const char *why = "";
        if (zmq_gw_address_check(config->events[i], &a, &why) < 0)
            return explain(-PTN_EINVAL, config->events[i], why, reterr_why);
        zmq_gw_events *ev = &gw->events[a.side];
        if (ev->socket == NULL) {
            ev->socket = xpub_new(gw->context, &gw->limits);
            if (ev->socket == NULL)
                return explain(-PTN_EIO, a.text, zmq_strerror(zmq_errno()), reterr_why);
        }
        int err = bind_one(ev->socket, &a, &gw->event_listeners[i], reterr_why);
        if (err < 0)
            return err;
        gw->n_events++;
    }
    return 0;
}

static int check_config(const zmq_gw_config *config, const char **reterr_why) {
    const char *why = NULL;
    if (config->n_requests > ZMQ_GW_ADDRESSES_MAX || config->n_events > ZMQ_GW_ADDRESSES_MAX)
        why = "at most 8 addresses of each kind";
    else if (config->directory == NULL || config->worker >= PTN_WORKERS_MAX)
        why = "a directory and a worker are needed";
    else if (config->n_events > 0 && config->hub == NULL)
        why = "events need the hub of the worker";
    else if (config->limits.requests_max > 65536 || config->limits.hwm_msgs > 1000000 ||
             config->limits.prefixes_max > 1000000 ||
             config->limits.message_bytes_max > PTN_BUF_BYTES_MAX)
        why = "a limit is out of range";
    return why == NULL ? 0 : explain(-PTN_EINVAL, "ZeroMQ", why, reterr_why);
}

int zmq_gw_new(const zmq_gw_config *config, zmq_gw **ret_gw, const char **reterr_why) {
    int err = check_config(config, reterr_why);
    if (err < 0)
        return err;
    zmq_gw *gw = calloc(1, sizeof(*gw));
    if (gw == NULL)
        return explain(-PTN_ENOMEM, "ZeroMQ", "out of memory", reterr_why);
    gw->directory = config->directory;
    gw->hub = config->hub;
    gw->worker = config->worker;
    gw->limits = config->limits;
    limits_defaults(&gw->limits);

    /* libzmq starts its threads with the first socket; they inherit this mask, so that signals go
     * to the threads that handle them. */
    sigset_t all, before;
    sigfillset(&all);
    bool masked = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
    gw->context = zmq_ctx_new();
    if (gw->context == NULL) {
        err = explain(-PTN_ENOMEM, "ZeroMQ", "libzmq has no context to give", reterr_why);
    } else {
        (void)zmq_ctx_set(gw->context, ZMQ_IO_THREADS, 1);
        (void)zmq_ctx_set(gw->context, ZMQ_MAX_SOCKETS, 16);
        (void)zmq_ctx_set(gw->context, ZMQ_BLOCKY, 0);
        err = bind_requests(gw, config, reterr_why);
        if (err == 0)
            err = bind_events(gw, config, reterr_why);
    }
    if (masked)
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err < 0) {
        zmq_gw_free(gw);
        return err;
    }
    *ret_gw = gw;
    return 0;
}

const char *zmq_gw_request_address(const zmq_gw *gw, size_t i) {
    return i < gw->n_requests ? gw->request_listeners[i].address : NULL;
}

const char *zmq_gw_event_address(const zmq_gw *gw, size_t i) {
    return i < gw->n_events ? gw->event_listeners[i].address : NULL;
}

/* Removes the socket file, unless another process has put its own there since. */
static void unlink_own(const zmq_gw_listener *l) {
    struct stat file;
    const char *path = l->address + IPC_PREFIX_BYTES;
    if (l->inode != 0 && stat(path, &file) == 0 && (uint64_t)file.st_ino == l->inode &&
        (uint64_t)file.st_dev == l->device)
        (void)unlink(path);
}

void zmq_gw_free(zmq_gw *gw) {
    if (gw == NULL)
        return;
    if (gw->router != NULL)
        (void)zmq_close(gw->router);
    for (int side = 0; side < ZMQ_GW_SIDES; side++) {
        if (gw->events[side].socket != NULL)
            (void)zmq_close(gw->events[side].socket);
        zmq_gw_prefixes_done(&gw->events[side].prefixes);
    }
    /* EINTR is libzmq's word for "call again"; everything is closed, so each call makes progress.
     */
    while (gw->context != NULL && zmq_ctx_term(gw->context) != 0 && zmq_errno() == EINTR)
        continue;
    for (size_t i = 0; i < ZMQ_GW_ADDRESSES_MAX; i++) {
        unlink_own(&gw->request_listeners[i]);
        unlink_own(&gw->event_listeners[i]);
    }
    free(gw);
}
