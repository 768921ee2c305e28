/* SPDX-License-Identifier: Apache-2.0
 *
 * store_lanes.c - the store's threads: group commit, syncs beside it, and reading beside both.
 *
 * The writer takes everything that waits: all writes run in one transaction in the order of their
 * arrival, one COMMIT (one fsync) makes them durable, then their answers go out in order, and then
 * the reads of the batch run and answer in order.  So the more requests are in flight, the more
 * share an fsync, and:
 *
 *   - no write is acknowledged before it is on disk; when the COMMIT fails, every write of the
 * batch hears it;
 *   - the answer of such a read comes after the answers of all writes that it can see.
 * conversation.c builds on that.
 *
 * A large batch of appends, and any of them behind one, leaves its sync, and with it the answers,
 * to the syncer: the writer fills and commits the next ones meanwhile, and one sync is for all that
 * was committed before it began.  Before anything but appends the writer waits for the syncer.
 * When a sync fails, so does all that was committed since the last good one, and what was being
 * filled, and the log goes back to before them (store_db_log.c).
 *
 * Pages for clients and subscribers (store_db_is_read_aside()) go to the reader, a second handle
 * that cannot write: somebody's long backlog delays no commit.  A page sees every write that was
 * answered before it was asked for, and perhaps some whose answers are still on their way, but none
 * that is not on disk.  While a failed sync has not been made good, pages are refused.
 *
 * A request whose deadline has passed is not started: a lane answers those before a batch, and
 * reads are looked at again, because what came before may take its time.  While memory is short,
 * pages are refused as well: they are what fills it, and the adapters need time to send them.
 *
 * After an end that was not clean, the whole database is searched for damage (store_scrub.h), on
 * the reader's lane and a slice at a time: when nobody waits there or for a commit, and no faster
 * than the configured rate.  While somebody always waits there is a slice every ten seconds.
 */
#include "actors/store_internal.h"

#include <postern/log.h>
#include <postern/memory.h>
#include <postern/metrics.h>

#include <stdlib.h>

#define BATCH_MAX_DEFAULT 512u
#define READ_BATCH_MAX 16u /* pages: how long one state of the database is held */
#define JOBS_MAX_DEFAULT 16384u
#define SYNCER_ROWS_DEFAULT 16u /* fewer are not worth another thread's waking up */
#define SCRUB_PAGES 64u         /* in a slice */

struct outcome {
    ptn_buf *payload; /* NULL: no memory */
    uint32_t type;    /* 0: no answer */
};

/* ---- answers ------------------------------------------------------------------------------ */

static void answer(ptn_lane *l, ptn_reply_to to, struct outcome o) {
    if (to.corr == 0) {
        ptn_buf_unref(o.payload);
        return;
    }
    if (o.payload == NULL) {
        (void)ptn_lane_reply_err(l, to, -PTN_ENOMEM);
        return;
    }
    if (ptn_lane_reply(l, to, o.type, o.payload) < 0)
        ptn_buf_unref(o.payload);
}

static struct outcome run_job(store_db *db, const ptn_lane_job *job) {
    struct outcome o;
    o.payload = store_db_execute(db, job->type, ptn_buf_bytes(job->buf), &o.type);
    if (o.type == PTN_MSG_PROBLEM && o.payload != NULL) {
        ptn_problem p;
        if (ptn_problem_unpack(ptn_buf_bytes(o.payload), &p) &&
            (p.code == PTN_CODE_INTERNAL || p.code == PTN_CODE_STORAGE_FULL))
            ptn_count(PTN_C_STORE_ERRORS, 1);
    }
    return o;
}

static void note_failure(int err) {
    ptn_count(PTN_C_STORE_ERRORS, 1);
    PTN_LOG(PTN_LOG_ERROR, "store.commit_failed", PTN_F_Z("error", ptn_err_name(err)));
}

/* Whatever it would have been told: nothing was stored. */
static void outcome_fail(struct outcome *o, int err) {
    ptn_buf_unref(o->payload);
    *o = (struct outcome){.payload = store_db_problem_of(err), .type = PTN_MSG_PROBLEM};
}

static void count_commit(const store_db *db) {
    ptn_count(PTN_C_STORE_COMMITS, 1);
    ptn_count(PTN_C_STORE_ROWS, store_db_rows_committed(db));
}

/* Nothing of the batch was stored. */
static void batch_failed(struct store *s, size_t n, int err) {
    note_failure(err);
    for (size_t i = 0; i < n; i++)
        if (s->outcomes[i].type != 0)
            outcome_fail(&s->outcomes[i], err);
}

