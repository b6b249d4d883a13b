/* witan bench: what the benchmarks share, and the choice between them. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "kernels/device.h"
#include "launcher/bench.h"
#include "launcher/commands.h"
#include "topology/topology.h"

#define SYNTHETIC_SEED 1

witan_status_t wtn_bench_check_options(const wtn_command_t       *command,
                                       const wtn_bench_options_t *options)
{
    static const char *const shape[] = {"experts", "topk", "hidden", "inter", "dtype"};

    if ((options->model != NULL) != wtn_option_given(command, "layer")) {
        return WTN_ERROR(WITAN_E_ARGUMENT, "--model and --layer: expected both or none");
    }
    for (size_t i = 0; i < WTN_COUNT_OF(shape) && options->model != NULL; i++) {
        if (wtn_option_given(command, shape[i])) {
            return WTN_ERROR(WITAN_E_ARGUMENT, "--%s contradicts --model", shape[i]);
        }
    }
    if (options->model == NULL && options->topk > options->expert_count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--topk: expected at most --experts %" PRId64 ", found %" PRId64,
                         options->expert_count, options->topk);
    }
    return WITAN_OK;
}

witan_status_t wtn_bench_model_open(wtn_bench_model_t *model, const wtn_bench_options_t *options,
                                    const wtn_session_options_t *session)
{
    memset(model, 0, sizeof(*model));
    if (options->model != NULL) {
        witan_status_t status = wtn_hf_open(&model->hf, options->model, (int32_t)options->layer);

        if (status != WITAN_OK) {
            return status;
        }
        model->config  = *wtn_hf_config(model->hf);
        model->weights = wtn_hf_weights(model->hf);
    } else {
        witan_layer_config_init(&model->config);
        model->config.expert_count = (int32_t)options->expert_count;
        model->config.topk         = (int32_t)options->topk;
        model->config.hidden_size  = options->hidden_size;
        model->config.inter_size   = options->inter_size;
        model->config.dtype        = (witan_dtype_t)options->dtype;
        model->config.router_dtype = model->config.dtype; /* as model files store it */
        model->synthetic           = (wtn_synthetic_t){&model->config, SYNTHETIC_SEED};
        model->weights             = wtn_synthetic_weights(&model->synthetic);
    }
    model->config.backend     = session->backend;
    model->config.kernel_tier = session->kernel_tier;
    return WITAN_OK;
}

void wtn_bench_model_close(wtn_bench_model_t *model)
{
    wtn_hf_close(model->hf);
    model->hf = NULL;
}

void wtn_bench_describe_device(const wtn_backend_t *backend, int32_t device,
                               char text[WTN_BENCH_DEVICE_BYTES])
{
    if (backend->device == NULL ||
        !backend->device->describe(device, text, WTN_BENCH_DEVICE_BYTES)) {
        text[0] = '\0';
    }
}

void wtn_bench_print_device(const char *text)
{
    if (text[0] != '\0') {
        printf("# device: %s\n", text);
    }
}

double wtn_bench_row_flops(const witan_layer_config_t *config)
{
    double matrices = config->activation.gated ? 3 : 2;

    return 2.0 * matrices * (double)config->hidden_size * (double)config->inter_size;
}

witan_status_t wtn_bench_step(witan_plan_t *plan, const witan_forward_args_t *args,
                              const int32_t *ids, const float *weights)
{
    witan_status_t status;

    WTN_TRY(witan_plan_import(plan, args->token_count, ids, weights));
    while (witan_plan_rounds_left(plan) > 0) {
        WTN_TRY(witan_dispatch(plan, args->hidden));
        WTN_TRY(witan_experts(plan));
        WTN_TRY(witan_combine(plan, args->output));
    }

fail:
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double wtn_bench_quantile(double *values, size_t count, double p)
{
    size_t rank;

    if (count == 0) {
        return 0;
    }
    qsort(values, count, sizeof(*values), compare_doubles);
    rank = (size_t)ceil(p * (double)count);
    return values[rank == 0 ? 0 : rank - 1];
}

size_t wtn_bench_read_bytes(void)
{
    const size_t  least = (size_t)256 << 20;
    wtn_machine_t machine;
    size_t        bytes;

    if (wtn_machine_query(&machine) != WITAN_OK || machine.l3_bytes <= 0) {
        return least;
    }
    bytes = (size_t)machine.l3_bytes * 4;
    return bytes < least ? least : bytes;
}

static void print_usage(void)
{
    if (wtn_launcher_rank() == 0) {
        printf("usage: witan bench comm|experts|layer|rebalance [OPTIONS]\n"
               "  comm       dispatch and combine alone, beside MPI_Alltoallv of the same rows\n"
               "  experts    the experts of one rank alone, by rows per expert\n"
               "  layer      the whole block over all ranks, by tokens\n"
               "  rebalance  the block under skew, before, while and after its experts move\n"
               "witan bench comm --help and so on list the options.\n");
    }
}

int wtn_cmd_bench(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "comm") == 0) {
        return wtn_bench_comm(argc - 1, argv + 1);
    }
    if (argc >= 2 && strcmp(argv[1], "experts") == 0) {
        return wtn_bench_experts(argc - 1, argv + 1);
    }
    if (argc >= 2 && strcmp(argv[1], "layer") == 0) {
        return wtn_bench_layer(argc - 1, argv + 1);
    }
    if (argc >= 2 && strcmp(argv[1], "rebalance") == 0) {
        return wtn_bench_rebalance(argc - 1, argv + 1);
    }
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_usage();
        return wtn_results_end();
    }
    return wtn_session_refuse("bench: expected comm, experts, layer or rebalance, found '%s'",
                              argc >= 2 ? argv[1] : "");
}
