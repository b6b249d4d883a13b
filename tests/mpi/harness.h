/* Check under mpirun: every rank runs the same cases in one process; only rank 0 prints passes. */
#ifndef TEST_HARNESS_H
#define TEST_HARNESS_H

#include <check.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <witan/witan.h>
#include <witan/witan_mpi.h>

extern int world_rank, world_size;

#define ck_status(call, expected)                                                       \
    do {                                                                                \
        witan_status_t got_ = (call);                                                   \
        ck_assert_msg(got_ == (expected), "%s: %s: %s", #call, witan_status_name(got_), \
                      witan_last_error());                                              \
    } while (0)

#define ck_ok(call) ck_status(call, WITAN_OK)

/* The last error has this text. */
#define ck_names(text)                                                                   \
    ck_assert_msg(strstr(witan_last_error(), (text)) != NULL, "'%s' does not name '%s'", \
                  witan_last_error(), (text))

/* A group of all ranks; deadline 20 s so that a failing rank does not keep the others for long. */
witan_group_t *world_group(int32_t ep, int32_t tp);

/* The same with nodes of so many ranks; 0: as the machine has them. */
witan_group_t *world_group_of_nodes(int32_t ep, int32_t tp, int32_t ranks_per_node);

/* Run `suite` on every rank, then finalise; the exit status. */
int harness_run(int argc, char **argv, Suite *(*make_suite)(void));

#endif
