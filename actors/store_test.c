/* SPDX-License-Identifier: Apache-2.0
 *
 * store_test.c - the store actor: group commit, order of answers, overload, a failed commit.
 */
#include "actors/domain_testing.h"

#include <postern/metrics.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>

static struct fixture *f; /* large: not on the stack */

static void setup(void) {
    f = calloc(1, sizeof *f);
    cr_assert_not_null(f);
}
static void teardown(void) {
    free(f);
}
TestSuite(store, .init = setup, .fini = teardown, .timeout = 60);

static uint64_t counter(enum ptn_counter k) {
    ptn_metrics_snapshot *s = calloc(1, sizeof *s);
    cr_assert_not_null(s);
    ptn_metrics_sum(s);
    uint64_t v = s->counter[k];
    free(s);
    return v;
}

#define APPENDS 200

static void make_conversation(ptn_ctx *c, struct fixture *x) {
    (void)ask_store(c, x, PTN_MSG_STORE_CONV_ADD,
                    packed("sSsis[s]", "c1", NULL, "alice", (int64_t)1, "epoch", "alice"));
}

static unsigned append(ptn_ctx *c, struct fixture *x, const char *id, const char *content) {
    return ask_store(c, x, PTN_MSG_STORE_MSG_APPEND,
                     packed("sssssni", "c1", id, "alice", "text", content, (int64_t)1));
}

static unsigned first_append, history, bad;

static void many_appends(ptn_ctx *c, struct fixture *x) {
    char id[16];
    first_append = x->n_answers;
    for (int i = 0; i < APPENDS; i++) {
        if (i == APPENDS / 2) /* a read in the middle, and a write that is refused */
            history =
                ask_store(c, x, PTN_MSG_STORE_MSG_OWN_RANGE, packed("snni", "c1", (int64_t)1000));
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)append(c, x, id, "x");
    }
    bad = ask_store(c, x, PTN_MSG_STORE_MSG_APPEND,
                    packed("sssssni", "c1", "mx", "bob", "text", "x", (int64_t)1));
}

Test(store, one_commit_for_many_writes) {
    static const struct step steps[] = {{0, make_conversation}, {0, many_appends}, {0, NULL}};
    fixture_open(f, 1);
    uint64_t commits = counter(PTN_C_STORE_COMMITS), rows = counter(PTN_C_STORE_ROWS);
    fixture_run(f, steps);
    commits = counter(PTN_C_STORE_COMMITS) - commits;
    cr_expect_leq(commits, APPENDS / 10, "%llu commits for %d writes", (unsigned long long)commits,
                  APPENDS);
    cr_expect_geq(commits, 2);
    cr_expect_eq(counter(PTN_C_STORE_ROWS) - rows, APPENDS);
    int64_t seq = 0;
    for (unsigned i = first_append; i < f->n_answers; i++) {
        if (i == history || i == bad)
            continue;
        cr_assert_eq(f->answer[i].type, PTN_MSG_STORE_MSG);
        cr_expect_eq(int_of(element(ptn_buf_bytes(f->answer[i].buf), 0)), ++seq,
                     "seq follows arrival");
    }
    cr_expect_eq(code_of(f, bad), PTN_CODE_NOT_FOUND, "one refusal harms nobody else");
    cr_assert_eq(f->answer[history].type, PTN_MSG_STORE_MSGS);
    cr_expect_geq(int_of(element(ptn_buf_bytes(f->answer[history].buf), 0)), APPENDS / 2,
                  "a read sees all writes before it");
    fixture_close(f);
}

/* ---- order -------------------------------------------------------------------------------- */

static unsigned answered_writes, writes_at_read, seen_by_read;

static void write_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    (void)c, (void)state, (void)arg;
    cr_expect(err == 0 && m->type == PTN_MSG_STORE_MSG);
    answered_writes++;
}

static void read_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    (void)c, (void)state, (void)arg;
    cr_assert(err == 0 && m->type == PTN_MSG_STORE_MSGS);
    writes_at_read = answered_writes;
    seen_by_read = (unsigned)int_of(element(ptn_msg_bytes(m), 0));
}

static void interleaved(ptn_ctx *c, struct fixture *x) {
    char id[16];
    for (int i = 0; i < 20; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        ptn_buf *b = packed("sssssni", "c1", id, "alice", "text", "x", (int64_t)1);
        cr_assert_eq(ptn_ask(c, x->d.store, PTN_MSG_STORE_MSG_APPEND, b, PTN_NEVER, write_answered,
                             NULL, NULL),
                     0);
        if (i == 9) {
            b = packed("snni", "c1", (int64_t)1000);
            cr_assert_eq(ptn_ask(c, x->d.store, PTN_MSG_STORE_MSG_OWN_RANGE, b, PTN_NEVER,
                                 read_answered, NULL, NULL),
                         0);
        }
    }
}

