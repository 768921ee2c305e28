/* SPDX-License-Identifier: Apache-2.0
 *
 * store.c - postern-store: what an acknowledged, durable message costs, and what the disk allows.
 *
 * One actor keeps a number of appends in flight to the store actor, dealt to some conversations;
 * the store groups what waits into commits.  Beside it, interleaved: one bare thread that runs the
 * same INSERT in the same schema with the same settings and commits every so many rows, without
 * actors, ids to look up or answers, and one that writes as many bytes as a commit of one row and
 * calls fdatasync().  Databases are new for every reading and are removed.
 *
 * Then a backlog is read in pages, as a subscriber that was away does it.
 *
 * Usage: postern-store [--json] [--quick] [--dir DIR] [--backlog MESSAGES] [--in-flight N]
 *        [--conversations N]
 */
#include "actors/store.h"

#include <postern/runtime.h>

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CONVERSATIONS_MAX 1024u
#define CONTENT_BYTES 200u
#define WINDOW_MAX 4096u
#define ROUNDS_MAX 15u
#define LATENCIES_MAX (1u << 16)
#define PAGE_ROWS 500

static struct options {
    bool json, quick;
    const char *dir;
    unsigned rounds;
    uint64_t run_ns;
    uint64_t backlog;
    unsigned conversations;
    unsigned window; /* only this one; 0: all */
} options = {
    .dir = ".", .rounds = 5, .run_ns = 1000 * PTN_MS, .backlog = 1000000, .conversations = 64};

static char dir[4096], db_path[4200], probe_path[4200], content[CONTENT_BYTES + 1];

static void fail(const char *what) {
    fprintf(stderr, "postern-store: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void database_remove(void) {
    static const char *const suffix[] = {"", "-wal", "-shm"};
    char path[4300];
    for (size_t i = 0; i < PTN_ARRAY_LEN(suffix); i++) {
        (void)snprintf(path, sizeof path, "%s%s", db_path, suffix[i]);
        (void)unlink(path);
    }
}

static void clean_up(void) {
    database_remove();
    (void)unlink(probe_path);
    (void)rmdir(dir);
}

static void execute(store_db *db, uint32_t type, ptn_pack *w) {
    uint32_t reply_type = PTN_MSG_PROBLEM;
    ptn_buf *b = ptn_pack_finish(w);
    ptn_buf *r = b == NULL ? NULL : store_db_execute(db, type, ptn_buf_bytes(b), &reply_type);
    if (r == NULL || reply_type == PTN_MSG_PROBLEM)
        fail("the database refuses");
    ptn_buf_unref(b);
    ptn_buf_unref(r);
}

static void conversation_name(unsigned i, char out[16]) {
    (void)snprintf(out, 16, "c%u", i);
}

/* A new database with one user and the conversations. */
static void database_make(void) {
    store_db *db;
    const char *why = "";
    ptn_pack w;
    database_remove();
    if (store_db_open(db_path, NULL, &db, &why) != 0)
        fail(why);
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, "alice");
    ptn_pack_cstr(&w, "alice");
    ptn_pack_cstr(&w, "");
    ptn_pack_uint(&w, 1);
    ptn_pack_nil(&w);
    ptn_pack_uint(&w, 1);
    execute(db, PTN_MSG_STORE_USER_ADD, &w);
    for (unsigned i = 0; i < options.conversations; i++) {
        char name[16];
        conversation_name(i, name);
        ptn_pack_init(&w, 128);
        ptn_pack_array(&w, 6);
        ptn_pack_cstr(&w, name);
        ptn_pack_nil(&w);
        ptn_pack_cstr(&w, "alice");
        ptn_pack_uint(&w, 1);
        ptn_pack_cstr(&w, "epoch");
        ptn_pack_array(&w, 1);
        ptn_pack_cstr(&w, "alice");
        execute(db, PTN_MSG_STORE_CONV_ADD, &w);
    }
    store_db_close(db);
}

/* As the broker makes them: time first, then chance. */
static void make_id(uint64_t n, char out[PTN_ULID_LEN + 1]) {
    uint64_t chance = (n + 1) * UINT64_C(0x9e3779b97f4a7c15);
    uint8_t random[10] = {0};
    memcpy(random, &chance, sizeof chance);
    ptn_ulid_make((int64_t)(UINT64_C(1700000000000) + n / 100), random, out);
}

