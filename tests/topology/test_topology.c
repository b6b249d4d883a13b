/* The split of cores among ranks, on invented machines, and the queries on this one. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "topology/cores.h"

#define TWO_SOCKETS     "pack:2 [numa] l3:1 core:8 pu:1"
#define TWO_SOCKETS_SMT "pack:2 [numa] l3:1 core:8 pu:2"
/* Threads numbered as Linux does on most servers: core c has threads c and c + 8. */
#define SMT_INTERLEAVED "pack:2 [numa] core:4 pu:2(indexes=0,8,1,9,2,10,3,11,4,12,5,13,6,14,7,15)"
#define NO_CORES        "numa:1 pu:6"

static hwloc_topology_t invent(const char *description)
{
    hwloc_topology_t topology;

    ck_assert_int_eq(hwloc_topology_init(&topology), 0);
    ck_assert_int_eq(hwloc_topology_set_synthetic(topology, description), 0);
    ck_assert_int_eq(hwloc_topology_load(topology), 0);
    return topology;
}

typedef struct split_case {
    const char *machine, *mask; /* mask NULL: the whole machine */
    int32_t     index, count;
    int32_t     core_count; /* expected, as are the following */
    bool        shared;
    const char *cpuset;
} split_case_t;

static const split_case_t split_cases[] = {
    {TWO_SOCKETS, NULL, 0, 1, 16, false, "0-15"},
    {TWO_SOCKETS, NULL, 0, 2, 8, false, "0-7"},
    {TWO_SOCKETS, NULL, 1, 2, 8, false, "8-15"},
    {TWO_SOCKETS, NULL, 3, 4, 4, false, "12-15"},
    /* uneven: 5, 5, 6 */
    {TWO_SOCKETS, NULL, 0, 3, 5, false, "0-4"},
    {TWO_SOCKETS, NULL, 1, 3, 5, false, "5-9"},
    {TWO_SOCKETS, NULL, 2, 3, 6, false, "10-15"},
    /* SMT: both threads of a core go to one rank */
    {TWO_SOCKETS_SMT, NULL, 0, 16, 1, false, "0-1"},
    {TWO_SOCKETS_SMT, NULL, 15, 16, 1, false, "30-31"},
    {SMT_INTERLEAVED, NULL, 0, 2, 4, false, "0-3,8-11"},
    {SMT_INTERLEAVED, NULL, 7, 8, 1, false, "7,15"},
    /* more ranks than cores: one core each, neighbours share */
    {TWO_SOCKETS, NULL, 0, 32, 1, true, "0"},
    {TWO_SOCKETS, NULL, 1, 32, 1, true, "0"},
    {TWO_SOCKETS, NULL, 31, 32, 1, true, "15"},
    {TWO_SOCKETS, NULL, 0, 17, 1, true, "0"},
    {TWO_SOCKETS, NULL, 1, 17, 1, true, "0"},
    {TWO_SOCKETS, NULL, 16, 17, 1, false, "15"},
    /* a mask of the launcher is shared out and never left */
    {TWO_SOCKETS, "3", 0, 1, 1, false, "3"},
    {TWO_SOCKETS, "3", 1, 2, 1, true, "3"},
    {TWO_SOCKETS, "6-9", 0, 2, 2, false, "6-7"},
    {TWO_SOCKETS, "6-9", 1, 2, 2, false, "8-9"},
    {TWO_SOCKETS, "1,4,13", 1, 2, 2, false, "4,13"},
    /* a mask with one thread of a core: that thread only */
    {TWO_SOCKETS_SMT, "1,2-3", 0, 2, 1, false, "1"},
    {TWO_SOCKETS_SMT, "1,2-3", 1, 2, 1, false, "2-3"},
    {NO_CORES, NULL, 1, 2, 3, false, "3-5"},
};

