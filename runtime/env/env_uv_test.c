/* SPDX-License-Identifier: Apache-2.0
 *
 * env_uv_test.c - the libuv environment by itself: turns, timers, sockets, lanes, with scripted
 * workers.
 */
#include "runtime/env/env.h"
#include "runtime/env/test_client.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* A worker whose turn is the test's script. */
struct script {
    ptn_env *env;
    unsigned index;
    enum ptn_turn (*turn)(struct script *s, ptn_time *ret_next_due);
    void (*started)(struct script *s);
    unsigned turns, stopped;
    ptn_env_endpoint *ep;
    ptn_env_listener *l;
    ptn_transport *t;
    char address[128];
    int client;
    int phase;
    ptn_time until, give_up;
    char got[64];
    size_t n_got;
    unsigned accepted, refused, eofs, errors, writables, events;
    atomic_uint done;
};

static void script_started(void *worker) {
    struct script *s = worker;
    if (s->started != NULL)
        s->started(s);
}

static enum ptn_turn script_turn(void *worker, ptn_time *ret_next_due) {
    struct script *s = worker;
    s->turns++;
    enum ptn_turn r = s->turn(s, ret_next_due);
    if (r != PTN_TURN_PARKED)
        return r;
    ptn_time now = s->env->ops->now(s->env);
    if (s->give_up == 0)
        s->give_up = now + (ptn_time)CLIENT_TIMEOUT_S * PTN_SEC;
    cr_assert_lt(now, s->give_up, "what the script waits for has not come");
    if (*ret_next_due > s->give_up)
        *ret_next_due = s->give_up;
    return r;
}

static void script_stopped(void *worker) {
    struct script *s = worker;
    s->stopped++;
}

static const ptn_env_worker_ops script_ops = {script_started, script_turn, script_stopped};

static void script_run(struct script *s) {
    void *workers[1] = {s};
    cr_assert_eq(s->env->ops->run(s->env, 1, &script_ops, workers), 0);
    cr_assert_eq(s->stopped, 1);
    s->env->ops->endpoint_free(s->env, s->ep);
    s->env->ops->free(s->env);
}

static void script_bind(struct script *s, const char *where) {
    const char *why = "";
    cr_assert_eq(ptn_env_uv_new(&s->env), 0);
    int err = s->env->ops->bind(s->env, where, 1, &s->ep, s->address, sizeof s->address, &why);
    cr_assert_eq(err, 0, "%s: %s", where, why);
}

/* ---- turns and time ----------------------------------------------------------------------- */

static enum ptn_turn timer_turn(struct script *s, ptn_time *ret_next_due) {
    ptn_time now = s->env->ops->now(s->env);
    if (s->until == 0)
        s->until = now + 50 * PTN_MS + 1; /* not a whole millisecond: must round up */
    *ret_next_due = s->until;
    if (now >= s->until)
        return PTN_TURN_STOP;
    return PTN_TURN_PARKED;
}

Test(env_uv, a_parked_worker_sleeps_until_it_is_due_and_never_wakes_early) {
    struct script s = {.turn = timer_turn};
    cr_assert_eq(ptn_env_uv_new(&s.env), 0);
    script_run(&s);
    cr_assert_eq(s.turns, 2);
}

static enum ptn_turn more_turn(struct script *s, ptn_time *ret_next_due) {
    (void)ret_next_due;
    return s->turns < 1000 ? PTN_TURN_MORE : PTN_TURN_STOP;
}

Test(env_uv, more_calls_again_without_blocking) {
    struct script s = {.turn = more_turn};
    cr_assert_eq(ptn_env_uv_new(&s.env), 0);
    script_run(&s);
    cr_assert_eq(s.turns, 1000);
}

/* Two workers wake each other 1000 times; a lost wake-up hangs the test. */
static struct script pair[2];
static _Atomic(unsigned) pair_count;

static enum ptn_turn pair_turn(struct script *s, ptn_time *ret_next_due) {
    unsigned at = atomic_load(&pair_count);
    *ret_next_due = PTN_NEVER;
    if (at >= 1000) {
        s->env->ops->wake(s->env, 1 - s->index);
        return PTN_TURN_STOP;
    }
    if (at % 2 == s->index) {
        atomic_fetch_add(&pair_count, 1);
        s->env->ops->wake(s->env, 1 - s->index);
    }
    return PTN_TURN_PARKED;
}