/* Time of the wall says more about the neighbours on a shared machine: so CPU time, too. */
struct result {
    double per_s, p50_us, per_commit, cpu_us; /* of the thread that owns the database */
};

static uint64_t cpu_ns(clockid_t of) {
    struct timespec t;
    clock_gettime(of, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- through the store actor --------------------------------------------------------------- */

struct load {
    ptn_addr store;
    unsigned window;
    uint64_t asked, answered, begin, end;
    uint64_t cpu_others_ns;    /* of all threads but the worker's: the store's */
    uint64_t sent[WINDOW_MAX]; /* a ring: answers come in order */
    uint32_t latency_ns[LATENCIES_MAX];
    unsigned n_latencies;
};

static void load_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg);

static uint64_t cpu_others_ns(void) {
    return cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns(CLOCK_THREAD_CPUTIME_ID);
}

static void load_more(ptn_ctx *c, struct load *l) {
    while (l->asked - l->answered < l->window) {
        char id[PTN_ULID_LEN + 1], name[16];
        ptn_pack w;
        make_id(l->asked, id);
        conversation_name((unsigned)(l->asked % options.conversations), name);
        ptn_pack_init(&w, 300);
        ptn_pack_array(&w, 7);
        ptn_pack_cstr(&w, name);
        ptn_pack_cstr(&w, id);
        ptn_pack_cstr(&w, "alice");
        ptn_pack_cstr(&w, "text");
        ptn_pack_cstr(&w, content);
        ptn_pack_nil(&w);
        ptn_pack_uint(&w, 1700000000000u);
        ptn_buf *b = ptn_pack_finish(&w);
        l->sent[l->asked % WINDOW_MAX] = now_ns();
        if (b == NULL || ptn_ask(c, l->store, PTN_MSG_STORE_MSG_APPEND, b, PTN_NEVER, load_answered,
                                 l, NULL) < 0)
            fail("the store actor refuses");
        l->asked++;
    }
}

static void load_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct load *l = arg;
    (void)state;
    if (err != 0) /* what was in flight at the end */
        return;
    if (m->type != PTN_MSG_STORE_MSG)
        fail("an append was refused");
    uint64_t now = now_ns();
    if (l->n_latencies < LATENCIES_MAX)
        l->latency_ns[l->n_latencies++] = (uint32_t)(now - l->sent[l->answered % WINDOW_MAX]);
    l->answered++;
    if (now - l->begin < options.run_ns) {
        load_more(c, l);
    } else if (l->end == 0) {
        l->end = now;
        l->cpu_others_ns = cpu_others_ns() - l->cpu_others_ns;
        ptn_runtime_stop(ptn_ctx_runtime(c));
    }
}

static int load_init(ptn_ctx *c, void *state, void *arg) {
    struct load *l = arg;
    (void)state;
    l->begin = now_ns();
    l->cpu_others_ns = cpu_others_ns();
    load_more(c, l);
    return 0;
}

static int actor_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static const ptn_actor_ops load_ops = {.name = "load", .init = load_init, .handle = actor_handle};

/* Runs `ops` beside a store until it stops the runtime. */
static void run_beside_store(const ptn_actor_ops *ops, void *arg, ptn_addr *ret_store) {
    ptn_runtime *rt;
    store *s = NULL;
    const char *why = "";
    ptn_actor_opts o = {.mbox_msgs_max = 65536, .mbox_bytes_max = 64u << 20};
    if (ptn_runtime_new(&(ptn_runtime_opts){.workers = 1}, &rt) != 0 ||
        store_open(&(store_config){.path = db_path, .rt = rt}, &s, &why) != 0)
        fail(why);
    if (ptn_runtime_spawn(rt, &store_actor, &o, s, PTN_PERMANENT, ret_store) != 0 ||
        ptn_runtime_spawn(rt, ops, &o, arg, PTN_PERMANENT, NULL) != 0 || ptn_runtime_run(rt) != 0)
        fail("cannot run");
    store_close(s);
    ptn_runtime_free(rt);
}

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t commits_now(void) {
    static ptn_metrics_snapshot s;
    ptn_metrics_sum(&s);
    return s.counter[PTN_C_STORE_COMMITS];
}

