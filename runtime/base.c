/* SPDX-License-Identifier: Apache-2.0
 *
 * base.c - error names and texts, and the end of a process whose runtime is damaged.
 *
 * Both tables come from PTN_ERR_MAP, so that names, values and texts cannot drift apart.
 */
#include "runtime/env/crash.h"

#include <stdio.h>
#include <stdlib.h>

const char *ptn_err_name(int err) {
    switch (err < 0 ? -(unsigned)err : (unsigned)err) {
    case 0:
        return "OK";
#define XX(n, v, s)                                                                                \
    case (v):                                                                                      \
        return #n;
        PTN_ERR_MAP(XX)
#undef XX
    default:
        return "EUNKNOWN";
    }
}

const char *ptn_err_text(int err) {
    switch (err < 0 ? -(unsigned)err : (unsigned)err) {
    case 0:
        return "success";
#define XX(n, v, s)                                                                                \
    case (v):                                                                                      \
        return s;
        PTN_ERR_MAP(XX)
#undef XX
    default:
        return "unknown error";
    }
}

/* Any thread.  A failed runtime assertion means that shared structures may be damaged, so nothing
 * but the end of the process is safe; an outside supervisor restarts it. */
_Noreturn void ptn__assert_failed(const char *expr, const char *file, int line) {
    (void)fprintf(stderr, "postern: assertion failed: %s (%s:%d)\n", expr, file, line);
    (void)fflush(stderr);
    ptn__crash_why(expr, file, line);
    abort();
}
