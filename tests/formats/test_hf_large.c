/* Blocks with rows longer than a page and matrices larger than the reader's scratch memory, written
 * here from the table of families and read back by the plain rule of their layout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <check.h>

#include "core/half.h"
#include "core/util.h"
#include "experts/family.h"
#include "formats/folder.h"
#include "formats/rule.h"

static folder_t folder;

static void set_up(void)
{
    folder_make(&folder);
}

static void tear_down(void)
{
    folder_remove(&folder);
}

typedef struct block {
    fixture_t         fixture;
    wtn_layout_kind_t kind;
    wtn_st_dtype_t    dtype; /* of the matrices */
    int64_t           hidden, inter;
    int32_t           experts;
} block_t;

#define MLP "mlp", {"gate_proj", "up_proj", "down_proj"}, NULL, "gate.weight"

static const block_t blocks[] = {
    /* rows and columns beyond a page; more than 4 MiB */
    {{"", "qwen3_moe", 0, WITAN_F32, EXPERTS, MLP},
     WTN_LAYOUT_PER_EXPERT,
     WTN_ST_F32,
     1300,
     1111,
     2},
    {{"", "qwen3_moe", 0, WITAN_BF16, EXPERTS, MLP},
     WTN_LAYOUT_PER_EXPERT,
     WTN_ST_F8_E4M3,
     2600,
     2177,
     1},
    {{"", "qwen3_moe", 0, WITAN_F16, FUSED, MLP}, WTN_LAYOUT_FUSED, WTN_ST_F16, 2200, 1111, 2},
    {{"", "gpt_oss", 0, WITAN_BF16, TRANSPOSED, MLP},
     WTN_LAYOUT_TRANSPOSED,
     WTN_ST_BF16,
     1500,
     1111,
     2},
    {{"", "gpt_oss", 0, WITAN_BF16, MXFP4, MLP}, WTN_LAYOUT_MXFP4, WTN_ST_U8, 8320, 1120, 1},
    /* rows that do not fit the scratch memory of one row */
    {{"", "qwen3_moe", 0, WITAN_BF16, EXPERTS, MLP},
     WTN_LAYOUT_PER_EXPERT,
     WTN_ST_F8_E4M3,
     300001,
     3,
     1},
    {{"", "qwen3_moe", 0, WITAN_BF16, EXPERTS, MLP},
     WTN_LAYOUT_PER_EXPERT,
     WTN_ST_BF16,
     2200001,
     1,
     1},
    {{"", "gpt_oss", 0, WITAN_BF16, MXFP4, MLP}, WTN_LAYOUT_MXFP4, WTN_ST_U8, 300032, 32, 1},
    /* nothing left to stride over */
    {{"", "gpt_oss", 0, WITAN_F32, TRANSPOSED, MLP}, WTN_LAYOUT_TRANSPOSED, WTN_ST_F32, 1, 1, 3},
    {{"", "gpt_oss", 0, WITAN_F32, TRANSPOSED, MLP}, WTN_LAYOUT_TRANSPOSED, WTN_ST_F32, 1, 17, 3},
    {{"", "gpt_oss", 0, WITAN_F32, TRANSPOSED, MLP}, WTN_LAYOUT_TRANSPOSED, WTN_ST_F32, 17, 1, 3},
};

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Values of which none is a NaN, in every dtype. */
static void fill(void *out, wtn_st_dtype_t dtype, bool is_scale, size_t count, uint32_t seed)
{
    uint32_t state = seed * 2654435761u + 1;

    for (size_t i = 0; i < count; i++) {
        const uint32_t bits  = next_random(&state);
        const float    value = ((float)(bits % 4001) - 2000.0f) / 1024.0f;

        switch (dtype) {
        case WTN_ST_F32:
            ((float *)out)[i] = value;
            break;
        case WTN_ST_F16:
            ((uint16_t *)out)[i] = wtn_float_to_f16(value);
            break;
        case WTN_ST_BF16:
            ((uint16_t *)out)[i] = wtn_float_to_bf16(value);
            break;
        case WTN_ST_F8_E4M3:
            ((uint8_t *)out)[i] = (uint8_t)(bits % 127 | (bits >> 12 & 128));
            break;
        default:
            ((uint8_t *)out)[i] = (uint8_t)(is_scale ? 110 + bits % 30 : bits);
            break;
        }
    }
}