Test(env_uv, wake_reaches_another_parked_worker, .timeout = 60) {
    ptn_env *e;
    cr_assert_eq(ptn_env_uv_new(&e), 0);
    e->ops->wake(e, 0); /* before run(): nobody to wake, no harm */
    for (unsigned i = 0; i < 2; i++)
        pair[i] = (struct script){.env = e, .index = i, .turn = pair_turn};
    void *workers[2] = {&pair[0], &pair[1]};
    cr_assert_eq(e->ops->run(e, 2, &script_ops, workers), 0);
    cr_assert_eq(atomic_load(&pair_count), 1000);
    cr_assert_eq(pair[0].stopped + pair[1].stopped, 2);
    e->ops->wake(e, 1); /* after run(), before free(): a late port */
    e->ops->free(e);
}

Test(env_uv, clocks_and_entropy) {
    ptn_env *e;
    cr_assert_eq(ptn_env_uv_new(&e), 0);
    ptn_time a = e->ops->now(e), b = e->ops->now(e);
    cr_assert_leq(a, b);
    cr_assert_gt(e->ops->wall_ms(e), 1600000000000);
    uint8_t x[700] = {0}, y[700] = {0};
    e->ops->random(e, x, sizeof x);
    e->ops->random(e, y, sizeof y);
    cr_assert_neq(memcmp(x, y, sizeof x), 0);
    cr_assert_neq(memcmp(x + 600, (uint8_t[100]){0}, 100), 0);
    enum { DRAWS = 300 }; /* small ones come out of a pool: no bytes twice, none left out */
    uint8_t ids[DRAWS][13];
    for (size_t i = 0; i < DRAWS; i++) {
        e->ops->random(e, ids[i], sizeof ids[i]);
        for (size_t j = 0; j < i; j++)
            cr_assert_neq(memcmp(ids[i], ids[j], sizeof ids[i]), 0, "draw %zu is draw %zu", i, j);
    }
    e->ops->free(e);
}

/* ---- endpoints ---------------------------------------------------------------------------- */

static int try_bind(ptn_env *e, const char *where, unsigned n, ptn_env_endpoint **ret_ep,
                    char *ret_addr, const char **reterr_why) {
    *ret_ep = NULL;
    *reterr_why = NULL;
    return e->ops->bind(e, where, n, ret_ep, ret_addr, 128, reterr_why);
}

Test(env_uv, bind_refuses_bad_addresses_and_says_why) {
    static const struct {
        const char *where;
        int err;
        const char *why;
    } cases[] = {
        {"", -PTN_EINVAL, "no port"},
        {"127.0.0.1", -PTN_EINVAL, "no port"},
        {"127.0.0.1:", -PTN_EINVAL, "not a number"},
        {"127.0.0.1:http", -PTN_EINVAL, "not a number"},
        {"127.0.0.1:65536", -PTN_EINVAL, "not a number"},
        {"127.0.0.1:99999999999999999999", -PTN_EINVAL, "not a number"},
        {"127.0.0.1:-1", -PTN_EINVAL, "not a number"},
        {"::1:80", -PTN_EINVAL, "[address]:port"},
        {"[::1:80", -PTN_EINVAL, "unbalanced"},
        {"[nonsense]:80", -PTN_EINVAL, "not an IPv6"},
        {"[127.0.0.1]:80", -PTN_EINVAL, "not an IPv6"},
        {"no-such-host.invalid:80", -PTN_ENOTFOUND, "unknown host"},
        {"192.0.2.1:0", -PTN_ENOTFOUND, "no such address"},
        {"unix:", -PTN_EINVAL, "needs a path"},
        {"unix:/nonexistent/dir/s", -PTN_ENOTFOUND, "directory"},
        {"unix:/tmp/"
         "0123456789012345678901234567890123456789012345678901234567890123456789"
         "0123456789012345678901234567890123456789",
         -PTN_EINVAL, "107"},
    };
    ptn_env *e;
    ptn_env_endpoint *ep;
    char addr[128];
    const char *why;
    cr_assert_eq(ptn_env_uv_new(&e), 0);
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        int err = try_bind(e, cases[i].where, 1, &ep, addr, &why);
        cr_assert_eq(err, cases[i].err, "%s: %d", cases[i].where, err);
        cr_assert_null(ep);
        cr_assert(why != NULL && strstr(why, cases[i].why) != NULL, "%s: %s", cases[i].where, why);
    }
    e->ops->free(e);
}

