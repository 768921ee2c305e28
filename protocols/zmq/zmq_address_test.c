/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_address_test.c - which listener addresses are refused, and that binding reports the real one.
 */
#include "protocols/zmq/zmq_int.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

struct address_case {
    const char *where;
    const char *text; /* NULL: refused */
    enum zmq_gw_side side;
};

static const struct address_case cases[] = {
    {"tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555", ZMQ_GW_TCP},
    {"tcp://127.9.8.7:0", "tcp://127.9.8.7:0", ZMQ_GW_TCP},
    {"tcp://127.0.0.1:*", "tcp://127.0.0.1:*", ZMQ_GW_TCP},
    {"tcp://localhost:1", "tcp://127.0.0.1:1", ZMQ_GW_TCP},
    {"tcp://[::1]:65535", "tcp://[::1]:65535", ZMQ_GW_TCP},
    {"ipc:///run/x.ipc", "ipc:///run/x.ipc", ZMQ_GW_IPC},
    {"ipc://./data/x.ipc", "ipc://./data/x.ipc", ZMQ_GW_IPC},
    {"tcp://0.0.0.0:5555", NULL, 0},
    {"tcp://*:5555", NULL, 0},
    {"tcp://eth0:5555", NULL, 0},
    {"tcp://192.168.1.1:5555", NULL, 0},
    {"tcp://128.0.0.1:5555", NULL, 0},
    {"tcp://127.0.0.1", NULL, 0},
    {"tcp://127.0.0:5555", NULL, 0},
    {"tcp://127.0.0.1.1:5555", NULL, 0},
    {"tcp://127.0.0.256:5555", NULL, 0},
    {"tcp://127.0.0.1:65536", NULL, 0},
    {"tcp://127.0.0.1:-1", NULL, 0},
    {"tcp://127.0.0.1:", NULL, 0},
    {"tcp://127.0.0.1;10.0.0.1:5555", NULL, 0},
    {"tcp://127.evil.example:5555", NULL, 0},
    {"tcp://[::]:5555", NULL, 0},
    {"tcp://::1:5555", NULL, 0},
    {"tcp://localhost.example:5555", NULL, 0},
    {"ipc://", NULL, 0},
    {"ipc://@abstract", NULL, 0},
    {"ipc://*", NULL, 0},
    {"inproc://x", NULL, 0},
    {"udp://127.0.0.1:5555", NULL, 0},
    {"127.0.0.1:5555", NULL, 0},
    {"", NULL, 0},
};

Test(zmq_address, table) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        zmq_gw_address a;
        const char *why = NULL;
        int err = zmq_gw_address_check(cases[i].where, &a, &why);
        if (cases[i].text == NULL) {
            cr_expect_eq(err, -PTN_EINVAL, "%s is refused", cases[i].where);
            cr_expect(why != NULL && why[0] != '\0');
            continue;
        }
        cr_assert_eq(err, 0, "%s: %s", cases[i].where, why);
        cr_expect_str_eq(a.text, cases[i].text);
        cr_expect_eq(a.side, cases[i].side);
    }
    char path[160];
    memset(path, 'p', sizeof(path));
    memcpy(path, "ipc:///", 7);
    path[6 + 108] = '\0';
    zmq_gw_address a;
    const char *why = NULL;
    cr_expect_eq(zmq_gw_address_check(path, &a, &why), -PTN_EINVAL, "108 bytes of path");
    path[6 + 107] = '\0';
    cr_expect_eq(zmq_gw_address_check(path, &a, &why), 0, "107 bytes of path");
}

static int try_new(const char *const *requests, size_t n, zmq_gw **ret_gw, const char **why) {
    static ptn_directory directory = {.workers = 1};
    const zmq_gw_config config = {.directory = &directory, .requests = requests, .n_requests = n};
    return zmq_gw_new(&config, ret_gw, why);
}

Test(zmq_address, bind_reports_real_addresses_and_failures) {
    char dir[] = "/tmp/postern-zmq-XXXXXX";
    cr_assert_not_null(mkdtemp(dir));
    char ipc[80], path[64];
    (void)snprintf(path, sizeof(path), "%s/r.ipc", dir);
    (void)snprintf(ipc, sizeof(ipc), "ipc://%s", path);
    const char *const good[] = {"tcp://localhost:0", ipc};
    zmq_gw *gw = NULL;
    const char *why = "";
    cr_assert_eq(try_new(good, 2, &gw, &why), 0, "%s", why);
    cr_expect(strncmp(zmq_gw_request_address(gw, 0), "tcp://127.0.0.1:", 16) == 0);
    cr_expect_neq(zmq_gw_request_address(gw, 0)[16], '0');
    cr_expect_str_eq(zmq_gw_request_address(gw, 1), ipc);
    cr_expect_null(zmq_gw_request_address(gw, 2));
    cr_expect_null(zmq_gw_event_address(gw, 0));
    struct stat sb;
    cr_assert_eq(stat(path, &sb), 0);
    cr_expect_eq(sb.st_mode & 0777, 0600, "only the owner may connect: %o", sb.st_mode & 0777);

    const char *const taken[] = {zmq_gw_request_address(gw, 0)};
    zmq_gw *other = NULL;
    cr_expect_eq(try_new(taken, 1, &other, &why), -PTN_EADDRINUSE);
    cr_expect_not_null(strstr(why, taken[0]), "names the address: %s", why);
    const char *const open_to_all[] = {"tcp://0.0.0.0:0"};
    cr_expect_eq(try_new(open_to_all, 1, &other, &why), -PTN_EINVAL);
    cr_expect_not_null(strstr(why, "tcp://0.0.0.0:0"), "%s", why);
    const char *const nowhere[] = {"ipc:///nonexistent-directory/x.ipc"};
    cr_expect_eq(try_new(nowhere, 1, &other, &why), -PTN_EIO);
    cr_expect_null(other);
    zmq_gw_free(gw);
    cr_expect_eq(rmdir(dir), 0, "the socket file is gone");
}

/* libzmq would abort for a peer that is not read and goes: see set_common(). */
Test(zmq_address, nobody_is_pinged) {
    const char *const addresses[] = {"tcp://127.0.0.1:0"};
    zmq_gw *gw = NULL;
    const char *why = "";
    int ms = -1;
    size_t len = sizeof(ms);
    cr_assert_eq(try_new(addresses, 1, &gw, &why), 0, "%s", why);
    cr_assert_eq(zmq_getsockopt(gw->router, ZMQ_HEARTBEAT_IVL, &ms, &len), 0);
    cr_expect_eq(ms, 0);
    zmq_gw_free(gw);
}