START_TEST(test_split_of_cores_gives_expected_piece)
{
    const split_case_t *c        = &split_cases[_i];
    hwloc_topology_t    topology = invent(c->machine);
    hwloc_bitmap_t      mask     = hwloc_bitmap_dup(hwloc_topology_get_topology_cpuset(topology));
    hwloc_bitmap_t      piece    = hwloc_bitmap_alloc();
    char                text[WTN_CPUSET_TEXT_BYTES];
    bool                shared;

    if (c->mask != NULL) {
        ck_assert_int_eq(hwloc_bitmap_list_sscanf(mask, c->mask), 0);
    }
    ck_assert_int_eq(wtn_cores_split(topology, mask, c->index, c->count, piece, &shared),
                     c->core_count);
    ck_assert_int_eq(shared, c->shared);
    ck_assert_int_eq(wtn_cpuset_text(piece, text), WITAN_OK);
    ck_assert_str_eq(text, c->cpuset);
    hwloc_bitmap_free(piece);
    hwloc_bitmap_free(mask);
    hwloc_topology_destroy(topology);
}
END_TEST

/* For every count of ranks up to the cores: pieces are disjoint, cover the mask, differ by <= 1. */
START_TEST(test_split_of_cores_all_counts_is_a_partition)
{
    hwloc_topology_t topology = invent(TWO_SOCKETS_SMT);
    hwloc_bitmap_t   mask     = hwloc_bitmap_alloc();
    hwloc_bitmap_t   piece    = hwloc_bitmap_alloc();
    hwloc_bitmap_t   seen     = hwloc_bitmap_alloc();
    int32_t          total;

    ck_assert_int_eq(hwloc_bitmap_list_sscanf(mask, "0-8,11-12,20,24-29"), 0);
    total = wtn_cores_count(topology, mask);
    ck_assert_int_eq(total, 11); /* cores 0-4, 5, 6, 10, 12, 13, 14 */
    for (int32_t count = 1; count <= total; count++) {
        hwloc_bitmap_zero(seen);
        for (int32_t index = 0; index < count; index++) {
            bool    shared;
            int32_t cores = wtn_cores_split(topology, mask, index, count, piece, &shared);

            ck_assert(!shared);
            ck_assert_int_ge(cores, total / count);
            ck_assert_int_le(cores, (total + count - 1) / count);
            ck_assert(!hwloc_bitmap_intersects(seen, piece));
            hwloc_bitmap_or(seen, seen, piece);
        }
        ck_assert(hwloc_bitmap_isequal(seen, mask));
    }
    hwloc_bitmap_free(seen);
    hwloc_bitmap_free(piece);
    hwloc_bitmap_free(mask);
    hwloc_topology_destroy(topology);
}
END_TEST

START_TEST(test_cpuset_text_too_long_stays_distinct)
{
    hwloc_bitmap_t a = hwloc_bitmap_alloc();
    hwloc_bitmap_t b = hwloc_bitmap_alloc();
    char           text_a[WTN_CPUSET_TEXT_BYTES], text_b[WTN_CPUSET_TEXT_BYTES];

    for (unsigned pu = 0; pu < 384; pu += 2) {
        hwloc_bitmap_set(a, pu);
    }
    hwloc_bitmap_copy(b, a);
    hwloc_bitmap_set(b, 383); /* differs far behind the cut */
    ck_assert_int_eq(wtn_cpuset_text(a, text_a), WITAN_OK);
    ck_assert_int_eq(wtn_cpuset_text(b, text_b), WITAN_OK);
    ck_assert_str_ne(text_a, text_b);
    ck_assert_int_eq(strncmp(text_a, "0,2,4,", 6), 0);
    ck_assert_uint_eq(strlen(text_a), WTN_CPUSET_TEXT_BYTES - 1);
    hwloc_bitmap_free(b);
    hwloc_bitmap_free(a);
}
END_TEST

START_TEST(test_machine_describe_two_sockets_counts_all)
{
    hwloc_topology_t topology = invent("pack:2 [numa(memory=1048576)] l3:1(size=33554432) "
                                       "l2:8(size=1048576) core:1 pu:2");
    wtn_machine_t    machine;

    memset(&machine, 0xff, sizeof(machine));
    wtn_machine_describe(topology, &machine);
    ck_assert_str_eq(machine.cpu, "unknown");
    ck_assert_int_eq(machine.numa_count, 2);
    ck_assert_int_eq(machine.package_count, 2);
    ck_assert_int_eq(machine.core_count, 16);
    ck_assert_int_eq(machine.pu_count, 32);
    ck_assert_int_eq(machine.memory_bytes, 2 << 20);
    ck_assert_int_eq(machine.l2_bytes, 1 << 20);
    ck_assert_int_eq(machine.l3_bytes, 32 << 20);
    hwloc_topology_destroy(topology);
}
END_TEST