Test(env_uv, bind_reports_the_real_address) {
    static const char *const where[][2] = {{"127.0.0.1:0", "127.0.0.1:"},
                                           {"localhost:0", "127.0.0.1:"},
                                           {":0", "0.0.0.0:"},
                                           {"0.0.0.0:0", "0.0.0.0:"},
                                           {"[::1]:0", "[::1]:"}};
    ptn_env *e;
    ptn_env_endpoint *ep;
    char addr[128];
    const char *why;
    cr_assert_eq(ptn_env_uv_new(&e), 0);
    for (size_t i = 0; i < PTN_ARRAY_LEN(where); i++) {
        int err = try_bind(e, where[i][0], 1, &ep, addr, &why);
        if (err != 0 && where[i][0][0] == '[')
            continue; /* a host without IPv6 */
        cr_assert_eq(err, 0, "%s: %s", where[i][0], why);
        size_t n = strlen(where[i][1]);
        cr_assert_eq(strncmp(addr, where[i][1], n), 0, "%s", addr);
        cr_assert_gt(strtoul(addr + n, NULL, 10), 0);
        e->ops->endpoint_free(e, ep);
    }
    e->ops->free(e);
}

/* With several workers the sockets share their port, but not with another process or endpoint. */
Test(env_uv, a_port_in_use_is_reported_even_with_several_workers) {
    ptn_env *e;
    ptn_env_endpoint *ep, *other;
    char addr[128], addr2[128];
    const char *why;
    cr_assert_eq(ptn_env_uv_new(&e), 0);
    for (unsigned n = 1; n <= 3; n++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof a;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
        cr_assert_eq(bind(fd, (struct sockaddr *)&a, len), 0);
        cr_assert_eq(listen(fd, 1), 0);
        cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
        snprintf(addr, sizeof addr, "127.0.0.1:%u", ntohs(a.sin_port));
        cr_assert_eq(try_bind(e, addr, n, &other, addr2, &why), -PTN_EADDRINUSE, "n=%u", n);
        cr_assert_not_null(strstr(why, "in use"));
        close(fd);
        cr_assert_eq(try_bind(e, addr, n, &ep, addr2, &why), 0, "n=%u: %s", n, why);
        cr_assert_str_eq(addr, addr2);
        e->ops->endpoint_free(e, ep);
    }
    e->ops->free(e);
}

Test(env_uv, a_unix_socket_is_private_and_a_stale_file_is_replaced) {
    ptn_env *e;
    ptn_env_endpoint *ep, *other;
    struct client_unix at;
    char addr[128];
    const char *why;
    struct stat st;
    cr_assert_eq(client_unix_open(&at), 0);
    const char *where = at.address, *path = where + 5;
    cr_assert_eq(ptn_env_uv_new(&e), 0);
    cr_assert_eq(try_bind(e, where, 2, &ep, addr, &why), 0, "%s", why);
    cr_assert_str_eq(addr, where);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    /* alive: not to be taken away */
    cr_assert_eq(try_bind(e, where, 1, &other, addr, &why), -PTN_EADDRINUSE);
    e->ops->endpoint_free(e, ep);
    cr_assert_neq(stat(path, &st), 0);
    /* stale: bound once, nobody behind it */
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    close(fd);
    cr_assert_eq(try_bind(e, where, 1, &ep, addr, &why), 0, "%s", why);
    e->ops->endpoint_free(e, ep);
    /* a file that is no socket stays */
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fclose(f);
    cr_assert_eq(try_bind(e, where, 1, &other, addr, &why), -PTN_EADDRINUSE);
    cr_assert_eq(stat(path, &st), 0);
    unlink(path);
    e->ops->free(e);
    cr_assert_eq(client_unix_close(&at), 0);
}