/* ---- the syncer --------------------------------------------------------------------------- */

static void note_loss(struct store *s) {
    atomic_fetch_add(&s->losses, 1);
    atomic_store(&s->lost, true);
}

/* All that was committed before it began. */
static void sync_commits(struct store *s, ptn_lane *l, uint64_t committed) {
    ptn_time begin = ptn_lane_now(l);
    int err = store_db_sync(s->db);
    ptn_observe_ns(PTN_H_FSYNC, ptn_lane_now(l) - begin);
    if (err == 0) {
        atomic_store(&s->synced, committed);
        return;
    }
    note_loss(s); /* first: who sees the error has to see this */
    atomic_store(&s->sync_err, err);
    note_failure(err);
}

/* What was committed on top of something lost is lost as well, whatever a later sync would say. */
static void store_sync_batch(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    struct store *s = arg;
    uint64_t committed = atomic_load(&s->committed);
    if (atomic_load(&s->synced) != committed && atomic_load(&s->sync_err) == 0)
        sync_commits(s, l, committed);
    int err = atomic_load(&s->sync_err);
    for (size_t i = 0; i < n; i++) {
        struct outcome o = {ptn_buf_ref(jobs[i]->buf), jobs[i]->type};
        if (err != 0)
            outcome_fail(&o, err);
        answer(l, jobs[i]->reply, o);
    }
}

static bool is_answered(void *arg) {
    const struct store *s = arg;
    return ptn_lane_depth(s->syncer) == 0;
}

/* The writer waits until what it left to the syncer has ended.  0, or why some of it is not stored.
 */
static int await_syncer(struct store *s) {
    if (!s->left)
        return 0;
    ptn_lane_wait(s->syncer, is_answered, s);
    s->left = false;
    int err = atomic_load(&s->sync_err);
    uint64_t first = atomic_load(&s->synced) + 1; /* that is lost, if there is an error */
    store_db_afloat_ended(s->db, err, s->pages[first % STORE_AFLOAT_MAX]);
    atomic_store(&s->synced, atomic_load(&s->committed)); /* first: see is_decided() */
    atomic_store(&s->sync_err, 0);
    return err;
}

/* relaxed: a hint, and the actor's next look sees it */
static void show_full(struct store *s) {
    atomic_store_explicit(&s->full, store_db_is_full(s->db), memory_order_relaxed);
}

static bool is_for_syncer(struct store *s) {
    size_t waiting = ptn_lane_depth(s->syncer);
    uint32_t least = waiting > 0 ? 1 : s->syncer_rows;
    return store_db_rows_waiting(s->db) >= least && waiting <= s->batch_max &&
           atomic_load(&s->committed) - atomic_load(&s->synced) < STORE_AFLOAT_MAX - 1 &&
           store_db_may_float(s->db);
}

/* The writer's last act in a batch: the syncer answers all of it. */
static void leave_to_syncer(struct store *s, ptn_lane *l, ptn_lane_job **jobs, size_t n) {
    uint64_t number = atomic_load(&s->committed) + 1;
    s->pages[number % STORE_AFLOAT_MAX] = store_db_log_pages(s->db);
    atomic_store(&s->begun, number); /* first: whoever sees the commit has to see this */
    int err = store_db_commit_afloat(s->db);
    if (err == 0)
        count_commit(s->db);
    else
        batch_failed(s, n, err);
    show_full(s);
    atomic_store(&s->committed, number);
    s->left = true;
    for (size_t i = 0; i < n; i++) {
        if (jobs[i]->reply.corr == 0)
            ptn_buf_unref(s->outcomes[i].payload);
        else
            ptn_lane_pass(l, &jobs[i], s->syncer, s->outcomes[i].type, s->outcomes[i].payload);
    }
}

/* ---- the writer --------------------------------------------------------------------------- */

/* One write that must be on disk before its answer makes all of them wait: it costs them nothing.
 */
static bool is_relaxed(ptn_lane_job **jobs, size_t n) {
    bool relaxed = false;
    for (size_t i = 0; i < n; i++) {
        if (!store_db_is_write(jobs[i]->type))
            continue;
        if (!store_db_is_relaxed(jobs[i]->type))
            return false;
        relaxed = true;
    }
    return relaxed;
}

/* Appends, and somebody waits for an answer to them. */
static bool is_appends(ptn_lane_job **jobs, size_t n) {
    bool awaited = false;
    for (size_t i = 0; i < n; i++) {
        if (!store_db_is_append(jobs[i]->type))
            return false;
        awaited = awaited || jobs[i]->reply.corr != 0;
    }
    return awaited;
}

