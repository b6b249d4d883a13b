/* witan plot: the command line and the table of pictures. Touches no MPI. */
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/util.h"
#include "experts/file.h"
#include "launcher/alone.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "launcher/paths.h"
#include "launcher/plot.h"
#include "launcher/session.h"

#define SCHEMAS_MAX 3

/* A picture: what it reads, and the options of its own beside the common ones. */
typedef struct picture {
    const char *name, *help, *summary;
    const char *schemas[SCHEMAS_MAX + 1];
    const char *options; /* names, each between blanks */
    witan_status_t (*draw)(const wtn_plot_t *plot, wtn_script_t *script);
} picture_t;

static const picture_t pictures[] = {
    {"scaling",
     "time or tokens per second by ranks, with the ideal line",
     "Draw strong and weak scaling; lines are predicted, points measured.",
     {"witan.plan.scale/1", "witan.study/1", "witan.bench.layer/1"},
     " metric scaling tokens all only ",
     wtn_plot_scaling},
    {"phases",
     "time by phase, stacked, by ranks",
     "Draw where the time of a step goes, phase by phase.",
     {"witan.plan.scale/1", "witan.study/1", "witan.bench.layer/1"},
     " scaling tokens all only bars ",
     wtn_plot_phases},
    {"roofline",
     "rates under the peak and the read bandwidth of the machine",
     "Draw rates by operations per byte of weights, under the machine's limits.",
     {"witan.bench.experts/1", "witan.bench.layer/1"},
     " ",
     wtn_plot_roofline},
    {"traffic",
     "map of bytes from source to destination ranks",
     "Draw the bytes that every rank sent to every other.",
     {"witan.traffic/1"},
     " ",
     wtn_plot_traffic},
    {"load",
     "expert load of the ranks before and after placement",
     "Draw the load of the ranks before and after placement, and the imbalance of all layers.",
     {"witan.plan.place/1"},
     " layer ",
     wtn_plot_load},
};

const char *wtn_plot_label(const wtn_plot_input_t *input)
{
    const char *slash = strrchr(input->path, '/');

    if (input->label != NULL) {
        return input->label;
    }
    return slash != NULL ? slash + 1 : input->path;
}

/* ---- inputs ---- */

static witan_status_t read_schema(const picture_t *picture, wtn_plot_input_t *input)
{
    wtn_node_t     root = wtn_node_root(input), schema;
    char           known[128];
    size_t         used = 0;
    witan_status_t status;

    WTN_TRY(wtn_node_member(&root, "schema", &schema));
    WTN_TRY(wtn_node_text(&schema, &input->schema));
    for (size_t i = 0; picture->schemas[i] != NULL; i++) {
        if (strcmp(picture->schemas[i], input->schema) == 0) {
            return WITAN_OK;
        }
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", used > 0 ? " or " : "",
                                 picture->schemas[i]);
    }
    return wtn_node_refuse(&schema, "%s", known);

fail:
    return status;
}

static witan_status_t read_inputs(const picture_t *picture, const wtn_plot_options_t *options,
                                  wtn_plot_t *plot)
{
    witan_status_t status = WITAN_OK;

    plot->options = options;
    for (int32_t i = 0; i < options->inputs.count; i++) {
        wtn_plot_input_t *input = &plot->inputs[i];

        input->path  = options->inputs.values[i];
        input->label = i < options->labels.count ? options->labels.values[i] : NULL;
        WTN_TRY(wtn_node_load(input->path, &input->root));
        plot->input_count = i + 1;
        WTN_TRY(read_schema(picture, input));
    }

fail:
    return status;
}

/* ---- the picture ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);

    return length > end_length && strcmp(text + length - end_length, end) == 0;
}

static bool format_of(const char *path, wtn_plot_format_t *format)
{
    static const char *const ends[] = {
        [WTN_PLOT_SVG] = ".svg", [WTN_PLOT_PNG] = ".png", [WTN_PLOT_SCRIPT] = ".gp"};

    for (size_t i = 0; i < WTN_COUNT_OF(ends); i++) {
        if (ends_with(path, ends[i])) {
            *format = (wtn_plot_format_t)i;
            return true;
        }
    }
    return false;
}

static witan_status_t draw(const picture_t *picture, const wtn_plot_t *plot)
{
    const char    *output = plot->options->output;
    wtn_script_t   script = {0};
    char          *text   = NULL;
    size_t         bytes  = 0;
    witan_status_t status;

    (void)format_of(output, &script.format); /* checked */
    script.file = open_memstream(&text, &bytes);
    if (script.file == NULL) {
        return WTN_ERROR(WITAN_E_MEMORY, "plot: the script");
    }
    status = picture->draw(plot, &script);
    if ((ferror(script.file) | fclose(script.file)) != 0 && status == WITAN_OK) {
        status = WTN_ERROR(WITAN_E_MEMORY, "plot: the script");
    }
    WTN_TRY(status);
    WTN_TRY(script.format == WTN_PLOT_SCRIPT ? wtn_output_write(output, text, bytes)
                                             : wtn_gnuplot(output, script.format, text, bytes));

fail:
    free(text);
    return status;
}

/* ---- the command line ---- */

/* A picture and what is asked of it. */
typedef struct wish {
    const picture_t   *picture;
    wtn_plot_options_t options;
} wish_t;