Test(store, a_read_is_answered_after_every_write_that_it_sees) {
    static const struct step steps[] = {{0, make_conversation}, {0, interleaved}, {0, NULL}};
    fixture_open(f, 1);
    fixture_run(f, steps);
    cr_expect_eq(answered_writes, 20);
    cr_expect_geq(seen_by_read, 10);
    cr_expect_geq(writes_at_read, seen_by_read);
    fixture_close(f);
}

/* ---- failure ------------------------------------------------------------------------------ */

static struct rlimit old_limit;

static void fill_disk(ptn_ctx *c, struct fixture *x) {
    char *big = calloc(1, 65536), id[16];
    cr_assert_not_null(big);
    memset(big, 'x', 65535);
    struct rlimit small = {.rlim_cur = 256u << 10, .rlim_max = old_limit.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    first_append = x->n_answers;
    (void)append(c, x, "m0", "small, but in the same transaction");
    for (int i = 1; i < 20; i++) {
        (void)snprintf(id, sizeof id, "m%d", i);
        (void)append(c, x, id, big);
    }
    free(big);
}

static void free_disk(ptn_ctx *c, struct fixture *x) {
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
    history = append(c, x, "m1", "again");
}

Test(store, a_failed_commit_is_heard_by_every_write_of_the_batch) {
    static const struct step steps[] = {
        {0, make_conversation}, {0, fill_disk}, {0, free_disk}, {0, NULL}};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    cr_assert_eq(sigaction(SIGXFSZ, &ignore, NULL), 0);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
    fixture_open(f, 1);
    fixture_run(f, steps);
    for (unsigned i = first_append; i < first_append + 20; i++) {
        int code = code_of(f, i);
        cr_expect(code == PTN_CODE_STORAGE_FULL || code == PTN_CODE_INTERNAL, "write %u: %d", i,
                  code);
    }
    cr_assert_eq(f->answer[history].type, PTN_MSG_STORE_MSG);
    ptn_bytes r = ptn_buf_bytes(f->answer[history].buf);
    cr_expect_eq(int_of(element(r, 0)), 1, "nothing of the failed batch is there");
    cr_expect(bool_of(element(r, 1)));
    fixture_close(f);
}

static void unknown_kind(ptn_ctx *c, struct fixture *x) {
    bad = ask_store(c, x, PTN_MSG_REQUEST, packed("s", "x"));
    history = ask_store(c, x, PTN_MSG_STORE_STATS, NULL);
}

Test(store, an_unknown_kind_is_refused) {
    static const struct step steps[] = {{0, unknown_kind}, {0, NULL}};
    fixture_open(f, 1);
    fixture_run(f, steps);
    cr_expect_eq(code_of(f, bad), PTN_CODE_INTERNAL);
    cr_expect_eq(f->answer[history].type, PTN_MSG_STORE_STATS_REPLY);
    cr_expect_eq(int_of(element(ptn_buf_bytes(f->answer[history].buf), 0)), 4);
    fixture_close(f);
}

/* ---- real threads ------------------------------------------------------------------------- */

static void make_database(struct test_dir *dir) {
    store_db *db;
    uint32_t type;
    test_dir_open(dir);
    cr_assert_eq(store_db_open(dir->db, NULL, &db, NULL), 0);
    ptn_buf *b = packed("sssiSi", "alice", "alice", "", (int64_t)1, NULL, (int64_t)1);
    ptn_buf_unref(store_db_execute(db, PTN_MSG_STORE_USER_ADD, ptn_buf_bytes(b), &type));
    ptn_buf_unref(b);
    b = packed("sSsis[s]", "c1", NULL, "alice", (int64_t)1, "epoch", "alice");
    ptn_buf_unref(store_db_execute(db, PTN_MSG_STORE_CONV_ADD, ptn_buf_bytes(b), &type));
    ptn_buf_unref(b);
    store_db_close(db);
}

struct load {
    ptn_addr store;
    unsigned asked, answered, total, window;
    uint64_t last_seq;
};

static void load_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg);

static void load_more(ptn_ctx *c, struct load *l) {
    char id[16];
    while (l->asked < l->total && l->asked - l->answered < l->window) {
        (void)snprintf(id, sizeof id, "m%u", l->asked++);
        ptn_buf *b = packed("sssssni", "c1", id, "alice", "text", "x", (int64_t)1);
        cr_assert_eq(
            ptn_ask(c, l->store, PTN_MSG_STORE_MSG_APPEND, b, PTN_NEVER, load_answered, l, NULL),
            0);
    }
}

