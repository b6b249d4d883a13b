/* What the benchmarks share: the shape, the limits of the machine, figures, the JSON file. */
#ifndef WTN_BENCH_H
#define WTN_BENCH_H

#include <jansson.h>

#include "experts/hf.h"
#include "kernels/backend.h"
#include "launcher/paths.h"
#include "launcher/session.h"
#include "launcher/synthetic.h"

int wtn_bench_comm(int argc, char **argv);
int wtn_bench_experts(int argc, char **argv);
int wtn_bench_layer(int argc, char **argv);
int wtn_bench_rebalance(int argc, char **argv);

/* ---- what is measured: a block of a model, or a shape with synthetic weights ---- */

typedef struct wtn_bench_options {
    const char *model;
    int64_t     layer, expert_count, topk, hidden_size, inter_size;
    int32_t     dtype; /* witan_dtype_t */
    int64_t     warmup_count, iteration_count, check_count;
    const char *json;
} wtn_bench_options_t;

#define WTN_BENCH_OPTIONS(o, what_is_checked)                                                      \
    WTN_OPT_MODEL(&(o)->model, false,                                                              \
                  "Hugging Face folder; else synthetic weights of this shape:"),                   \
        WTN_OPT_INTEGER("layer", "N", NULL, 0, INT32_MAX, &(o)->layer, "block of the model"),      \
        WTN_OPT_INTEGER("experts", "N", "8", 1, INT32_MAX, &(o)->expert_count, "E, experts"),      \
        WTN_OPT_INTEGER("topk", "N", "2", 1, INT32_MAX, &(o)->topk, "K, experts of a token"),      \
        WTN_OPT_INTEGER("hidden", "N", "2048", 1, INT32_MAX, &(o)->hidden_size, "H, hidden size"), \
        WTN_OPT_INTEGER("inter", "N", "1408", 1, INT32_MAX, &(o)->inter_size,                      \
                        "I, width of an expert"),                                                  \
        WTN_OPT_CHOICE("dtype", "f32|f16|bf16", "bf16", &(o)->dtype,                               \
                       "of activations and weights"),                                              \
        {.name     = "warmup",                                                                     \
         .letter   = 'w',                                                                          \
         .kind     = WTN_OPTION_INTEGER,                                                           \
         .argument = "N",                                                                          \
         .fallback = "3",                                                                          \
         .help     = "iterations before the clock",                                                \
         .value    = &(o)->warmup_count,                                                           \
         .min      = 0,                                                                            \
         .max      = 1000000},                                                                          \
        {.name     = "iterations",                                                                 \
         .letter   = 'n',                                                                          \
         .kind     = WTN_OPTION_INTEGER,                                                           \
         .argument = "N",                                                                          \
         .fallback = "20",                                                                         \
         .help     = "iterations of each size",                                                    \
         .value    = &(o)->iteration_count,                                                        \
         .min      = 1,                                                                            \
         .max      = 1000000},                                                                          \
        {.name     = "check",                                                                      \
         .letter   = 'c',                                                                          \
         .kind     = WTN_OPTION_INTEGER,                                                           \
         .argument = "N",                                                                          \
         .fallback = "2",                                                                          \
         .help     = what_is_checked,                                                              \
         .value    = &(o)->check_count,                                                            \
         .min      = 0,                                                                            \
         .max      = 1000},                                                                             \
        WTN_OPT_TEXT("json", "FILE", NULL, &(o)->json, "also write the figures as JSON")

/* --model with a shape, or --layer without --model. */
witan_status_t wtn_bench_check_options(const wtn_command_t       *command,
                                       const wtn_bench_options_t *options);

typedef struct wtn_bench_model {
    witan_layer_config_t config;
    witan_weights_t      weights;
    wtn_hf_t            *hf; /* NULL: synthetic */
    wtn_synthetic_t      synthetic;
} wtn_bench_model_t;