/* ---- sockets ------------------------------------------------------------------------------ */

static void on_read(void *owner, const uint8_t *p, size_t n) {
    struct script *s = owner;
    cr_assert_leq(s->n_got + n, sizeof s->got);
    memcpy(s->got + s->n_got, p, n);
    s->n_got += n;
}

static void on_eof(void *owner) {
    ((struct script *)owner)->eofs++;
}

static void on_writable(void *owner) {
    struct script *s = owner;
    s->writables++;
    s->env->ops->want_write(s->t, false);
}

static void on_error(void *owner, int err) {
    struct script *s = owner;
    cr_assert_lt(err, 0);
    s->errors++;
}

static const ptn_transport_cbs cbs = {on_read, on_eof, on_writable, on_error};

static void on_accept(void *owner, ptn_transport *t) {
    struct script *s = owner;
    if (t == NULL) {
        s->refused++;
        return;
    }
    s->accepted++;
    s->t = t;
    s->env->ops->transport_open(t, &cbs, s);
}

static void listen_and_connect(struct script *s) {
    cr_assert_eq(s->env->ops->listen(s->env, 0, s->ep, on_accept, s, &s->l), 0);
    s->client = client_connect(s->address);
    cr_assert_geq(s->client, 0);
}

static enum ptn_turn script_end(struct script *s) {
    if (s->t != NULL)
        s->env->ops->transport_close(s->t);
    if (s->l != NULL)
        s->env->ops->listener_close(s->env, s->l);
    close(s->client);
    return PTN_TURN_STOP;
}

static enum ptn_turn echo_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    if (s->phase == 0 && s->accepted == 1) {
        cr_assert_eq(strncmp(s->env->ops->peer(s->t), "127.0.0.1:", 10), 0);
        cr_assert_eq(client_send(s->client, "ping", 4), 0);
        s->phase = 1;
    } else if (s->phase == 1 && s->n_got == 4) {
        ptn_iov v[2] = {{"po", 2}, {"ng", 2}};
        char back[4];
        cr_assert_eq(s->env->ops->write(s->t, v, 2), 4);
        cr_assert_eq(client_recv(s->client, back, 4), 4);
        cr_assert_eq(memcmp(back, "pong", 4), 0);
        s->env->ops->want_write(s->t, true);
        s->phase = 2;
    } else if (s->phase == 2 && s->writables == 1) {
        shutdown(s->client, SHUT_WR);
        s->phase = 3;
    } else if (s->phase == 3 && s->eofs == 1) {
        s->env->ops->shut_write(s->t);
        cr_assert(client_is_at_end(s->client));
        return script_end(s);
    }
    return PTN_TURN_PARKED;
}

Test(env_uv, read_write_half_close, .timeout = 30) {
    struct script s = {.turn = echo_turn, .started = listen_and_connect};
    script_bind(&s, "127.0.0.1:0");
    script_run(&s);
    cr_assert_eq(s.errors, 0);
    cr_assert_eq(s.eofs, 1);
    cr_assert_eq(s.writables, 1);
}

/* More sockets than are read before the first of them is handled, all with bytes in the same poll.
 */
#define CROWD 100u
static struct member {
    ptn_transport *t;
    unsigned reads;
} crowd[CROWD];
static struct script *crowd_script;

static void crowd_close(struct member *m) {
    if (m->t != NULL)
        crowd_script->env->ops->transport_close(m->t);
    m->t = NULL; /* its memory goes when the turn is over */
}

static void crowd_read(void *owner, const uint8_t *p, size_t n) {
    struct member *m = owner;
    cr_assert_eq(n, 2);
    cr_assert_eq(p[0], (uint8_t)(m - crowd), "what another one sent");
    m->reads++;
    crowd_script->events++;
    for (size_t i = 0; crowd_script->index == 1 && i < CROWD; i++) {
        if (&crowd[i] != m)
            crowd_close(&crowd[i]);
    }
}

static const ptn_transport_cbs crowd_cbs = {crowd_read, on_eof, on_writable, on_error};