static void load_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct load *l = arg;
    (void)state;
    cr_assert(err == 0 && m->type == PTN_MSG_STORE_MSG);
    uint64_t seq = (uint64_t)int_of(element(ptn_msg_bytes(m), 0));
    cr_expect_eq(seq, l->last_seq + 1);
    l->last_seq = seq;
    if (++l->answered == l->total)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    else
        load_more(c, l);
}

static int load_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    load_more(c, arg);
    return 0;
}

static int load_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops load_ops = {.name = "load", .init = load_init, .handle = load_handle};

Test(store, a_thread_of_its_own_groups_what_is_in_flight) {
    struct test_dir dir;
    ptn_runtime *rt;
    store *s = NULL;
    make_database(&dir);
    cr_assert_eq(ptn_runtime_new(&(ptn_runtime_opts){.workers = 1}, &rt), 0);
    cr_assert_eq(store_open(&(store_config){.path = dir.db, .rt = rt}, &s, NULL), 0);
    struct load l = {.total = 20000, .window = 256};
    ptn_actor_opts o = {.mbox_msgs_max = 1024};
    cr_assert_eq(ptn_runtime_spawn(rt, &store_actor, &o, s, PTN_PERMANENT, &l.store), 0);
    cr_assert_eq(ptn_runtime_spawn(rt, &load_ops, &o, &l, PTN_PERMANENT, NULL), 0);
    uint64_t commits = counter(PTN_C_STORE_COMMITS);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    commits = counter(PTN_C_STORE_COMMITS) - commits;
    cr_expect_eq(l.answered, l.total);
    cr_expect_lt(commits, l.total / 4, "%llu commits", (unsigned long long)commits);
    store_close(s);
    ptn_runtime_free(rt);
    test_dir_close(&dir);
    cr_expect_eq(buf_live(), 0);
}

/* ---- reading beside the writer ------------------------------------------------------------ */

struct aside {
    ptn_addr store;
    store_db *other; /* holds the lock that the writer waits for, until the page is there */
    bool page_first;
    unsigned answers;
};

static void aside_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct aside *a = arg;
    (void)state;
    cr_assert_eq(err, 0);
    if (m->type == PTN_MSG_STORE_MSGS) {
        a->page_first = a->answers == 0;
        store_db_rollback(a->other);
    } else {
        cr_expect_eq(m->type, PTN_MSG_STORE_MSG, "the write waited for the lock");
    }
    if (++a->answers == 2)
        ptn_runtime_stop(ptn_ctx_runtime(c));
}

static int aside_init(ptn_ctx *c, void *state, void *arg) {
    struct aside *a = arg;
    (void)state;
    cr_assert_eq(store_db_begin(a->other), 0);
    ptn_buf *b = packed("sssssni", "c1", "m1", "alice", "text", "x", (int64_t)1);
    cr_assert_eq(
        ptn_ask(c, a->store, PTN_MSG_STORE_MSG_APPEND, b, PTN_NEVER, aside_answered, a, NULL), 0);
    b = packed("snni", "c1", (int64_t)1000);
    return ptn_ask(c, a->store, PTN_MSG_STORE_MSG_RANGE, b, PTN_NEVER, aside_answered, a, NULL);
}

static const ptn_actor_ops aside_ops = {.name = "aside", .init = aside_init, .handle = load_handle};

Test(store, a_page_is_read_while_the_writer_waits) {
    struct aside a = {.answers = 0};
    struct test_dir dir;
    ptn_runtime *rt;
    store *s = NULL;
    make_database(&dir);
    cr_assert_eq(store_db_open(dir.db, NULL, &a.other, NULL), 0);
    cr_assert_eq(ptn_runtime_new(&(ptn_runtime_opts){.workers = 1}, &rt), 0);
    cr_assert_eq(store_open(&(store_config){.path = dir.db, .rt = rt}, &s, NULL), 0);
    ptn_actor_opts o = {.mbox_msgs_max = 1024};
    cr_assert_eq(ptn_runtime_spawn(rt, &store_actor, &o, s, PTN_PERMANENT, &a.store), 0);
    cr_assert_eq(ptn_runtime_spawn(rt, &aside_ops, &o, &a, PTN_PERMANENT, NULL), 0);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    cr_expect(a.page_first);
    cr_expect_eq(a.answers, 2);
    store_close(s);
    store_db_close(a.other);
    ptn_runtime_free(rt);
    test_dir_close(&dir);
}

/* ---- the search for damage ----------------------------------------------------------------- */

#define BUSY_NS (300 * PTN_MS)
#define LOOK_NS (10 * PTN_MS)
#ifndef RIG_WAIT_S /* shorter where a failing allocation makes waiting hopeless */
#define RIG_WAIT_S 20
#endif