/* Local. `model` must stay where it is. */
witan_status_t wtn_bench_model_open(wtn_bench_model_t *model, const wtn_bench_options_t *options,
                                    const wtn_session_options_t *session);
void           wtn_bench_model_close(wtn_bench_model_t *model);

#define WTN_BENCH_DEVICE_BYTES 160

/* Name and size of the device a layer is on; "" on the host. */
void wtn_bench_describe_device(const wtn_backend_t *backend, int32_t device,
                               char text[WTN_BENCH_DEVICE_BYTES]);
/* A line of the header; none on the host. */
void wtn_bench_print_device(const char *text);

/* Multiplications and additions of one row through one expert. */
double wtn_bench_row_flops(const witan_layer_config_t *config);

/* ---- figures ---- */

/* Sorts `values`; the p-quantile (nearest rank), p in [0, 1]. */
double wtn_bench_quantile(double *values, size_t count, double p);

/* Iterations are cut into this many blocks; the limits of the machine are measured before each, so
 * that a noisy neighbour slows yardstick and measurement alike. */
#define WTN_BENCH_BLOCKS 5

/* Bytes to read for the bandwidth: beyond every cache. */
size_t wtn_bench_read_bytes(void);

/* ---- --graph: a call captured once and replayed, as a program would that decodes ---- */

struct wtn_device;

typedef struct wtn_bench_graph {
    const struct wtn_device *device; /* NULL: not asked for, and calls are made anew */
    void                    *stream, *graph;
} wtn_bench_graph_t;

#define WTN_BENCH_GRAPH_OPTION(value_)                                                            \
    {                                                                                             \
        .name = "graph", .kind = WTN_OPTION_FLAG,                                                 \
        .help =                                                                                   \
            "time replays of one captured call (padded or direct exchange, not the tier cublas)", \
        .value = value_, .cuda = true                                                             \
    }

/* A stream for the calls. The backend has a device. */
witan_status_t wtn_bench_graph_open(wtn_bench_graph_t *graph, const wtn_backend_t *backend);
/* `call` queues on graph->stream. */
witan_status_t wtn_bench_graph_capture(wtn_bench_graph_t *graph,
                                       witan_status_t (*call)(void *context), void *context);
witan_status_t wtn_bench_graph_replay(void *graph);
/* Before what was captured goes, and after it. Both accept a graph that was not opened. */
void wtn_bench_graph_drop(wtn_bench_graph_t *graph);
void wtn_bench_graph_close(wtn_bench_graph_t *graph);

/* A step with routing of the caller's in place of the gate's. Its rounds go one after the other:
 * they do not overlap as those of witan_forward. */
witan_status_t wtn_bench_step(witan_plan_t *plan, const witan_forward_args_t *args,
                              const int32_t *ids, const float *weights);

/* ---- JSON ---- */

/* {"schema": "witan.bench.<name>/1", version, machine, shape, iterations, warmup}; NULL without
 * memory. Ranks and "results" come last. */
json_t *wtn_bench_json_begin(const char *name, const wtn_bench_options_t *options,
                             const witan_layer_config_t *config);

/* May these files be made or replaced? Said before the work starts. An output must not be the input
 * or a file of `model` (both may be NULL inside). Collective. */
witan_status_t wtn_bench_files_probe(wtn_session_t *session, const wtn_named_path_t *outputs,
                                     size_t count, const wtn_named_path_t *input,
                                     const char *model);

/* May the file of --json, if given, be made or replaced? Said before the work starts. Collective.
 */
witan_status_t wtn_bench_json_probe(wtn_session_t *session, const wtn_bench_options_t *options);

/* Write to a temporary file beside the target, then rename. */
witan_status_t wtn_bench_json_write(const char *path, const json_t *root);

/* `root` with `facts` added, written to `path`; takes both, which may be NULL: WITAN_E_MEMORY. */
witan_status_t wtn_bench_json_end(const char *path, json_t *root, json_t *facts);

#endif
