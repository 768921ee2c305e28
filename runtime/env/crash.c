/* SPDX-License-Identifier: Apache-2.0
 *
 * crash.c - the last words of the process, and the signals by which threads are watched.
 *
 * A fault is recorded, not survived: the handler writes what it knows to standard error and to the
 * record file, puts back the action that was there before, and raises the signal again, so that
 * exit status and core dump are those of the fault.  It uses system calls and memory of its own
 * only; a second fault inside it ends the process at once, because all of these signals are blocked
 * there, and what has been written until then stays.  A clock ends it if it hangs.
 *
 * Threads speak for themselves: what a thread is doing is private to it, so for the record each one
 * is sent a signal and writes its own answer.  A thread that blocks signals or is stuck in the
 * kernel does not answer, and that is an answer too.
 *
 * Ticks come from a timer on the thread's own CPU clock.  A thread that sleeps, a stopped container
 * and a process in a debugger use no CPU time and are left alone, and an idle process is never
 * woken.
 *
 * Sources: signal-safety(7), timer_create(2), sigaltstack(2), backtrace(3); elf(5) for the build
 * id.
 */
#include "runtime/env/crash.h"

#include <postern/runtime.h>

#include <elf.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define THREADS_MAX                                                                                \
    96 /* more than PTN_WORKERS_MAX and the lanes; past it a thread has no place                   \
        */
#define MODULES_MAX 64
#define FRAMES_MAX 48
#define ANSWER_BYTES 2048
#define BUILD_ID_BYTES 20
#define STACK_BYTES (64u << 10) /* of the handlers; backtrace() needs some 10 KiB */
#define ANSWER_WAIT_MS 500
#define RECORD_WAIT_S 10
#define WATCH_SIGNAL SIGVTALRM /* nobody else in the process uses it */

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

struct thread {
    _Atomic(pid_t) tid; /* 0: free; owner: the thread */
    char name[16];
    ptn_env_guard guard;
    stack_t stack, stack_before;
    timer_t timer;
    bool timed;
    _Atomic(const void *) arg;     /* guard.arg, for other threads */
    const ucontext_t *interrupted; /* inside a handler: by which the frames are cut */
    atomic_bool asked, answered;
    char answer[ANSWER_BYTES];
    size_t answer_bytes;
};

struct module {
    uintptr_t lo, hi, base;
    char name[32];
};

struct event {
    _Atomic(const char *) what, actor;
    _Atomic(uint64_t) addr;
    _Atomic(uint32_t) type;
    _Atomic(int) reason;
};

static const struct {
    int number;
    const char *name;
} faults[] = {{SIGSEGV, "SIGSEGV"},
              {SIGBUS, "SIGBUS"},
              {SIGILL, "SIGILL"},
              {SIGFPE, "SIGFPE"},
              {SIGABRT, "SIGABRT"}};

static struct thread threads[THREADS_MAX];
static _Thread_local struct thread *self;
static struct event events[PTN__CRASH_EVENTS]; /* relaxed: a torn line in a record is bearable */
static _Atomic(uint32_t) n_events;

/* Set by ptn_crash_install() before there are threads. */
static struct module modules[MODULES_MAX];
static size_t n_modules;
static char build_id[2 * BUILD_ID_BYTES + 1];
static char record_path[PATH_MAX];
static const char *version = "unknown";
static const char *(*msg_name)(uint32_t type);
static struct sigaction before[PTN_ARRAY_LEN(faults)];

static _Atomic(pid_t) writer; /* the thread that writes the record */
static const char *why_what, *why_file;
static uint64_t why_number; /* line of the file, or milliseconds */

static const char *base_name(const char *path) {
    const char *name = path;
    for (; *path != '\0'; path++)
        if (*path == '/')
            name = path + 1;
    return name;
}

/* ---- text --------------------------------------------------------------------------------- */

void ptn__text_z(struct ptn__text *t, const char *z) {
    while (*z != '\0' && t->n < t->max)
        t->p[t->n++] = *z++;
}