typedef struct table {
    wtn_st_tensor_t tensors[64];
    char            names[64][WTN_TENSOR_NAME_BYTES];
    size_t          count;
} table_t;

static void add(table_t *table, const char *name, wtn_st_dtype_t dtype, const int64_t *shape,
                int32_t rank)
{
    wtn_st_tensor_t *tensor = &table->tensors[table->count];

    for (size_t i = 0; i < table->count; i++) {
        if (strcmp(table->names[i], name) == 0) {
            return; /* gate and up in one tensor */
        }
    }
    (void)snprintf(table->names[table->count], WTN_TENSOR_NAME_BYTES, "%s", name);
    *tensor = (wtn_st_tensor_t){.name = table->names[table->count++], .dtype = dtype, .rank = rank};
    memcpy(tensor->shape, shape, (size_t)rank * sizeof(*shape));
}

static void add_weight(table_t *table, const block_t *block, const wtn_layout_t *layout,
                       const witan_layer_config_t *layer, witan_weight_t weight, int32_t expert)
{
    const bool    is_matrix = weight >= WITAN_WEIGHT_GATE && weight <= WITAN_WEIGHT_DOWN;
    int64_t       shape[WTN_ST_RANK_MAX];
    const int32_t rank = wtn_layout_shape(layout, weight, layer, shape);
    char          name[WTN_TENSOR_NAME_BYTES], scales[WTN_TENSOR_NAME_BYTES];

    if (!wtn_layout_name(layout, weight, 0, expert, name)) {
        return;
    }
    add(table, name, is_matrix ? block->dtype : WTN_ST_F32, shape, rank);
    wtn_layout_scale_name(layout, name, scales);
    if (is_matrix && block->dtype == WTN_ST_F8_E4M3) {
        add(table, scales, WTN_ST_F32,
            (int64_t[]){wtn_ceil_div(shape[0], 128), wtn_ceil_div(shape[1], 128)}, 2);
    } else if (is_matrix && block->dtype == WTN_ST_U8) {
        add(table, scales, WTN_ST_U8, shape, rank - 1);
    }
}

static void write_block(const block_t *block)
{
    const wtn_family_t        *family = wtn_family_find(block->fixture.model_type);
    const wtn_layout_t        *layout = wtn_family_layout(family, block->kind);
    const witan_layer_config_t layer  = {.hidden_size  = block->hidden,
                                         .inter_size   = block->inter,
                                         .expert_count = block->experts};
    static table_t             table;
    wtn_st_writer_t           *writer;
    char                       text[512];

    (void)snprintf(text, sizeof(text),
                   "{\"model_type\":\"%s\",\"hidden_size\":%d,\"%s\":%d,\"%s\":%d,"
                   "\"num_experts_per_tok\":1,\"num_hidden_layers\":1}",
                   family->model_type, (int)block->hidden, family->inter_key, (int)block->inter,
                   family->experts_key, (int)block->experts);
    folder_write_text(&folder, "config.json", text);
    table.count = 0;
    for (witan_weight_t weight = 0; weight < WITAN_WEIGHT_COUNT; weight++) {
        for (int32_t e = 0; e < block->experts; e++) {
            add_weight(&table, block, layout, &layer, weight, e);
        }
    }
    ck_assert_msg(wtn_st_writer_open(&writer, folder_file(&folder, "model.safetensors"),
                                     table.tensors, table.count) == WITAN_OK,
                  "%s", witan_last_error());
    for (size_t i = 0; i < table.count; i++) {
        const wtn_st_tensor_t *tensor = &table.tensors[i];
        size_t                 count  = 1, bytes;
        void                  *data;

        for (int32_t d = 0; d < tensor->rank; d++) {
            count *= (size_t)tensor->shape[d];
        }
        bytes = count * wtn_st_dtype_bytes(tensor->dtype);
        data  = malloc(bytes);
        fill(data, tensor->dtype, strstr(tensor->name, "_scales") != NULL, count, (uint32_t)i);
        ck_assert_int_eq(wtn_st_writer_append(writer, data, bytes), WITAN_OK);
        free(data);
    }
    ck_assert_int_eq(wtn_st_writer_commit(writer), WITAN_OK);
}

