/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - postern-sim: runs seeds, each twice, and says how to replay the one that failed.
 *
 *     postern-sim [--seeds N] [--seed S] [--file F] [--jobs J] [--expect ORACLE] [--cpu-max S]
 *                 [--trace] [--verbose]
 *
 * With --expect the program is known to have a bug: it runs until a seed fails, and that has to be
 * by the oracle, or one of them, that is named (separated by commas).
 *
 * With --cpu-max a run fails that took more seconds of processors, of all together: time on the
 * wall says how busy the machine is.
 *
 * A seed is a process, and so is each life of its broker; as many seeds run at a time as there are
 * processors.  The second run of a seed starts with another heap, so that a decision made by an
 * address shows as a different course.
 */
#include "broker/version.h"
#include "life.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIFE_SECONDS_MAX 120 /* of a processor: a loop inside one step */
#define SEEDS_MAX 1024u
#define JOBS_MAX 64u

struct options {
    uint64_t first, count;
    uint64_t jobs;
    uint64_t cpu_s_max; /* of the whole run; 0: however long it takes */
    const char *file;
    const char *expect; /* names of oracles; NULL: no seed is to fail */
    bool trace, verbose;
};

static struct tally *total; /* of all processes */

static _Noreturn void die(const char *what) {
    fprintf(stderr, "postern-sim: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- one seed -------------------------------------------------------------------------------- */

/* Moves everything that will be allocated. */
static void stir_heap(void) {
    static void *kept[256];
    for (size_t i = 0; i < PTN_ARRAY_LEN(kept); i++)
        kept[i] = malloc(16 + i * 37 % 2000);
    for (size_t i = 0; i < PTN_ARRAY_LEN(kept); i += 3) {
        free(kept[i]);
        kept[i] = NULL;
    }
}

/* The wait status of one life. */
static int live(const struct options *o, bool stirred) {
    int status;
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        (void)setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = LIFE_SECONDS_MAX},
                        NULL);
        if (stirred)
            stir_heap();
        if (world->life == 0)
            life_prepare();
        life_run(o->trace);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            die("waitpid");
    return status;
}

/* All lives of one run.  False: world->failure says why. */
static bool run(const struct options *o, uint64_t seed, bool stirred) {
    memset(world, 0, sizeof *world);
    world->seed = seed;
    world_plan(seed);
    disk_make();
    int status = 0;
    for (world->life = 0; world->life < LIVES_MAX; world->life++) {
        status = live(o, stirred);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_KILLED)
            break;
    }
    const struct disk_stats disk = disk_stats();
    world->tally.disk_errors = disk.errors;
    world->tally.disk_full = disk.full;
    if (WIFSIGNALED(status))
        (void)snprintf(world->failure, sizeof world->failure, "%s: life %u ended by signal %d",
                       WTERMSIG(status) == SIGPROF ? "liveness" : "crash", world->life,
                       WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0 && world->failure[0] == '\0')
        (void)snprintf(world->failure, sizeof world->failure, "crash: life %u ended with status %d",
                       world->life, WEXITSTATUS(status));
    return world->failure[0] == '\0';
}

static void add_tally(void) {
    const uint64_t *from = (const uint64_t *)&world->tally;
    uint64_t *to = (uint64_t *)total;
    for (size_t i = 0; i < sizeof *total / sizeof *to; i++)
        (void)__atomic_fetch_add(&to[i], from[i], __ATOMIC_RELAXED);
}

/* The failure begins with the name of one of the oracles that are expected. */
static bool is_expected(const struct options *o) {
    for (const char *name = o->expect; name != NULL && *name != '\0';) {
        size_t n = strcspn(name, ",");
        if (strncmp(world->failure, name, n) == 0 && world->failure[n] == ':')
            return true;
        name += n + strspn(name + n, ", ");
    }
    return false;
}

/* A seed tells another story in another kind of build: sanitized ones have no pools, so other
 * allocations fail.  The command is this program's, as seen from here, and its sources have a name.
 */
static void print_failure(uint64_t seed) {
    char program[4096] = "", here[4096] = "";
    const char *name = program;
    size_t n = getcwd(here, sizeof here) != NULL ? strlen(here) : 0;
    if (readlink("/proc/self/exe", program, sizeof program - 1) <= 0)
        name = "postern-sim";
    else if (n > 0 && strncmp(program, here, n) == 0 && program[n] == '/')
        name = program + n + 1;
    printf("FAILED seed %llu: %s\n  replay: %s --seed %llu    (%s)\n", (unsigned long long)seed,
           world->failure, name, (unsigned long long)seed, postern_revision());
}

/* How the process of a seed ends. */
enum verdict { SEED_OK, SEED_FAILED, SEED_CAUGHT };