static void text_number(struct ptn__text *t, uint64_t v, unsigned base) {
    char digits[24];
    size_t i = sizeof digits - 1;
    digits[i] = '\0';
    do {
        digits[--i] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v > 0);
    ptn__text_z(t, digits + i);
}

void ptn__text_u64(struct ptn__text *t, uint64_t v) {
    text_number(t, v, 10);
}

void ptn__text_hex(struct ptn__text *t, uint64_t v) {
    ptn__text_z(t, "0x");
    text_number(t, v, 16);
}

void ptn__text_msg(struct ptn__text *t, uint32_t type) {
    ptn__text_u64(t, type);
    const char *name = msg_name != NULL ? msg_name(type) : NULL;
    if (name != NULL) {
        ptn__text_z(t, " ");
        ptn__text_z(t, name);
    }
}

static void text_code(struct ptn__text *t, uintptr_t at) {
    for (size_t i = 0; i < n_modules; i++)
        if (at >= modules[i].lo && at < modules[i].hi) {
            ptn__text_z(t, modules[i].name);
            ptn__text_z(t, "+");
            at -= modules[i].base;
            break;
        }
    ptn__text_hex(t, at);
}

static uintptr_t code_of(const ucontext_t *u) {
    if (u == NULL)
        return 0;
#if defined(__x86_64__)
    return (uintptr_t)u->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return (uintptr_t)u->uc_mcontext.pc;
#elif defined(__riscv)
    return (uintptr_t)u->uc_mcontext.__gregs[REG_PC];
#else
    return 0; /* the frames then begin in the handler */
#endif
}

static void text_stack_of(struct ptn__text *t, const ucontext_t *u, const char *between) {
    void *frames[FRAMES_MAX];
    int n = backtrace(frames, FRAMES_MAX), from = 0;
    uintptr_t at = code_of(u);
    for (int i = 0; i < n && from == 0; i++)
        if ((uintptr_t)frames[i] == at)
            from = i;
    if (from == 0 && at != 0) { /* a jump to nowhere: no unwinder knows the way from there */
        text_code(t, at);
        ptn__text_z(t, between);
    }
    for (int i = from; i < n; i++) {
        text_code(t, (uintptr_t)frames[i]);
        if (i + 1 < n)
            ptn__text_z(t, between);
    }
}

void ptn__text_stack(struct ptn__text *t, const char *between) {
    text_stack_of(t, self != NULL ? self->interrupted : NULL, between);
}

/* ---- the record --------------------------------------------------------------------------- */

struct record {
    int fd; /* -1: standard error only */
    struct ptn__text line;
    char buf[ANSWER_BYTES];
};

static void write_all(int fd, const char *p, size_t n) {
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno != EINTR)
            return; /* a full disk or a closed terminal: the other one may do better */
        if (done > 0) {
            p += done;
            n -= (size_t)done;
        }
    }
}

static void record_flush(struct record *r) {
    write_all(STDERR_FILENO, r->buf, r->line.n);
    if (r->fd >= 0)
        write_all(r->fd, r->buf, r->line.n);
    r->line.n = 0;
}

static void record_end_line(struct record *r) {
    if (r->line.n == r->line.max)
        r->line.n--;
    ptn__text_z(&r->line, "\n");
    record_flush(r);
}

static void record_line(struct record *r, const char *key, const char *value) {
    ptn__text_z(&r->line, key);
    ptn__text_z(&r->line, value);
    record_end_line(r);
}

static void record_head(struct record *r) {
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    record_line(r, "postern crash record", "");
    record_line(r, "version: ", version);
    record_line(r, "build: ", build_id);
    ptn__text_z(&r->line, "time: ");
    ptn__text_u64(&r->line, (uint64_t)now.tv_sec);
    record_end_line(r);
    ptn__text_z(&r->line, "process: ");
    ptn__text_u64(&r->line, (uint64_t)getpid());
    record_end_line(r);
}

