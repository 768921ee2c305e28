/* SPDX-License-Identifier: Apache-2.0
 *
 * common.c - clocks, samples, /proc, and a broker of our own to measure.
 */
#include "bench/common.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct bench_broker *running; /* stopped at exit whatever happens */

void bench_die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("bench: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

uint64_t bench_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- processes ---------------------------------------------------------------------------- */

unsigned bench_threads(pid_t pid, struct bench_thread *ret_threads) {
    char path[512];
    unsigned n = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    if (d == NULL)
        return 0;
    for (struct dirent *e; n < BENCH_THREADS_MAX && (e = readdir(d)) != NULL;) {
        unsigned long long run = 0, wait = 0;
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.32s/schedstat", (int)pid, e->d_name);
        FILE *f = fopen(path, "re");
        if (f == NULL)
            continue;
        if (fscanf(f, "%llu %llu", &run, &wait) == 2)
            ret_threads[n++] = (struct bench_thread){(pid_t)strtol(e->d_name, NULL, 10), run, wait};
        fclose(f);
    }
    closedir(d);
    return n;
}

uint64_t bench_cpu_ns(pid_t pid) {
    static struct bench_thread threads[BENCH_THREADS_MAX];
    uint64_t sum = 0;
    for (unsigned n = bench_threads(pid, threads); n > 0; n--)
        sum += threads[n - 1].run_ns;
    return sum;
}

uint64_t bench_rss_bytes(pid_t pid) {
    char path[64];
    unsigned long long total, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The number behind a word of a file, or 0. */
static unsigned long long number_behind(const char *path, const char *row_begins,
                                        const char *word) {
    char row[256];
    unsigned long long v = 0;
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(row, sizeof row, f) != NULL) {
        const char *at =
            strncmp(row, row_begins, strlen(row_begins)) == 0 ? strstr(row, word) : NULL;
        if (at != NULL)
            v = strtoull(at + strlen(word), NULL, 10);
    }
    if (f != NULL)
        (void)fclose(f);
    return v;
}

uint64_t bench_kernel_bytes(void) {
    return number_behind("/proc/meminfo", "Slab:", "Slab:") * 1024 +
           number_behind("/proc/net/sockstat", "TCP:", " mem ") * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t bench_held_bytes(int fd) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    char row[256];
    int unread = 0;
    uint64_t held = 0;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0 || a.sin_family != AF_INET ||
        ioctl(fd, SIOCINQ, &unread) != 0)
        return 0;
    FILE *f = fopen("/proc/net/tcp", "re");
    while (f != NULL && fgets(row, sizeof row, f) != NULL) {
        unsigned address, port, queued;
        if (sscanf(row, " %*u: %*x:%*x %x:%x %*x %x:", &address, &port, &queued) == 3 &&
            address == a.sin_addr.s_addr && port == ntohs(a.sin_port))
            held = queued;
    }
    if (f != NULL)
        fclose(f);
    return held + (uint64_t)unread;
}

uint64_t bench_stolen_ns(void) {
    unsigned long long ticks = 0;
    FILE *f = fopen("/proc/stat", "re");
    if (f != NULL && fscanf(f, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &ticks) != 1)
        ticks = 0;
    if (f != NULL)
        fclose(f);
    return ticks * (1000000000u / (unsigned long long)sysconf(_SC_CLK_TCK));
}

void bench_machine(char *out, size_t out_bytes) {
    char row[256], model[200] = "unknown CPU";
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && fgets(row, sizeof row, f) != NULL)
        if (sscanf(row, "model name : %199[^\n]", model) == 1)
            break;
    if (f != NULL)
        fclose(f);
    struct utsname u;
    uname(&u);
    snprintf(out, out_bytes, "%s, %ld cores, %s %.32s", model, sysconf(_SC_NPROCESSORS_ONLN),
             u.sysname, u.release);
}

bool bench_pin(pid_t pid, unsigned core) {
    char path[64];
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    snprintf(path, sizeof path, "/proc/%d/task", (int)(pid != 0 ? pid : getpid()));
    DIR *d = opendir(path);
    bool all = d != NULL;
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            all =
                sched_setaffinity((pid_t)strtol(e->d_name, NULL, 10), sizeof set, &set) == 0 && all;
    if (d != NULL)
        closedir(d);
    return all;
}

/* ---- samples ------------------------------------------------------------------------------ */