static void crowd_accept(void *owner, ptn_transport *t) { /* in the order of their connecting */
    struct script *s = owner;
    struct member *m = &crowd[s->accepted++];
    m->t = t;
    s->env->ops->transport_open(t, &crowd_cbs, m);
}

static int crowd_clients[CROWD];

static void crowd_started(struct script *s) {
    crowd_script = s;
    cr_assert_eq(s->env->ops->listen(s->env, 0, s->ep, crowd_accept, s, &s->l), 0);
    for (size_t i = 0; i < CROWD; i++)
        cr_assert_geq(crowd_clients[i] = client_connect(s->address), 0);
}

static enum ptn_turn crowd_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    if (s->phase == 0 && s->accepted == CROWD) {
        for (size_t i = 0; i < CROWD; i++)
            cr_assert_eq(client_send(crowd_clients[i], (uint8_t[]){(uint8_t)i, 0}, 2), 0);
        s->phase = 1;
    } else if (s->phase == 1 && s->events > 0) {
        for (size_t i = 0; i < CROWD; i++) {
            crowd_close(&crowd[i]);
            close(crowd_clients[i]);
        }
        s->env->ops->listener_close(s->env, s->l);
        return PTN_TURN_STOP;
    }
    return PTN_TURN_PARKED;
}

Test(env_uv, each_of_a_crowd_gets_its_own_bytes_and_a_closed_one_none, .timeout = 30) {
    for (unsigned closes = 0; closes < 2; closes++) {
        struct script s = {.turn = crowd_turn, .started = crowd_started, .index = closes};
        memset(crowd, 0, sizeof crowd);
        script_bind(&s, "127.0.0.1:0");
        script_run(&s);
        cr_assert_eq(s.events, closes ? 1 : CROWD, "%u reads", s.events);
        for (size_t i = 0; i < CROWD; i++)
            cr_assert_leq(crowd[i].reads, 1);
    }
}

/* A stalled peer that vanishes is noticed though nobody reads. */
static enum ptn_turn reset_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    if (s->phase == 0 && s->accepted == 1) {
        s->env->ops->read_enable(s->t, false);
        client_send(s->client, "unread", 6);
        if (s->index == 1) /* its FIN first: a later reset is seen too */
            shutdown(s->client, SHUT_WR);
        s->phase = 1;
        s->until = s->env->ops->now(s->env) + 20 * PTN_MS;
    } else if (s->phase == 1 && s->env->ops->now(s->env) >= s->until) {
        client_reset(s->client);
        s->client = -1;
        s->phase = 2;
    } else if (s->phase == 2 && s->errors == 1) {
        return script_end(s);
    }
    if (s->phase == 1)
        *ret_next_due = s->until;
    return PTN_TURN_PARKED;
}

Test(env_uv, a_reset_is_noticed_while_reading_is_off, .timeout = 30) {
    for (unsigned i = 0; i < 2; i++) {
        struct script s = {.turn = reset_turn, .started = listen_and_connect, .index = i};
        script_bind(&s, "127.0.0.1:0");
        script_run(&s);
        cr_assert_eq(s.errors, 1);
        cr_assert_eq(s.n_got, 0);
    }
}

/* Level-triggered readiness and FINs must not spin a worker whose stream does not read. */
static enum ptn_turn fin_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    if (s->phase == 0 && s->accepted == 1) {
        s->env->ops->read_enable(s->t, false);
        client_send(s->client, "late", 4);
        if (s->index == 1)
            send(s->client, "!", 1, MSG_OOB);
        shutdown(s->client, SHUT_WR);
        s->until = s->env->ops->now(s->env) + 100 * PTN_MS;
        s->phase = 1;
    } else if (s->phase == 1 && s->env->ops->now(s->env) >= s->until) {
        cr_assert_eq(s->n_got, 0);
        cr_assert_eq(s->errors, 0);
        s->env->ops->read_enable(s->t, true);
        s->phase = 2;
    } else if (s->phase == 2 && s->eofs == 1) {
        return script_end(s);
    }
    if (s->phase == 1)
        *ret_next_due = s->until;
    return PTN_TURN_PARKED;
}

