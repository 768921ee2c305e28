/* SPDX-License-Identifier: Apache-2.0
 *
 * alone.c - the limits: SQLite on one thread with nobody around it, and the disk itself.
 */
#include "bench/durable/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

static void must(sqlite3 *db, int rc) {
    if (rc != SQLITE_OK && rc != SQLITE_DONE)
        bench_die("SQLite: %s", sqlite3_errmsg(db));
}

static void run(sqlite3 *db, const char *sql) {
    must(db, sqlite3_exec(db, sql, NULL, NULL, NULL));
}

/* A table of events, a row for each, and the broker's settings, as far as they cost time. */
static sqlite3 *alone_open(const char *dir) {
    char path[512];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/alone.db", dir);
    must(NULL, sqlite3_open(path, &db));
    run(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA mmap_size = 0;"
            "PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 33554432;"
            "PRAGMA locking_mode = EXCLUSIVE;"
            "CREATE TABLE IF NOT EXISTS topic_log(place INTEGER PRIMARY KEY, created_ms INTEGER NOT"
            " NULL, id BLOB, data BLOB NOT NULL) STRICT");
    return db;
}

void durable_sqlite(const struct durable_options *o) {
    static char data[1024];
    struct bench_sample latency = {0};
    uint64_t n = 0, begin, now, until;
    sqlite3_stmt *insert;
    sqlite3 *db = alone_open(o->dir);
    must(db, sqlite3_prepare_v2(db, "INSERT INTO topic_log VALUES(?1, ?2, NULL, ?3)", -1, &insert,
                                NULL));
    sqlite3_stmt *last;
    must(db,
         sqlite3_prepare_v2(db, "SELECT coalesce(max(place), 0) FROM topic_log", -1, &last, NULL));
    (void)sqlite3_step(last);
    sqlite3_int64 place = sqlite3_column_int64(last, 0);
    (void)sqlite3_finalize(last);
    begin = now = bench_now_ns();
    until = begin + (uint64_t)(o->seconds * 1e9);
    while (now < until) {
        uint64_t start = now;
        run(db, "BEGIN IMMEDIATE");
        for (unsigned i = 0; i < o->in_flight; i++, n++) {
            (void)sqlite3_bind_int64(insert, 1, ++place);
            (void)sqlite3_bind_int64(insert, 2, (sqlite3_int64)(now / 1000000));
            (void)sqlite3_bind_blob(insert, 3, data, (int)o->bytes, SQLITE_STATIC);
            must(db, sqlite3_step(insert));
            (void)sqlite3_reset(insert);
        }
        run(db, "COMMIT");
        now = bench_now_ns();
        bench_sample_add(&latency, now - start);
    }
    double s = (double)(now - begin) / 1e9;
    printf("{\"acks\":%llu,\"seconds\":%.3f,\"acks_per_s\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
           (unsigned long long)n, s, (double)n / s, (double)bench_sample_at(&latency, 0.5) / 1000,
           (double)bench_sample_at(&latency, 0.99) / 1000);
    (void)sqlite3_finalize(insert);
    (void)sqlite3_close(db);
    bench_sample_done(&latency);
}

static const char page[DURABLE_PAGE_BYTES];

static void log_path(const char *dir, char path[static 512]) {
    snprintf(path, 512, "%s/fsync", dir);
}

int durable_log(const char *dir) {
    char path[512];
    log_path(dir, path);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        bench_die("%s: %s", path, strerror(errno));
    for (off_t i = 0; i < DURABLE_PAGES; i++)
        if (pwrite(fd, page, sizeof page, i * (off_t)sizeof page) < 0)
            bench_die("%s: %s", path, strerror(errno));
    (void)fdatasync(fd);
    return fd;
}

void durable_log_close(int fd, const char *dir) {
    char path[512];
    log_path(dir, path);
    (void)close(fd);
    (void)unlink(path);
}

void durable_print_syncs(struct bench_sample *s) {
    printf("{\"syncs\":%zu,\"p50_us\":%.1f,\"p99_us\":%.1f}\n", s->n,
           (double)bench_sample_at(s, 0.5) / 1000, (double)bench_sample_at(s, 0.99) / 1000);
    bench_sample_done(s);
}

/* What one commit must cost: a page over an old one of a log, and fdatasync(). */
void durable_fsync(const struct durable_options *o) {
    struct bench_sample s = {0};
    const int fd = durable_log(o->dir);
    uint64_t until = bench_now_ns() + (uint64_t)(o->seconds * 1e9);
    for (off_t i = 0;; i++) {
        uint64_t start = bench_now_ns();
        if (start > until)
            break;
        if (pwrite(fd, page, sizeof page, i % DURABLE_PAGES * (off_t)sizeof page) < 0 ||
            fdatasync(fd) != 0)
            bench_die("fsync: %s", strerror(errno));
        bench_sample_add(&s, bench_now_ns() - start);
    }
    durable_print_syncs(&s);
    durable_log_close(fd, o->dir);
}