static struct result run_store(unsigned window) {
    static struct load l;
    l = (struct load){.window = window};
    database_make();
    uint64_t commits = commits_now();
    run_beside_store(&load_ops, &l, &l.store);
    commits = commits_now() - commits;
    qsort(l.latency_ns, l.n_latencies, sizeof l.latency_ns[0], compare_u32);
    return (struct result){(double)l.answered * 1e9 / (double)(l.end - l.begin),
                           (double)l.latency_ns[l.n_latencies / 2] / 1e3,
                           (double)l.answered / (double)commits,
                           (double)l.cpu_others_ns / 1e3 / (double)l.answered};
}

/* ---- the bare thread ------------------------------------------------------------------------ */

static void bare_exec(sqlite3 *sql, const char *text) {
    if (sqlite3_exec(sql, text, NULL, NULL, NULL) != SQLITE_OK)
        fail(sqlite3_errmsg(sql));
}

static void bare_step(sqlite3 *sql, sqlite3_stmt *s) {
    if (sqlite3_step(s) != SQLITE_DONE)
        fail(sqlite3_errmsg(sql));
    (void)sqlite3_reset(s);
}

static sqlite3_stmt *bare_prepare(sqlite3 *sql, const char *text) {
    sqlite3_stmt *s;
    if (sqlite3_prepare_v3(sql, text, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL) != SQLITE_OK)
        fail(sqlite3_errmsg(sql));
    return s;
}

static struct result run_bare(unsigned per_commit) {
    sqlite3 *sql;
    uint64_t n = 0, begin, now, cpu, latency = 0;
    database_make();
    if (sqlite3_open_v2(db_path, &sql, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        fail("cannot open");
    bare_exec(sql, "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA mmap_size = 0;"
                   "PRAGMA cell_size_check = ON; PRAGMA wal_autocheckpoint = 4000;"
                   "PRAGMA journal_size_limit = 33554432; PRAGMA cache_size = -8192");
    sqlite3_stmt *begin_s = bare_prepare(sql, "BEGIN IMMEDIATE");
    sqlite3_stmt *commit_s = bare_prepare(sql, "COMMIT");
    sqlite3_stmt *add = bare_prepare(
        sql, "INSERT INTO messages(conversation, seq, id, sender, type, content, metadata,"
             " timestamp_ms) VALUES(?1, ?2, ?3, 'alice', 'text', ?4, NULL, 1700000000000)");
    begin = now_ns();
    cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    do {
        uint64_t t0 = now_ns();
        bare_step(sql, begin_s);
        for (unsigned i = 0; i < per_commit; i++, n++) {
            char id[PTN_ULID_LEN + 1];
            make_id(n, id);
            (void)sqlite3_bind_int64(add, 1, 1 + (int64_t)(n % options.conversations));
            (void)sqlite3_bind_int64(add, 2, 1 + (int64_t)(n / options.conversations));
            (void)sqlite3_bind_text(add, 3, id, PTN_ULID_LEN, SQLITE_STATIC);
            (void)sqlite3_bind_text(add, 4, content, CONTENT_BYTES, SQLITE_STATIC);
            bare_step(sql, add);
        }
        bare_step(sql, commit_s);
        now = now_ns();
        latency += now - t0;
    } while (now - begin < options.run_ns);
    cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    (void)sqlite3_finalize(begin_s);
    (void)sqlite3_finalize(commit_s);
    (void)sqlite3_finalize(add);
    (void)sqlite3_close(sql);
    return (struct result){(double)n * 1e9 / (double)(now - begin),
                           (double)latency / 1e3 / ((double)n / per_commit), per_commit,
                           (double)cpu / 1e3 / (double)n};
}

/* Microseconds of one fdatasync() after a write of as much as a commit of one row writes. */
static double run_probe(void) {
    static char block[5 * 4096];
    static uint32_t took[20000];
    unsigned n = 0;
    int fd = open(probe_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        fail(probe_path);
    /* In place, as a log that was reset: the file does not grow. */
    for (unsigned i = 0; i < 1000; i++)
        if (write(fd, block, sizeof block) != (ssize_t)sizeof block)
            fail(probe_path);
    (void)fsync(fd);
    uint64_t begin = now_ns(), now = begin;
    while (now - begin < options.run_ns && n < PTN_ARRAY_LEN(took)) {
        uint64_t t0 = now_ns();
        off_t at = (off_t)(n % 1000) * (off_t)sizeof block;
        if (pwrite(fd, block, sizeof block, at) != (ssize_t)sizeof block || fdatasync(fd) < 0)
            fail(probe_path);
        now = now_ns();
        took[n++] = (uint32_t)(now - t0);
    }
    (void)close(fd);
    qsort(took, n, sizeof took[0], compare_u32);
    return (double)took[n / 2] / 1e3;
}

/* ---- reading a backlog ---------------------------------------------------------------------- */

struct reader {
    ptn_addr store;
    uint64_t after, n, begin, end;
};

static void reader_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg);

static void reader_more(ptn_ctx *c, struct reader *r) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 4);
    ptn_pack_cstr(&w, "c0");
    ptn_pack_uint(&w, r->after);
    ptn_pack_nil(&w);
    ptn_pack_uint(&w, PAGE_ROWS);
    ptn_buf *b = ptn_pack_finish(&w);
    if (b == NULL ||
        ptn_ask(c, r->store, PTN_MSG_STORE_MSG_RANGE, b, PTN_NEVER, reader_answered, r, NULL) < 0)
        fail("the store actor refuses");
}