START_TEST(test_machine_query_here_is_plausible)
{
    wtn_machine_t machine;

    ck_assert_int_eq(wtn_machine_query(&machine), WITAN_OK);
    ck_assert_uint_gt(strlen(machine.host), 0);
    ck_assert_uint_gt(strlen(machine.cpu), 0);
    ck_assert_int_ge(machine.core_count, 1);
    ck_assert_int_ge(machine.pu_count, machine.core_count);
    ck_assert_int_gt(machine.memory_bytes, 0);
}
END_TEST

START_TEST(test_binding_choose_applied_twice_keeps_the_piece)
{
    wtn_binding_t whole, first, again;
    char          mask[WTN_CPUSET_TEXT_BYTES];

    ck_assert_int_eq(wtn_binding_choose(0, 1, true, &whole), WITAN_OK);
    ck_assert(!whole.bound); /* the whole mask: nothing to narrow */
    ck_assert_int_eq(wtn_binding_choose(1, 2, true, &first), WITAN_OK);
    ck_assert_int_eq(first.bound, whole.core_count > 1);
    ck_assert_int_eq(first.shared, whole.core_count < 2);
    ck_assert_int_ge(first.core_count, 1);
    ck_assert_int_eq(wtn_binding_mask(mask), WITAN_OK);
    ck_assert_str_eq(mask, first.cpuset);

    /* Now the mask is ours; a process alone in it keeps all of it. */
    ck_assert_int_eq(wtn_binding_choose(0, 1, true, &again), WITAN_OK);
    ck_assert(!again.bound);
    ck_assert(again.inherited == (whole.inherited || first.bound));
    ck_assert_int_eq(again.core_count, first.core_count);
    ck_assert_str_eq(again.cpuset, first.cpuset);
}
END_TEST

START_TEST(test_binding_choose_without_apply_leaves_the_mask)
{
    char          before[WTN_CPUSET_TEXT_BYTES], after[WTN_CPUSET_TEXT_BYTES];
    wtn_binding_t binding;

    ck_assert_int_eq(wtn_binding_mask(before), WITAN_OK);
    ck_assert_int_eq(wtn_binding_choose(0, 2, false, &binding), WITAN_OK);
    ck_assert(!binding.bound);
    ck_assert_int_ge(binding.core_count, 1);
    ck_assert_str_eq(binding.cpuset, before);
    ck_assert_int_eq(wtn_binding_mask(after), WITAN_OK);
    ck_assert_str_eq(after, before);
}
END_TEST

START_TEST(test_binding_choose_bad_index_is_refused)
{
    wtn_binding_t binding;

    ck_assert_int_eq(wtn_binding_choose(2, 2, false, &binding), WITAN_E_ARGUMENT);
    ck_assert_int_eq(wtn_binding_choose(-1, 2, false, &binding), WITAN_E_ARGUMENT);
    ck_assert_int_eq(wtn_binding_choose(0, 0, false, &binding), WITAN_E_ARGUMENT);
}
END_TEST

int main(void)
{
    Suite   *suite  = suite_create("topology");
    TCase   *tcase  = tcase_create("topology");
    SRunner *runner = srunner_create(suite);
    int      failed;

    tcase_add_loop_test(tcase, test_split_of_cores_gives_expected_piece, 0,
                        (int)(sizeof(split_cases) / sizeof(split_cases[0])));
    tcase_add_test(tcase, test_split_of_cores_all_counts_is_a_partition);
    tcase_add_test(tcase, test_cpuset_text_too_long_stays_distinct);
    tcase_add_test(tcase, test_machine_describe_two_sockets_counts_all);
    tcase_add_test(tcase, test_machine_query_here_is_plausible);
    tcase_add_test(tcase, test_binding_choose_applied_twice_keeps_the_piece);
    tcase_add_test(tcase, test_binding_choose_without_apply_leaves_the_mask);
    tcase_add_test(tcase, test_binding_choose_bad_index_is_refused);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
