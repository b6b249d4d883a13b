/* `witan synth`: the command line, progress and the summary. Touches no MPI. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/util.h"
#include "launcher/commands.h"
#include "launcher/options.h"
#include "launcher/session.h"
#include "launcher/synth.h"

typedef struct synth_words {
    const char *preset, *folder;
    int32_t     scale, storage;
    int64_t     seed, token_count;
} synth_words_t;

static volatile sig_atomic_t interrupted;

static void note_signal(int signal_number)
{
    interrupted = signal_number;
}

/* So that a long write ends with its folder removed. */
static void catch_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action    = {.sa_handler = note_signal};

    for (size_t i = 0; i < WTN_COUNT_OF(signals); i++) {
        (void)sigaction(signals[i], &action, NULL);
    }
}

static void show_progress(uint64_t bytes_done, uint64_t bytes_total)
{
    static uint64_t shown_ns;
    uint64_t        now_ns = wtn_now_ns();

    if (bytes_done == bytes_total) {
        (void)fprintf(stderr, "\r%*s\r", 40, "");
    } else if (now_ns - shown_ns > 200000000) {
        (void)fprintf(stderr, "\rwriting %.1f of %.1f MiB", (double)bytes_done * 0x1p-20,
                      (double)bytes_total * 0x1p-20);
        shown_ns = now_ns;
    }
}

static void print_summary(const wtn_synth_block_t *block, const synth_words_t *words,
                          const wtn_synth_result_t *result)
{
    const witan_layer_config_t *config = &block->config;

    printf("%s: %s, layer %" PRId32 ": E %" PRId32 ", K %" PRId32 ", H %" PRId64 ", I %" PRId64,
           words->folder, block->family->model_type, block->preset->layer_index,
           config->expert_count, config->topk, config->hidden_size, config->inter_size);
    if (config->shared_inter_size > 0) {
        printf(", shared %" PRId64, config->shared_inter_size);
    }
    printf("; %s, %zu tensors, %.1f MiB in %zu file%s\n", wtn_synth_storage_name(block->storage),
           result->tensor_count, (double)result->tensor_bytes * 0x1p-20, result->file_count,
           wtn_plural((int64_t)result->file_count));
    printf("witan run --model %s --layer %" PRId32
           " --input %s/input.safetensors --output output.safetensors\n",
           words->folder, block->preset->layer_index, words->folder);
}

static int write_block(const synth_words_t *words)
{
    wtn_synth_block_t   block;
    wtn_synth_result_t  result;
    wtn_synth_options_t options = {
        .folder      = words->folder,
        .token_count = words->token_count,
        .progress    = isatty(STDERR_FILENO) ? show_progress : NULL,
        .interrupted = &interrupted,
    };
    witan_status_t status =
        wtn_synth_block_init(&block, words->preset, (wtn_synth_scale_t)words->scale,
                             (wtn_synth_storage_t)words->storage, (uint64_t)words->seed);

    if (status != WITAN_OK) {
        (void)fprintf(stderr, "witan: %s\n", witan_last_error());
        return status == WITAN_E_INTERNAL ? 1 : 2;
    }
    catch_signals();
    if (wtn_synth_write(&block, &options, &result) != WITAN_OK) {
        (void)fprintf(stderr, "witan: %s\n", witan_last_error());
        return 1;
    }
    print_summary(&block, words, &result);
    return wtn_results_end();
}

int wtn_cmd_synth(int argc, char **argv)
{
    synth_words_t words;
    wtn_option_t  table[] = {
         {.name     = "preset",
          .kind     = WTN_OPTION_TEXT,
          .argument = "NAME",
          .help     = "mixtral-8x7b, qwen3-30b-a3b, qwen2-57b-a14b, olmoe-1b-7b, deepseek-v3, "
                       "gpt-oss-120b",
          .value    = &words.preset,
          .required = true},
         {.name     = "out",
          .kind     = WTN_OPTION_TEXT,
          .argument = "DIR",
          .help     = "folder to make; must not hold files",
          .value    = &words.folder,
          .required = true},
         {.name     = "scale",
          .kind     = WTN_OPTION_CHOICE,
          .argument = "tiny|small|full",
          .fallback = "small",
          .help     = "below 1 MB; E and K of the model with narrow matrices; the model's sizes",
          .value    = &words.scale},
         {.name     = "dtype",
          .kind     = WTN_OPTION_CHOICE,
          .argument = "published|bf16|f16|f32|fp8|mxfp4",
          .fallback = "published",
          .help     = "how experts are stored; with fp8 and mxfp4 the rest is bf16",
          .value    = &words.storage},
         {.name     = "seed",
          .kind     = WTN_OPTION_INTEGER,
          .argument = "S",
          .fallback = "0",
          .help     = "of the random numbers",
          .value    = &words.seed,
          .min      = 0,
          .max      = INT64_MAX},
         {.name     = "tokens",
          .kind     = WTN_OPTION_INTEGER,
          .argument = "N",
          .fallback = "256",
          .help     = "tokens in DIR/input.safetensors",
          .value    = &words.token_count,
          .min      = 0,
          .max      = INT32_MAX},
    };
    wtn_command_t command = {.name         = "synth",
                             .summary      = "Write one block with random weights in Hugging Face "
                                             "format, and an input for it.",
                             .options      = table,
                             .option_count = WTN_COUNT_OF(table)};
    bool          help    = false;

    if (wtn_options_parse(&command, argc, argv, &help) != WITAN_OK) {
        (void)fprintf(stderr, "witan: %s\n", witan_last_error());
        return 2;
    }
    if (help) {
        return wtn_options_help(&command);
    }
    return wtn_launcher_rank() == 0 ? write_block(&words) : 0; /* under mpirun, one rank writes */
}