static enum verdict run_seed(const struct options *o, uint64_t seed) {
    bool ok = run(o, seed, false);
    uint64_t hash = world->hash, steps = world->steps;
    if (o->verbose)
        printf("seed %llu: %llu steps, hash %016llx, %s%s\n", (unsigned long long)seed,
               (unsigned long long)steps, (unsigned long long)hash, ok ? "ok" : "FAILED ",
               world->failure);
    add_tally();
    bool twice = o->expect == NULL || strcmp(o->expect, "determinism") == 0;
    if (ok && twice && !o->trace) {
        ok = run(o, seed, true);
        if (ok && world->hash != hash) {
            (void)snprintf(world->failure, sizeof world->failure,
                           "determinism: hash %016llx after %llu steps, then %016llx after %llu",
                           (unsigned long long)hash, (unsigned long long)steps,
                           (unsigned long long)world->hash, (unsigned long long)world->steps);
            ok = false;
        }
    }
    bool caught = !ok && is_expected(o);
    if (caught)
        printf("caught by seed %llu: %s\n", (unsigned long long)seed, world->failure);
    else if (!ok)
        print_failure(seed);
    (void)fflush(stdout);
    return ok ? SEED_OK : caught ? SEED_CAUGHT : SEED_FAILED;
}

/* ---- many seeds ------------------------------------------------------------------------------ */

static void *shared_memory(size_t n) {
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("memory");
    return p;
}

static struct crowd { uint64_t running, done, failed, caught; } crowd;

static void reap(void) {
    int status;
    while (wait(&status) < 0)
        if (errno != EINTR)
            die("wait");
    int verdict = WIFEXITED(status) ? WEXITSTATUS(status) : SEED_FAILED;
    crowd.running--;
    crowd.done++;
    crowd.caught += verdict == SEED_CAUGHT;
    crowd.failed += verdict != SEED_OK && verdict != SEED_CAUGHT;
}

/* Starts the process of one seed, when there is room for one more.  A bug that is expected has to
 * be caught once only. */
static void start(const struct options *o, uint64_t seed) {
    if (crowd.running == o->jobs)
        reap();
    if (o->expect != NULL && crowd.failed + crowd.caught > 0)
        return;
    crowd.running++;
    (void)fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        die("fork");
    if (pid > 0)
        return;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* who interrupts the run means all of it */
    if (getppid() != parent)
        _exit(2);
    world = shared_memory(sizeof *world);
    exit((int)run_seed(o, seed));
}

/* ---- command line ---------------------------------------------------------------------------- */

static _Noreturn void bad_input(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static _Noreturn void bad_input(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)fputs("postern-sim: ", stderr);
    (void)vfprintf(stderr, fmt, ap);
    (void)fputc('\n', stderr);
    va_end(ap);
    exit(2);
}

/* Digits, without a sign; *ret_end: behind them. */
static bool read_digits(const char *text, uint64_t *ret_n, char **ret_end) {
    errno = 0;
    *ret_n = strtoull(text, ret_end, 10);
    return *text >= '0' && *text <= '9' && errno == 0;
}

/* One number a line; `#` begins a comment. */
static size_t read_seeds(const char *path, uint64_t seeds[SEEDS_MAX]) {
    size_t n = 0, room = 0;
    char *line = NULL;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        die(path);
    for (unsigned at = 1; getline(&line, &room, f) >= 0; at++) {
        char *p = line + strspn(line, " \t"), *end = p;
        uint64_t seed = 0;
        bool any = strchr("#\r\n", *p) == NULL; /* also at its end: '\0' */
        if (any && (!read_digits(p, &seed, &end) || strchr("# \t\r\n", *end) == NULL ||
                    strchr("#\r\n", end[strspn(end, " \t")]) == NULL))
            bad_input("%s:%u: a seed is a number, and a comment begins with #", path, at);
        if (any && n == SEEDS_MAX)
            bad_input("%s:%u: more than %u seeds", path, at, SEEDS_MAX);
        if (any)
            seeds[n++] = seed;
    }
    if (ferror(f) != 0)
        die(path);
    free(line);
    (void)fclose(f);
    return n;
}

static uint64_t number(const char *option, const char *text, uint64_t min) {
    uint64_t n;
    char *end;
    if (text == NULL || !read_digits(text, &n, &end) || *end != '\0' || n < min)
        bad_input("%s takes a number from %llu, not \"%s\"", option, (unsigned long long)min,
                  text != NULL ? text : "");
    return n;
}

