#include "tests/cuda_ffn/walk.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/gemm/gemm_sm90_tiles.cuh"

typedef struct walk_params {
    const int64_t *row_begin;
    uint32_t       expert_count, N, most, form;
    walked_t      *out;
    uint32_t      *count;
} walk_params_t;

#if WTN_HAS_SM90A

template <typename form> WTN_DEVICE void walk_all(const walk_params_t &p, const survey_t &survey)
{
    walk_t   walk[2]; /* of each rank */
    uint32_t count;

    for (walk_t &w : walk) {
        w = walk_begin<form>(p.row_begin, p.expert_count, p.N, survey.window);
    }
    count = unit_count<form>(survey, walk[0]);
    for (uint32_t i = 0; i < count * form::pair; i++) {
        tile_t tile = walk_find<form>(walk[i % form::pair], i / form::pair, i % form::pair);

        if (wtn_lane() == 0 && i < p.most) {
            p.out[i] = {tile.row, tile.rows, tile.expert, tile.column, tile.columns, tile.shares};
        }
    }
    if (wtn_lane() == 0) {
        *p.count = count;
    }
}

#endif

WTN_KERNEL(32, 1) walk_kernel(WTN_PARAMS(walk_params_t, p))
{
#if WTN_HAS_SM90A
    survey_t survey = survey_take(p.row_begin, p.expert_count, (uint32_t *)wtn_shared());

    switch (p.form) { /* LONG, MIDDLE and FEW as in gemm_sm90_tiles.cuh, with pairs here too */
    case WALK_LONG_PAIR:
        walk_all<form<128, 192, 1, 5, 2, 2, false>>(p, survey);
        break;
    case WALK_LONG:
        walk_all<form<128, 192, 1, 5, 1, 2, false>>(p, survey);
        break;
    case WALK_MIDDLE_PAIR:
        walk_all<form<128, 128, 1, 6, 2, 2, true>>(p, survey);
        break;
    default:
        walk_all<form<64, 128, 1, 8, 1, 2, false>>(p, survey);
        break;
    }
#else
    (void)p;
#endif
}

extern "C" witan_status_t walk_tiles(walk_form_t form, const int64_t *row_begin,
                                     uint32_t expert_count, uint32_t N, uint32_t most,
                                     walked_t *out, uint32_t *count, void *stream)
{
    walk_params_t p      = {row_begin, expert_count, N, most, (uint32_t)form, out, count};
    wtn_launch_t  launch = {"walk_kernel", 1, 1, 32, (SURVEY + 1) * 4, stream};

    return wtn_launch(&launch, walk_kernel, &p);
}