struct scrubbing {
    ptn_addr store;
    store_db *other; /* holds the lock that the writer waits for; NULL: no longer */
    ptn_timer timer;
    uint64_t pages, pages_while_busy;
    unsigned looks;
    int64_t state;
    bool written;
};

static uint64_t scrubbed_pages(const struct scrubbing *s) {
    return counter(PTN_C_STORE_SCRUB_PAGES) - s->pages;
}

static void scrub_look(ptn_ctx *c, void *state, ptn_timer *t, void *arg);

static void scrub_looked(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct scrubbing *s = arg;
    (void)state;
    if (err == 0 && m->type == PTN_MSG_STORE_STATS_REPLY)
        s->state = int_of(element(element(ptn_msg_bytes(m), 5), 0));
    if (s->state == PTN_SCRUB_SOUND || ++s->looks > RIG_WAIT_S * PTN_SEC / LOOK_NS)
        ptn_runtime_stop(ptn_ctx_runtime(c));
    else
        ptn_timer_start(c, &s->timer, LOOK_NS, scrub_look, s);
}

static void scrub_look(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    struct scrubbing *s = arg;
    (void)state, (void)t;
    if (s->other != NULL) {
        s->pages_while_busy = scrubbed_pages(s);
        store_db_rollback(s->other);
        s->other = NULL;
    }
    if (ptn_ask(c, s->store, PTN_MSG_STORE_STATS, NULL, PTN_NEVER, scrub_looked, s, NULL) < 0)
        ptn_runtime_stop(ptn_ctx_runtime(c));
}

static void scrub_written(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    (void)c, (void)state;
    ((struct scrubbing *)arg)->written = err == 0 && m->type == PTN_MSG_STORE_MSG;
}

static int scrub_init(ptn_ctx *c, void *state, void *arg) {
    struct scrubbing *s = arg;
    (void)state;
    ptn_buf *b = packed("sssssni", "c1", "m1", "alice", "text", "x", (int64_t)1);
    ptn_timer_start(c, &s->timer, BUSY_NS, scrub_look, s);
    int err = ptn_ask(c, s->store, PTN_MSG_STORE_MSG_APPEND, b, PTN_NEVER, scrub_written, s, NULL);
    if (err < 0)
        ptn_buf_unref(b);
    return err;
}

static const ptn_actor_ops scrub_ops = {.name = "scrub", .init = scrub_init, .handle = load_handle};

Test(store, damage_is_searched_for_when_nobody_waits) {
    struct scrubbing sc = {.pages = counter(PTN_C_STORE_SCRUB_PAGES)};
    struct test_dir dir;
    ptn_runtime *rt;
    store *s = NULL;
    sqlite3 *sql;
    make_database(&dir);
    cr_assert_eq(sqlite3_open(dir.db, &sql), SQLITE_OK); /* as a crash leaves it */
    int rc = sqlite3_exec(sql, "INSERT INTO meta VALUES('clean', 0)", NULL, NULL, NULL);
    (void)sqlite3_close(sql);
    cr_assert_eq(rc, SQLITE_OK);
    store_db *other;
    cr_assert_eq(store_db_open(dir.db, NULL, &other, NULL), 0);
    sc.other = other;
    cr_assert_eq(ptn_runtime_new(&(ptn_runtime_opts){.workers = 1}, &rt), 0);
    store_config config = {.path = dir.db, .rt = rt, .scrub_rate = UINT64_C(1) << 30};
    cr_assert_eq(store_open(&config, &s, NULL), 0);
    ptn_actor_opts o = {.mbox_msgs_max = 1024};
    cr_assert_eq(ptn_runtime_spawn(rt, &store_actor, &o, s, PTN_PERMANENT, &sc.store), 0);
    cr_assert_eq(ptn_runtime_spawn(rt, &scrub_ops, &o, &sc, PTN_PERMANENT, NULL), 0);
    cr_assert_eq(store_db_begin(other), 0);
    cr_assert_eq(ptn_runtime_run(rt), 0);
    cr_expect(sc.written);
    cr_expect_eq(sc.pages_while_busy, 0);
    cr_expect_eq(sc.state, PTN_SCRUB_SOUND);
    cr_expect_gt(scrubbed_pages(&sc), 0);
    store_close(s);
    store_db_close(other);
    store_scrub_plan plan;
    cr_assert_eq(store_db_open(dir.db, NULL, &other, NULL), 0);
    cr_assert_eq(store_db_scrub_plan(other, &plan), 0);
    cr_expect_eq(plan.rounds, 0);
    cr_expect_gt(plan.ended_ms, 0);
    store_db_close(other);
    ptn_runtime_free(rt);
    test_dir_close(&dir);
}