static void record_why(struct record *r, int sig, const siginfo_t *si) {
    struct ptn__text *t = &r->line;
    ptn__text_z(t, "why: ");
    for (size_t i = 0; i < PTN_ARRAY_LEN(faults); i++)
        if (faults[i].number == sig)
            ptn__text_z(t, faults[i].name);
    if (why_what != NULL) {
        ptn__text_z(t, ", ");
        ptn__text_z(t, why_what);
        ptn__text_z(t, why_file != NULL ? ", " : ": ");
        ptn__text_z(t, why_file != NULL ? base_name(why_file) : "");
        ptn__text_z(t, why_file != NULL ? ":" : "");
        ptn__text_u64(t, why_number);
        ptn__text_z(t, why_file != NULL ? "" : " ms of CPU time");
    } else if (si != NULL && si->si_code <= 0) {
        ptn__text_z(t, ", sent by process ");
        ptn__text_u64(t, (uint64_t)si->si_pid);
    } else if (si != NULL && sig != SIGABRT) {
        ptn__text_z(t, ", address ");
        ptn__text_hex(t, (uintptr_t)si->si_addr);
        ptn__text_z(t, ", code ");
        ptn__text_u64(t, (uint64_t)si->si_code);
    }
    record_end_line(r);
}

static void text_doing(struct ptn__text *t, const struct thread *th) {
    ptn__text_z(t, th->name);
    if (th->guard.say != NULL) {
        ptn__text_z(t, ": ");
        th->guard.say(th->guard.arg, t);
    }
}

static void record_stack(struct record *r, const ucontext_t *u) {
    ptn__text_z(&r->line, "thread: ");
    if (self != NULL)
        text_doing(&r->line, self);
    else
        ptn__text_z(&r->line, "not one of the runtime's");
    record_end_line(r);
    record_line(r, "stack:", "");
    ptn__text_z(&r->line, "  ");
    text_stack_of(&r->line, u, "\n  ");
    record_end_line(r);
}

static void record_events(struct record *r) {
    uint32_t n = atomic_load_explicit(&n_events, memory_order_relaxed);
    record_line(r, "events, oldest first:", n == 0 ? " none" : "");
    for (uint32_t i = n > PTN__CRASH_EVENTS ? n - PTN__CRASH_EVENTS : 0; i < n; i++) {
        const struct event *e = &events[i % PTN__CRASH_EVENTS];
        const char *what = atomic_load_explicit(&e->what, memory_order_relaxed);
        const char *actor = atomic_load_explicit(&e->actor, memory_order_relaxed);
        int reason = atomic_load_explicit(&e->reason, memory_order_relaxed);
        ptn__text_z(&r->line, "  ");
        ptn__text_z(&r->line, what != NULL ? what : "");
        ptn__text_z(&r->line, " actor ");
        ptn__text_z(&r->line, actor != NULL ? actor : "unknown");
        ptn__text_z(&r->line, " ");
        ptn__text_hex(&r->line, atomic_load_explicit(&e->addr, memory_order_relaxed));
        ptn__text_z(&r->line, " message ");
        ptn__text_msg(&r->line, atomic_load_explicit(&e->type, memory_order_relaxed));
        ptn__text_z(&r->line, " reason ");
        ptn__text_u64(&r->line, (uint64_t)(reason < 0 ? -(int64_t)reason : reason));
        record_end_line(r);
    }
}

