/* Roll calls name who is not there, and nobody else. */
#include <string.h>
#include <unistd.h>

#include "comm/group.h"
#include "comm/roll.h"
#include "core/util.h"
#include "mpi/harness.h"

#define CHANNEL 7

static wtn_roll_t    *roll;
static witan_group_t *group;

static void open_roll(void)
{
    int32_t peers[16];

    for (int32_t i = 0; i < world_size; i++) {
        peers[i] = world_size - 1 - i; /* any order will do */
    }
    group = world_group(0, 1);
    ck_ok(wtn_roll_open(&roll, wtn_group_comm(group), CHANNEL, peers, world_size));
}

static void close_roll(void)
{
    wtn_roll_close(roll);
    MPI_Barrier(MPI_COMM_WORLD);
    witan_group_destroy(group);
}

START_TEST(test_roll_one_absent_is_named_by_all_others)
{
    const char *text = NULL;
    char        expected[64];

    open_roll();
    ck_assert(!wtn_roll_called(roll));
    MPI_Barrier(MPI_COMM_WORLD);
    if (world_size > 1 && world_rank != world_size - 1) {
        uint64_t begin_ns = wtn_now_ns();

        if (world_rank != 0) { /* one calls, the others notice while they wait */
            while (!wtn_roll_called(roll)) {
                ck_assert(wtn_now_ns() - begin_ns < 5000000000u);
            }
        }
        ck_assert_int_eq(wtn_roll_call(roll, "exchange"), WITAN_E_TIMEOUT);
        text = witan_last_error();
        (void)snprintf(expected, sizeof(expected), "exchange: not heard from rank %d within 20 s",
                       world_size - 1);
        ck_assert_str_eq(text, expected);
        ck_assert(wtn_group_comm(group)->broken);
        ck_assert(wtn_roll_called(roll)); /* later waits end at once, and say the same */
        ck_assert_int_eq(wtn_roll_call(roll, "exchange"), WITAN_E_TIMEOUT);
        ck_assert_str_eq(witan_last_error(), expected);
        ck_assert(wtn_now_ns() - begin_ns < 6000000000u);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    close_roll();
}
END_TEST

START_TEST(test_roll_two_absent_are_both_named)
{
    char expected[64];

    if (world_size < 4) {
        return;
    }
    open_roll();
    (void)snprintf(expected, sizeof(expected), "not heard from ranks 1, %d within", world_size - 1);
    if (world_rank != 1 && world_rank != world_size - 1) {
        ck_assert_int_eq(wtn_roll_call(roll, "exchange"), WITAN_E_TIMEOUT);
        ck_assert_msg(strstr(witan_last_error(), expected) != NULL, "%s", witan_last_error());
    }
    MPI_Barrier(MPI_COMM_WORLD);
    close_roll();
}
END_TEST

START_TEST(test_roll_all_present_names_nobody)
{
    open_roll();
    MPI_Barrier(MPI_COMM_WORLD);
    ck_assert_int_eq(wtn_roll_call(roll, "exchange"), WITAN_E_TIMEOUT);
    ck_assert_str_eq(witan_last_error(), "exchange: not done within 20 s, though all peers answer");
    MPI_Barrier(MPI_COMM_WORLD);
    close_roll();
}
END_TEST

START_TEST(test_rank_list_many_ranks_ends_in_dots)
{
    wtn_rank_list_t list = {0};

    wtn_rank_list_add(&list, 3);
    ck_assert_str_eq(list.text, "rank 3");
    wtn_rank_list_add(&list, 17);
    ck_assert_str_eq(list.text, "ranks 3, 17");
    for (int32_t rank = 1000; rank < 2000; rank++) {
        wtn_rank_list_add(&list, rank);
    }
    ck_assert_uint_lt(strlen(list.text), sizeof(list.text));
    ck_assert_str_eq(list.text + strlen(list.text) - 5, ", ...");
    ck_assert_int_eq(list.count, 1002);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("roll");
    TCase *tcase = tcase_create("roll");

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_rank_list_many_ranks_ends_in_dots);
    tcase_add_test(tcase, test_roll_one_absent_is_named_by_all_others);
    tcase_add_test(tcase, test_roll_two_absent_are_both_named);
    tcase_add_test(tcase, test_roll_all_present_names_nobody);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    return harness_run(argc, argv, make_suite);
}
