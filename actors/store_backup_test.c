/* SPDX-License-Identifier: Apache-2.0
 *
 * store_backup_test.c - copies of a database in use, their return, and what interruptions leave.
 */
#include "actors/store_backup.h"

#include "actors/store_testing.h"

#include <dirent.h>
#include <fcntl.h>

static struct test_dir dir;
static char copy[128];
static store_db *db;
static unsigned written;

static void open_dir(void) {
    test_dir_open(&dir);
    (void)snprintf(copy, sizeof copy, "%s/copy", dir.path);
    written = 0;
}

static unsigned files_remove(void) {
    DIR *d = opendir(dir.path);
    unsigned n = 0;
    cr_assert_not_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') {
            test_dir_remove_file(&dir, e->d_name);
            n++;
        }
    (void)closedir(d);
    cr_expect_eq(rmdir(dir.path), 0);
    return n;
}

TestSuite(store_backup, .init = open_dir, .timeout = 60);

static void run(uint32_t type, ptn_buf *take, uint32_t expected, ptn_buf **ret_reply) {
    uint32_t reply_type;
    ptn_buf *r = store_db_execute(db, type, ptn_buf_bytes(take), &reply_type);
    cr_assert_eq(reply_type, expected);
    ptn_buf_unref(take);
    if (ret_reply != NULL)
        *ret_reply = r;
    else
        ptn_buf_unref(r);
}

static void open_db(const char *path) {
    const char *why = "";
    cr_assert_eq(store_db_open(path, NULL, &db, &why), 0, "%s", why);
    cr_assert_eq(store_db_claim(db), 0);
}

static void append(void) {
    static char content[3000];
    char id[16];
    memset(content, 'x', sizeof content - 1);
    (void)snprintf(id, sizeof id, "m%u", ++written);
    run(PTN_MSG_STORE_MSG_APPEND, packed("sssssni", "c1", id, "alice", "text", content, (int64_t)1),
        PTN_MSG_STORE_MSG, NULL);
}

static void populate(unsigned n) {
    open_db(dir.db);
    run(PTN_MSG_STORE_USER_ADD,
        packed("sssiSi", "alice", "Alice", "", (int64_t)1, NULL, (int64_t)1), PTN_MSG_STORE_USER,
        NULL);
    run(PTN_MSG_STORE_CONV_ADD,
        packed("sSsis[s]", "c1", NULL, "alice", (int64_t)1, "epoch", "alice"), PTN_MSG_STORE_CONV,
        NULL);
    while (written < n)
        append();
}

static void expect_state(const char *path, int64_t last, bool same_epoch) {
    ptn_buf *r;
    open_db(path);
    run(PTN_MSG_STORE_CONV_GET, packed("s", "c1"), PTN_MSG_STORE_CONV, &r);
    cr_expect_eq(int_of(element(ptn_buf_bytes(r), 5)), last);
    cr_expect_eq(str_is(element(ptn_buf_bytes(r), 4), "epoch"), same_epoch);
    ptn_buf_unref(r);
    store_db_close(db);
}

static bool append_on_step(void *arg, uint32_t done, uint32_t total) {
    unsigned *steps = arg;
    cr_expect_leq(done, total);
    (*steps)++;
    append();
    return true;
}

Test(store_backup, a_copy_is_the_state_at_its_begin_whatever_is_written_meanwhile) {
    const char *why = "";
    unsigned steps = 0;
    populate(40);
    store_backup_opts o = {.step_pages = 4, .on_step = append_on_step, .arg = &steps};
    cr_assert_eq(store_backup(dir.db, copy, &o, &why), 0, "%s", why);
    cr_expect_gt(steps, 5);
    struct stat st;
    cr_assert_eq(stat(copy, &st), 0);
    cr_expect_eq(st.st_mode & 0777, 0600);
    store_db_close(db);
    expect_state(dir.db, 40 + (int64_t)steps, true);
    expect_state(copy, 40, false);
    cr_expect_eq(files_remove(), 2, "the database and the copy");
}

static bool give_up(void *arg, uint32_t done, uint32_t total) {
    (void)arg, (void)done, (void)total;
    return false;
}