static struct options read_options(int argc, char **argv) {
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct options o = {
        .first = 1, .count = 100, .jobs = processors > 0 ? (uint64_t)processors : 1};
    bool one = false, many = false;
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--seeds") == 0) {
            o.count = number(argv[i], next, 1);
            many = true;
            i++;
        } else if (strcmp(argv[i], "--seed") == 0) {
            o.first = number(argv[i], next, 0);
            one = true;
            i++;
        } else if (strcmp(argv[i], "--jobs") == 0) {
            o.jobs = number(argv[i], next, 1);
            i++;
        } else if (strcmp(argv[i], "--cpu-max") == 0) {
            o.cpu_s_max = number(argv[i], next, 1);
            i++;
        } else if (strcmp(argv[i], "--file") == 0 && next != NULL) {
            o.file = next;
            i++;
        } else if (strcmp(argv[i], "--expect") == 0 && next != NULL) {
            o.expect = next;
            i++;
        } else if (strcmp(argv[i], "--trace") == 0) {
            o.trace = true;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            o.verbose = true;
        } else {
            fprintf(stderr, "usage: postern-sim [--seeds N] [--seed S] [--file F] [--jobs J] "
                            "[--expect ORACLE] [--cpu-max S] [--trace] [--verbose]\n");
            exit(2);
        }
    }
    if (one && !many) { /* a replay */
        o.count = 1;
        o.file = NULL;
    }
    o.jobs = o.jobs > JOBS_MAX ? JOBS_MAX : o.jobs;
    return o;
}

static void print_tally(void) {
    const uint64_t numbers[] = {crowd.done,           crowd.failed + crowd.caught,
                                total->sessions,      total->closed,
                                total->vanished,      total->kills,
                                total->power_losses,  total->crashes,
                                total->buggified,     total->allocations_failed,
                                total->disk_errors,   total->disk_full,
                                total->answers,       total->refusals,
                                total->acks,          total->publishes,
                                total->events,        total->resumed,
                                total->not_recovered, total->asks,
                                total->downs,         total->zmq_answers,
                                total->zmq_events,    total->zmq_holes,
                                total->streamed,      total->reads,
                                total->logins,        total->tokens_refused,
                                total->delivered,     total->passed,
                                total->joined,        total->removed,
                                total->synced,        total->pulled,
                                total->rounds,        total->shed_delay,
                                total->shed_memory};
    static const char *const words[] = {" seeds, ",
                                        " failed; ",
                                        " sessions, ",
                                        " lost, ",
                                        " vanished, ",
                                        " kills, ",
                                        " of them by power, ",
                                        " actor crashes, ",
                                        " other misfortunes, ",
                                        " allocations failed, ",
                                        " disk errors, ",
                                        " writes without room; ",
                                        " answers, ",
                                        " refusals, ",
                                        " messages and ",
                                        " events acknowledged, ",
                                        " events heard, ",
                                        " positions recovered, ",
                                        " not; ",
                                        " asks and ",
                                        " monitors of the swarm ended; ZeroMQ: ",
                                        " answers, ",
                                        " events, ",
                                        " missed; ",
                                        " events streamed, ",
                                        " messages marked as read; ",
                                        " pairs of tokens, ",
                                        " tokens refused; ",
                                        " messages on devices, ",
                                        " passed over, ",
                                        " members added, ",
                                        " removed; ",
                                        " items synchronised, ",
                                        " messages pulled in ",
                                        " rounds; refused for delay ",
                                        ", for memory ",
                                        "\n"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(numbers); i++)
        printf("%llu%s", (unsigned long long)numbers[i], words[i]);
}

static uint64_t now_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* False: it took too long. */
static bool print_time(const struct options *o, uint64_t begin_ms) {
    struct rusage u;
    (void)getrusage(RUSAGE_CHILDREN, &u);
    uint64_t cpu_ms = (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 +
                      (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
    printf("%.1f s, %llu at a time; %.1f s of processors\n", (double)(now_ms() - begin_ms) / 1e3,
           (unsigned long long)o->jobs, (double)cpu_ms / 1e3);
    if (o->cpu_s_max == 0 || cpu_ms <= o->cpu_s_max * 1000)
        return true;
    printf("TOO SLOW: more than %llu s of processors\n", (unsigned long long)o->cpu_s_max);
    return false;
}

int main(int argc, char **argv) {
    static uint64_t known[SEEDS_MAX];
    struct options o = read_options(argc, argv);
    uint64_t begin_ms = now_ms();
    total = shared_memory(sizeof *total);
    size_t n_known = o.file != NULL ? read_seeds(o.file, known) : 0;
    for (size_t i = 0; i < n_known; i++)
        start(&o, known[i]);
    for (uint64_t i = 0; i < o.count; i++)
        start(&o, o.first + i);
    while (crowd.running > 0)
        reap();
    print_tally();
    bool in_time = print_time(&o, begin_ms);
    if (o.expect != NULL && crowd.failed + crowd.caught == 0)
        printf("MISSED: no seed failed, where the oracle \"%s\" should have\n", o.expect);
    return !in_time || crowd.failed > 0 || (o.expect != NULL) != (crowd.caught > 0) ? 1 : 0;
}