/* Asks all, waits for all together, then writes in order. */
static void record_threads(struct record *r) {
    for (size_t i = 0; i < THREADS_MAX; i++) {
        struct thread *th = &threads[i];
        pid_t tid = atomic_load_explicit(&th->tid, memory_order_acquire);
        if (tid == 0 || th == self)
            continue;
        atomic_store_explicit(&th->asked, true, memory_order_relaxed);
        (void)syscall(SYS_tgkill, getpid(), tid, WATCH_SIGNAL);
    }
    const struct timespec pause_1ms = {.tv_nsec = 1000000};
    for (unsigned ms = 0, missing = 1; missing > 0 && ms < ANSWER_WAIT_MS; ms++) {
        missing = 0;
        for (size_t i = 0; i < THREADS_MAX; i++)
            /* acquire: partner is the release in on_watch() */
            missing += atomic_load_explicit(&threads[i].asked, memory_order_relaxed) &&
                       !atomic_load_explicit(&threads[i].answered, memory_order_acquire);
        if (missing > 0)
            (void)nanosleep(&pause_1ms, NULL);
    }
    record_line(r, "other threads:", "");
    for (size_t i = 0; i < THREADS_MAX; i++) {
        const struct thread *th = &threads[i];
        if (!atomic_load_explicit(&th->asked, memory_order_relaxed))
            continue;
        ptn__text_z(&r->line, "  ");
        if (atomic_load_explicit(&th->answered, memory_order_acquire)) {
            for (size_t k = 0; k < th->answer_bytes && r->line.n < r->line.max; k++)
                r->line.p[r->line.n++] = th->answer[k];
        } else {
            ptn__text_z(&r->line, th->name);
            ptn__text_z(&r->line, ": no answer");
        }
        record_end_line(r);
    }
}

static void record_write(int sig, const siginfo_t *si, const ucontext_t *u) {
    struct record r = {.fd = -1};
    r.line = (struct ptn__text){.p = r.buf, .max = sizeof r.buf};
    (void)signal(SIGALRM, SIG_DFL);
    (void)alarm(RECORD_WAIT_S);
    if (record_path[0] != '\0')
        r.fd = open(record_path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    record_head(&r);
    record_why(&r, sig, si);
    record_events(&r);
    record_stack(&r, u);
    record_threads(&r);
    record_line(&r, "end of record", "");
    if (r.fd >= 0) {
        (void)fsync(r.fd);
        (void)close(r.fd);
    }
    (void)alarm(0);
}

/* True: this thread writes the record.  A thread that faults while another one writes waits for the
 * end of the process. */
static bool record_claim(void) {
    pid_t none = 0, me = (pid_t)syscall(SYS_gettid);
    if (atomic_compare_exchange_strong(&writer, &none, me))
        return true;
    while (none != me)
        (void)pause();
    return false;
}

static void end_process(int sig) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(faults); i++)
        if (faults[i].number == sig)
            (void)sigaction(sig, &before[i], NULL);
    (void)raise(sig); /* pending until the handler returns, unless the fault itself comes again */
}

static void on_fault(int sig, siginfo_t *si, void *context) {
    int saved = errno;
    if (record_claim())
        record_write(sig, si, context);
    end_process(sig);
    errno = saved;
}

void ptn__crash_note(const char *what, const char *actor, uint64_t addr, uint32_t type,
                     int reason) {
    uint32_t i = atomic_fetch_add_explicit(&n_events, 1, memory_order_relaxed);
    struct event *e = &events[i % PTN__CRASH_EVENTS];
    atomic_store_explicit(&e->what, what, memory_order_relaxed);
    atomic_store_explicit(&e->actor, actor, memory_order_relaxed);
    atomic_store_explicit(&e->addr, addr, memory_order_relaxed);
    atomic_store_explicit(&e->type, type, memory_order_relaxed);
    atomic_store_explicit(&e->reason, reason, memory_order_relaxed);
}

void ptn__crash_why(const char *what, const char *file, int line) {
    why_what = what;
    why_file = file;
    why_number = (uint64_t)line;
}

void ptn__crash_abort(const char *what, uint64_t ms) {
    if (record_claim()) {
        why_what = what;
        why_file = NULL;
        why_number = ms;
        record_write(SIGABRT, NULL, self != NULL ? self->interrupted : NULL);
    }
    end_process(SIGABRT);
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGABRT);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    abort(); /* whoever was there before us did not end it */
}

/* ---- install ------------------------------------------------------------------------------ */