static void reader_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct reader *r = arg;
    uint32_t n = 0, two;
    uint64_t last, seq;
    (void)state;
    ptn_unpack u = ptn_unpack_of(err == 0 ? ptn_msg_bytes(m) : (ptn_bytes){0});
    if (!ptn_unpack_array(&u, &two) || !ptn_unpack_uint(&u, &last) || !ptn_unpack_array(&u, &n))
        fail("a bad page");
    for (uint32_t i = 0; i < n; i++, r->n++) {
        if (!ptn_unpack_array(&u, &two) || !ptn_unpack_uint(&u, &seq) || seq != r->after + 1 ||
            !ptn_unpack_any(&u, NULL))
            fail("a bad row");
        r->after = seq;
    }
    if (n > 0) {
        reader_more(c, r);
        return;
    }
    r->end = now_ns();
    ptn_runtime_stop(ptn_ctx_runtime(c));
}

static int reader_init(ptn_ctx *c, void *state, void *arg) {
    struct reader *r = arg;
    (void)state;
    r->begin = now_ns();
    reader_more(c, r);
    return 0;
}

static const ptn_actor_ops reader_ops = {
    .name = "reader", .init = reader_init, .handle = actor_handle};

static void backlog_make(void) {
    sqlite3 *sql;
    char text[512];
    database_make();
    if (sqlite3_open(db_path, &sql) != SQLITE_OK)
        fail("cannot open");
    (void)snprintf(text, sizeof text,
                   "PRAGMA synchronous = OFF; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT"
                   " i + 1 FROM n WHERE i < %llu) INSERT INTO messages SELECT 1, i,"
                   " printf('m%%012d', i), 'alice', 'text', '%s', NULL, 1700000000000 FROM n",
                   (unsigned long long)options.backlog, content);
    bare_exec(sql, text);
    (void)sqlite3_close(sql);
}

static double run_backlog(void) {
    struct reader r = {0};
    run_beside_store(&reader_ops, &r, &r.store);
    if (r.n != options.backlog)
        fail("the backlog is not whole");
    return (double)r.n * 1e9 / (double)(r.end - r.begin);
}

/* ---- readings -------------------------------------------------------------------------------- */

static int compare_double(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v) {
    qsort(v, options.rounds, sizeof *v, compare_double);
    return v[options.rounds / 2];
}

