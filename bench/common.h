/* SPDX-License-Identifier: Apache-2.0
 *
 * common.h - what the bundled tools share: clocks, percentiles, a broker of their own to measure.
 *
 * Tools run on one thread and exit on error with one line that says what failed.
 */
#ifndef POSTERN_BENCH_COMMON_H
#define POSTERN_BENCH_COMMON_H

#include <postern/base.h>
#include <stdio.h>
#include <sys/types.h>

_Noreturn void bench_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
uint64_t bench_now_ns(void); /* CLOCK_MONOTONIC */

/* What a thread has had of the cores so far, and how long it was ready and had none
 * (/proc/PID/task/TID/schedstat). */
struct bench_thread {
    pid_t tid;
    uint64_t run_ns, wait_ns;
};
#define BENCH_THREADS_MAX 512u
/* Returns how many there are, at most BENCH_THREADS_MAX; 0 when the process has gone. */
unsigned bench_threads(pid_t pid, struct bench_thread *ret_threads);
/* CPU time of all of them; 0 when the process has gone. */
uint64_t bench_cpu_ns(pid_t pid);
/* Time of all cores so far that the host gave to somebody else although this machine had work for
 * them (/proc/stat, in steps of 10 ms); 0 where nobody tells. */
uint64_t bench_stolen_ns(void);
/* Resident bytes (/proc/PID/statm). */
uint64_t bench_rss_bytes(pid_t pid);
/* "Intel Xeon …, 2 cores, Linux 6.1" */
void bench_machine(char *out, size_t out_bytes);
/* Bytes that the kernel holds for all of the machine's sockets and files: slabs, and what is in
 * TCP's queues (/proc/meminfo, /proc/net/sockstat). */
uint64_t bench_kernel_bytes(void);
/* What the kernel holds for a TCP connection over IPv4 whose other end is on this machine: not read
 * yet here, not taken from the other end there (/proc/net/tcp).  0: it cannot be told. */
uint64_t bench_held_bytes(int fd);
/* Runs the calling process, or pid, all its threads, on one core only; false: the machine has no
 * such core. */
bool bench_pin(pid_t pid, unsigned core);

/* A growing sample of durations. */
struct bench_sample {
    uint64_t *v;
    size_t n, cap;
    bool sorted;
};
void bench_sample_add(struct bench_sample *s, uint64_t v);
uint64_t bench_sample_at(struct bench_sample *s, double quantile); /* 0..1; 0 when empty */
void bench_sample_done(struct bench_sample *s);
double bench_median(double *v, size_t n); /* sorts v */

/* A broker started for this measurement: temporary data directory, ports chosen by the system. */
struct bench_broker {
    pid_t pid;
    char dir[256];
    char http[128], admin[128]; /* "127.0.0.1:40123" */
    char zmq[256], zmq_events[256];
    char token[2048]; /* of the admin account */
    char program[512];
};
/* Path of a program that stands beside this one. */
void bench_beside_us(const char *name, char *out, size_t out_bytes);
/* program: path of postern, or NULL: beside the tool itself.  set: "key=value" pairs for --set, n
 * of them. */
void bench_broker_start(struct bench_broker *b, const char *program, const char *const *set,
                        size_t n);
/* Token of an existing account, through `postern token`. */
void bench_broker_token(const struct bench_broker *b, const char *name, char *out,
                        size_t out_bytes);
/* SIGTERM, waits, removes the directory.  Also runs at exit when forgotten. */
void bench_broker_stop(struct bench_broker *b);

/* A connected, non-blocking TCP socket with TCP_NODELAY.  source: local address ("127.0.0.2") or
 * NULL. */
int bench_connect(const char *address, const char *source);

#endif
