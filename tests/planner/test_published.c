/* Published figures: none may be faster than its own bytes at the rates of the data sheets. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "topology/published.h"

START_TEST(test_published_floor_is_below_every_figure)
{
    ck_assert_uint_eq(wtn_published_count, 28);
    for (size_t i = 0; i < wtn_published_count; i++) {
        const wtn_published_t *figure = &wtn_published[i];
        wtn_published_floor_t  floor  = wtn_published_floor(figure);

        ck_assert_msg(floor.floor > 0 && floor.floor < floor.published,
                      "%s %s EP%d %s: floor %.3g s, published %.3g s", figure->system,
                      figure->machine, figure->ep, figure->step, floor.floor, floor.published);
        /* Nor is it so far below that it says nothing. */
        ck_assert_msg(floor.published < 4 * floor.floor, "%s %s EP%d %s: %.2f times the floor",
                      figure->system, figure->machine, figure->ep, figure->step,
                      floor.published / floor.floor);
        ck_assert(floor.once <= floor.floor * (1 + 1e-12));
    }
}
END_TEST

/* 450 GB/s, 4096 tokens, 5.295 ranks of 8, 7 of 8 of which are others: 312 and 605 us, rounded. */
START_TEST(test_published_nvlink_floor_is_the_known_one)
{
    for (size_t i = 0; i < wtn_published_count; i++) {
        wtn_published_floor_t floor = wtn_published_floor(&wtn_published[i]);
        bool                  dispatch;

        if (strcmp(wtn_published[i].system, "UCCL-EP") != 0) {
            continue;
        }
        dispatch = strcmp(wtn_published[i].step, "dispatch") == 0;
        ck_assert(fabs(floor.units - 5.295) < 0.001);
        ck_assert(fabs(floor.floor * 1e6 - (dispatch ? 312.4 : 604.5)) < 0.6);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("published");
    TCase *tcase = tcase_create("published");
    int    failed;

    tcase_add_test(tcase, test_published_floor_is_below_every_figure);
    tcase_add_test(tcase, test_published_nvlink_floor_is_the_known_one);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