START_TEST(test_block_every_element_matches_the_rule)
{
    const block_t *block = &blocks[_i];
    wtn_st_file_t *file;
    wtn_hf_t      *hf;
    float         *expected = malloc((size_t)(block->hidden * block->inter) * sizeof(*expected));

    write_block(block);
    ck_assert_msg(wtn_hf_open(&hf, folder.path, 0) == WITAN_OK, "%s", witan_last_error());
    ck_assert_int_eq(wtn_st_open(&file, folder_file(&folder, "model.safetensors")), WITAN_OK);
    for (int32_t e = 0; e < block->experts; e++) {
        for (int p = 0; p < 3; p++) {
            const int64_t rows = p == 2 ? block->hidden : block->inter;
            const int64_t cols = p == 2 ? block->inter : block->hidden;

            rule_expert(&block->fixture, file, e, p, rows, cols, expected);
            rule_compare(hf, (witan_weight_t)(WITAN_WEIGHT_GATE + p), e, rows, cols, expected);
        }
    }
    free(expected);
    wtn_st_close(file);
    wtn_hf_close(hf);
}
END_TEST

/* What a rank of a tensor-parallel group reads of its slice of the width. */
START_TEST(test_slices_read_no_more_than_they_must)
{
    static const struct {
        int            block;
        witan_weight_t weight;
        int64_t        at[4];
        int64_t        bytes;
    } rows[] = {
        /* a third of the columns, 4,444 bytes apart: piece by piece */
        {0, WITAN_WEIGHT_DOWN, {0, 1300, 370, 370}, 1300 * 370 * 4},
        /* most of the columns: along with the gaps, but for the one between two fills of the
           scratch memory */
        {0, WITAN_WEIGHT_DOWN, {0, 1300, 0, 1000}, (1299 * 1111 + 1000) * 4 - 111 * 4},
        {0, WITAN_WEIGHT_GATE, {370, 370, 0, 1300}, 370 * 1300 * 4},
        /* gate and up in turn, rows of 4,160 bytes: every second row, and its scales in a page */
        {4, WITAN_WEIGHT_GATE, {0, 2, 0, 8320}, 3 * 4160 + 3 * 260},
        {4, WITAN_WEIGHT_GATE, {0, 2, 64, 4000}, 2 * 2000 + 260 * 2 + 125},
    };

    for (size_t i = 0; i < WTN_COUNT_OF(rows); i++) {
        const int64_t *at  = rows[i].at;
        float         *out = malloc((size_t)(at[1] * at[3]) * sizeof(*out));
        wtn_hf_t      *hf;

        write_block(&blocks[rows[i].block]);
        ck_assert_int_eq(wtn_hf_open(&hf, folder.path, 0), WITAN_OK);
        rule_read(hf, rows[i].weight, 0, at, WITAN_F32, out);
        ck_assert_msg(wtn_hf_bytes_read(hf) == rows[i].bytes, "row %zu: %ld bytes, found %ld", i,
                      (long)rows[i].bytes, (long)wtn_hf_bytes_read(hf));
        wtn_hf_close(hf);
        free(out);
    }
}
END_TEST

int main(void)
{
    Suite   *suite = suite_create("hf_large");
    TCase   *tests = tcase_create("all");
    SRunner *runner;
    int      failed;

    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, test_block_every_element_matches_the_rule, 0,
                        (int)WTN_COUNT_OF(blocks));
    tcase_add_test(tests, test_slices_read_no_more_than_they_must);
    suite_add_tcase(suite, tests);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
