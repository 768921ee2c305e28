/* SPDX-License-Identifier: Apache-2.0
 *
 * env_uv_bind.c - endpoints: address text to bound sockets.
 *
 * TCP: one socket per worker, sharing the port through SO_REUSEPORT, which would also let another
 * process of the same user share it unnoticed.  So the first socket binds without that option and
 * gets it afterwards: a port that somebody else listens on is reported, and our own other sockets
 * may still join.
 *
 * Unix: one socket, for worker 0.  Its mode is set before bind(), so that the file is never open to
 * others, and a file that is in the way is removed only when connecting to it is refused.
 *
 * A worker takes its socket out of the endpoint when it listens.  When it listens again (its actor
 * was restarted) the socket is made anew at the same address.  fds[w] belongs to the main thread
 * before run(), and to worker w afterwards.
 */
#include "runtime/env/env_uv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024
/* What the kernel takes beyond what the peer's window lets it send (tcp(7)).  Left to itself it
 * takes 4 MiB, and a ping, an answer or a live event then stands behind as much of a backlog. */
#define UNSENT_BYTES (128 * 1024)
#define KEEPALIVE_IDLE_S 60 /* a host that vanished is noticed after 60 + 4 * 15 s */
#define KEEPALIVE_INTERVAL_S 15
#define KEEPALIVE_PROBES 4

struct ptn_env_endpoint {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } addr;
    socklen_t addr_len;
    struct ptn__uv_path file; /* Unix: what fds[0] is bound to; path empty: no file of ours */
    unsigned n_fds;
    int fds[]; /* -1: taken by its worker, or never made */
};

_Static_assert(sizeof(((struct ptn__uv_path *)0)->path) ==
                   sizeof(((struct sockaddr_un *)0)->sun_path),
               "a socket path fits");

static bool is_unix(const ptn_env_endpoint *ep) {
    return ep->addr.any.sa_family == AF_UNIX;
}

static int bind_error(int err, const char **reterr_why) {
    switch (err) {
    case EADDRINUSE:
        *reterr_why = "address already in use: another process listens there";
        return -PTN_EADDRINUSE;
    case EACCES:
    case EPERM:
        *reterr_why = "permission denied (ports below 1024 need privileges; socket files a "
                      "writable directory)";
        return -PTN_EACCESS;
    case EADDRNOTAVAIL:
        *reterr_why = "this host has no such address";
        return -PTN_ENOTFOUND;
    case ENOENT:
    case ENOTDIR:
        *reterr_why = "the socket's directory does not exist";
        return -PTN_ENOTFOUND;
    case EAFNOSUPPORT:
        *reterr_why = "this host does not support that address family";
        return -PTN_EINVAL;
    case EMFILE:
    case ENFILE:
        *reterr_why = "no file descriptors left";
        return -PTN_EIO;
    case ENOMEM:
    case ENOBUFS:
        *reterr_why = "out of memory";
        return -PTN_ENOMEM;
    default:
        *reterr_why = "the system refused the socket";
        return -PTN_EIO;
    }
}

/* ---- text to address ---------------------------------------------------------------------- */

static int bad_address(const char **reterr_why, const char *why) {
    *reterr_why = why;
    return -PTN_EINVAL;
}

/* Decimal, 0..65535, all of the text. */
static bool port_is_valid(const char *p) {
    unsigned long port = 0;
    size_t n = 0;
    for (; p[n] >= '0' && p[n] <= '9' && n < 6; n++)
        port = port * 10 + (unsigned long)(p[n] - '0');
    return n > 0 && p[n] == '\0' && port <= 65535;
}

/* Splits "host:port", "[v6]:port", ":port" into host (terminated copy) and port (points into
 * where). */
static int split_host_port(const char *where, char *ret_host, size_t host_bytes,
                           const char **ret_port, const char **reterr_why) {
    const char *host = where;
    const char *colon = strrchr(where, ':');
    if (colon == NULL)
        return bad_address(reterr_why, "bad address: no port (host:port, [v6]:port or unix:/path)");
    size_t n = (size_t)(colon - where);
    if (where[0] == '[') {
        if (n < 2 || where[n - 1] != ']')
            return bad_address(reterr_why, "bad address: unbalanced [ ]");
        host++;
        n -= 2;
    } else if (memchr(where, ':', n) != NULL) {
        return bad_address(reterr_why, "bad address: write an IPv6 address as [address]:port");
    }
    if (!port_is_valid(colon + 1))
        return bad_address(reterr_why, "bad address: the port is not a number from 0 to 65535");
    if (n >= host_bytes)
        return bad_address(reterr_why, "bad address: the host name is too long");
    if (n == 0)
        (void)snprintf(ret_host, host_bytes, "%s", where[0] == '[' ? "::" : "0.0.0.0");
    else
        (void)snprintf(ret_host, host_bytes, "%.*s", (int)n, host);
    *ret_port = colon + 1;
    return 0;
}