/* All writes of the batch, in a transaction that stands open then.  Returns how many there are. */
static size_t execute_writes(struct store *s, ptn_lane_job **jobs, size_t n, int *reterr) {
    size_t started = 0;
    for (size_t i = 0; i < n; i++) {
        s->outcomes[i] = (struct outcome){0};
        if (!store_db_is_write(jobs[i]->type))
            continue;
        if (started++ == 0 && *reterr == 0)
            *reterr = store_db_begin(s->db);
        if (*reterr == 0)
            s->outcomes[i] = run_job(s->db, jobs[i]);
        else
            s->outcomes[i].type = PTN_MSG_PROBLEM; /* filled in by batch_failed() */
    }
    return started;
}

static int commit_here(struct store *s, ptn_lane *l) {
    ptn_time begin = ptn_lane_now(l);
    int err = store_db_commit(s->db);
    ptn_observe_ns(PTN_H_FSYNC, ptn_lane_now(l) - begin);
    if (err == 0)
        count_commit(s->db);
    return err;
}

/* For the actor and the reader. */
static void show_state(struct store *s) {
    bool lost = store_db_is_unsettled(s->db);
    show_full(s);
    if (lost && !atomic_load(&s->lost))
        note_loss(s);
    atomic_store(&s->lost, lost);
}

/* All writes of the batch: executed, committed, answered.  Also if there are none, everything
 * before has been answered then, unless the syncer is to do it. */
static void run_writes(struct store *s, ptn_lane *l, ptn_lane_job **jobs, size_t n) {
    bool appends = is_appends(jobs, n), relaxed = is_relaxed(jobs, n);
    if (!appends || atomic_load(&s->lost) || store_db_is_unsettled(s->db))
        (void)await_syncer(s); /* a failure is the next transaction's to put right */
    int err = store_db_relax(s->db, relaxed);
    size_t writes = execute_writes(s, jobs, n, &err);
    if (err == 0 && appends && !relaxed && is_for_syncer(s)) {
        leave_to_syncer(s, l, jobs, n);
        return;
    }
    int err_before = await_syncer(s);
    if (err == 0 && err_before != 0) {
        err = err_before;
        store_db_rollback(s->db);
    }
    if (writes > 0 && err == 0)
        err = commit_here(s, l);
    if (writes > 0 && err != 0)
        batch_failed(s, n, err);
    show_state(s);
    for (size_t i = 0; i < n; i++)
        if (store_db_is_write(jobs[i]->type))
            answer(l, jobs[i]->reply, s->outcomes[i]);
}

/* After the answers: nobody waits for it but who comes next. */
static void tend_log(struct store *s, ptn_lane *l) {
    if (store_db_checkpoint_is_due(s->db)) {
        ptn_time begin = ptn_lane_now(l);
        int err = store_db_checkpoint(s->db);
        ptn_observe_ns(PTN_H_CHECKPOINT, ptn_lane_now(l) - begin);
        if (err != 0) {
            ptn_count(PTN_C_STORE_ERRORS, 1);
            PTN_LOG(PTN_LOG_WARN, "store.checkpoint_failed", PTN_F_Z("error", ptn_err_name(err)));
        }
    } else {
        store_db_make_room(s->db);
    }
    int64_t bytes = (int64_t)store_db_log_bytes(s->db);
    ptn_gauge_add(PTN_G_STORE_LOG, bytes - s->log_bytes);
    s->log_bytes = bytes;
}

/* False: it has been answered. */
static bool read_may_run(ptn_lane *l, const ptn_lane_job *job) {
    if (ptn_lane_expired(l, job))
        return false;
    if (!ptn_memory_pressure() || !store_db_is_page(job->type))
        return true;
    ptn_count(PTN_C_SHED_MEMORY, 1);
    (void)ptn_lane_reply_err(l, job->reply, -PTN_EOVERLOAD);
    return false;
}

/* The reads of the batch.  After a failed sync the log is put right first: what it says is not so.
 */
static void run_reads(struct store *s, ptn_lane *l, ptn_lane_job **jobs, size_t n) {
    int err = 0;
    for (size_t i = 0; i < n; i++) {
        if (store_db_is_write(jobs[i]->type) || !read_may_run(l, jobs[i]))
            continue;
        if (store_db_is_unsettled(s->db))
            err = store_db_settle(s->db);
        answer(l, jobs[i]->reply,
               err == 0 ? run_job(s->db, jobs[i])
                        : (struct outcome){store_db_problem_of(err), PTN_MSG_PROBLEM});
    }
}

