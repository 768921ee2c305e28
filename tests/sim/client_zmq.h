/* SPDX-License-Identifier: Apache-2.0
 *
 * client_zmq.h - simulated ZeroMQ clients: questions on REQ or DEALER, events on SUB, and vandals.
 *
 * They and the broker's gateway use the twin of libzmq.  A client cannot see a connection break, as
 * no ZeroMQ application can: what it does about lost answers is to ask again.
 */
#ifndef POSTERN_TESTS_SIM_CLIENT_ZMQ_H
#define POSTERN_TESTS_SIM_CLIENT_ZMQ_H

#include "world.h"

/* What the broker has to bind. */
extern const char *const zmq_request_addresses[1];
extern const char *const zmq_event_addresses[2]; /* ipc: every topic; tcp: public topics */

/* Starts the twin, before zmq_gw_new(). */
void zmq_clients_prepare(ptn_env *env);
bool zmq_fd_readable(void *arg, int fd); /* for ptn_sim_opts */
void zmq_clients_start(void);
void zmq_clients_settle(void);
/* NULL: nothing is open; otherwise what one waits for. */
const char *zmq_clients_wait_for(void);
void zmq_clients_quit(void);
void zmq_clients_done(void); /* before zmq_gw_free() */
void zmq_clients_end(void);  /* after it: the twin ends */

#endif
