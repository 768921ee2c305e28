/* SPDX-License-Identifier: Apache-2.0
 *
 * base.h - words that every other header needs: byte views, time, errors, assertions.
 *
 * Errors: int functions return 0 or a negative code, -PTN_Exxx.  Out-parameters are named ret_* and
 * are written only on success.  Ownership: a parameter named take_* is consumed on success and
 * still belongs to the caller on failure; everything else is borrowed for the duration of the call.
 */
#ifndef POSTERN_BASE_H
#define POSTERN_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One list: names, values and texts never drift. */
#define PTN_ERR_MAP(XX)                                                                            \
    XX(ENOACTOR, 1, "no such actor (dead, or its slot was reused)")                                \
    XX(EOVERLOAD, 2, "mailbox or memory budget exhausted; retry or shed")                          \
    XX(EDEADLINE, 3, "deadline passed before the operation completed")                             \
    XX(ECRASHED, 4, "peer failed while the request was outstanding")                               \
    XX(ESTOPPING, 5, "runtime or actor is shutting down")                                          \
    XX(EINVAL, 6, "invalid argument")                                                              \
    XX(ENOMEM, 7, "out of memory")                                                                 \
    XX(EPROTO, 8, "peer violated the protocol")                                                    \
    XX(ETOOBIG, 9, "message exceeds the configured limit")                                         \
    XX(EEXIST, 10, "name or id is already taken")                                                  \
    XX(ENOTFOUND, 11, "no such entry")                                                             \
    XX(EIO, 12, "input or output failed")                                                          \
    XX(ECANCELED, 13, "canceled by its owner")                                                     \
    XX(EACCESS, 14, "permission denied")                                                           \
    XX(EADDRINUSE, 15, "address already in use")                                                   \
    XX(ESLOW, 16, "peer does not read; its queue reached the bound")                               \
    XX(EFULL, 17, "storage is full")

enum ptn_err {
#define XX(n, v, s) PTN_##n = (v),
    PTN_ERR_MAP(XX)
#undef XX
};

/* Any thread.  err may be negative or positive; never NULL. */
const char *ptn_err_name(int err);
const char *ptn_err_text(int err);

/* Text (UTF-8, not terminated) and bytes, both borrowed. */
typedef struct ptn_str {
    const char *p;
    size_t n;
} ptn_str;

typedef struct ptn_bytes {
    const uint8_t *p;
    size_t n;
} ptn_bytes;

#define PTN_STR(literal) ((ptn_str){"" literal, sizeof(literal) - 1})

/* A view of a C string; NULL gives the empty one. */
static inline ptn_str ptn_str_of(const char *z) {
    return (ptn_str){z, z == NULL ? 0 : strlen(z)};
}

/* Same bytes.  Not constant-time: never for secrets. */
static inline bool ptn_str_eq(ptn_str a, ptn_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* The same against a C string. */
static inline bool ptn_str_eqz(ptn_str a, const char *z) {
    return ptn_str_eq(a, ptn_str_of(z));
}

/* True for the empty prefix, too. */
static inline bool ptn_str_starts(ptn_str a, ptn_str prefix) {
    return a.n >= prefix.n && (prefix.n == 0 || memcmp(a.p, prefix.p, prefix.n) == 0);
}

typedef uint64_t ptn_time; /* nanoseconds on the environment's monotonic clock */
#define PTN_NEVER UINT64_MAX
#define PTN_MS UINT64_C(1000000)
#define PTN_SEC UINT64_C(1000000000)

/* Three kinds of check (docs/principles.md): PTN_ASSERT is on in every build and aborts the
 * process, PTN_DEBUG_ASSERT is for expensive checks, PTN_REQUIRE (runtime.h) fails one actor. */
_Noreturn void ptn__assert_failed(const char *expr, const char *file, int line);
#define PTN_ASSERT(e) ((e) ? (void)0 : ptn__assert_failed(#e, __FILE__, __LINE__))
#ifdef PTN_DEBUG
#define PTN_DEBUG_ASSERT(e) PTN_ASSERT(e)
#else
#define PTN_DEBUG_ASSERT(e) ((void)0)
#endif

#define PTN_UNLIKELY(e) __builtin_expect(!!(e), 0)
#define PTN_LIKELY(e) __builtin_expect(!!(e), 1)
#define PTN_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#ifdef __cplusplus
}
#endif
#endif