/* May ask the resolver, and so block: main thread, before run(). */
static int resolve(const char *where, ptn_env_endpoint *ep, const char **reterr_why) {
    char host[256];
    const char *port;
    int err = split_host_port(where, host, sizeof host, &port, reterr_why);
    if (err != 0)
        return err;
    struct addrinfo hints = {.ai_family = where[0] == '[' ? AF_INET6 : AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | (where[0] == '[' ? AI_NUMERICHOST : 0)};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0) {
        if (where[0] == '[')
            return bad_address(reterr_why, "bad address: not an IPv6 address in [ ]");
        *reterr_why = "unknown host";
        return rc == EAI_MEMORY ? -PTN_ENOMEM : -PTN_ENOTFOUND;
    }
    /* A name may mean both families; IPv4 then, as clients on edge hosts expect of "localhost". */
    const struct addrinfo *use = found;
    for (const struct addrinfo *a = found; a != NULL; a = a->ai_next) {
        if (a->ai_family == AF_INET) {
            use = a;
            break;
        }
    }
    if (use->ai_addrlen > sizeof ep->addr) {
        freeaddrinfo(found);
        return bad_address(reterr_why, "bad address");
    }
    memcpy(&ep->addr, use->ai_addr, use->ai_addrlen);
    ep->addr_len = use->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

void ptn__uv_addr_text(const void *sockaddr, char *ret_text, size_t ret_text_bytes) {
    const struct sockaddr *any = sockaddr;
    char host[INET6_ADDRSTRLEN];
    if (any->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = sockaddr;
        if (inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host) == NULL)
            host[0] = '\0';
        (void)snprintf(ret_text, ret_text_bytes, "%s:%u", host, (unsigned)ntohs(v4->sin_port));
    } else if (any->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = sockaddr;
        if (inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host) == NULL)
            host[0] = '\0';
        (void)snprintf(ret_text, ret_text_bytes, "[%s]:%u", host, (unsigned)ntohs(v6->sin6_port));
    } else {
        (void)snprintf(ret_text, ret_text_bytes, "unix");
    }
}

/* ---- sockets ------------------------------------------------------------------------------ */

static int set_option(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}

/* Accepted sockets inherit these (Linux), which saves system calls per connection. */
static int tcp_options(int fd, int family) {
    int rc = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    rc |= set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    rc |= set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES);
    rc |= set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    rc |= set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    rc |= set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
    rc |= set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
    if (family == AF_INET6) /* so that [::] and 0.0.0.0 can both be configured */
        rc |= set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    return rc;
}

/* A socket bound to ep->addr, not listening.  exclusive: report a port that is shared with others.
 */
static int tcp_socket(const ptn_env_endpoint *ep, bool exclusive, int *ret_fd,
                      const char **reterr_why) {
    int family = ep->addr.any.sa_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bind_error(errno, reterr_why);
    int rc = tcp_options(fd, family);
    if (rc == 0 && ep->n_fds > 1 && !exclusive)
        rc = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (rc == 0)
        rc = bind(fd, &ep->addr.any, ep->addr_len);
    if (rc == 0 && ep->n_fds > 1 && exclusive)
        rc = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    /* A single socket listens at once; of several each listens when its worker takes it, because
     * the kernel hands connections to all that listen, taken or not. */
    if (rc == 0 && ep->n_fds == 1)
        rc = listen(fd, BACKLOG);
    if (rc != 0) {
        int err = bind_error(errno, reterr_why);
        close(fd);
        return err;
    }
    *ret_fd = fd;
    return 0;
}

static int tcp_bind(const char *where, ptn_env_endpoint *ep, const char **reterr_why) {
    int err = resolve(where, ep, reterr_why);
    for (unsigned i = 0; i < ep->n_fds && err == 0; i++) {
        err = tcp_socket(ep, i == 0, &ep->fds[i], reterr_why);
        if (err == 0 && i == 0) { /* port 0: the others join the port that the first was given */
            socklen_t n = sizeof ep->addr;
            if (getsockname(ep->fds[0], &ep->addr.any, &n) != 0)
                err = bind_error(errno, reterr_why);
        }
    }
    return err;
}

