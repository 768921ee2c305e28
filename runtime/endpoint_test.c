/* SPDX-License-Identifier: Apache-2.0
 *
 * endpoint_test.c - endpoints through the runtime: addresses, errors, and draining a listener.
 */
#include <criterion/criterion.h>
#include <postern/stream.h>

#include "runtime/env/test_client.h"
#include "runtime/stream_stats.h"

Test(endpoint, reports_the_address_and_is_freed_unused) {
    ptn_runtime_opts opts = {.workers = 2};
    ptn_runtime *rt;
    ptn_endpoint *ep = NULL, *other = NULL;
    const char *why = NULL;
    cr_assert_eq(ptn_runtime_new(&opts, &rt), 0);
    cr_assert_eq(ptn_endpoint_bind(rt, "127.0.0.1:0", &ep, &why), 0, "%s", why);
    cr_assert_eq(strncmp(ptn_endpoint_address(ep), "127.0.0.1:", 10), 0);
    cr_assert_gt(strtoul(ptn_endpoint_address(ep) + 10, NULL, 10), 0);
    cr_assert_eq(ptn_endpoint_bind(rt, "nonsense", &other, &why), -PTN_EINVAL);
    cr_assert_null(other);
    cr_assert_not_null(strstr(why, "bad address"));
    ptn_endpoint_free(ep);
    ptn_endpoint_free(NULL);
    ptn_runtime_free(rt);
}

/* An actor that stops accepting when its first connection says anything, and ends when that one
 * closes. */
struct drain {
    ptn_endpoint *ep;
    ptn_listener *l;
    int late; /* what a client got that came after the listener was closed */
    int client;
    int told;
    ptn_timer patience;
};

static void drain_impatient(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)c, (void)state, (void)t, (void)arg;
    cr_assert_fail("nothing has come of the connection");
}

static void drain_read(ptn_ctx *c, void *owner, const uint8_t *p, size_t n) {
    struct drain *d = owner;
    (void)p;
    (void)n;
    ptn_listener_close(c, d->l);
    d->late = client_connect(ptn_endpoint_address(d->ep));
    cr_assert_eq(shutdown(d->client, SHUT_WR), 0); /* the stream still lives and sees this */
}

static void drain_close(ptn_ctx *c, void *owner, int reason) {
    struct drain *d = owner;
    ptn__stream_stats st;
    d->told++;
    cr_assert_eq(reason, 0);
    ptn__stream_stats_read(ptn_ctx_runtime(c), 0, &st);
    cr_assert_eq(st.accepted, 1);
    cr_assert_eq(st.accept_errors, 0);
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static void drain_accept(ptn_ctx *c, void *arg, ptn_stream *s) {
    static const ptn_stream_ops ops = {drain_read, NULL, NULL, drain_close};
    (void)c;
    ptn_stream_open(s, &ops, arg);
}

static int drain_init(ptn_ctx *c, void *state, void *arg) {
    struct drain *d = arg;
    (void)state;
    int err = ptn_listen(c, d->ep, drain_accept, d, &d->l);
    if (err == 0) {
        ptn_timer_start(c, &d->patience, (ptn_time)CLIENT_TIMEOUT_S * PTN_SEC, drain_impatient, d);
        d->client = client_connect(ptn_endpoint_address(d->ep));
        cr_assert_eq(client_send(d->client, "x", 1), 0);
    }
    return err;
}

static int drain_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

Test(endpoint, a_closed_listener_refuses_and_keeps_its_streams, .timeout = 60) {
    static const ptn_actor_ops ops = {.name = "drain", .init = drain_init, .handle = drain_handle};
    ptn_runtime *rt;
    ptn_addr a;
    const char *why = "";
    struct drain d = {.late = 0};
    cr_assert_eq(ptn_runtime_new(NULL, &rt), 0);
    cr_assert_eq(ptn_endpoint_bind(rt, "127.0.0.1:0", &d.ep, &why), 0, "%s", why);
    cr_assert_eq(ptn_runtime_spawn(rt, &ops, NULL, &d, PTN_PERMANENT, &a), 0);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    cr_assert_eq(d.late, -ECONNREFUSED);
    cr_assert_eq(d.told, 1);
    close(d.client);
    ptn_endpoint_free(d.ep);
    ptn_runtime_free(rt);
}