void bench_sample_add(struct bench_sample *s, uint64_t v) {
    if (s->n == s->cap) {
        s->cap = s->cap == 0 ? 4096 : s->cap * 2;
        s->v = realloc(s->v, s->cap * sizeof *s->v);
        if (s->v == NULL)
            bench_die("out of memory");
    }
    s->v[s->n++] = v;
    s->sorted = false;
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t bench_sample_at(struct bench_sample *s, double quantile) {
    if (s->n == 0)
        return 0;
    if (!s->sorted)
        qsort(s->v, s->n, sizeof *s->v, compare_u64);
    s->sorted = true;
    size_t i = (size_t)(quantile * (double)s->n);
    return s->v[i < s->n ? i : s->n - 1];
}

void bench_sample_done(struct bench_sample *s) {
    free(s->v);
    *s = (struct bench_sample){0};
}

static int compare_double(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *v, size_t n) {
    qsort(v, n, sizeof *v, compare_double);
    return n == 0 ? 0 : n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- a broker ----------------------------------------------------------------------------- */

/* The first string of a JSON member's value: "key":["value",...] or "key":"value". */
static void json_first(const char *json, const char *key, char *out, size_t out_bytes) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *p = strstr(json, quoted);
    if (p == NULL)
        bench_die("the broker printed no address for %s: %s", key, json);
    p += strlen(quoted);
    p += strspn(p, " [\"");
    size_t n = strcspn(p, "\"");
    snprintf(out, out_bytes, "%.*s", (int)n, p);
}

void bench_beside_us(const char *name, char *out, size_t out_bytes) {
    size_t name_bytes = strlen(name) + 1;
    ssize_t n = readlink("/proc/self/exe", out, out_bytes - name_bytes);
    if (n < 0)
        bench_die("readlink /proc/self/exe: %s", strerror(errno));
    out[n] = '\0';
    memcpy(strrchr(out, '/') + 1, name, name_bytes);
}

/* Runs argv with its standard output on a pipe; returns the read end. */
static int spawn(char *const *argv, pid_t *ret_pid) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        bench_die("pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0) {
        dup2(fds[1], 1);
        execv(argv[0], argv);
        fprintf(stderr, "bench: cannot run %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    close(fds[1]);
    *ret_pid = pid;
    return fds[0];
}

/* One line within 30 s. */
static void read_line(int fd, char *out, size_t out_bytes) {
    FILE *f = fdopen(fd, "r");
    if (f == NULL || fgets(out, (int)out_bytes, f) == NULL)
        bench_die("the broker ended before it was ready; its error is above");
    /* f stays open: closing it would make the broker's next line fail */
}

/* At an exit in the middle of things our connections are still open: a drain would wait for them.
 */
static void stop_running(void) {
    if (running != NULL && running->pid > 0)
        kill(running->pid, SIGKILL);
    if (running != NULL)
        bench_broker_stop(running);
}

void bench_broker_start(struct bench_broker *b, const char *program, const char *const *set,
                        size_t n) {
    memset(b, 0, sizeof *b);
    if (program != NULL)
        snprintf(b->program, sizeof b->program, "%s", program);
    else
        bench_beside_us("postern", b->program, sizeof b->program);
    snprintf(b->dir, sizeof b->dir, "%s/postern-bench-XXXXXX",
             getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    if (mkdtemp(b->dir) == NULL)
        bench_die("mkdtemp %s: %s", b->dir, strerror(errno));
    char *argv[32] = {b->program, "run", "--print-listen", "--data", b->dir};
    size_t argc = 5;
    char http[] = "listen.http=127.0.0.1:0", admin[] = "listen.admin=127.0.0.1:0",
         level[] = "log.level=warn";
    char *const fixed[] = {http, admin, level};
    for (size_t i = 0; i < PTN_ARRAY_LEN(fixed); i++) {
        argv[argc++] = "--set";
        argv[argc++] = fixed[i];
    }
    for (size_t i = 0; i < n && argc + 3 < PTN_ARRAY_LEN(argv); i++) {
        argv[argc++] = "--set";
        argv[argc++] = (char *)(uintptr_t)set[i];
    }
    setenv("POSTERN_ADMIN_PASSWORD", "bench-only-password", 1);
    running = b;
    atexit(stop_running);
    char listen[4096];
    int fd = spawn(argv, &b->pid);
    unsetenv("POSTERN_ADMIN_PASSWORD");
    read_line(fd, listen, sizeof listen);
    json_first(listen, "http", b->http, sizeof b->http);
    json_first(listen, "admin", b->admin, sizeof b->admin);
    json_first(listen, "zmq", b->zmq, sizeof b->zmq);
    json_first(listen, "zmq_events", b->zmq_events, sizeof b->zmq_events);
    bench_broker_token(b, "admin", b->token, sizeof b->token);
}

void bench_broker_token(const struct bench_broker *b, const char *name, char *out,
                        size_t out_bytes) {
    char dir[256], account[256];
    snprintf(dir, sizeof dir, "%s", b->dir);
    snprintf(account, sizeof account, "%s", name);
    char program[512];
    snprintf(program, sizeof program, "%s", b->program);
    char *argv[] = {program, "token", account, "--ttl", "12h", "--data", dir, NULL};
    pid_t pid;
    int fd = spawn(argv, &pid);
    FILE *f = fdopen(fd, "r");
    if (f == NULL || fgets(out, (int)out_bytes, f) == NULL)
        bench_die("'postern token %s' printed nothing", name);
    fclose(f);
    out[strcspn(out, "\n")] = '\0';
    waitpid(pid, NULL, 0);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

void bench_broker_stop(struct bench_broker *b) {
    running = NULL;
    if (b->pid > 0) {
        kill(b->pid, SIGTERM);
        waitpid(b->pid, NULL, 0);
        b->pid = 0;
    }
    if (b->dir[0] != '\0')
        nftw(b->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    b->dir[0] = '\0';
}

/* ---- sockets ------------------------------------------------------------------------------ */

int bench_connect(const char *address, const char *source) {
    char host[64];
    unsigned port;
    if (sscanf(address, "%63[^:]:%u", host, &port) != 2)
        bench_die("not an address: %s", address);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &to.sin_addr) != 1)
        bench_die("not an IPv4 address: %s", host);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0)
        bench_die("socket: %s", strerror(errno));
    if (source != NULL) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        inet_pton(AF_INET, source, &from.sin_addr);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0)
            bench_die("bind %s: %s", source, strerror(errno));
    }
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        bench_die("connect %s: %s", address, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}