Test(env_uv, a_fin_behind_unread_bytes_neither_spins_nor_gets_lost, .timeout = 30) {
    for (unsigned i = 0; i < 2; i++) {
        struct script s = {.turn = fin_turn, .started = listen_and_connect, .index = i};
        script_bind(&s, "127.0.0.1:0");
        script_run(&s);
        cr_assert_eq(s.n_got, 4);
        cr_assert_eq(memcmp(s.got, "late", 4), 0);
        cr_assert_eq(s.eofs, 1);
        cr_assert_lt(s.turns, 20, "%u turns", s.turns);
    }
}

/* Out of descriptors: the peer is refused, the worker does not spin, and accepting goes on
 * afterwards. */
static enum ptn_turn emfile_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    if (s->phase == 0) {
        struct rlimit lim;
        int spare = dup(0);
        getrlimit(RLIMIT_NOFILE, &lim);
        lim.rlim_cur = (rlim_t)spare; /* every number below is taken, but for the holes */
        close(spare);
        setrlimit(RLIMIT_NOFILE, &lim);
        s->phase = 1;
    } else if (s->phase == 1 && s->refused == 1) {
        cr_assert(client_is_at_end(s->client));
        cr_assert_eq(s->accepted, 0);
        struct rlimit lim;
        getrlimit(RLIMIT_NOFILE, &lim);
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
        close(s->client);
        s->client = client_connect(s->address);
        cr_assert_geq(s->client, 0);
        s->phase = 2;
    } else if (s->phase == 2 && s->accepted == 1) {
        return script_end(s);
    }
    return PTN_TURN_PARKED;
}

Test(env_uv, running_out_of_descriptors_refuses_and_recovers, .timeout = 30) {
    struct script s = {.turn = emfile_turn, .started = listen_and_connect};
    script_bind(&s, "127.0.0.1:0");
    script_run(&s);
    cr_assert_eq(s.refused, 1);
    cr_assert_lt(s.turns, 20);
}

/* What an owner forgot is closed with the loop. */
static enum ptn_turn leave_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    return s->accepted == 1 ? PTN_TURN_STOP : PTN_TURN_PARKED;
}

Test(env_uv, stop_closes_what_is_left_open, .timeout = 30) {
    struct script s = {.turn = leave_turn, .started = listen_and_connect};
    script_bind(&s, "127.0.0.1:0");
    script_run(&s);
    cr_assert(client_is_at_end(s.client));
    close(s.client);
}

/* A restarted actor listens again at the same address. */
static enum ptn_turn again_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    if (s->accepted < 2 && s->phase == (int)s->accepted - 1) {
        s->phase++;
        s->env->ops->transport_close(s->t);
        s->t = NULL;
        s->env->ops->listener_close(s->env, s->l);
        close(s->client);
        cr_assert_lt(client_connect(s->address), 0);
        listen_and_connect(s);
    }
    return s->accepted == 2 ? script_end(s) : PTN_TURN_PARKED;
}

Test(env_uv, an_endpoint_can_be_listened_on_again, .timeout = 30) {
    struct client_unix un;
    cr_assert_eq(client_unix_open(&un), 0);
    const char *const wheres[] = {"127.0.0.1:0", un.address};
    for (size_t i = 0; i < 2; i++) {
        struct script s = {.turn = again_turn, .started = listen_and_connect};
        script_bind(&s, wheres[i]);
        script_run(&s);
        cr_assert_eq(s.accepted, 2);
    }
    cr_assert_eq(client_unix_close(&un), 0, "the socket file is removed");
}

/* ---- watches, signals, work, lanes -------------------------------------------------------- */

static int watch_pipe[2];
static ptn_env_watch *watch_fd, *watch_signal;

static void watch_event(void *owner) {
    struct script *s = owner;
    char byte;
    cr_assert_eq(read(watch_pipe[0], &byte, 1), 1);
    s->events++;
    s->env->ops->watch_close(s->env, watch_fd); /* inside its own callback */
}

static void signal_event(void *owner, int signum) {
    struct script *s = owner;
    cr_assert_eq(signum, SIGUSR1);
    s->events += 10;
    s->env->ops->watch_close(s->env, watch_signal);
}