static void take_build_id(const struct dl_phdr_info *info, const ElfW(Phdr) * ph) {
    const char *p = (const char *)(info->dlpi_addr + ph->p_vaddr), *end = p + ph->p_memsz;
    while ((size_t)(end - p) >= sizeof(ElfW(Nhdr))) {
        const ElfW(Nhdr) *n = (const void *)p;
        const char *name = p + sizeof *n, *desc = name + ((n->n_namesz + 3u) & ~3u);
        if (desc > end || n->n_descsz > (size_t)(end - desc))
            return;
        if (n->n_type == NT_GNU_BUILD_ID && n->n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
            size_t bytes = n->n_descsz < BUILD_ID_BYTES ? n->n_descsz : BUILD_ID_BYTES;
            for (size_t i = 0; i < bytes; i++) {
                build_id[2 * i] = "0123456789abcdef"[(uint8_t)desc[i] >> 4];
                build_id[2 * i + 1] = "0123456789abcdef"[(uint8_t)desc[i] & 15];
            }
            return;
        }
        p = desc + ((n->n_descsz + 3u) & ~3u);
    }
}

static int take_module(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    (void)arg;
    if (n_modules == MODULES_MAX)
        return 1;
    struct module *m = &modules[n_modules];
    *m = (struct module){.lo = UINTPTR_MAX, .base = info->dlpi_addr};
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        uintptr_t lo = info->dlpi_addr + ph->p_vaddr, hi = lo + ph->p_memsz;
        if (ph->p_type == PT_NOTE && n_modules == 0) /* the program itself comes first */
            take_build_id(info, ph);
        if (ph->p_type != PT_LOAD)
            continue;
        m->lo = lo < m->lo ? lo : m->lo;
        m->hi = hi > m->hi ? hi : m->hi;
    }
    const char *name = n_modules == 0 ? program_invocation_name : info->dlpi_name;
    name = base_name(name);
    (void)memcpy(m->name, name, strnlen(name, sizeof m->name - 1));
    n_modules += m->hi != 0;
    return 0;
}

int ptn_crash_install(const ptn_crash_opts *o) {
    size_t n = o->path != NULL ? strlen(o->path) : 0;
    if (n >= sizeof record_path)
        return -PTN_EINVAL;
    if (n > 0)
        memcpy(record_path, o->path, n + 1);
    version = o->version != NULL ? o->version : version;
    msg_name = o->msg_name;
    n_modules = 0;
    (void)dl_iterate_phdr(take_module, NULL);
    void *warm[2];
    (void)backtrace(warm, 2); /* loads the unwinder, which allocates the first time */
    struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    (void)sigemptyset(&act.sa_mask);
    for (size_t i = 0; i < PTN_ARRAY_LEN(faults); i++)
        (void)sigaddset(&act.sa_mask, faults[i].number);
    (void)sigaddset(&act.sa_mask, WATCH_SIGNAL);
    for (size_t i = 0; i < PTN_ARRAY_LEN(faults); i++)
        if (sigaction(faults[i].number, &act, &before[i]) != 0)
            return -PTN_EIO;
    return 0;
}

/* ---- threads ------------------------------------------------------------------------------ */

static void answer(struct thread *th) {
    struct ptn__text t = {.p = th->answer, .max = sizeof th->answer};
    text_doing(&t, th);
    ptn__text_z(&t, "\n    ");
    ptn__text_stack(&t, "\n    ");
    th->answer_bytes = t.n;
    atomic_store_explicit(&th->answered, true,
                          memory_order_release); /* record_threads() acquires */
}

static void on_watch(int sig, siginfo_t *si, void *context) {
    (void)sig;
    int saved = errno;
    struct thread *th = self;
    if (th == NULL)
        return; /* a last tick after the end */
    const ucontext_t *outer = th->interrupted;
    th->interrupted = context;
    if (atomic_load_explicit(&th->asked, memory_order_relaxed) && si->si_code == SI_TKILL)
        answer(th);
    else if (si->si_code == SI_TIMER && th->guard.tick != NULL)
        th->guard.tick(th->guard.arg);
    else if (si->si_code == SI_TKILL && th->guard.poked != NULL)
        th->guard.poked(th->guard.arg);
    th->interrupted = outer;
    errno = saved;
}