/* True when a socket file exists at addr and nobody accepts behind it. */
static bool unix_is_stale(const ptn_env_endpoint *ep) {
    struct stat st;
    if (lstat(ep->addr.un.sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool refused = connect(fd, &ep->addr.any, ep->addr_len) != 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static int unix_socket(ptn_env_endpoint *ep, int *ret_fd, const char **reterr_why) {
    if (unix_is_stale(ep))
        (void)unlink(ep->addr.un.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bind_error(errno, reterr_why);
    /* On Linux the file takes the socket's mode: no moment at which others could connect, and no
     * umask(), which belongs to the whole process. */
    int rc = fchmod(fd, 0600);
    if (rc == 0)
        rc = bind(fd, &ep->addr.any, ep->addr_len);
    if (rc != 0) {
        int err = bind_error(errno, reterr_why);
        close(fd);
        return err;
    }
    struct stat st;
    if (lstat(ep->addr.un.sun_path, &st) == 0) {
        ep->file.dev = (uint64_t)st.st_dev;
        ep->file.ino = (uint64_t)st.st_ino;
        memcpy(ep->file.path, ep->addr.un.sun_path, sizeof ep->file.path);
    }
    if (listen(fd, BACKLOG) != 0) {
        int err = bind_error(errno, reterr_why);
        close(fd);
        ptn__uv_unlink(&ep->file);
        return err;
    }
    *ret_fd = fd;
    return 0;
}

static int unix_bind(const char *path, ptn_env_endpoint *ep, const char **reterr_why) {
    size_t n = strlen(path);
    if (n == 0)
        return bad_address(reterr_why, "bad address: unix: needs a path");
    if (n >= sizeof ep->addr.un.sun_path)
        return bad_address(reterr_why, "bad address: a socket path has at most 107 bytes");
    ep->addr.un.sun_family = AF_UNIX;
    memcpy(ep->addr.un.sun_path, path, n + 1);
    ep->addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return unix_socket(ep, &ep->fds[0], reterr_why);
}

void ptn__uv_unlink(const struct ptn__uv_path *p) {
    struct stat st;
    if (p->path[0] != '\0' && lstat(p->path, &st) == 0 && (uint64_t)st.st_dev == p->dev &&
        (uint64_t)st.st_ino == p->ino)
        (void)unlink(p->path);
}

/* ---- endpoints ---------------------------------------------------------------------------- */

int ptn__uv_bind(ptn_env *e, const char *where, unsigned n_workers, ptn_env_endpoint **ret_ep,
                 char *ret_addr, size_t ret_addr_bytes, const char **reterr_why) {
    const char *unused;
    if (reterr_why == NULL)
        reterr_why = &unused;
    bool unix_path = strncmp(where, "unix:", 5) == 0;
    unsigned n_fds = unix_path || n_workers == 0 ? 1 : n_workers;
    ptn_env_endpoint *ep = calloc(1, sizeof *ep + n_fds * sizeof ep->fds[0]);
    if (ep == NULL) {
        *reterr_why = "out of memory";
        return -PTN_ENOMEM;
    }
    ep->n_fds = n_fds;
    for (unsigned i = 0; i < n_fds; i++)
        ep->fds[i] = -1;
    int err = unix_path ? unix_bind(where + 5, ep, reterr_why) : tcp_bind(where, ep, reterr_why);
    if (err != 0) {
        ptn__uv_endpoint_free(e, ep);
        return err;
    }
    if (unix_path)
        (void)snprintf(ret_addr, ret_addr_bytes, "%s", where);
    else
        ptn__uv_addr_text(&ep->addr, ret_addr, ret_addr_bytes);
    *ret_ep = ep;
    return 0;
}

void ptn__uv_endpoint_free(ptn_env *e, ptn_env_endpoint *ep) {
    (void)e;
    if (ep == NULL)
        return;
    for (unsigned i = 0; i < ep->n_fds; i++) {
        if (ep->fds[i] < 0)
            continue;
        close(ep->fds[i]);
        if (is_unix(ep))
            ptn__uv_unlink(&ep->file);
    }
    free(ep);
}

int ptn__uv_endpoint_take(ptn_env_endpoint *ep, unsigned worker, int *ret_fd,
                          struct ptn__uv_path **ret_path) {
    const char *unused;
    if (worker >= ep->n_fds)
        return 1;
    struct ptn__uv_path *path = NULL;
    if (is_unix(ep)) {
        path = malloc(sizeof *path);
        if (path == NULL)
            return -PTN_ENOMEM;
    }
    int err = 0;
    if (ep->fds[worker] < 0)
        err = is_unix(ep) ? unix_socket(ep, &ep->fds[worker], &unused)
                          : tcp_socket(ep, false, &ep->fds[worker], &unused);
    if (err == 0 && listen(ep->fds[worker], BACKLOG) != 0)
        err = bind_error(errno, &unused);
    if (err != 0) {
        free(path);
        return err;
    }
    if (path != NULL)
        *path = ep->file;
    *ret_fd = ep->fds[worker];
    *ret_path = path;
    ep->fds[worker] = -1;
    return 0;
}