Test(store_backup, what_is_not_whole_is_not_there) {
    const char *why = "";
    populate(40);
    store_db_close(db);
    store_backup_opts o = {.step_pages = 4, .on_step = give_up};
    cr_expect_eq(store_backup(dir.db, copy, &o, &why), -PTN_ESTOPPING);
    cr_expect_eq(access(copy, F_OK), -1);
    cr_assert_eq(store_backup(dir.db, copy, NULL, &why), 0, "%s", why);
    cr_expect_eq(store_backup(dir.db, copy, NULL, &why), -PTN_EEXIST);
    int fd = open(dir.db, O_RDWR);
    cr_assert(fd >= 0);
    static const char garbage[4096] = {'g'};
    cr_assert_eq(pwrite(fd, garbage, sizeof garbage, 20 * 4096), (ssize_t)sizeof garbage);
    (void)close(fd);
    cr_expect_eq(unlink(copy), 0);
    cr_expect_eq(store_backup(dir.db, copy, NULL, &why), -PTN_EPROTO, "a page is damaged");
    cr_expect_gt(store_check(dir.db, NULL, NULL, &why), 0);
    cr_expect_eq(files_remove(), 1);
}

Test(store_backup, a_restored_database_has_new_epochs_and_the_old_one_is_kept) {
    const char *why = "";
    char old[160];
    populate(10);
    cr_assert_eq(store_backup(dir.db, copy, NULL, &why), 0, "%s", why);
    append();
    store_db_close(db);
    cr_assert_eq(store_restore(copy, dir.db, 7, &why), 0, "%s", why);
    expect_state(dir.db, 10, false);
    (void)snprintf(old, sizeof old, "%s.old-7", dir.db);
    expect_state(old, 11, true);
    cr_expect_eq(store_check(dir.db, NULL, NULL, &why), 0);
    cr_expect_eq(files_remove(), 3);
}

/* True: the token is of another database; token (256 bytes) is the next one. */
static bool sync_from(char *token) {
    ptn_buf *r;
    run(PTN_MSG_STORE_SYNC, packed("sSi", "alice", token[0] != '\0' ? token : NULL, (int64_t)100),
        PTN_MSG_STORE_SYNC_PAGE, &r);
    ptn_str next = str_of(element(ptn_buf_bytes(r), 2));
    bool reset = bool_of(element(ptn_buf_bytes(r), 0));
    (void)snprintf(token, 256, "%.*s", (int)next.n, next.p);
    ptn_buf_unref(r);
    return reset;
}

Test(store_backup, clients_of_a_restored_database_start_over) {
    const char *why = "";
    char token[256] = "", later[256];
    populate(3);
    cr_expect_not(sync_from(token));
    memcpy(later, token, sizeof later);
    cr_assert_eq(store_backup(dir.db, copy, NULL, &why), 0, "%s", why);
    store_db_close(db);
    open_db(dir.db);
    cr_expect_not(sync_from(later), "a restart is not a restore");
    store_db_close(db);
    cr_assert_eq(store_restore(copy, dir.db, 7, &why), 0, "%s", why);
    open_db(dir.db);
    cr_expect(sync_from(token), "also one that is older than the copy");
    cr_expect(sync_from(later));
    cr_expect_not(sync_from(token), "once");
    store_db_close(db);
    cr_expect_eq(files_remove(), 3);
}

/* The exchange of two databases ends at any point: the next start goes on with it. */
Test(store_backup, an_interrupted_exchange_is_finished) {
    const char *why = "";
    char fresh[160], gone[160], wal[160];
    populate(3);
    cr_assert_eq(store_backup(dir.db, copy, NULL, &why), 0, "%s", why);
    store_db_close(db);
    (void)snprintf(fresh, sizeof fresh, "%s.fresh", dir.db);
    (void)snprintf(gone, sizeof gone, "%s.bad-1", dir.db);
    (void)snprintf(wal, sizeof wal, "%s-wal", dir.db);
    cr_assert_eq(store_swap_finish(dir.db, "bad", 2, &why), 0);
    cr_assert_eq(rename(copy, fresh), 0);
    cr_assert_eq(rename(dir.db, gone), 0); /* and here it ended, with the log in its place */
    int fd = open(wal, O_WRONLY | O_CREAT, 0600);
    cr_assert(fd >= 0 && write(fd, "log", 3) == 3);
    (void)close(fd);
    cr_assert_eq(store_swap_finish(dir.db, "bad", 2, &why), 1, "%s", why);
    cr_expect_eq(access(wal, F_OK), -1, "a log that belongs to another file");
    expect_state(dir.db, 3, false);
    cr_expect_eq(files_remove(), 3);
}

/* ---- the log ------------------------------------------------------------------------------ */