static void watch_install(void) {
    struct sigaction act = {.sa_sigaction = on_watch,
                            .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    (void)sigemptyset(&act.sa_mask);
    (void)sigaction(WATCH_SIGNAL, &act, NULL);
    void *warm[2];
    (void)backtrace(warm, 2);
}

/* A guard page below, so that an overflow of this stack is a fault and not damage. */
static void stack_enter(struct thread *th) {
    long page = sysconf(_SC_PAGESIZE), least = sysconf(_SC_SIGSTKSZ);
    size_t guard = page > 0 ? (size_t)page : 4096, size = STACK_BYTES;
    if (least > 0 && (size_t)least * 2 > size)
        size = ((size_t)least * 2 + guard - 1) / guard * guard;
    char *p = mmap(NULL, guard + size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return; /* faults are then handled on the thread's own stack, overflows not at all */
    (void)mprotect(p, guard, PROT_NONE);
    th->stack = (stack_t){.ss_sp = p + guard, .ss_size = size};
    if (sigaltstack(&th->stack, &th->stack_before) != 0) {
        (void)munmap(p, guard + size);
        th->stack = (stack_t){0};
    }
}

static void stack_leave(struct thread *th) {
    long page = sysconf(_SC_PAGESIZE);
    size_t guard = page > 0 ? (size_t)page : 4096;
    if (th->stack.ss_sp == NULL)
        return;
    (void)sigaltstack(&th->stack_before, NULL);
    (void)munmap((char *)th->stack.ss_sp - guard, guard + th->stack.ss_size);
    th->stack = (stack_t){0};
}

static int timer_enter(struct thread *th, pid_t tid) {
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WATCH_SIGNAL};
    ev.sigev_notify_thread_id = tid;
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &th->timer) != 0)
        return -PTN_EIO;
    struct itimerspec every = {.it_value = {.tv_sec = (time_t)(th->guard.tick_ns / PTN_SEC),
                                            .tv_nsec = (long)(th->guard.tick_ns % PTN_SEC)}};
    every.it_interval = every.it_value;
    th->timed = timer_settime(th->timer, 0, &every, NULL) == 0;
    if (!th->timed)
        (void)timer_delete(th->timer);
    return th->timed ? 0 : -PTN_EIO;
}

int ptn__guard_enter(const ptn_env_guard *g) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, watch_install);
    pid_t tid = (pid_t)syscall(SYS_gettid);
    struct thread *th = NULL;
    for (size_t i = 0; i < THREADS_MAX && th == NULL; i++) {
        pid_t none = 0;
        if (atomic_compare_exchange_strong(&threads[i].tid, &none, tid))
            th = &threads[i];
    }
    if (th == NULL)
        return -PTN_EOVERLOAD;
    th->guard = *g;
    atomic_store_explicit(&th->arg, g->arg, memory_order_relaxed);
    memset(th->name, 0, sizeof th->name);
    memcpy(th->name, g->name, strnlen(g->name, sizeof th->name - 1));
    th->timed = false;
    stack_enter(th);
    self = th;
    return g->tick != NULL && g->tick_ns > 0 ? timer_enter(th, tid) : 0;
}

void ptn__guard_poke(const void *arg) {
    for (size_t i = 0; i < THREADS_MAX; i++) {
        /* relaxed, both: who comes or goes just now is not stuck, and ignores it */
        pid_t tid = atomic_load_explicit(&threads[i].tid, memory_order_relaxed);
        if (tid != 0 && atomic_load_explicit(&threads[i].arg, memory_order_relaxed) == arg)
            (void)syscall(SYS_tgkill, getpid(), tid, WATCH_SIGNAL);
    }
}

void ptn__guard_leave(void) {
    struct thread *th = self;
    if (th == NULL)
        return;
    if (th->timed)
        (void)timer_delete(th->timer);
    self = NULL;
    atomic_store_explicit(&th->arg, NULL, memory_order_relaxed);
    stack_leave(th);
    atomic_store_explicit(&th->tid, 0, memory_order_release);
}