static witan_status_t check_options(void *context)
{
    const wtn_plot_options_t *options = &((const wish_t *)context)->options;
    const wtn_named_path_t    output  = {"--output", options->output};
    wtn_plot_format_t         format;

    if (options->labels.count > options->inputs.count) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--label: expected at most one for each --input, found %d "
                         "for %d",
                         options->labels.count, options->inputs.count);
    }
    if (!format_of(options->output, &format)) {
        return WTN_ERROR(WITAN_E_ARGUMENT,
                         "--output: expected a name that ends in .svg, .png or .gp, found '%s'",
                         options->output);
    }
    for (int32_t i = 0; i < options->inputs.count; i++) {
        const wtn_named_path_t input  = {"--input", options->inputs.values[i]};
        witan_status_t         status = wtn_paths_check(&output, 1, &input, NULL);

        if (status != WITAN_OK) {
            return status;
        }
    }
    return WITAN_OK;
}

static witan_status_t run(void *context)
{
    const wish_t  *wish   = context;
    wtn_plot_t     plot   = {0};
    char          *target = NULL;
    witan_status_t status;

    WTN_TRY(wtn_file_target(wish->options.output, &target)); /* before the work */
    WTN_TRY(read_inputs(wish->picture, &wish->options, &plot));
    WTN_TRY(draw(wish->picture, &plot));

fail:
    free(target);
    for (int32_t i = 0; i < plot.input_count; i++) {
        json_decref(plot.inputs[i].root);
    }
    return status;
}

/* The rows of `all` that are common or the picture's own. */
static size_t choose_options(const picture_t *picture, const wtn_option_t *all, size_t count,
                             size_t common, wtn_option_t *chosen)
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), " %s ", all[i].name);
        if (i < common || strstr(picture->options, name) != NULL) {
            chosen[kept++] = all[i];
        }
    }
    return kept;
}

#define COMMON 4

static int run_picture(const picture_t *picture, int argc, char **argv)
{
    wish_t             wish  = {.picture = picture};
    const wtn_option_t all[] = {
        {.name     = "input",
         .kind     = WTN_OPTION_TEXTS,
         .argument = "FILE...",
         .help     = "what other commands wrote with --json",
         .value    = &wish.options.inputs,
         .required = true},
        WTN_OPT_REQUIRED("output", "FILE", &wish.options.output,
                         "picture to write: .svg or .png; .gp: the script for gnuplot"),
        {.name     = "label",
         .kind     = WTN_OPTION_TEXTS,
         .argument = "TEXT...",
         .help     = "what the legend calls the inputs, in their order",
         .value    = &wish.options.labels},
        WTN_OPT_TEXT("title", "TEXT", NULL, &wish.options.title, "line over the picture"),
        WTN_OPT_CHOICE("metric", "seconds|tokens", "seconds", &wish.options.metric,
                       "time of a step, or tokens per second of all ranks"),
        WTN_OPT_CHOICE("scaling", "both|strong|weak", "both", &wish.options.scaling,
                       "which of them; bench layer files are weak unless this says strong"),
        WTN_OPT_LIST("tokens", NULL, 0, INT64_MAX, &wish.options.tokens,
                     "only these: of all ranks (strong) or of each (weak)"),
        WTN_OPT_FLAG("all", &wish.options.all, "every mode of a plan, not only the best"),
        WTN_OPT_TEXT("only", "TEXT", NULL, &wish.options.only,
                     "only the modes whose text has this, ep4xtp2 or two-level; implies --all"),
        WTN_OPT_CHOICE("bars", "seconds|percent|rank-seconds", "seconds", &wish.options.bars,
                       "time of a step; shares of its phases; time multiplied by the ranks"),
        WTN_OPT_INTEGER("layer", "N", "-1", -1, INT32_MAX, &wish.options.layer,
                        "layer shown rank by rank; -1: the one of most imbalance before"),
    };
    wtn_option_t  table[WTN_COUNT_OF(all)];
    char          name[32];
    wtn_command_t command = {.name = name, .summary = picture->summary, .options = table};

    (void)snprintf(name, sizeof(name), "plot %s", picture->name);
    command.option_count = choose_options(picture, all, WTN_COUNT_OF(all), COMMON, table);
    return wtn_alone(&command, argc, argv, check_options, run, &wish);
}

static void print_usage(void)
{
    if (wtn_launcher_rank() != 0) {
        return;
    }
    printf("usage: witan plot PICTURE --input FILE... --output FILE.svg [OPTIONS]\n"
           "Draw what other commands wrote as JSON, with gnuplot.\n\n");
    for (size_t i = 0; i < WTN_COUNT_OF(pictures); i++) {
        printf("  %-9s %s; from", pictures[i].name, pictures[i].help);
        for (size_t s = 0; pictures[i].schemas[s] != NULL; s++) {
            printf("%s %s", s > 0 ? "," : "", pictures[i].schemas[s]);
        }
        printf("\n");
    }
    printf("\n  witan plot PICTURE --help lists the options of a picture.\n");
}

int wtn_cmd_plot(int argc, char **argv)
{
    const char *word = argc >= 2 ? argv[1] : "";

    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_usage();
        return wtn_results_end();
    }
    for (size_t i = 0; i < WTN_COUNT_OF(pictures); i++) {
        if (strcmp(word, pictures[i].name) == 0) {
            return run_picture(&pictures[i], argc - 1, argv + 1);
        }
    }
    return wtn_session_refuse(
        "plot: expected scaling, phases, roofline, traffic or load, found '%s'", word);
}