Test(store_backup, the_log_is_moved_when_it_is_due_and_nobody_reads_there) {
    static const store_db_opts opts = {.checkpoint_pages = 8};
    static const store_db_opts reads = {.read_only = true};
    store_db *reader;
    populate(0);
    store_db_close(db);
    cr_assert_eq(store_db_open(dir.db, &opts, &db, NULL), 0);
    cr_assert_eq(store_db_open(dir.db, &reads, &reader, NULL), 0);
    cr_expect(!store_db_checkpoint_is_due(db));
    while (!store_db_checkpoint_is_due(db) && written < 100)
        append();
    cr_expect_lt(written, 100);
    cr_assert_eq(store_db_read_begin(reader), 0);
    append();
    cr_assert_eq(store_db_checkpoint(db), 0);
    cr_expect_gt(store_db_log_bytes(db), 0, "the reader does not see the last one");
    store_db_read_end(reader);
    cr_assert_eq(store_db_checkpoint(db), 0);
    cr_expect_eq(store_db_log_bytes(db), 0);
    append();
    cr_expect_lt(store_db_log_bytes(db), 8 * 4096, "it begins anew");
    store_db_close(reader);
    store_db_close(db);
    cr_expect_eq(files_remove(), 1);
}

static int64_t log_file_bytes(const char *path) {
    char wal[160];
    struct stat st;
    (void)snprintf(wal, sizeof wal, "%s-wal", path);
    cr_assert_eq(stat(wal, &st), 0);
    return st.st_size;
}

static void copy_file(const char *from, const char *to) {
    static char buf[64 << 10];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    cr_assert_not_null(in);
    cr_assert_not_null(out);
    for (size_t n; (n = fread(buf, 1, sizeof buf, in)) > 0;)
        cr_assert_eq(fwrite(buf, 1, n, out), n);
    (void)fclose(in);
    cr_assert_eq(fclose(out), 0);
}

/* Commits overwrite what was written ahead of them; whoever reads the log after a crash believes
 * the commits and not the room behind them. */
Test(store_backup, the_log_has_room_ahead_and_ends_where_its_commits_end) {
    char wal[160], copy_wal[160];
    populate(0);
    append();
    store_db_make_room(db);
    int64_t size = log_file_bytes(dir.db), used = (int64_t)store_db_log_bytes(db);
    cr_expect_gt(size, used + (256 << 10));
    for (int i = 0; i < 5; i++) {
        append();
        store_db_make_room(db);
    }
    cr_expect_gt((int64_t)store_db_log_bytes(db), used);
    cr_expect_eq(log_file_bytes(dir.db), size);
    while (log_file_bytes(dir.db) == size && written < 1000) {
        append();
        store_db_make_room(db);
    }
    cr_expect_gt(log_file_bytes(dir.db), size, "there is always room");
    cr_expect_gt(log_file_bytes(dir.db), (int64_t)store_db_log_bytes(db) + (128 << 10));
    (void)snprintf(wal, sizeof wal, "%s-wal", dir.db);
    (void)snprintf(copy_wal, sizeof copy_wal, "%s-wal", copy);
    copy_file(dir.db, copy); /* as a crash leaves them */
    copy_file(wal, copy_wal);
    unsigned all = written;
    store_db_close(db);
    open_db(copy);
    append(); /* behind the last commit, over the room */
    store_db_close(db);
    expect_state(copy, all + 1, true);
    cr_expect_eq(files_remove(), 2);
}

/* More than is gathered at once: it goes to the log in several pieces, all before the sync. */
Test(store_backup, a_large_commit_is_whole_after_a_crash) {
    char wal[160], copy_wal[160];
    populate(1);
    cr_assert_eq(store_db_begin(db), 0);
    while (written < 200)
        append();
    cr_assert_eq(store_db_commit(db), 0);
    cr_expect_gt(store_db_log_bytes(db), 512 << 10);
    (void)snprintf(wal, sizeof wal, "%s-wal", dir.db);
    (void)snprintf(copy_wal, sizeof copy_wal, "%s-wal", copy);
    copy_file(dir.db, copy);
    copy_file(wal, copy_wal);
    store_db_close(db);
    expect_state(copy, 200, true);
    cr_expect_eq(files_remove(), 2);
}

/* As much as is used before the log begins anew, and no more. */
Test(store_backup, the_room_ahead_is_bounded) {
    static const store_db_opts opts = {.checkpoint_pages = 20};
    populate(0);
    store_db_close(db);
    cr_assert_eq(store_db_open(dir.db, &opts, &db, NULL), 0);
    for (int i = 0; i < 100; i++) {
        append();
        store_db_make_room(db);
        if (store_db_checkpoint_is_due(db))
            cr_assert_eq(store_db_checkpoint(db), 0);
    }
    cr_expect_lt(log_file_bytes(dir.db), 40 * 4120);
    store_db_close(db);
    cr_expect_eq(files_remove(), 1);
}