static void read_window(unsigned window) {
    enum { STORE, BARE, RATIO, P50, PER_COMMIT, PROBE, CPU, CPU_BARE, COLUMNS };
    double v[COLUMNS][ROUNDS_MAX], m[COLUMNS];
    for (unsigned i = 0; i < options.rounds; i++) {
        v[PROBE][i] = window == 1 ? run_probe() : 0;
        struct result a = run_store(window);
        unsigned batch = (unsigned)(a.per_commit + 0.5);
        struct result b = run_bare(batch > 0 ? batch : 1);
        v[STORE][i] = a.per_s;
        v[BARE][i] = b.per_s;
        v[RATIO][i] = a.per_s / b.per_s;
        v[P50][i] = a.p50_us;
        v[PER_COMMIT][i] = a.per_commit;
        v[CPU][i] = a.cpu_us;
        v[CPU_BARE][i] = b.cpu_us;
    }
    for (unsigned k = 0; k < COLUMNS; k++)
        m[k] = median(v[k]);
    if (options.json)
        printf("{\"in_flight\":%u,\"appends_per_s\":%.0f,\"bare_per_s\":%.0f,\"ratio\":%.3f,"
               "\"p50_us\":%.1f,\"rows_per_commit\":%.1f,\"cpu_us\":%.3f,\"bare_cpu_us\":%.3f,"
               "\"fdatasync_us\":%.1f}\n",
               window, m[STORE], m[BARE], m[RATIO], m[P50], m[PER_COMMIT], m[CPU], m[CPU_BARE],
               m[PROBE]);
    else
        printf("%8u %12.0f %12.0f %8.2f %10.1f %12.1f %8.2f %8.2f", window, m[STORE], m[BARE],
               m[RATIO], m[P50], m[PER_COMMIT], m[CPU], m[CPU_BARE]);
    if (!options.json && window == 1)
        printf("   one fdatasync %.1f us: %.2f", m[PROBE], m[P50] / m[PROBE]);
    if (!options.json)
        printf("\n");
    (void)fflush(stdout);
}

static void parse(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            options.json = true;
        } else if (strcmp(argv[i], "--quick") == 0) {
            options.quick = true;
            options.rounds = 1;
            options.run_ns = 200 * PTN_MS;
            options.backlog = 20000;
        } else if (strcmp(argv[i], "--dir") == 0 && i + 1 < argc) {
            options.dir = argv[++i];
        } else if (strcmp(argv[i], "--backlog") == 0 && i + 1 < argc) {
            options.backlog = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--conversations") == 0 && i + 1 < argc) {
            options.conversations = (unsigned)strtoul(argv[++i], NULL, 10);
            if (options.conversations == 0 || options.conversations > CONVERSATIONS_MAX)
                options.conversations = CONVERSATIONS_MAX;
        } else if (strcmp(argv[i], "--in-flight") == 0 && i + 1 < argc) {
            options.window = (unsigned)strtoul(argv[++i], NULL, 10) % (WINDOW_MAX + 1);
        } else {
            (void)fprintf(stderr, "usage: postern-store [--json] [--quick] [--dir DIR]"
                                  " [--backlog MESSAGES] [--in-flight N] [--conversations N]\n");
            exit(2);
        }
    }
}

int main(int argc, char **argv) {
    static const unsigned windows[] = {1, 16, 64, 256, 1024};
    parse(argc, argv);
    memset(content, 'x', CONTENT_BYTES);
    (void)snprintf(dir, sizeof dir, "%.4000s/postern-store-XXXXXX", options.dir);
    if (mkdtemp(dir) == NULL)
        fail(dir);
    (void)snprintf(db_path, sizeof db_path, "%s/postern.db", dir);
    (void)snprintf(probe_path, sizeof probe_path, "%s/probe", dir);
    (void)atexit(clean_up);
    if (!options.json)
        printf("in flight    appends/s  bare thread    ratio     p50 us  rows/commit   cpu us     "
               "bare\n");
    for (size_t i = 0; i < PTN_ARRAY_LEN(windows); i++)
        if (options.window == 0)
            read_window(windows[i]);
    if (options.window != 0)
        read_window(options.window);
    if (options.backlog > 0) {
        double per_s[ROUNDS_MAX];
        backlog_make();
        for (unsigned i = 0; i < options.rounds; i++)
            per_s[i] = run_backlog();
        printf(options.json ? "{\"backlog\":%llu,\"messages_per_s\":%.0f}\n"
                            : "backlog of %llu messages, pages of 500: %.0f messages/s\n",
               (unsigned long long)options.backlog, median(per_s));
    }
    return 0;
}