static void watch_started(struct script *s) {
    cr_assert_eq(pipe(watch_pipe), 0);
    cr_assert_eq(s->env->ops->watch(s->env, 0, watch_pipe[0], watch_event, s, &watch_fd), 0);
    cr_assert_eq(s->env->ops->signal_watch(s->env, 0, SIGUSR1, signal_event, s, &watch_signal), 0);
    cr_assert_eq(write(watch_pipe[1], "xx", 2),
                 2); /* the second byte stays: no event after close */
    raise(SIGUSR1);
}

static enum ptn_turn watch_turn(struct script *s, ptn_time *ret_next_due) {
    ptn_time now = s->env->ops->now(s->env);
    if (s->events == 11 && s->until == 0)
        s->until = now + 20 * PTN_MS;
    *ret_next_due = s->until == 0 ? PTN_NEVER : s->until;
    return s->until != 0 && now >= s->until ? PTN_TURN_STOP : PTN_TURN_PARKED;
}

Test(env_uv, watches_and_signals, .timeout = 30) {
    struct script s = {.turn = watch_turn, .started = watch_started};
    cr_assert_eq(ptn_env_uv_new(&s.env), 0);
    script_run(&s);
    cr_assert_eq(s.events, 11);
    cr_assert_eq(close(watch_pipe[0]), 0); /* still ours */
    close(watch_pipe[1]);
}

static pthread_t work_thread;

static void pool_work(void *arg) {
    (void)arg;
    work_thread = pthread_self();
}

static void pool_done(void *arg) {
    struct script *s = arg;
    cr_assert_not(pthread_equal(work_thread, pthread_self()));
    atomic_fetch_add(&s->done, 1);
}

static void pool_started(struct script *s) {
    cr_assert_eq(s->env->ops->work(s->env, 0, pool_work, pool_done, s), 0);
}

/* index 1: stops at once; the result is still delivered, before stopped(). */
static enum ptn_turn pool_turn(struct script *s, ptn_time *ret_next_due) {
    *ret_next_due = PTN_NEVER;
    return s->index == 1 || atomic_load(&s->done) == 1 ? PTN_TURN_STOP : PTN_TURN_PARKED;
}

Test(env_uv, pool_work_reports_back_on_the_worker, .timeout = 30) {
    for (unsigned i = 0; i < 2; i++) {
        struct script s = {.turn = pool_turn, .started = pool_started, .index = i};
        cr_assert_eq(ptn_env_uv_new(&s.env), 0);
        script_run(&s);
        cr_assert_eq(atomic_load(&s.done), 1);
    }
}

static _Atomic(unsigned) lane_waiting, lane_taken;

/* One unit per step. */
static bool lane_step(void *arg) {
    (void)arg;
    unsigned n = atomic_load(&lane_waiting);
    if (n == 0)
        return false;
    atomic_fetch_sub(&lane_waiting, 1);
    atomic_fetch_add(&lane_taken, 1);
    return true;
}

static void *lane_producer(void *arg) {
    for (unsigned i = 0; i < 10000; i++) {
        atomic_fetch_add(&lane_waiting, 1);
        ((ptn_env *)((void **)arg)[0])->ops->lane_wake(((void **)arg)[1]);
    }
    return NULL;
}

Test(env_uv, a_lane_steps_until_everything_is_done, .timeout = 30) {
    ptn_env *e;
    ptn_env_lane *l;
    cr_assert_eq(ptn_env_uv_new(&e), 0);
    cr_assert_eq(e->ops->lane_open(e, "test lane with a long name", lane_step, NULL, &l), 0);
    void *arg[2] = {e, l};
    pthread_t p[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&p[i], NULL, lane_producer, arg);
    for (int i = 0; i < 2; i++)
        pthread_join(p[i], NULL);
    /* A lost wake-up would leave units behind with nobody stepping: wait without close()'s help. */
    while (atomic_load(&lane_waiting) != 0)
        sched_yield();
    e->ops->lane_close(l);
    cr_assert_eq(atomic_load(&lane_taken), 20000);
    e->ops->free(e);
}