static void store_run_batch(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    struct store *s = arg;
    run_writes(s, l, jobs, n);
    if (s->left) /* they were writes only */
        return;
    run_reads(s, l, jobs, n);
    show_state(s);
    tend_log(s, l);
}

/* ---- the reader --------------------------------------------------------------------------- */

static void scrub_end(struct store *s, store_scrub_place place) {
    store_scrub_close(s->scrub);
    s->scrub = NULL;
    s->place = place;
}

/* A slice of the search for damage. */
static void run_scrub(struct store *s, ptn_lane *l, const ptn_lane_job *job) {
    char found[160] = "";
    uint32_t pages = 0;
    uint32_t losses = atomic_load(&s->losses);
    int more = atomic_load(&s->lost) ? -PTN_EOVERLOAD
               : s->scrub == NULL    ? store_scrub_open(s->path, s->vfs, &s->place, &s->scrub)
                                     : 0;
    if (more == 0)
        more = store_scrub_slice(s->scrub, SCRUB_PAGES, &pages, found);
    if (more == -PTN_EPROTO && atomic_load(&s->losses) != losses)
        more = -PTN_EOVERLOAD; /* it may be what a failed sync left */
    ptn_count(PTN_C_STORE_SCRUB_PAGES, pages);
    if (more == -PTN_EPROTO)
        store_db_note_damage(s->reader_db, found);
    else if (more < 0 && more != -PTN_EOVERLOAD)
        ptn_count(PTN_C_STORE_ERRORS, 1);
    store_scrub_place at =
        s->scrub != NULL && more != 0 ? store_scrub_at(s->scrub) : (store_scrub_place){.tree = 0};
    if (more <= 0)
        scrub_end(s, s->scrub == NULL ? s->place : at);
    if (more < 0) {
        (void)ptn_lane_reply_err(l, job->reply, more);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_bool(&w, more == 1);
    ptn_pack_uint(&w, pages);
    ptn_pack_int(&w, at.tree);
    ptn_pack_int(&w, at.key[0]);
    ptn_pack_int(&w, at.key[1]);
    answer(l, job->reply, (struct outcome){ptn_pack_finish(&w), PTN_MSG_STORE_SCRUBBED});
}

struct seen {
    const struct store *store;
    uint64_t begun;
};

/* On disk, or not to be. */
static bool is_decided(void *arg) {
    const struct seen *seen = arg;
    return atomic_load(&seen->store->sync_err) != 0 ||
           atomic_load(&seen->store->synced) >= seen->begun;
}

/* A state of the database that no power cut takes back. */
static int read_begin(struct store *s) {
    int err = store_db_read_begin(s->reader_db);
    if (err != 0)
        return err;
    struct seen seen = {s, atomic_load(&s->begun)};
    ptn_lane_wait(s->syncer, is_decided, &seen);
    if (!atomic_load(&s->lost))
        return 0;
    store_db_read_end(s->reader_db);
    return -PTN_EIO;
}

static void store_read_batch(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    struct store *s = arg;
    struct outcome pages[READ_BATCH_MAX] = {{0}};
    if (n == 1 && jobs[0]->type == PTN_MSG_STORE_SCRUB) { /* needs no state of the database */
        run_scrub(s, l, jobs[0]);
        return;
    }
    uint32_t losses = atomic_load(&s->losses);
    int err = read_begin(s);
    if (err != 0)
        ptn_count(PTN_C_STORE_ERRORS, 1);
    for (size_t i = 0; i < n; i++) {
        if (jobs[i]->type == PTN_MSG_STORE_SCRUB) /* others came first */
            (void)ptn_lane_reply_err(l, jobs[i]->reply, -PTN_EOVERLOAD);
        else if (err != 0)
            outcome_fail(&pages[i], err);
        else if (read_may_run(l, jobs[i]))
            pages[i] = run_job(s->reader_db, jobs[i]);
    }
    if (err == 0)
        store_db_read_end(s->reader_db);
    bool doubtful = atomic_load(&s->losses) != losses;
    for (size_t i = 0; i < n; i++) {
        if (pages[i].type == 0)
            continue;
        if (doubtful)
            outcome_fail(&pages[i], -PTN_EIO);
        answer(l, jobs[i]->reply, pages[i]);
    }
}

/* ---- open and close ----------------------------------------------------------------------- */

static int open_databases(const store_config *config, struct store *s, const char **reterr_why) {
    store_db_opts writes = config->db;
    writes.scrub = &s->view;
    int err = store_db_open(config->path, &writes, &s->db, reterr_why);
    if (err == 0 && (err = store_db_settle(s->db)) != 0)
        *reterr_why = "what the last crash left in the database's log cannot be made durable";
    if (err == 0 && (err = store_db_claim(s->db)) != 0)
        *reterr_why = "the database cannot be written";
    if (err == 0 && (err = store_db_scrub_plan(s->db, &s->plan)) != 0)
        *reterr_why = "the database cannot be read";
    store_db_opts reads = config->db;
    reads.read_only = true;
    return err == 0 ? store_db_open(config->path, &reads, &s->reader_db, reterr_why) : err;
}

static int open_lanes(const store_config *config, struct store *s, const char **reterr_why) {
    ptn_lane_opts o = {.name = "store",
                       .run = store_run_batch,
                       .arg = s,
                       .batch_max = config->batch_max != 0 ? config->batch_max : BATCH_MAX_DEFAULT,
                       .queue_delay_ns = config->queue_delay_ns,
                       .bytes_max = config->bytes_max,
                       .jobs_max = config->jobs_max != 0 ? config->jobs_max : JOBS_MAX_DEFAULT};
    s->batch_max = o.batch_max;
    s->syncer_rows = config->syncer_rows != 0 ? config->syncer_rows : SYNCER_ROWS_DEFAULT;
    s->outcomes = calloc(o.batch_max, sizeof *s->outcomes);
    if (s->outcomes == NULL)
        return -PTN_ENOMEM;
    int err = ptn_lane_open(config->rt, &o, &s->writer);
    o.name = "store.sync";
    o.run = store_sync_batch;
    o.queue_delay_ns = 0;
    o.bytes_max = 0;
    o.jobs_max = 2 * (uint32_t)o.batch_max; /* is_for_syncer() */
    if (err == 0)
        err = ptn_lane_open(config->rt, &o, &s->syncer);
    o.name = "store.read";
    o.run = store_read_batch;
    o.queue_delay_ns = config->queue_delay_ns;
    o.bytes_max = config->bytes_max;
    o.jobs_max = config->jobs_max != 0 ? config->jobs_max : JOBS_MAX_DEFAULT;
    o.batch_max = READ_BATCH_MAX;
    if (err == 0)
        err = ptn_lane_open(config->rt, &o, &s->reader);
    if (err != 0)
        *reterr_why = "the store's threads cannot be started";
    return err;
}

static bool retains(const store_retention *r) {
    bool any = (r->messages_age_ms | r->messages | r->messages_bytes) > 0;
    for (size_t i = 0; i < r->n_topics; i++)
        any = any || r->topics[i].age_ms > 0 || r->topics[i].bytes > 0 || r->topics[i].events > 0;
    return any;
}

int store_open(const store_config *config, store **ret_store, const char **reterr_why) {
    const char *ignored;
    const char **why = reterr_why != NULL ? reterr_why : &ignored;
    struct store *s = calloc(1, sizeof *s);
    *why = ptn_err_text(-PTN_ENOMEM);
    if (s == NULL)
        return -PTN_ENOMEM;
    s->directory = config->directory;
    s->retains = retains(&config->db.retention);
    s->ttl_ns = (ptn_time)config->db.queue.ttl_ms * PTN_MS;
    s->vfs = config->db.vfs;
    s->scrub_rate = config->scrub_rate;
    s->path = strdup(config->path);
    int err = s->path != NULL ? open_databases(config, s, why) : -PTN_ENOMEM;
    if (err == 0) {
        s->place = s->plan.at;
        err = open_lanes(config, s, why);
    }
    if (err != 0) {
        store_close(s);
        return err;
    }
    *ret_store = s;
    return 0;
}

void store_close(store *s) {
    if (s == NULL)
        return;
    if (s->reader != NULL)
        ptn_lane_close(s->reader);
    if (s->writer != NULL)
        ptn_lane_close(s->writer);
    (void)await_syncer(s);
    if (s->syncer != NULL)
        ptn_lane_close(s->syncer);
    store_scrub_close(s->scrub);
    store_db_close(s->reader_db);
    store_db_close(s->db); /* the last one: it moves the log to the database */
    free(s->outcomes);
    free(s->path);
    free(s);
}

bool store_lanes_are_idle(const struct store *s) {
    return ptn_lane_depth(s->writer) == 0 && ptn_lane_depth(s->syncer) == 0 &&
           ptn_lane_depth(s->reader) == 0;
}
